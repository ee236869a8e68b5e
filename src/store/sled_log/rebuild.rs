//! Putting a sound log in the place of a damaged one.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, lchown};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use uuid::Uuid;

use super::check::check;
use super::data_dir::DataDir;
use super::medium::Sled;
use super::scan::without_panic;
use super::survey::{copy_parts, copying, engine};
use super::witness::Witness;
use super::{Failure, SledLog, SledOptions, Survey, io_error, open_engine, refused};
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
        let dir = fs::canonicalize(self.dir()).map_err(failed)?;
        let backup = resolved(backup).map_err(failed)?;
        if backup.starts_with(&dir) {
            return Err(failed(io::Error::other("it lies in the data directory")));
        }
        copy_all(&dir, &backup, &dir.join("ballast")).map_err(failed)
    }

    /// Replaces the log by one that holds `values` and knows no life but that of the repair. `note` is a line that is kept in
    /// `repairs.log`. A process that is ended meanwhile leaves a directory on which no daemon starts, until
    /// [`finish_repair`](Self::finish_repair).
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
        let new = repair_new(dir.path());
        discard(&new).map_err(|source| io_error(dir.path(), "clear", &new, source))?;
        let make = || {
            write(&new, rebuilt, values)?;
            read_back(&new, values)?;
            append_line(&repairs_log(&new), note)?;
            hand_over(dir.path(), &new)
        };
        if let Err(failure) = make() {
            // What cannot be removed now, the next repair removes.
            let _ = discard(&new);
            return Err(failure.told_of(dir.path()));
        }
        swap(&dir).map_err(|source| io_error(dir.path(), "replace the log in", dir.path(), source))?;
        Ok(repairs_log(dir.path()))
    }

    /// Finishes a repair that was interrupted when nothing but names was left to change, or else says that there was none.
    ///
    /// # Errors
    /// Where that is not possible.
    pub fn finish_repair(dir: &Path) -> Result<bool, OpenError> {
        let dir = DataDir::look(dir)?;
        if !dir.has_interrupted_repair()? {
            return Ok(false);
        }
        let _ours = dir.keep_daemons_out()?;
        let new = repair_new(dir.path());
        hand_over(dir.path(), &new)
            .and_then(|()| Ok(swap(&dir)?))
            .map_err(|failure| failure.told_of(dir.path()))?;
        Ok(true)
    }
}

impl DataDir {
    /// Whether the witness in place is that of a log that a repair was about to put beside it.
    pub(super) fn has_interrupted_repair(&self) -> Result<bool, OpenError> {
        let new = repair_new(self.path());
        let sled = new.join("sled");
        if sled.exists() && !new.join("witness").exists() && self.witness().exists() {
            let room = Survey::room()?;
            copy_parts(&self.witness(), &sled, room.path()).map_err(|source| copying(room.path(), source))?;
            // One that does not vouch for it is of something else, and the repair was never more than begun.
            if is_sound(room.path()) {
                return Ok(true);
            }
        }
        if new.join("sled.old").exists() && !self.sled().exists() {
            let problem = "an earlier repair was interrupted, and what it made is not there any more: move repair.new/sled.old \
                to sled and repair again, or restore the whole directory from the backup that it made";
            let source = io::Error::other(problem);
            return Err(OpenError::Io { action: "read the log in", path: self.path().to_owned(), source });
        }
        Ok(false)
    }

    /// Removes what a repair left that was interrupted when the log was in place already. Only for a log that is sound.
    pub(super) fn clear_repair(&self) -> io::Result<()> {
        if repair_new(self.path()).exists() { end_repair(self.path()) } else { Ok(()) }
    }
}

/// Whether a log, which is ours to open, is one that a daemon would take.
fn is_sound(dir: &Path) -> bool {
    let Ok(Some(witness)) = Witness::find(&dir.join("witness")) else { return false };
    let durable = witness.claim().durable > 0;
    durable && engine(dir, true).is_ok_and(|medium| without_panic(|| check(&medium, &witness)).is_ok())
}

/// Where the new log is made.
fn repair_new(dir: &Path) -> PathBuf {
    dir.join("repair.new")
}

/// What was repaired and why, a line each.
fn repairs_log(dir: &Path) -> PathBuf {
    dir.join("repairs.log")
}

/// Puts the new log in place. In every state between the first of these renames and the last the witness is not that of the
/// log, so no daemon starts. All of it can be done again from any place.
fn swap(dir: &DataDir) -> io::Result<()> {
    let new = repair_new(dir.path());
    let (witness, sled, old) = (new.join("witness"), new.join("sled"), new.join("sled.old"));
    if witness.exists() {
        fs::rename(witness, dir.witness())?;
        sync_dir(dir.path())?;
    }
    if dir.sled().exists() {
        fs::rename(dir.sled(), &old)?;
        sync_dir(&new)?;
    }
    fs::rename(sled, dir.sled())?;
    dir.sync()?;
    end_repair(dir.path())
}

/// Writes down that the log was repaired, and removes what was only needed for that.
fn end_repair(dir: &Path) -> io::Result<()> {
    let new = repair_new(dir);
    // Only a repair whose log was put in place has none there any more.
    if !new.join("sled").exists() && repairs_log(&new).exists() {
        let (line, notes) = (fs::read_to_string(repairs_log(&new))?, repairs_log(dir));
        append_line(&notes, line.trim_end())?;
        give(&notes, &fs::metadata(dir)?)?;
        sync_dir(dir)?;
    }
    discard(&new)?;
    sync_dir(dir)
}

/// Gives what was made to whoever the data directory belongs to: a daemon may not run as who repairs.
fn hand_over(dir: &Path, new: &Path) -> Result<(), Unmade> {
    let owner = fs::metadata(dir)?;
    give_all(new, &owner)?;
    let lock = dir.join("LOCK");
    if lock.exists() {
        give(&lock, &owner)?;
    }
    Ok(())
}

fn give_all(path: &Path, owner: &Metadata) -> io::Result<()> {
    give(path, owner)?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            give_all(&entry?.path(), owner)?;
        }
    }
    Ok(())
}

fn give(path: &Path, owner: &Metadata) -> io::Result<()> {
    let has = fs::symlink_metadata(path)?;
    if (has.uid(), has.gid()) == (owner.uid(), owner.gid()) {
        return Ok(());
    }
    match lchown(path, Some(owner.uid()), Some(owner.gid())) {
        // Whoever owns it can use it, whatever its group.
        Err(_) if has.uid() == owner.uid() => Ok(()),
        given => given,
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes what a repair made: first what says that it was done, so that no half of the rest is taken for that.
fn discard(new: &Path) -> io::Result<()> {
    let present = |removed: io::Result<()>| match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    };
    present(fs::remove_file(repairs_log(new)))?;
    present(fs::remove_dir_all(new))
}

/// The path of something that is still to be made, without links on the way.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other("it is no name of a directory"));
    };
    Ok(fs::canonicalize(parent)?.join(name))
}

/// Why no new log was made.
#[derive(Debug, thiserror::Error)]
enum Unmade {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl Unmade {
    /// As it is told of the log that was to be repaired: of the new one nobody has heard.
    fn told_of(self, dir: &Path) -> OpenError {
        let new = repair_new(dir);
        match self {
            Unmade::Io(source) => io_error(dir, "make a new log in", &new, source),
            Unmade::Open(OpenError::Io { action, path, source }) => io_error(dir, action, &path, source),
            Unmade::Open(OpenError::DiskFull { .. }) => {
                io_error(dir, "write", &new, io::ErrorKind::StorageFull.into())
            }
            Unmade::Open(OpenError::Refused { why, .. }) => {
                let source = io::Error::other(why);
                OpenError::Io { action: "read back the new log in", path: new, source }
            }
            Unmade::Open(other) => other,
        }
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

/// Adds a line, be the one before it whole or not.
fn append_line(path: &Path, line: &str) -> io::Result<()> {
    let mut file = File::options().read(true).append(true).create(true).open(path)?;
    let mut last = [b'\n'];
    if let Some(at) = file.metadata()?.len().checked_sub(1) {
        file.read_exact_at(&mut last, at)?;
    }
    let begin = if last == [b'\n'] { "" } else { "\n" };
    file.write_all(format!("{begin}{line}\n").as_bytes())?;
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
        // It may be a link.
        if fs::metadata(&path)?.is_dir() {
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
