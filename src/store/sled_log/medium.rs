//! What the log needs of a disk, so that a simulation can give it one that fails as disks do.
//!
//! Everything that makes decisions survive is on this side: groups, their chain, the ledger, the witness's claims. On the other
//! are an ordered map that is told when to be durable, and a small file. [`Sled`] and [`File`] are those of the daemon. All
//! is bound when compiling, and costs nothing.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::{Deref, RangeBounds};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use sled::{Db, IVec};

use super::data_dir::DataDir;
use crate::crash_point;

/// A frame's key, as it lies in the map.
pub type RawKey = [u8; 13];

/// An ordered map on a disk. What it recovers after a crash is a prefix of what was done to it, with all that was done
/// before the last [`sync`](Medium::sync).
pub trait Medium: Send + fmt::Debug + 'static {
    type Bytes: AsRef<[u8]>;
    type Witness: WitnessFile;

    /// The data directory, for messages.
    fn dir(&self) -> &Path;

    fn insert(&self, key: RawKey, frame: Vec<u8>) -> io::Result<()>;

    fn remove(&self, key: RawKey) -> io::Result<()>;

    fn get(&self, key: RawKey) -> io::Result<Option<Self::Bytes>>;

    fn last(&self) -> io::Result<Option<(Self::Bytes, Self::Bytes)>>;

    /// In the order of keys.
    fn range(
        &self,
        keys: impl RangeBounds<RawKey>,
    ) -> impl Iterator<Item = io::Result<(Self::Bytes, Self::Bytes)>>;

    /// Makes everything durable that was done so far. After a failure nobody knows what is.
    fn sync(&self) -> io::Result<()>;

    /// Makes the names and sizes of all files durable, the witness's too.
    fn sync_names(&self) -> io::Result<()>;
}

/// The witness file.
pub trait WitnessFile: Send + fmt::Debug + 'static {
    fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()>;

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    fn sync_data(&self) -> io::Result<()>;
}

/// sled, made to keep what it acknowledged.
#[derive(Debug)]
pub struct Sled {
    pub(super) db: Engine,
    /// Our own handle to sled's file: the only way to sync it.
    file: File,
    /// Dropped last: the directory is ours until sled has let go of it.
    dir: DataDir,
}

impl Sled {
    pub(super) fn new(db: Db, dir: DataDir) -> io::Result<Sled> {
        // In there first, so that it ends well where this fails.
        let db = Engine(Some(db));
        Ok(Sled { db, file: File::open(dir.sled_db())?, dir })
    }

    /// Removes what is left of the repair that made this log.
    pub(super) fn clear_repair(&self) -> io::Result<()> {
        self.dir.clear_repair()
    }
}

/// sled syncs its file when it is dropped, and panics where it cannot. By then the failure is known, or nobody waits for it.
#[derive(Debug)]
pub(super) struct Engine(Option<Db>);

impl Deref for Engine {
    type Target = Db;

    fn deref(&self) -> &Db {
        self.0.as_ref().expect("it is there until this is dropped")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let db = self.0.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
    }
}

impl Medium for Sled {
    type Bytes = IVec;
    type Witness = File;

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn insert(&self, key: RawKey, frame: Vec<u8>) -> io::Result<()> {
        self.db.insert(key, frame).map(drop).map_err(into_io)
    }

    fn remove(&self, key: RawKey) -> io::Result<()> {
        self.db.remove(key).map(drop).map_err(into_io)
    }

    fn get(&self, key: RawKey) -> io::Result<Option<IVec>> {
        self.db.get(key).map_err(into_io)
    }

    fn last(&self) -> io::Result<Option<(IVec, IVec)>> {
        self.db.last().map_err(into_io)
    }

    fn range(&self, keys: impl RangeBounds<RawKey>) -> impl Iterator<Item = io::Result<(IVec, IVec)>> {
        self.db.range(keys).map(|entry| entry.map_err(into_io))
    }

    fn sync(&self) -> io::Result<()> {
        self.db.flush().map_err(into_io)?;
        crash_point!("group-flushed");
        self.file.sync_data()
    }

    fn sync_names(&self) -> io::Result<()> {
        self.dir.sync()
    }
}

impl WitnessFile for File {
    fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, bytes, at)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, at)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}

/// What sled says besides errors of the file system is told as it stands.
fn into_io(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}
