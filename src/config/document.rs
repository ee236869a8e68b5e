//! Settings as text.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::layers::split;
use super::{DEFAULTS, Loaded};

/// A configuration file that changes nothing: every key with its documentation and its default, commented out, so that
/// a better default of a later version is not held back by a copy of the old one.
pub fn commented_defaults() -> String {
    let mut text = String::with_capacity(DEFAULTS.len() + 64);
    for line in DEFAULTS.lines() {
        let is_value = line.chars().next().is_some_and(char::is_alphabetic);
        text.push_str(if is_value { "#" } else { "" });
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// The settings in force, as a configuration file.
pub fn show(loaded: &Loaded) -> String {
    write_document(loaded, |_| String::new())
}

/// The same with each key's origin in a comment behind it.
pub fn show_with_origins(loaded: &Loaded) -> String {
    write_document(loaded, |key| {
        loaded.origin_of(key).map(|origin| format!("  # {origin}")).unwrap_or_default()
    })
}

impl Loaded {
    /// Every key with its value, in the order of the keys.
    pub fn values(&self) -> impl Iterator<Item = (&str, Value)> {
        let all = Table::try_from(&self.settings).expect("every setting has a form in TOML");
        self.origins.keys().map(move |key| {
            let (section, name) = split(key);
            let table = section
                .split('.')
                .try_fold(&all, |table, part| table.get(part)?.as_table())
                .expect("a key is in a section");
            (key.as_str(), table.get(name).expect("a key has a value").clone())
        })
    }
}

fn write_document(loaded: &Loaded, comment: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    let mut open = "";
    let mut values: Vec<_> = loaded.values().collect();
    values.sort_by_key(|(key, _)| split(key));
    for (key, value) in values {
        let (section, name) = split(key);
        if section != open {
            let gap = if open.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}[{section}]");
            open = section;
        }
        let line = Table::from_iter([(name.to_owned(), value)]).to_string();
        let _ = writeln!(text, "{}{}", line.trim_end(), comment(key));
    }
    text
}
