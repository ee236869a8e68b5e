//! The embedded decision log, on sled.
//!
//! # What lies where
//! `<dir>/sled/` is sled's own. Its default tree holds groups of writes, numbered, one after the other (`group.rs` tells how);
//! a transaction's value is in the last group that has one. `<dir>/witness` says what the log must at least hold
//! (`witness.rs`), `<dir>/ballast` is room for a full disk, `<dir>/LOCK` keeps a second daemon out.
//!
//! # One group of writes
//! 1. The witness announces group *n* (not synced).
//! 2. The group is packed together, cut into frames of at most 6 KiB, and these are inserted in order: a few calls to sled for
//!    hundreds of writes.
//! 3. If forced: sled's `flush`, then `sync_data` on our own handle to its file, because on Linux `flush` ends in
//!    `sync_file_range`, which does not survive power loss. Then the witness confirms *n* with its checksum (not synced).
//!
//! So a forced group costs one sync. sled recovers a prefix of what was written to it, therefore a crash leaves all of a
//! group or, of the last one, a part, which is dropped: a group is atomic, and nobody was told of it. Damage differs from
//! that: the last whole group is older than the last confirmed one, a frame is missing or fails its checksum, or a group does
//! not bear the checksum of the one before it.
//!
//! # Making room
//! Groups are only ever dropped at the old end (Rosenblum and Ousterhout, *The design and implementation of a log-structured
//! file system*, 1991, with the simplest choice of what to clean). `ledger.rs` knows how much of each group is still in
//! force. When the log has more than twice what is in force, and 8 MiB, each new group brings along what is in force of the
//! oldest ones, and says that those do not count any more; once it is durable their frames are removed. So over
//! time a byte is copied at most for each byte that is gained, and a removal needs no trace: what it removed is older.
//!
//! # What sled must be spared
//! `apply_batch` leaks, `flush_async` can deadlock, a page over 128 KiB goes to a file that is never synced, and its
//! `open` may panic on damage. Its periodic flush stays off: that is a second thread in `IoBufs::current_iobuf`, which takes a
//! reference to a buffer that the other may have freed since it looked (no epoch is pinned there), and so corrupts the heap.
//! With the one thread that owns the log nobody frees anything meanwhile. The flush would also move what is in force out of
//! sparse segments, but here groups go in the order in which they came, and segments become empty by themselves.

mod check;
mod data_dir;
mod group;
mod ledger;
mod medium;
mod rebuild;
mod salvage;
mod scan;
mod survey;
mod witness;

pub use self::data_dir::free_bytes;
pub use self::medium::{Medium, RawKey, Sled, WitnessFile};
pub use self::rebuild::Rebuilt;
pub use self::survey::Survey;
pub use self::witness::{Claim, Witness};

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use sled::Db;

use self::check::{Checked, check};
use self::data_dir::{DataDir, ballast_if_kept, sled, sled_db};
use self::group::{Content, Entry, Header, Key};
use self::ledger::Ledger;
use self::scan::{Values, scan, without_panic};
use super::error::ballast_hint;
use super::{
    AppendError, Ballast, Damage, DecisionLog, Durability, LogWrite, OpenError, Opened, Refusal, ReplayError,
    VALUE_BYTES_MAX, draw_life_tag,
};
use crate::core::{Epoch, TxId};
use crate::crash_point;

/// How the log uses memory and disk.
#[derive(Clone, Debug)]
pub struct SledOptions {
    /// Size of the ballast file. 0: none.
    pub ballast_bytes: u64,
    /// What sled may keep of the log in memory.
    pub cache_bytes: u64,
}

/// The decision log in a data directory. How it works is told at the top of `store/sled_log.rs`. `M` is [`Sled`], but in
/// simulations.
pub struct SledLog<M: Medium = Sled> {
    medium: M,
    witness: Witness<M::Witness>,
    life: (Epoch, u32),
    /// The last group that is in the database.
    newest: u64,
    /// Its checksum.
    sum: u32,
    ledger: Ledger,
    /// Frames of groups that do not count any more. They can be removed once that is durable.
    stale: Vec<Key>,
    content: Content,
    /// What opening found, until it is replayed or no more true.
    found: Option<Values>,
    /// An append failed: what is on disk is not known any more, and stays as it is.
    broken: bool,
}

/// How many bytes of old groups are looked through for each that was written or voided, and then the rest of the group that
/// this ends in: with less than 2 the log would not get shorter, and with many a commit would wait.
const CLEAN_BYTES_PER_BYTE: u64 = 4;

impl Default for SledOptions {
    fn default() -> SledOptions {
        SledOptions { ballast_bytes: 16 << 20, cache_bytes: 32 << 20 }
    }
}

impl SledLog {
    /// Opens the log in `dir`, making both where there is none, checks all of it, and takes the next epoch.
    ///
    /// # Errors
    /// [`OpenError`]; nothing in the directory proves that going on would be safe, and the text says what to do.
    pub fn open(dir: &Path, options: &SledOptions) -> Result<(SledLog, Opened), OpenError> {
        let dir = DataDir::claim(dir)?;
        crash_point!("directory-claimed");
        let ballast = dir
            .keep_ballast(options.ballast_bytes)
            .map_err(|source| io_error(dir.path(), "keep ballast in", &dir.ballast(), source))?;
        let witness = find_witness(&dir)?;
        dir.clear_unfinished(witness.claim().durable > 0)
            .map_err(|source| io_error(dir.path(), "tidy up", &dir.sled(), source))?;
        crash_point!("witness-found");
        let db = open_engine(&dir, options)?;
        let sled = sled_db(dir.path());
        let failed = |source| OpenError::Io { action: "open", path: sled, source };
        let (log, opened) = SledLog::open_on(Sled::new(db, dir).map_err(failed)?, witness)?;
        if let Err(error) = log.medium.clear_repair() {
            tracing::warn!(%error, "cannot remove what a repair left in the data directory");
        }
        Ok((log, Opened { ballast, ..opened }))
    }
}

impl<M: Medium> SledLog<M> {
    /// Checks all of a log that is there or is to be, and takes the next epoch.
    ///
    /// # Errors
    /// [`OpenError`], as of [`open`](SledLog::open).
    pub fn open_on(medium: M, witness: Witness<M::Witness>) -> Result<(SledLog<M>, Opened), OpenError> {
        let Checked { scan, cut_off } =
            without_panic(|| check(&medium, &witness)).map_err(|why| refused(medium.dir(), why))?;
        crash_point!("log-checked");

        let mut lives = scan.lives;
        let epoch =
            lives.next_epoch().ok_or_else(|| OpenError::EpochsUsedUp { dir: medium.dir().to_owned() })?;
        let life_tag = draw_life_tag();
        let mut log = SledLog {
            medium,
            witness,
            life: (epoch, life_tag),
            newest: scan.newest,
            sum: scan.sum,
            ledger: scan.ledger,
            stale: scan.stale,
            content: Content::default(),
            found: Some(scan.values),
            broken: false,
        };
        without_panic(|| log.begin_life(&scan.torn)).map_err(|failure| {
            let dir = log.medium.dir();
            io_error(dir, "write", &sled_db(dir), failure.into_io())
        })?;
        lives.insert(epoch, life_tag);
        let cluster = log.witness.claim().cluster;
        Ok((log, Opened { cluster, epoch, life_tag, lives, cut_off, ballast: Ballast::Off }))
    }

    /// Makes the first life of a new log.
    fn begin(medium: M, witness: Witness<M::Witness>, epoch: Epoch) -> Result<SledLog<M>, Failure> {
        let mut log = SledLog {
            medium,
            witness,
            life: (epoch, draw_life_tag()),
            newest: 0,
            sum: 0,
            ledger: Ledger::new(1),
            stale: Vec::new(),
            content: Content::default(),
            found: None,
            broken: false,
        };
        log.begin_life(&[])?;
        Ok(log)
    }

    /// Removes what the last crash cut off, whose number the next group takes, and makes this life durable.
    fn begin_life(&mut self, torn: &[Key]) -> Result<(), Failure> {
        for key in torn {
            self.medium.remove(key.encode())?;
        }
        let (epoch, tag) = self.life;
        self.write_group(&[Entry::Life { epoch, tag }])?;
        crash_point!("epoch-written");
        // Before the witness says that there is something durable: then all that sled needs is there.
        self.medium.sync_names()?;
        self.sync()?;
        crash_point!("epoch-synced");
        Ok(self.witness.sync()?)
    }

    fn append(&mut self, batch: &[LogWrite], durability: Durability) -> Result<(), Failure> {
        if !batch.is_empty() {
            let entries: Vec<_> = batch.iter().map(entry).collect();
            self.write_group(&entries)?;
        }
        match durability {
            Durability::Lazy => Ok(()),
            Durability::Forced => self.sync(),
        }
    }

    /// Makes everything durable, and so the end of groups that do not count any more.
    fn sync(&mut self) -> Result<(), Failure> {
        crash_point!("group-written");
        self.medium.sync()?;
        crash_point!("group-synced");
        self.witness.confirm(self.life, self.newest, self.sum)?;
        crash_point!("group-confirmed");
        for key in self.stale.drain(..) {
            self.medium.remove(key.encode())?;
            crash_point!("stale-frame-removed");
        }
        Ok(())
    }

    fn write_group(&mut self, entries: &[Entry<'_>]) -> Result<(), Failure> {
        let group = self.newest + 1;
        self.witness.announce(group)?;
        crash_point!("group-announced");
        self.content.begin(Header { cluster: self.witness.claim().cluster, previous: self.sum, oldest: 0 });
        self.ledger.begin();
        let bytes = entries.iter().map(Entry::bytes).sum::<u64>() + self.ledger.take_voided();
        self.make_room(bytes * CLEAN_BYTES_PER_BYTE)?;
        for entry in entries {
            self.push(entry);
        }
        self.content.set_oldest(self.ledger.oldest());
        let sum = self.content.sum();
        let mut frames = 0;
        for (key, frame) in self.content.frames(group, sum) {
            crash_point!("between-frames", if frames > 0);
            self.medium.insert(key.encode(), frame)?;
            frames += 1;
        }
        self.ledger.end(frames, self.content.bytes());
        (self.newest, self.sum) = (group, sum);
        Ok(())
    }

    /// Takes what is in force of the oldest groups into the group that is being written, while the log is too long.
    fn make_room(&mut self, bytes_max: u64) -> Result<(), Failure> {
        let mut bytes = 0;
        while bytes < bytes_max && self.ledger.is_wasteful() && self.ledger.oldest() <= self.newest {
            let group = self.ledger.oldest();
            let oldest = self.ledger.oldest_group();
            if oldest.in_force > 0 {
                self.bring_along(group)?;
                crash_point!("old-group-brought-along");
            }
            self.ledger.drop_oldest();
            bytes += oldest.bytes;
            self.stale.extend((0..oldest.frames).map(|chunk| Key { group, chunk }));
        }
        Ok(())
    }

    fn bring_along(&mut self, group: u64) -> Result<(), Failure> {
        let content = scan::content(&self.medium, group)?;
        let malformed = || Damage::Content { group };
        let (_, entries) = group::open(&content).ok_or_else(malformed)?;
        let entries = entries.collect::<Option<Vec<_>>>().ok_or_else(malformed)?;
        // A group can have several values of one transaction, and the last is in force. Once that is in the new group, this one
        // is not the place of the transaction any more, so the others are passed over.
        for entry in entries.into_iter().rev() {
            match entry {
                Entry::Put { tx, .. } if self.ledger.is_in(tx, group) => self.push(&entry),
                Entry::Life { .. } => self.push(&entry),
                Entry::Put { .. } | Entry::Remove { .. } => {}
            }
        }
        Ok(())
    }

    fn push(&mut self, entry: &Entry<'_>) {
        self.content.push(entry);
        self.ledger.record(entry);
    }

    /// Runs something that writes; after a failure nothing is written any more.
    fn fail_stop(
        &mut self,
        write: impl FnOnce(&mut SledLog<M>) -> Result<(), Failure>,
    ) -> Result<(), AppendError> {
        if self.broken {
            return Err(AppendError::Unknown("an earlier write failed".to_owned()));
        }
        // Set first, so that it stays set when sled panics.
        self.broken = true;
        write(self).map_err(|failure| AppendError::Unknown(failure.explain(self.medium.dir())))?;
        self.broken = false;
        Ok(())
    }
}

impl<M: Medium> DecisionLog for SledLog<M> {
    fn append_batch(
        &mut self,
        epoch: Epoch,
        batch: &[LogWrite],
        durability: Durability,
    ) -> Result<(), AppendError> {
        if epoch != self.life.0 {
            return Err(AppendError::Fenced { ours: epoch, theirs: self.life.0 });
        }
        self.found = None;
        self.fail_stop(|log| {
            batch.iter().try_for_each(check_length)?;
            log.append(batch, durability)
        })
    }

    fn replay(
        &mut self,
        each: &mut dyn FnMut(TxId, Vec<u8>) -> Result<(), ReplayError>,
    ) -> Result<(), ReplayError> {
        let values = match self.found.take() {
            Some(values) => values,
            None => without_panic(|| scan(&self.medium, 0))?.values,
        };
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_unstable_by_key(|(tx, _)| *tx);
        values.into_iter().try_for_each(|(tx, value)| each(tx, value))
    }

    fn close(mut self: Box<Self>) -> Result<(), AppendError> {
        self.fail_stop(|log| {
            log.sync()?;
            Ok(log.witness.sync()?)
        })
    }
}

impl<M: Medium> fmt::Debug for SledLog<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // sled's own would print every value.
        f.debug_struct("SledLog")
            .field("dir", &self.medium.dir())
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

/// The witness of the log in `dir`; a new one where there is no log yet.
fn find_witness(dir: &DataDir) -> Result<Witness<File>, OpenError> {
    let refused = |why| OpenError::Refused { dir: dir.path().to_owned(), why };
    match Witness::find(&dir.witness())? {
        // It is made before sled's directory, so the one without the other is a loss.
        None if dir.sled().exists() => Err(refused(Refusal::WitnessMissing)),
        None => Witness::make(&dir.witness())
            .map_err(|source| io_error(dir.path(), "create", &dir.witness(), source)),
        Some(witness) if witness.claim().durable > 0 && !dir.sled_db().exists() => {
            Err(refused(Refusal::LogMissing))
        }
        Some(witness) => Ok(witness),
    }
}

fn open_engine(dir: &DataDir, options: &SledOptions) -> Result<Db, OpenError> {
    dir.wait_until_sled_let_go()?;
    let config =
        sled::Config::new().path(dir.sled()).cache_capacity(options.cache_bytes).flush_every_ms(None);
    match without_panic(|| Ok::<_, Damage>(config.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(source))) => Err(io_error(dir.path(), "open", &dir.sled_db(), source)),
        Ok(Err(other)) => Err(refused(dir.path(), Damage::Engine(other.to_string()).into())),
        Err(panic) => Err(refused(dir.path(), panic.into())),
    }
}

fn entry(write: &LogWrite) -> Entry<'_> {
    match write {
        LogWrite::Put { tx, value } => Entry::Put { tx: *tx, value },
        LogWrite::Remove { tx } => Entry::Remove { tx: *tx },
    }
}

fn check_length(write: &LogWrite) -> Result<(), Failure> {
    match write {
        LogWrite::Put { tx, value } if value.len() > VALUE_BYTES_MAX => {
            Err(Failure::TooLong { tx: *tx, bytes: value.len() })
        }
        LogWrite::Put { .. } | LogWrite::Remove { .. } => Ok(()),
    }
}

fn refused(dir: &Path, why: Refusal) -> OpenError {
    match why {
        Refusal::Damaged(Damage::OtherVersion { found, supported }) => {
            OpenError::OtherVersion { path: sled(dir), found, supported }
        }
        why => OpenError::Refused { dir: dir.to_owned(), why },
    }
}

fn io_error(dir: &Path, action: &'static str, path: &Path, source: io::Error) -> OpenError {
    if source.kind() == io::ErrorKind::StorageFull {
        return OpenError::DiskFull { dir: dir.to_owned(), ballast: ballast_if_kept(dir) };
    }
    OpenError::Io { action, path: path.to_owned(), source }
}

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Damaged(#[from] Damage),
    #[error("the value of transaction {tx} has {bytes} bytes; the limit is {VALUE_BYTES_MAX}")]
    TooLong { tx: TxId, bytes: usize },
}

impl Failure {
    fn into_io(self) -> io::Error {
        match self {
            Failure::Io(error) => error,
            other => io::Error::other(other.to_string()),
        }
    }

    /// The failure as an operator should read it.
    fn explain(&self, dir: &Path) -> String {
        match self {
            Failure::Io(error) if error.kind() == io::ErrorKind::StorageFull => format!(
                "no space left on the disk of {}; free some{}, and start again",
                dir.display(),
                ballast_hint(ballast_if_kept(dir).as_deref())
            ),
            other => format!("{other} ({})", sled_db(dir).display()),
        }
    }
}

#[cfg(test)]
mod tests;
