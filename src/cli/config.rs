//! `assent config`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::{Format, Output};
use super::{Exit, Failure, Global, SettingFlags};
use crate::config::{self, ConfigFile, Loaded, Sources};

#[derive(Debug, Subcommand)]
pub enum Config {
    /// Show the settings in force
    Show(Show),
    /// Print a configuration file with every setting, its documentation and its default
    Init,
    /// Check a configuration file, or the settings in force
    Check(Check),
}

#[derive(Debug, Args)]
pub struct Show {
    /// Also show where each value comes from
    #[arg(long)]
    origin: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

#[derive(Debug, Args)]
pub struct Check {
    /// The file, by itself. Without it: what `assent serve` would load here and now
    file: Option<PathBuf>,
}

impl Config {
    pub fn run(self, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
        match self {
            Config::Show(show) => show.run(global, output),
            Config::Init => Ok(output.text(&config::commented_defaults()).map(|()| Exit::Ok)?),
            Config::Check(check) => check.run(global, output),
        }
    }
}

impl Show {
    fn run(self, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
        let loaded = config::load(&global.sources(self.settings.set))?;
        match (output.format, self.origin) {
            (Format::Table, false) => output.text(&config::show(&loaded))?,
            (Format::Table, true) => output.text(&config::show_with_origins(&loaded))?,
            (Format::Json, false) => output.json(&json!(loaded.settings))?,
            (Format::Json, true) => output.json(&with_origins(&loaded))?,
        }
        Ok(Exit::Ok)
    }
}

impl Check {
    fn run(self, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
        let (name, sources) = match self.file {
            Some(path) => (
                path.display().to_string(),
                Sources { file: ConfigFile::Required(path), ..Sources::default() },
            ),
            None => ("configuration".to_owned(), global.sources(Vec::new())),
        };
        config::load(&sources)?;
        match output.format {
            Format::Table => output.line(&format!("{name}: valid"))?,
            Format::Json => output.json(&json!({ "valid": true }))?,
        }
        Ok(Exit::Ok)
    }
}

/// `{"server.listen": {"value": …, "origin": …}, …}`
fn with_origins(loaded: &Loaded) -> Value {
    loaded
        .values()
        .map(|(key, value)| {
            let origin = loaded.origin_of(key).map(ToString::to_string);
            (key.to_owned(), json!({ "value": value, "origin": origin }))
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}
