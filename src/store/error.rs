//! What can go wrong with a log, in words an operator can act on.

use std::io;
use std::path::{Path, PathBuf};

use crate::core::{Epoch, TxId};

/// Why an append did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Another coordinator has opened the log since. Nothing was written.
    #[error("the decision log belongs to epoch {}, not to ours, {}: another coordinator has taken over", theirs.0, ours.0)]
    Fenced { ours: Epoch, theirs: Epoch },
    /// What was written may or may not be durable. The process must exit, and never retry: after a failed sync the
    /// kernel may have dropped the data, and a second sync would succeed without it.
    #[error("cannot write the decision log: {0}")]
    Unknown(String),
}

/// Why a replay ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    #[error("the decision log is damaged: {0}")]
    Damaged(#[from] Damage),
    /// The reader could make nothing of a value.
    #[error("the log's value of transaction {tx} is not understood: {reason}")]
    Rejected { tx: TxId, reason: String },
}

/// Why a log was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("data directory {} is in use by another assent{}; stop that one, or give this one another directory (storage.data_dir)",
        dir.display(), pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    InUse { dir: PathBuf, pid: Option<u32> },
    #[error("no space left on the disk of {}; free some{}", dir.display(), ballast_hint(ballast.as_deref()))]
    DiskFull { dir: PathBuf, ballast: Option<PathBuf> },
    #[error("{} has format version {found}, and this assent reads version {supported}; start the assent that wrote it{}",
        path.display(), if found > supported { ", or a newer one" } else { ", let it finish all transactions, and give this one an empty directory" })]
    OtherVersion { path: PathBuf, found: u32, supported: u32 },
    /// Going on could forget a decision, or tell another than was told before.
    #[error("refusing to start on data directory {}: {why}. `assent log verify --data-dir {}` says what is damaged. Restore the \
        whole directory from a backup; or let `assent log repair` keep what can be read (its --help says what that means)",
        dir.display(), quoted(dir))]
    Refused { dir: PathBuf, why: Refusal },
    #[error("there is no log in {}", dir.display())]
    NoLog { dir: PathBuf },
    #[error("data directory {} has used up its {} epochs; move it away and start with an empty one", dir.display(), Epoch::MAX.0)]
    EpochsUsedUp { dir: PathBuf },
    #[error("a repair of {} was interrupted, and no daemon starts on it; `assent log repair --data-dir {}` with --backup and --reason \
        finishes it", dir.display(), quoted(dir))]
    RepairInterrupted { dir: PathBuf },
}

/// What about a data directory forbids to start on it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "the log ends with group {found}, but the witness file knows that group {durable} was durable: the log lost \
        its end, was emptied, or is an old copy"
    )]
    TailLost { durable: u64, found: u64 },
    #[error("there is a witness file but no log (sled/db): the log was lost or moved")]
    LogMissing,
    #[error("there is a log (sled) but no witness file, so nothing proves that the log is whole")]
    WitnessMissing,
    #[error("both copies in the witness file are damaged, so nothing proves that the log is whole")]
    WitnessDamaged,
    #[error("the witness file and the log are not of one history: {0}")]
    Mismatch(&'static str),
    #[error("the log is damaged: {0}")]
    Damaged(#[from] Damage),
}

/// What is wrong with the content of a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("{0} fails its checksum")]
    Checksum(String),
    #[error("{0} is not a key of this log")]
    UnknownKey(String),
    #[error("part {chunk} of group {group} is missing")]
    Missing { group: u64, chunk: u32 },
    #[error("group {group} does not follow the one before it")]
    Chain { group: u64 },
    #[error("the content of group {group} is not understood, though its checksum is right")]
    Content { group: u64 },
    #[error("a group has format version {found}, and this assent reads version {supported}")]
    OtherVersion { found: u32, supported: u32 },
    #[error("the database engine cannot read it: {0}")]
    Engine(String),
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Where room is kept for a full disk.
pub(super) fn ballast_hint(ballast: Option<&Path>) -> String {
    ballast
        .map(|path| format!(", or delete {}, which is kept for this case", path.display()))
        .unwrap_or_default()
}
