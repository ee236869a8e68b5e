//! The embedded decision log, on sled.
//!
//! # What lies where
//! `<dir>/sled/` is sled's own. Its default tree holds the values, the cluster id and the lives (`frame.rs` and
//! `value.rs` tell how), its tree `marker` one record about the last group. `<dir>/witness` says what the log must at
//! least hold (`witness.rs`), `<dir>/ballast` is room for a full disk, `<dir>/LOCK` keeps a second daemon out.
//!
//! # One group of writes
//! 1. The witness announces group *n* (not synced).
//! 2. The marker: *n* begun, *n − 1* whole.
//! 3. The writes, in order, each frame bearing *n*.
//! 4. The marker: *n* whole, so many values, with such a sum of checksums.
//! 5. If forced: sled's `flush`, then `sync_data` on our own handle to its file, because on Linux `flush` ends in
//!    `sync_file_range`, which does not survive power loss. Then the witness confirms *n* (not synced).
//!
//! So a forced group costs one sync. sled recovers a prefix of what was written to it, therefore a crash leaves the
//! marker at a whole group, and then the database must hold exactly what the marker counted; or it leaves it within
//! group *n*, and then every transaction has its value from before *n* or the one from *n*. Damage differs from that:
//! the marker is older than the last confirmed group, a checksum fails, or the count is off. The count says nothing
//! within a group: a value lost by damage in the very moment of a crash would pass for a removal that was under way.
//!
//! # Long values
//! A frame has at most 4 KiB; a longer value is cut into parts. Every part has two slots. A new value writes each part
//! that differs into the slot that is not in force, then the list of parts, which is the commit point, then removes what
//! the former list had. In whichever step it is cut off, a list stands in the database and all its parts do; parts that
//! no list names are swept at the next open. A removal takes the list first. Most values grow at their end, so most of
//! their parts stay as they are.
//!
//! # What sled must be spared
//! `apply_batch` leaks, `flush_async` can deadlock, a page over 128 KiB goes to a file that is never synced, and its
//! `open` may panic on damage. Its periodic flush stays on, since that also frees space.

mod check;
mod data_dir;
mod frame;
mod scan;
mod value;
mod witness;

pub use self::data_dir::free_bytes;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use sled::{Db, Tree};

use self::check::{Checked, MARKER_KEY, Marker, Totals, check};
use self::data_dir::DataDir;
use self::frame::{Key, PartKey, seal, unseal};
use self::scan::{Scan, scan, without_panic};
use self::value::{Head, Parts};
use self::witness::Witness;
use super::error::ballast_hint;
use super::{
    AppendError, Damage, DecisionLog, Durability, LogWrite, OpenError, Opened, Refusal, ReplayError,
    VALUE_BYTES_MAX, draw_life_tag,
};
use crate::core::{Epoch, TxId};

/// How the log uses memory and disk.
#[derive(Clone, Debug)]
pub struct SledOptions {
    /// Size of the ballast file. 0: none.
    pub ballast_bytes: u64,
    /// What sled may keep of the log in memory.
    pub cache_bytes: u64,
}

/// The decision log in a data directory. How it works is told at the top of `store/sled_log.rs`.
pub struct SledLog {
    tree: Tree,
    marker: Tree,
    db: Db,
    /// Our own handle to sled's file: the only way to sync it.
    file: File,
    witness: Witness,
    life: (Epoch, u32),
    /// The last group that was begun.
    group: u64,
    totals: Totals,
    /// An append failed: what is on disk is not known any more, and stays as it is.
    broken: bool,
    /// Dropped last: the directory is ours until sled has let go of it.
    dir: DataDir,
}

/// Keeps sled's background flush on, which also frees the space of overwritten values.
const FLUSH_EVERY_MS: u64 = 500;

impl Default for SledOptions {
    fn default() -> SledOptions {
        SledOptions { ballast_bytes: 16 << 20, cache_bytes: 128 << 20 }
    }
}

impl SledLog {
    /// Opens the log in `dir`, making both where there is none, checks all of it, and takes the next epoch.
    ///
    /// # Errors
    /// [`OpenError`]; nothing in the directory proves that going on would be safe, and the text says what to do.
    pub fn open(dir: &Path, options: &SledOptions) -> Result<(SledLog, Opened), OpenError> {
        let dir = DataDir::claim(dir)?;
        let ballast = dir
            .keep_ballast(options.ballast_bytes)
            .map_err(|source| io_error(&dir, "keep ballast in", &dir.ballast(), source))?;
        let witness = find_witness(&dir)?;
        let db = open_engine(&dir, options)?;
        let (marker_tree, checked) = without_panic(|| {
            let tree = db.open_tree(MARKER_KEY).map_err(|error| Damage::Engine(error.to_string()))?;
            let checked = check(&db, &tree, &witness)?;
            Ok((tree, checked))
        })
        .map_err(|why| refused(&dir, why))?;
        let Checked { scan, group, cut_off } = checked;

        let epoch =
            scan.lives.next_epoch().ok_or_else(|| OpenError::EpochsUsedUp { dir: dir.path().to_owned() })?;
        let file =
            File::open(dir.sled_db()).map_err(|source| io_error(&dir, "open", &dir.sled_db(), source))?;
        let life_tag = draw_life_tag();
        let mut log = SledLog {
            tree: Tree::clone(&db),
            marker: marker_tree,
            db,
            file,
            witness,
            life: (epoch, life_tag),
            group,
            totals: scan.totals,
            broken: false,
            dir,
        };
        log.begin_life(&scan)
            .map_err(|failure| io_error(&log.dir, "write", &log.dir.sled_db(), failure.into_io()))?;
        let mut lives = scan.lives;
        lives.insert(epoch, life_tag);
        let cluster = log.witness.claim().cluster;
        Ok((log, Opened { cluster, epoch, life_tag, lives, cut_off, ballast }))
    }

    /// Sweeps what the last crash left over, and makes this life durable.
    fn begin_life(&mut self, scan: &Scan) -> Result<(), Failure> {
        self.begin_group()?;
        for key in &scan.left_over {
            self.remove(key)?;
        }
        if scan.cluster.is_none() {
            let cluster = self.witness.claim().cluster;
            self.insert(&Key::Cluster.encode(), cluster.as_bytes())?;
        }
        let (epoch, life_tag) = self.life;
        self.insert(&Key::Life(epoch).encode(), &life_tag.to_le_bytes())?;
        self.end_group()?;
        self.sync()?;
        self.witness.sync()?;
        Ok(self.dir.sync()?)
    }

    fn append(&mut self, batch: &[LogWrite], durability: Durability) -> Result<(), Failure> {
        if !batch.is_empty() {
            self.begin_group()?;
            for write in batch {
                match write {
                    LogWrite::Put { tx, value } => self.put(*tx, value)?,
                    LogWrite::Remove { tx } => self.take(*tx)?,
                }
            }
            self.end_group()?;
        }
        match durability {
            Durability::Lazy => Ok(()),
            Durability::Forced => self.sync(),
        }
    }

    fn begin_group(&mut self) -> Result<(), Failure> {
        let whole = self.group;
        self.group += 1;
        self.witness.announce(self.group)?;
        self.write_marker(whole)
    }

    fn end_group(&mut self) -> Result<(), Failure> {
        self.write_marker(self.group)
    }

    fn write_marker(&self, whole: u64) -> Result<(), Failure> {
        let marker = Marker { begun: self.group, whole, totals: self.totals };
        self.marker.insert(MARKER_KEY, marker.frame())?;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Failure> {
        self.db.flush()?;
        self.file.sync_data()?;
        Ok(self.witness.confirm(self.life, self.group, self.totals)?)
    }

    fn put(&mut self, tx: TxId, value: &[u8]) -> Result<(), Failure> {
        let key = Key::Head(tx).encode();
        if let Some(head) = Head::short(value) {
            let former = self.insert(&key, &head.encode())?;
            return self.remove_superseded(tx, parts_of(&key, former.as_deref())?, None);
        }
        let former = parts_of(&key, self.tree.get(&key)?.as_deref())?;
        let mut parts = Parts::of(value);
        for (number, stretch) in Parts::split(value) {
            let slot = self.put_part(tx, number, stretch, former.as_ref())?;
            parts.set_slot(number, slot);
        }
        let head = Head::Long(parts);
        self.insert(&key, &head.encode())?;
        self.remove_superseded(tx, former, head.into_parts().as_ref())
    }

    /// Writes a part unless it is there already. Returns the slot it is in.
    fn put_part(
        &mut self,
        tx: TxId,
        number: u16,
        stretch: &[u8],
        former: Option<&Parts>,
    ) -> Result<u8, Failure> {
        let in_force = former.and_then(|parts| parts.slot(number));
        if let Some(slot) = in_force {
            let key = Key::Part(PartKey { tx, number, slot }).encode();
            if let Some(frame) = self.tree.get(&key)?
                && unseal(&key, &frame)?.body == stretch
            {
                return Ok(slot);
            }
        }
        let slot = in_force.map_or(0, |slot| 1 - slot);
        self.insert(&Key::Part(PartKey { tx, number, slot }).encode(), stretch)?;
        Ok(slot)
    }

    fn take(&mut self, tx: TxId) -> Result<(), Failure> {
        let key = Key::Head(tx).encode();
        let former = self.remove(&key)?;
        self.remove_superseded(tx, parts_of(&key, former.as_deref())?, None)
    }

    /// Removes the parts of `former` that `now` does not name.
    fn remove_superseded(
        &mut self,
        tx: TxId,
        former: Option<Parts>,
        now: Option<&Parts>,
    ) -> Result<(), Failure> {
        let Some(former) = former else {
            return Ok(());
        };
        for number in 0..former.count() {
            let slot = former.slot(number);
            if let Some(slot) = slot.filter(|slot| now.and_then(|now| now.slot(number)) != Some(*slot)) {
                self.remove(&Key::Part(PartKey { tx, number, slot }).encode())?;
            }
        }
        Ok(())
    }

    /// Every write to the default tree goes through this or [`remove`](Self::remove), so the totals stay right.
    fn insert(&mut self, key: &[u8], body: &[u8]) -> Result<Option<sled::IVec>, Failure> {
        let frame = seal(key, self.group, body);
        self.totals.add(&frame);
        let former = self.tree.insert(key, frame)?;
        self.totals.subtract(former.as_deref());
        Ok(former)
    }

    fn remove(&mut self, key: &[u8]) -> Result<Option<sled::IVec>, Failure> {
        let former = self.tree.remove(key)?;
        self.totals.subtract(former.as_deref());
        Ok(former)
    }

    /// Runs something that writes; after a failure nothing is written any more.
    fn fail_stop(
        &mut self,
        write: impl FnOnce(&mut SledLog) -> Result<(), Failure>,
    ) -> Result<(), AppendError> {
        if self.broken {
            return Err(AppendError::Unknown("an earlier write failed".to_owned()));
        }
        // Set first, so that it stays set when sled panics.
        self.broken = true;
        write(self).map_err(|failure| AppendError::Unknown(failure.explain(&self.dir)))?;
        self.broken = false;
        Ok(())
    }
}

impl DecisionLog for SledLog {
    fn append_batch(
        &mut self,
        epoch: Epoch,
        batch: &[LogWrite],
        durability: Durability,
    ) -> Result<(), AppendError> {
        if epoch != self.life.0 {
            return Err(AppendError::Fenced { ours: epoch, theirs: self.life.0 });
        }
        self.fail_stop(|log| {
            batch.iter().try_for_each(check_length)?;
            log.append(batch, durability)
        })
    }

    fn replay(
        &mut self,
        each: &mut dyn FnMut(TxId, Vec<u8>) -> Result<(), ReplayError>,
    ) -> Result<(), ReplayError> {
        without_panic(|| scan(&self.tree, each)).map(drop)
    }

    fn close(mut self: Box<Self>) -> Result<(), AppendError> {
        self.fail_stop(|log| {
            log.sync()?;
            Ok(log.witness.sync()?)
        })
    }
}

impl fmt::Debug for SledLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // sled's own would print every value.
        f.debug_struct("SledLog")
            .field("dir", &self.dir.path())
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

/// The witness of the log in `dir`; a new one where there is no log yet.
fn find_witness(dir: &DataDir) -> Result<Witness, OpenError> {
    let refused = |why| OpenError::Refused { dir: dir.path().to_owned(), why };
    match Witness::read(dir.path(), &dir.witness())? {
        // It is made before sled's directory, so the one without the other is a loss.
        None if dir.sled().exists() => Err(refused(Refusal::WitnessMissing)),
        None => Witness::create(&dir.witness()).map_err(|error| match error {
            OpenError::Io { action, path, source } => io_error(dir, action, &path, source),
            other => other,
        }),
        Some(witness) if witness.claim().durable > 0 && !dir.sled_db().exists() => {
            Err(refused(Refusal::LogMissing))
        }
        Some(witness) => Ok(witness),
    }
}

fn open_engine(dir: &DataDir, options: &SledOptions) -> Result<Db, OpenError> {
    dir.wait_until_sled_let_go()?;
    let config = sled::Config::new()
        .path(dir.sled())
        .cache_capacity(options.cache_bytes)
        .flush_every_ms(Some(FLUSH_EVERY_MS));
    match without_panic(|| Ok::<_, Damage>(config.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(source))) => Err(io_error(dir, "open", &dir.sled_db(), source)),
        Ok(Err(other)) => Err(refused(dir, Damage::Engine(other.to_string()).into())),
        Err(panic) => Err(refused(dir, panic.into())),
    }
}

/// The list of parts in a frame that was in force, if it had one.
fn parts_of(key: &[u8], frame: Option<&[u8]>) -> Result<Option<Parts>, Damage> {
    let Some(frame) = frame else {
        return Ok(None);
    };
    let head = Head::decode(unseal(key, frame)?.body).ok_or_else(|| Damage::Checksum(frame::name(key)))?;
    Ok(head.into_parts())
}

fn check_length(write: &LogWrite) -> Result<(), Failure> {
    match write {
        LogWrite::Put { tx, value } if value.len() > VALUE_BYTES_MAX => {
            Err(Failure::TooLong { tx: *tx, bytes: value.len() })
        }
        LogWrite::Put { .. } | LogWrite::Remove { .. } => Ok(()),
    }
}

fn refused(dir: &DataDir, why: Refusal) -> OpenError {
    match why {
        Refusal::Damaged(Damage::Newer { found, supported }) => {
            OpenError::Newer { path: dir.sled(), found, supported }
        }
        why => OpenError::Refused { dir: dir.path().to_owned(), why },
    }
}

fn io_error(dir: &DataDir, action: &'static str, path: &Path, source: io::Error) -> OpenError {
    if source.kind() == io::ErrorKind::StorageFull {
        return OpenError::DiskFull { dir: dir.path().to_owned(), ballast: dir.ballast_if_kept() };
    }
    OpenError::Io { action, path: path.to_owned(), source }
}

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Engine(sled::Error),
    #[error(transparent)]
    Damaged(#[from] Damage),
    #[error("the value of transaction {tx} has {bytes} bytes; the limit is {VALUE_BYTES_MAX}")]
    TooLong { tx: TxId, bytes: usize },
}

impl From<sled::Error> for Failure {
    fn from(error: sled::Error) -> Failure {
        match error {
            sled::Error::Io(error) => Failure::Io(error),
            other => Failure::Engine(other),
        }
    }
}

impl Failure {
    fn into_io(self) -> io::Error {
        match self {
            Failure::Io(error) => error,
            other => io::Error::other(other.to_string()),
        }
    }

    /// The failure as an operator should read it.
    fn explain(&self, dir: &DataDir) -> String {
        match self {
            Failure::Io(error) if error.kind() == io::ErrorKind::StorageFull => format!(
                "no space left on the disk of {}; free some{}, and start again",
                dir.path().display(),
                ballast_hint(dir.ballast_if_kept().as_deref())
            ),
            other => format!("{other} ({})", dir.sled_db().display()),
        }
    }
}

#[cfg(test)]
mod tests;
