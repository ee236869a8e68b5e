//! Settings: files, variables and flags that say anything.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;

use arbitrary::{Result, Unstructured};
use assent::config::{self, ConfigError, ConfigFile, Flag, Loaded, Sources};

use crate::values::text;

const KEYS: [&str; 21] = [
    "server.listen",
    "server.drain_timeout",
    "storage.data_dir",
    "storage.retention",
    "storage.retention_max",
    "storage.ballast",
    "storage.min_free",
    "limits.max_payload",
    "limits.max_branches",
    "limits.max_active",
    "limits.default_timeout",
    "limits.max_timeout",
    "participants.call_timeout",
    "participants.retry_initial",
    "participants.retry_max",
    "participants.max_in_flight",
    "participants.reservation_margin",
    "participants.allowed_hosts",
    "participants.endpoints",
    "log.filter",
    "log.format",
];

const VALUES: [&str; 24] = [
    "0",
    "1",
    "-1",
    "1e9",
    "18446744073709551616",
    "0s",
    "1s",
    "1ms",
    "7days",
    "1us",
    "9999999999999999days",
    "1KiB",
    "16 MiB",
    "9999999999EiB",
    "127.0.0.1:0",
    "[::1]:7420",
    "info,assent=debug",
    "=,=",
    "json",
    "pretty",
    "shop/stock=http://stock:1",
    "http://stock:1",
    "[]",
    "stock:7000,other",
];

pub fn run(input: &[u8]) {
    let mut u = Unstructured::new(input);
    let _ = attempt(&mut u);
}

fn attempt(u: &mut Unstructured<'_>) -> Result<()> {
    let flags = (0..u.int_in_range(0..=3)?).map(|_| flag(u)).collect::<Result<_>>()?;
    let environment = (0..u.int_in_range(0..=3)?).map(|_| variable(u)).collect::<Result<_>>()?;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("assent.toml");
    let file = if u.ratio(1, 4)? { table(u)?.into_bytes() } else { u.bytes(u.len())?.to_vec() };
    fs::write(&path, file).unwrap();
    let sources = Sources { file: ConfigFile::Required(path.clone()), environment, flags };
    match config::load(&sources) {
        Ok(loaded) => shown_and_read_again(&loaded),
        Err(error) => {
            let said = error.to_string();
            match error {
                ConfigError::Read { path: named, .. } | ConfigError::Syntax { path: named, .. } => {
                    assert_eq!(named, path);
                    assert!(said.contains("assent.toml"), "{said}");
                }
                ConfigError::Unknown { key, .. } => assert!(said.contains(&key), "{said}"),
                ConfigError::Invalid { key, limit, .. } => {
                    assert!(said.contains(&key) && !limit.is_empty(), "{said}");
                }
            }
        }
    }
    Ok(())
}

/// What is shown is a file that says the same.
fn shown_and_read_again(loaded: &Loaded) {
    for shown in [config::show(loaded), config::show_with_origins(loaded)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shown.toml");
        fs::write(&path, &shown).unwrap();
        let sources = Sources { file: ConfigFile::Required(path), ..Sources::default() };
        let again = config::load(&sources).unwrap_or_else(|error| panic!("{error}\n{shown}"));
        assert_eq!(again.settings, loaded.settings, "{shown}");
    }
    for (key, _) in loaded.values() {
        assert!(loaded.origin_of(key).is_some(), "{key}");
    }
}

fn flag(u: &mut Unstructured<'_>) -> Result<Flag> {
    Ok(Flag { flag: text(u, &["--set", "--listen"])?, key: key(u)?, value: text(u, &VALUES)? })
}

fn variable(u: &mut Unstructured<'_>) -> Result<(OsString, OsString)> {
    let name = format!("ASSENT_{}", key(u)?.to_uppercase().replace('.', "__"));
    let value = if u.ratio(1, 16)? {
        OsString::from_vec(u.bytes(2)?.to_vec())
    } else {
        OsString::from(text(u, &VALUES)?)
    };
    Ok((name.into(), value))
}

fn key(u: &mut Unstructured<'_>) -> Result<String> {
    Ok(match u.int_in_range(0..=7)? {
        0 => format!("participants.endpoints.{}", text(u, &["shop/stock", "a.b", "\"", "a\nb"])?),
        1 => text(u, &["listen", "server", "limits.max_brunches"])?,
        _ => (*u.choose(&KEYS)?).to_owned(),
    })
}

/// A file with some keys, and values that are written as they should be, or not.
fn table(u: &mut Unstructured<'_>) -> Result<String> {
    let mut file = String::new();
    for _ in 0..u.int_in_range(0..=4)? {
        let (key, value) = (key(u)?, text(u, &VALUES)?);
        let value = if u.arbitrary()? { value } else { format!("{value:?}") };
        let _ = writeln!(file, "{key} = {value}");
    }
    Ok(file)
}
