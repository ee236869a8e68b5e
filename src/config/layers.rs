//! Lays the sources over one another.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use toml::{Table, Value};

use super::{ConfigError, ConfigFile, DEFAULTS, Flag, Origin, Settings};

/// The one section whose keys are free: names of participants.
pub(super) const ENDPOINTS: &str = "participants.endpoints";

/// Variables that begin with `ASSENT_` and belong to the client commands.
const CLIENT_VARIABLES: [&str; 2] = ["ASSENT_CONFIG", "ASSENT_SERVER"];

/// And one that tests set where there are crash points. Elsewhere it would do nothing, and is no setting.
#[cfg(feature = "failpoints")]
const CRASH_VARIABLE: Option<&str> = Some(assent_sdk::crash::CRASH_AT);
#[cfg(not(feature = "failpoints"))]
const CRASH_VARIABLE: Option<&str> = None;

/// The values so far, by key (`server.listen`), each with its origin.
pub(super) struct Layers {
    defaults: Table,
    values: BTreeMap<String, (Value, Origin)>,
}

/// What a key stands for.
enum Place<'a> {
    /// A setting, with its default.
    Setting(&'a Value),
    /// An entry of [`ENDPOINTS`].
    Entry,
    Section,
    Nothing,
}

impl Layers {
    pub(super) fn new() -> Layers {
        let defaults: Table =
            DEFAULTS.parse().expect("the defaults are part of the program, and a test reads them");
        let mut layers = Layers { defaults: defaults.clone(), values: BTreeMap::new() };
        layers.add_table("", defaults, &Origin::Default).expect("a default is known by definition");
        layers
    }

    pub(super) fn add_file(&mut self, file: &ConfigFile) -> Result<(), ConfigError> {
        let Some((path, text)) = read(file)? else { return Ok(()) };
        match text.parse::<Table>() {
            Ok(table) => self.add_table("", table, &Origin::File(path)),
            Err(source) => Err(ConfigError::Syntax { path, source: Box::new(source) }),
        }
    }

    pub(super) fn add_environment(&mut self, variables: &[(OsString, OsString)]) -> Result<(), ConfigError> {
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| is_ours(name)) else { continue };
            let key = name["ASSENT_".len()..].to_lowercase().replace("__", ".");
            let origin = Origin::Environment(name.to_owned());
            match value.to_str() {
                Some(value) => self.add_text(&key, value, origin)?,
                None => {
                    return Err(invalid(&key, quoted(&value.to_string_lossy()), origin, "it must be UTF-8"));
                }
            }
        }
        Ok(())
    }

    pub(super) fn add_flags(&mut self, flags: &[Flag]) -> Result<(), ConfigError> {
        flags
            .iter()
            .try_for_each(|flag| self.add_text(&flag.key, &flag.value, Origin::Flag(flag.flag.clone())))
    }

    /// The settings that the layers add up to, and the origin of each key.
    pub(super) fn settle(self) -> Result<(Settings, BTreeMap<String, Origin>), ConfigError> {
        // Serde does not say which key displeased it. So each value is first tried alone on top of the defaults,
        // which are valid: if that fails, it is the one.
        for (key, (value, origin)) in &self.values {
            let mut trial = self.defaults.clone();
            put(&mut trial, key, value.clone());
            Settings::deserialize(trial).map_err(|error| {
                let limit = match self.place(key) {
                    Place::Setting(default @ Value::Integer(_)) => whole_number(default),
                    Place::Setting(_) | Place::Entry | Place::Section | Place::Nothing => {
                        error.message().trim_end().to_owned()
                    }
                };
                invalid(key, value.to_string(), origin.clone(), &limit)
            })?;
        }

        let mut all = self.defaults.clone();
        for (key, (value, _)) in &self.values {
            put(&mut all, key, value.clone());
        }
        let settings = Settings::deserialize(all).expect("each of its values was tried");
        settings.check().map_err(|breach| {
            let (value, origin) = &self.values[&breach.key];
            invalid(&breach.key, value.to_string(), origin.clone(), &breach.limit)
        })?;
        let origins = self.values.into_iter().map(|(key, (_, origin))| (key, origin)).collect();
        Ok((settings, origins))
    }

    fn add_table(&mut self, section: &str, table: Table, origin: &Origin) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = if section.is_empty() { name } else { format!("{section}.{name}") };
            match (self.place(&key), value) {
                (Place::Setting(_) | Place::Entry, value) => {
                    self.values.insert(key, (value, origin.clone()));
                }
                (Place::Section, Value::Table(inner)) => self.add_table(&key, inner, origin)?,
                (Place::Section, value) => {
                    let limit = format!("it must be a section: [{key}]");
                    return Err(invalid(&key, value.to_string(), origin.clone(), &limit));
                }
                (Place::Nothing, _) => return Err(self.unknown(&key, origin.clone())),
            }
        }
        Ok(())
    }

    /// Adds what the environment or a flag says, in which a text needs no quotes.
    fn add_text(&mut self, key: &str, text: &str, origin: Origin) -> Result<(), ConfigError> {
        let value = match self.place(key) {
            Place::Setting(default) => value_like(default, text),
            Place::Entry => Ok(Value::String(text.to_owned())),
            Place::Section if key == ENDPOINTS => {
                let table = pairs(text).map_err(|limit| invalid(key, quoted(text), origin.clone(), limit))?;
                return self.add_table(key, table, &origin);
            }
            Place::Section | Place::Nothing => return Err(self.unknown(key, origin)),
        };
        let value = value.map_err(|limit| invalid(key, quoted(text), origin.clone(), &limit))?;
        self.values.insert(key.to_owned(), (value, origin));
        Ok(())
    }

    fn place(&self, key: &str) -> Place<'_> {
        if key.strip_prefix(ENDPOINTS).is_some_and(|rest| rest.starts_with('.')) {
            return Place::Entry;
        }
        let mut parts = key.split('.');
        let first = parts.next().and_then(|part| self.defaults.get(part));
        match parts.try_fold(first, |found, part| Some(found?.as_table()?.get(part))).flatten() {
            Some(Value::Table(_)) => Place::Section,
            Some(default) => Place::Setting(default),
            None => Place::Nothing,
        }
    }

    fn unknown(&self, key: &str, origin: Origin) -> ConfigError {
        let nearest = nearest_key(key, self.values.keys()).map(|found| match &origin {
            Origin::Environment(_) => format!("ASSENT_{}", found.to_uppercase().replace('.', "__")),
            Origin::Default | Origin::File(_) | Origin::Flag(_) => found.to_owned(),
        });
        ConfigError::Unknown { key: key.to_owned(), origin, nearest }
    }
}

/// The section and the name within it that a known key stands for.
pub(super) fn split(key: &str) -> (&str, &str) {
    match key.strip_prefix(ENDPOINTS).and_then(|rest| rest.strip_prefix('.')) {
        // The name of a participant may have dots of its own.
        Some(participant) => (ENDPOINTS, participant),
        None => key.rsplit_once('.').expect("a known key is in a section"),
    }
}

fn put(root: &mut Table, key: &str, value: Value) {
    let (section, name) = split(key);
    let mut table = root;
    for part in section.split('.') {
        table = table.get_mut(part).and_then(Value::as_table_mut).expect("a section of the defaults");
    }
    table.insert(name.to_owned(), value);
}

fn read(file: &ConfigFile) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let read = |path: &Path| std::fs::read_to_string(path).map(|text| Some((path.to_owned(), text)));
    let (path, result) = match file {
        ConfigFile::None => return Ok(None),
        ConfigFile::Required(path) => (path, read(path)),
        ConfigFile::Optional(path) => match read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            result => (path, result),
        },
    };
    result.map_err(|source| ConfigError::Read { path: path.clone(), source })
}

fn is_ours(variable: &str) -> bool {
    let Some(rest) = variable.strip_prefix("ASSENT_") else { return false };
    // Kubernetes gives every container these, for a service that is called `assent`.
    let kubernetes = rest.starts_with("SERVICE_HOST")
        || rest.starts_with("SERVICE_PORT")
        || rest == "PORT"
        || rest.starts_with("PORT_");
    !kubernetes && !CLIENT_VARIABLES.contains(&variable) && Some(variable) != CRASH_VARIABLE
}

/// Reads `text` as a value of the kind that the default has.
fn value_like(default: &Value, text: &str) -> Result<Value, String> {
    match default {
        Value::String(_) => Ok(Value::String(text.to_owned())),
        Value::Array(_) if !text.trim_start().starts_with('[') => Ok(Value::Array(
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Value::from).collect(),
        )),
        // Numbers: the defaults hold nothing else.
        _ => match text.trim().parse::<Value>() {
            Ok(value) if value.same_type(default) => Ok(value),
            Ok(_) | Err(_) => Err(whole_number(default)),
        },
    }
}

fn whole_number(default: &Value) -> String {
    format!("it must be a whole number, such as {default}")
}

/// Reads `name=address,name=address`.
fn pairs(text: &str) -> Result<Table, &'static str> {
    text.split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').map(|(name, address)| (name.to_owned(), Value::from(address))))
        .collect::<Option<_>>()
        .ok_or("it must be pairs such as shop/stock=http://stock.internal:7000, with commas between them")
}

/// Longer keys are like no other: to compare them takes as long as both lengths multiplied.
const COMPARED_BYTES_MAX: usize = 256;

/// The known key most like an unknown one, if any is like it at all. The section may be missing.
fn nearest_key<'a>(key: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    if key.len() > COMPARED_BYTES_MAX {
        return None;
    }
    let distance = |candidate: &str| {
        let whole = strsim::damerau_levenshtein(key, candidate);
        match candidate.rsplit_once('.') {
            Some((_, name)) if !key.contains('.') => whole.min(strsim::damerau_levenshtein(key, name)),
            _ => whole,
        }
    };
    known
        .filter(|candidate| candidate.len() <= COMPARED_BYTES_MAX)
        .map(|candidate| (distance(candidate), candidate.as_str()))
        .min()
        .filter(|(distance, _)| *distance <= 1 + key.len() / 4)
        .map(|(_, candidate)| candidate)
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn invalid(key: &str, value: String, origin: Origin, limit: &str) -> ConfigError {
    ConfigError::Invalid { key: key.to_owned(), value, origin, limit: limit.to_owned() }
}
