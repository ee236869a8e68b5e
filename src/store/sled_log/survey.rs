//! Looking at a log without changing a byte of it.
//!
//! sled writes when it opens a log, the more so a damaged one. So what is looked at is a copy in a temporary directory, while
//! the lock keeps everybody else from the original.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use tempfile::TempDir;
use uuid::Uuid;

use super::check::check;
use super::data_dir::DataDir;
use super::medium::Sled;
use super::salvage::{Salvaged, salvage};
use super::scan::without_panic;
use super::witness::{Claim, Witness};
use super::{SledOptions, open_engine};
use crate::core::TxId;
use crate::store::{CutOff, Damage, Lives, OpenError, Refusal};

/// What there is to be told of the log in a data directory, which nobody else can open as long as this lives.
#[derive(Debug)]
pub struct Survey {
    pub cluster: Option<Uuid>,
    pub lives: Lives,
    /// What the witness says the log must at least hold.
    pub claim: Option<Claim>,
    /// Why a daemon would not start on it. If there is no reason, all of the following is exact.
    pub refusal: Option<Refusal>,
    pub damage: Vec<Damage>,
    pub cut_off: Option<CutOff>,
    /// The first and the last group.
    pub groups: Option<(u64, u64)>,
    /// Of all groups.
    pub bytes: u64,
    /// Of these are needed. Known of a sound log only.
    pub bytes_in_force: Option<u64>,
    /// The size of the files.
    pub file_bytes: u64,
    pub values: BTreeMap<TxId, Vec<u8>>,
    /// Transactions of which something can be read, but not as of this log.
    pub passed_over: BTreeSet<TxId>,
    pub(super) dir: DataDir,
}

impl Survey {
    /// Reads all of the log in `dir`.
    ///
    /// # Errors
    /// Where the directory holds no log, or one of another format, or somebody else has it, or it cannot be copied. Damage is no
    /// error.
    pub fn take(dir: &Path) -> Result<Survey, OpenError> {
        Survey::take_by_way_of(&Survey::room()?, dir)
    }

    /// A directory for the copy that is read, which is removed when this is dropped.
    ///
    /// # Errors
    /// Of the file system.
    pub fn room() -> Result<TempDir, OpenError> {
        let room = tempfile::Builder::new().prefix("assent-log-").tempdir();
        room.map_err(|source| copying(&std::env::temp_dir(), source))
    }

    /// Reads all of the log in `dir`, of which a copy is made in `temporary`.
    ///
    /// # Errors
    /// As of [`take`](Self::take).
    pub fn take_by_way_of(temporary: &TempDir, dir: &Path) -> Result<Survey, OpenError> {
        let dir = DataDir::look(dir)?;
        if dir.has_interrupted_repair()? {
            return Err(OpenError::RepairInterrupted { dir: dir.path().to_owned() });
        }
        if !dir.witness().exists() && !dir.sled().exists() {
            return Err(OpenError::NoLog { dir: dir.path().to_owned() });
        }
        let file_bytes =
            copy(dir.path(), temporary.path()).map_err(|source| copying(temporary.path(), source))?;
        let mut survey = Survey {
            cluster: None,
            lives: Lives::default(),
            claim: None,
            refusal: None,
            damage: Vec::new(),
            cut_off: None,
            groups: None,
            bytes: 0,
            bytes_in_force: None,
            file_bytes,
            values: BTreeMap::new(),
            passed_over: BTreeSet::new(),
            dir,
        };
        survey.read(temporary)?;
        Ok(survey)
    }

    fn read(&mut self, copy: &TempDir) -> Result<(), OpenError> {
        let witness = match Witness::find(&copy.path().join("witness")) {
            Ok(Some(witness)) => Ok(witness),
            Ok(None) => Err(Refusal::WitnessMissing),
            Err(OpenError::Refused { why, .. }) => Err(why),
            Err(OpenError::OtherVersion { found, supported, .. }) => {
                let path = self.dir.witness();
                return Err(OpenError::OtherVersion { path, found, supported });
            }
            Err(other) => return Err(other),
        };
        self.claim = witness.as_ref().ok().map(|witness| *witness.claim());
        self.cluster = self.claim.map(|claim| claim.cluster);
        if !self.dir.sled_db().exists() {
            let begun = self.claim.is_none_or(|claim| claim.durable > 0);
            self.refusal = begun.then_some(Refusal::LogMissing);
            return Ok(());
        }
        let anything_durable = self.claim.is_none_or(|claim| claim.durable > 0);
        let medium = match engine(copy.path(), anything_durable) {
            Ok(medium) => medium,
            Err(damage) => return self.open_without_snapshots(copy, damage),
        };
        match witness.and_then(|witness| without_panic(|| check(&medium, &witness))) {
            Ok(checked) => {
                self.cluster = checked.scan.cluster.or(self.cluster);
                self.lives = checked.scan.lives;
                self.cut_off = checked.cut_off;
                let newest = checked.scan.newest;
                self.groups = (newest > 0).then_some((checked.scan.ledger.oldest(), newest));
                let total = checked.scan.ledger.total();
                (self.bytes, self.bytes_in_force) = (total.bytes, Some(total.in_force));
                self.values = checked.scan.values.into_iter().collect();
                Ok(())
            }
            Err(Refusal::Damaged(Damage::OtherVersion { found, supported })) => {
                Err(OpenError::OtherVersion { path: self.dir.sled(), found, supported })
            }
            Err(why) => {
                self.refusal = Some(why);
                self.salvage(salvage(&medium))
            }
        }
    }

    /// sled cannot open it as it is. What it keeps beside its log it can do without.
    fn open_without_snapshots(&mut self, copy: &TempDir, damage: Damage) -> Result<(), OpenError> {
        self.refusal = Some(Refusal::Damaged(damage.clone()));
        // The first attempt may have changed the copy.
        let again = tempfile::Builder::new().prefix("assent-log-").tempdir_in(copy.path());
        let again = again.map_err(|source| copying(copy.path(), source))?;
        self::copy(self.dir.path(), again.path()).map_err(|source| copying(again.path(), source))?;
        let remove = || {
            for entry in fs::read_dir(again.path().join("sled"))? {
                let path = entry?.path();
                if path.is_file() && path.file_name() != Some("db".as_ref()) {
                    fs::remove_file(path)?;
                }
            }
            Ok(())
        };
        remove().map_err(|source| copying(again.path(), source))?;
        match engine(again.path(), true) {
            Ok(medium) => self.salvage(salvage(&medium))?,
            Err(_same) => {}
        }
        self.damage.insert(0, damage);
        Ok(())
    }

    /// Takes what was read, unless a part of it is of another version: what that says is not damage, and must not be dropped.
    fn salvage(&mut self, salvaged: Salvaged) -> Result<(), OpenError> {
        for damage in &salvaged.damage {
            if let &Damage::OtherVersion { found, supported } = damage {
                return Err(OpenError::OtherVersion { path: self.dir.sled(), found, supported });
            }
        }
        self.cluster = salvaged.cluster.or(self.cluster);
        self.lives = salvaged.lives;
        self.damage = salvaged.damage;
        self.groups = salvaged.groups;
        self.bytes = salvaged.bytes;
        self.values = salvaged.values;
        self.passed_over = salvaged.passed_over;
        Ok(())
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// sled on a copy.
pub(super) fn engine(dir: &Path, anything_durable: bool) -> Result<Sled, Damage> {
    let open = || -> Result<Sled, OpenError> {
        let dir = DataDir::claim(dir)?;
        let path = dir.sled_db();
        dir.clear_unfinished(anything_durable).map_err(|source| copying(dir.path(), source))?;
        let db = open_engine(&dir, &SledOptions::default())?;
        Sled::new(db, dir).map_err(|source| OpenError::Io { action: "open", path, source })
    };
    open().map_err(|error| match error {
        OpenError::Refused { why: Refusal::Damaged(damage), .. } => damage,
        other => Damage::Engine(other.to_string()),
    })
}

/// Copies the log and its witness, and says how many bytes that were.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<u64> {
    copy_parts(&from.join("witness"), &from.join("sled"), to)
}

/// The same for a log that is in two places.
pub(super) fn copy_parts(witness: &Path, sled: &Path, to: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    if witness.exists() {
        bytes += fs::copy(witness, to.join("witness"))?;
    }
    if sled.is_dir() {
        fs::create_dir_all(to.join("sled").join("blobs"))?;
        for entry in fs::read_dir(sled)? {
            let entry = entry?;
            // It may be a link.
            if fs::metadata(entry.path())?.is_file() {
                bytes += fs::copy(entry.path(), to.join("sled").join(entry.file_name()))?;
            }
        }
    }
    Ok(bytes)
}

pub(super) fn copying(path: &Path, source: io::Error) -> OpenError {
    OpenError::Io { action: "copy the log to", path: path.to_owned(), source }
}
