//! The coordinator's disk: what sled and the file system do with what the log writes.
//!
//! What was not synced is lost with a crash, but for a prefix: that is what sled recovers. A write to the witness file reaches
//! the system at once, so a killed process loses none; when the machine goes, each slot is as after any write since its last
//! sync, and one may be torn. A sync that fails leaves any part on the disk, and what it left out never gets there.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use assent::store::{Medium, OpenError, Opened, RawKey, SledLog, Witness, WitnessFile};

use crate::rng::Rng;
use crate::world::{Crash, effect, note};

/// A disk. It outlives its host; clones are the same disk.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<State>>);

/// The log on it.
pub type SimulatedLog = SledLog<Disk>;

/// How a disk betrays its owner, to see whether that is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Honesty {
    #[default]
    Honest,
    /// It says that everything is synced, and has not begun.
    SyncsNothing,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    honesty: Honesty,
    /// What is read.
    frames: BTreeMap<RawKey, Vec<u8>>,
    durable: BTreeMap<RawKey, Vec<u8>>,
    /// What `frames` has and `durable` lacks, in order.
    unsynced: Vec<Change>,
    witness: [Slot; 2],
    witness_is_there: bool,
    /// The next sync fails.
    fail_sync: bool,
    full: bool,
    /// A sync takes up to so much longer.
    slow_ms: u64,
    /// Changes that a crash took back.
    lost: u64,
    torn_slots: u64,
}

#[derive(Debug)]
enum Change {
    Insert(RawKey, Vec<u8>),
    Remove(RawKey),
}

/// What was written to one slot of the witness since its last sync, the synced version first.
#[derive(Debug, Default)]
struct Slot(Vec<Vec<u8>>);

/// The slots are apart by this.
const SLOT_STRIDE: u64 = 4096;

/// What a crash did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loss {
    pub changes: u64,
    pub torn_slots: u64,
}

impl Disk {
    pub fn new(rng: Rng, honesty: Honesty) -> Disk {
        Disk(Arc::new(Mutex::new(State {
            rng,
            honesty,
            frames: BTreeMap::new(),
            durable: BTreeMap::new(),
            unsynced: Vec::new(),
            witness: Default::default(),
            witness_is_there: false,
            fail_sync: false,
            full: false,
            slow_ms: 0,
            lost: 0,
            torn_slots: 0,
        })))
    }

    /// Opens the log on it, as [`SledLog::open`] does on files.
    pub fn open(&self) -> Result<(SimulatedLog, Opened), OpenError> {
        let there = self.state().witness_is_there;
        let witness = if there {
            Witness::read(self.clone(), &self.dir().join("witness"))?
        } else {
            let path = self.dir().join("witness");
            let failed = |source| OpenError::Io { action: "create", path, source };
            let witness = Witness::create(self.clone()).map_err(failed)?;
            self.state().witness_is_there = true;
            witness
        };
        SledLog::open_on(self.clone(), witness)
    }

    /// The host crashed.
    pub fn crash(&self, crash: Crash) -> Loss {
        let state = &mut *self.state();
        let kept = state.rng.below(state.unsynced.len() as u64 + 1);
        let loss = state.unsynced.len() as u64 - kept;
        state.settle(kept);
        state.fail_sync = false;
        let mut torn_slots = 0;
        if crash == Crash::PowerLoss {
            let torn = state.rng.percent(30).then(|| usize::from(state.rng.percent(50)));
            for (at, slot) in state.witness.iter_mut().enumerate().filter(|(_, slot)| slot.0.len() > 1) {
                let kept = state.rng.below(slot.0.len() as u64);
                slot.0.truncate(usize::try_from(kept).unwrap_or_default() + 1);
                if torn == Some(at)
                    && let Some(last) = slot.0.last_mut()
                {
                    let from = last.len() / 2;
                    last[from..].fill(0);
                    torn_slots += 1;
                }
            }
        }
        for slot in &mut state.witness {
            slot.sync();
        }
        state.lost += loss;
        state.torn_slots += torn_slots;
        Loss { changes: loss, torn_slots }
    }

    /// Whether the next sync fails.
    pub fn set_failing(&self, fails: bool) {
        self.state().fail_sync = fails;
    }

    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    pub fn set_slow(&self, slow_ms: u64) {
        self.state().slow_ms = slow_ms;
    }

    pub fn is_full(&self) -> bool {
        self.state().full
    }

    /// How long the sync takes that is due.
    pub fn sync_ms(&self) -> u64 {
        let state = &mut *self.state();
        state.rng.skewed(0, 10) + state.rng.below(state.slow_ms + 1)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: Change) -> io::Result<()> {
        if !effect() {
            return Err(crashed());
        }
        let state = &mut *self.state();
        if state.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        change.apply(&mut state.frames);
        state.unsynced.push(change);
        Ok(())
    }
}

impl State {
    /// The first changes are durable, the others are lost.
    fn settle(&mut self, kept: u64) {
        for change in self.unsynced.drain(..).take(usize::try_from(kept).unwrap_or(usize::MAX)) {
            change.apply(&mut self.durable);
        }
        self.frames.clone_from(&self.durable);
    }
}

impl Change {
    fn apply(&self, to: &mut BTreeMap<RawKey, Vec<u8>>) {
        match self {
            Change::Insert(key, frame) => drop(to.insert(*key, frame.clone())),
            Change::Remove(key) => drop(to.remove(key)),
        }
    }
}

impl Slot {
    fn sync(&mut self) {
        let keep = self.0.len().saturating_sub(1);
        self.0.drain(..keep);
    }
}

/// What a process is told that has crashed; nobody hears of it.
fn crashed() -> io::Error {
    io::Error::other("crashed")
}

impl Medium for Disk {
    type Bytes = Vec<u8>;
    type Witness = Disk;

    fn dir(&self) -> &Path {
        Path::new("/simulated")
    }

    fn insert(&self, key: RawKey, frame: Vec<u8>) -> io::Result<()> {
        self.change(Change::Insert(key, frame))
    }

    fn remove(&self, key: RawKey) -> io::Result<()> {
        self.change(Change::Remove(key))
    }

    fn get(&self, key: RawKey) -> io::Result<Option<Vec<u8>>> {
        Ok(self.state().frames.get(&key).cloned())
    }

    fn last(&self) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        Ok(self.state().frames.last_key_value().map(|(key, frame)| (key.to_vec(), frame.clone())))
    }

    fn range(&self, keys: impl RangeBounds<RawKey>) -> impl Iterator<Item = io::Result<(Vec<u8>, Vec<u8>)>> {
        let found: Vec<_> =
            self.state().frames.range(keys).map(|(key, frame)| Ok((key.to_vec(), frame.clone()))).collect();
        found.into_iter()
    }

    fn sync(&self) -> io::Result<()> {
        if !effect() {
            return Err(crashed());
        }
        let state = &mut *self.state();
        let changes = state.unsynced.len();
        if state.fail_sync {
            state.fail_sync = false;
            let kept = state.rng.below(changes as u64 + 1);
            // What is read stays what was written until the process is gone.
            let read = state.frames.clone();
            state.settle(kept);
            state.frames = read;
            note(format_args!("disk: sync of {changes} changes fails, {kept} are there"));
            return Err(io::Error::other("input/output error"));
        }
        if state.honesty == Honesty::Honest {
            for change in state.unsynced.drain(..) {
                change.apply(&mut state.durable);
            }
        }
        note(format_args!("disk: sync of {changes} changes"));
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        if effect() { Ok(()) } else { Err(crashed()) }
    }
}

impl WitnessFile for Disk {
    fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        let state = self.state();
        let slot = state.witness[usize::from(at >= SLOT_STRIDE)].0.last();
        let slot = slot.ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(&slot[..bytes.len()]);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        if !effect() {
            return Err(crashed());
        }
        self.state().witness[usize::from(at >= SLOT_STRIDE)].0.push(bytes.to_vec());
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if !effect() {
            return Err(crashed());
        }
        let state = &mut *self.state();
        if state.honesty == Honesty::Honest {
            state.witness.iter_mut().for_each(Slot::sync);
        }
        Ok(())
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}
