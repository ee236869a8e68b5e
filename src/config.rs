//! The settings: what they are, where they come from, and what they may be.
//!
//! `config/defaults.toml` is the one list of keys with their documentation and defaults. It is what
//! [`Settings::default`] reads, what tells a known key from an unknown one, and what `assent config init` prints.
//!
//! [`load`] lays the sources over one another, remembers for each key where its value came from, and answers with
//! settings that are valid, or with an error that names the key, the value, its origin and the limit.

mod document;
mod endpoint;
mod error;
mod layers;
mod limits;
mod units;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use document::{commented_defaults, show, show_with_origins};
pub use endpoint::{AllowedHost, Endpoint};
pub use error::{ConfigError, Origin};
pub use units::{LogFilter, Size, Span};

const DEFAULTS: &str = include_str!("config/defaults.toml");

/// All settings. Units and ranges of each are in `config/defaults.toml`, beside its default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub server: ServerSettings,
    pub storage: StorageSettings,
    pub limits: LimitSettings,
    pub participants: ParticipantSettings,
    pub log: LogSettings,
}

/// `[server]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    /// Address and port of the gRPC API.
    #[serde(deserialize_with = "units::socket_addr")]
    pub listen: SocketAddr,
    /// How long transactions under way may take to finish after a termination signal.
    pub drain_timeout: Span,
}

/// `[storage]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageSettings {
    /// Where the decision log is.
    pub data_dir: PathBuf,
    /// How long an ended transaction can still be looked up. Zero: not at all.
    pub retention: Span,
    /// The most ended transactions that are kept.
    pub retention_max: u64,
    /// Disk space held in reserve, to be freed when the disk is full.
    pub ballast: Size,
    /// New transactions are refused while less than this is free on the disk.
    pub min_free: Size,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitSettings {
    /// The largest payload or reply of one branch.
    pub max_payload: Size,
    /// Branches of one transaction.
    pub max_branches: u32,
    /// Transactions begun and not ended.
    pub max_active: u64,
    /// Timeout of a transaction whose initiator names none; at most `max_timeout`.
    pub default_timeout: Span,
    /// The longest timeout that an initiator may ask for.
    pub max_timeout: Span,
}

/// `[participants]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParticipantSettings {
    /// How long one call may take before it is made again.
    pub call_timeout: Span,
    /// The wait before the first retry; at most `retry_max`.
    pub retry_initial: Span,
    /// The longest wait between retries.
    pub retry_max: Span,
    /// Calls to one participant that may be unanswered at a time.
    pub max_in_flight: u32,
    /// An autonomous reservation is confirmed only while it has longer than this to go.
    pub reservation_margin: Span,
    /// Hosts that an enlistment may name as its endpoint.
    pub allowed_hosts: Vec<AllowedHost>,
    /// Participants that the daemon dials, by name.
    pub endpoints: BTreeMap<String, Endpoint>,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    pub filter: LogFilter,
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// For machines: one JSON object a line.
    Json,
}

impl Default for Settings {
    fn default() -> Settings {
        toml::from_str(DEFAULTS).expect("the defaults are part of the program, and a test reads them")
    }
}

/// Where settings are looked for. Empty: the defaults alone.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub file: ConfigFile,
    /// Variables of the process. Those that do not begin with `ASSENT_` are passed over.
    pub environment: Vec<(OsString, OsString)>,
    /// Later ones beat earlier ones.
    pub flags: Vec<Flag>,
}

/// The configuration file, if there is to be one.
#[derive(Clone, Debug, Default)]
pub enum ConfigFile {
    #[default]
    None,
    /// It must be there: somebody named it.
    Required(PathBuf),
    /// It may be there: the usual place.
    Optional(PathBuf),
}

/// One setting given on the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The flag as it was written, for messages: `--listen`.
    pub flag: String,
    /// The key that it sets: `server.listen`.
    pub key: String,
    pub value: String,
}

/// Valid settings, and where each came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub settings: Settings,
    origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Where the value of a key such as `server.listen` or `participants.endpoints.shop/stock` came from. `None`: there
    /// is no such key.
    pub fn origin_of(&self, key: &str) -> Option<&Origin> {
        self.origins.get(key)
    }
}

/// Reads the sources: a flag beats the environment, which beats the file, which beats the default.
///
/// # Errors
/// The first thing that is wrong: a file that cannot be read or parsed, an unknown key, a value outside its limits.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut layers = layers::Layers::new();
    layers.add_file(&sources.file)?;
    layers.add_environment(&sources.environment)?;
    layers.add_flags(&sources.flags)?;
    let (settings, origins) = layers.settle()?;
    Ok(Loaded { settings, origins })
}

#[cfg(test)]
mod tests;
