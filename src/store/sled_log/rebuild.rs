//! Putting a sound log in the place of a damaged one.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use uuid::Uuid;

use super::check::check;
use super::data_dir::DataDir;
use super::medium::Sled;
use super::scan::without_panic;
use super::witness::Witness;
use super::{Failure, SledLog, SledOptions, Survey, open_engine, refused};
use crate::core::{Epoch, TxId};
use crate::store::{DecisionLog as _, Durability, LogWrite, OpenError};

/// How many epochs are passed over, for lives that the lost part may have had. Ids of a new life must sort after all of theirs,
/// because participants refuse what lies behind the horizon that they were told.
const EPOCHS_PASSED_OVER: u32 = 1024;

/// How many transactions are written at once.
const PUTS_PER_GROUP: usize = 1000;

/// What the new log is.
#[derive(Clone, Copy, Debug)]
pub struct Rebuilt {
    pub cluster: Uuid,
    /// That of the repair: the first daemon takes the next.
    pub epoch: Epoch,
}

impl Survey {
    /// What [`rebuild`](Self::rebuild) would make. Of the lives before, the new log knows none: a decision of each of them may
    /// be lost, so nothing may be presumed of a transaction that is not found.
    ///
    /// # Errors
    /// Where all epochs are used up.
    pub fn rebuilt(&self) -> Result<Rebuilt, OpenError> {
        let known = self.lives.iter().map(|(epoch, _)| epoch);
        let told = self.claim.map(|claim| claim.life.0);
        let last = known.chain(told).chain(self.values.keys().map(|tx| tx.epoch())).max().unwrap_or(Epoch(0));
        let epoch = Epoch(last.0.saturating_add(EPOCHS_PASSED_OVER));
        if epoch >= Epoch::MAX {
            return Err(OpenError::EpochsUsedUp { dir: self.dir().to_owned() });
        }
        Ok(Rebuilt { cluster: self.cluster.unwrap_or_else(Uuid::new_v4), epoch })
    }

    /// Copies the whole directory to `backup`, which must not be there yet, and compares what was copied.
    ///
    /// # Errors
    /// Of the file system; nothing in the data directory is changed.
    pub fn back_up(&self, backup: &Path) -> Result<(), OpenError> {
        let failed = |source| OpenError::Io { action: "back up to", path: backup.to_owned(), source };
        let backup = std::path::absolute(backup).map_err(failed)?;
        if backup.starts_with(self.dir()) {
            return Err(failed(io::Error::other("it lies in the data directory")));
        }
        let ballast = self.dir.ballast();
        copy_all(self.dir(), &backup, &ballast).map_err(failed)
    }

    /// Replaces the log by one that holds `values` and knows no life but that of the repair. `note` is a line that is kept in
    /// `repairs.log`. A process that is ended meanwhile leaves a directory on which no daemon starts.
    ///
    /// # Errors
    /// Where that is not possible.
    pub fn rebuild(
        self,
        rebuilt: Rebuilt,
        values: &BTreeMap<TxId, Vec<u8>>,
        note: &str,
    ) -> Result<PathBuf, OpenError> {
        let Survey { dir, .. } = self;
        let _ours = dir.keep_daemons_out()?;
        let new = dir.path().join("repair.new");
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { action, path, source }
        };
        let old = new.join("sled.old");
        if old.exists() && !dir.sled().exists() {
            let source =
                io::Error::other("an earlier repair was interrupted here; put its backup in place first");
            return Err(OpenError::Io { action: "repair", path: dir.path().to_owned(), source });
        }
        if new.exists() {
            fs::remove_dir_all(&new).map_err(failed("clear", &new))?;
        }
        write(&new, rebuilt, values)?;
        read_back(&new, values)?;
        let notes = dir.path().join("repairs.log");
        append_line(&notes, note).map_err(failed("write", &notes))?;
        // In every state between these two renames the witness is not that of the log, so no daemon starts.
        let swap = || {
            fs::rename(new.join("witness"), dir.witness())?;
            File::open(dir.path())?.sync_all()?;
            if dir.sled().exists() {
                fs::rename(dir.sled(), &old)?;
            }
            fs::rename(new.join("sled"), dir.sled())?;
            dir.sync()?;
            fs::remove_dir_all(&new)?;
            File::open(dir.path())?.sync_all()
        };
        swap().map_err(failed("replace the log in", dir.path()))?;
        Ok(notes)
    }
}

/// Makes a log of its own.
fn write(
    path: &Path,
    Rebuilt { cluster, epoch }: Rebuilt,
    values: &BTreeMap<TxId, Vec<u8>>,
) -> Result<(), OpenError> {
    let dir = DataDir::claim(path)?;
    let witness = Witness::make_for(&dir.witness(), cluster).map_err(|source| OpenError::Io {
        action: "create",
        path: dir.witness(),
        source,
    })?;
    let db = open_engine(&dir, &SledOptions::default())?;
    let medium = Sled::new(db, dir).map_err(|source| OpenError::Io {
        action: "open",
        path: path.to_owned(),
        source,
    })?;
    let fill = || -> Result<(), Failure> {
        let mut log = SledLog::begin(medium, witness, epoch)?;
        let writes =
            values.iter().map(|(tx, value)| LogWrite::Put { tx: *tx, value: Bytes::copy_from_slice(value) });
        let writes: Vec<_> = writes.collect();
        for batch in writes.chunks(PUTS_PER_GROUP) {
            log.append(batch, Durability::Forced)?;
        }
        Box::new(log).close().map_err(|error| io::Error::other(error).into())
    };
    without_panic(fill).map_err(|failure| OpenError::Io {
        action: "write",
        path: path.to_owned(),
        source: failure.into_io(),
    })
}

/// Reads a log that was just made as a daemon would.
fn read_back(path: &Path, values: &BTreeMap<TxId, Vec<u8>>) -> Result<(), OpenError> {
    let dir = DataDir::claim(path)?;
    let failed = |source| OpenError::Io { action: "read back", path: path.to_owned(), source };
    let witness = Witness::find(&dir.witness())?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let db = open_engine(&dir, &SledOptions::default())?;
    let medium = Sled::new(db, dir).map_err(failed)?;
    let checked = without_panic(|| check(&medium, &witness)).map_err(|why| refused(path, why))?;
    let same = checked.scan.values.len() == values.len()
        && checked.scan.values.iter().all(|(tx, value)| values.get(tx) == Some(value));
    if same { Ok(()) } else { Err(failed(io::Error::other("it is not what was written"))) }
}

fn append_line(path: &Path, line: &str) -> io::Result<()> {
    let mut file = File::options().append(true).create(true).open(path)?;
    writeln!(file, "{line}")?;
    file.sync_all()
}

/// Copies a directory but for one file, durably, and compares the copy with it.
fn copy_all(from: &Path, to: &Path, but: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if path == but {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy_all(&path, &copy, but)?;
        } else {
            fs::copy(&path, &copy)?;
            File::open(&copy)?.sync_all()?;
            compare(&path, &copy)?;
        }
    }
    File::open(to)?.sync_all()?;
    to.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

fn compare(one: &Path, other: &Path) -> io::Result<()> {
    let different = || io::Error::other(format!("{} differs from {}", other.display(), one.display()));
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = one.read(&mut left)?;
        let rest = &mut right[..count];
        match other.read_exact(rest) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(different()),
            read => read?,
        }
        if left[..count] != right[..count] {
            return Err(different());
        }
        if count == 0 {
            return if other.read(&mut right)? == 0 { Ok(()) } else { Err(different()) };
        }
    }
}
