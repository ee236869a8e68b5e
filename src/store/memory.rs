//! A decision log in memory, for tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    AppendError, Ballast, CutOff, DecisionLog, Durability, Lives, LogWrite, Opened, ReplayError,
    draw_life_tag,
};
use crate::core::{Epoch, TxId};

/// A log whose disk is memory. Clones share the disk, so that a test can keep one, let the daemon under test have
/// another, crash it and open it again.
#[derive(Clone, Debug, Default)]
pub struct MemoryLog(Arc<Shared>);

/// What becomes of the writes of an append that is told to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedAppend {
    /// They are gone.
    Lost,
    /// They are durable, though the writer never learns of it.
    Kept,
}

#[derive(Debug, Default)]
struct Shared {
    disk: Mutex<Disk>,
    /// Notified when the gate opens, and when somebody comes to wait at it.
    gate: Condvar,
}

#[derive(Debug, Default)]
struct Disk {
    cluster: Option<Uuid>,
    epoch: Option<Epoch>,
    lives: Lives,
    live: BTreeMap<TxId, Bytes>,
    durable: BTreeMap<TxId, Bytes>,
    /// Changes to `live` that `durable` lacks.
    unforced: Vec<LogWrite>,
    cut_off: Option<CutOff>,
    appends: u64,
    /// What `appends` was at the last sync.
    durable_appends: u64,
    syncs: u64,
    /// Counts down with each append; the one that finds 1 fails.
    fail_in: Option<(u64, FailedAppend)>,
    broken: bool,
    gate_closed: bool,
    waiting: u64,
}

impl MemoryLog {
    pub fn new() -> MemoryLog {
        MemoryLog::default()
    }

    /// Takes the next epoch. Whoever holds the former one is fenced off.
    pub fn open(&self) -> Opened {
        let mut disk = self.disk();
        let epoch = disk.lives.next_epoch().expect("no test opens a log 16 million times");
        let life_tag = draw_life_tag();
        disk.lives.insert(epoch, life_tag);
        disk.epoch = Some(epoch);
        disk.broken = false;
        Opened {
            cluster: *disk.cluster.get_or_insert_with(Uuid::new_v4),
            epoch,
            life_tag,
            lives: disk.lives.clone(),
            cut_off: disk.cut_off.take(),
            ballast: Ballast::Off,
        }
    }

    /// Forgets what was not forced, as a power loss does. Follow it with [`open`](Self::open).
    pub fn crash(&self) {
        let disk = &mut *self.disk();
        if !disk.unforced.is_empty() {
            disk.cut_off = Some(CutOff { last_whole: disk.durable_appends, last_begun: disk.appends });
        }
        disk.unforced.clear();
        disk.live.clone_from(&disk.durable);
    }

    /// Lets the `nth` append from now fail, 1 being the next, and every later one until the log is opened again.
    pub fn fail_append(&self, nth: u64, writes: FailedAppend) {
        self.disk().fail_in = Some((nth, writes));
    }

    /// Holds every append back, before it does anything, until [`open_gate`](Self::open_gate).
    pub fn close_gate(&self) {
        self.disk().gate_closed = true;
    }

    pub fn open_gate(&self) {
        self.disk().gate_closed = false;
        self.0.gate.notify_all();
    }

    /// Waits until an append is held back at the gate.
    pub fn wait_for_append_at_gate(&self) {
        let mut disk = self.disk();
        while disk.waiting == 0 {
            disk = self.0.gate.wait(disk).expect(NOT_POISONED);
        }
    }

    /// Forced appends so far.
    pub fn syncs(&self) -> u64 {
        self.disk().syncs
    }

    /// Appends so far, forced ones included.
    pub fn appends(&self) -> u64 {
        self.disk().appends
    }

    /// The number of transactions with a value.
    pub fn len(&self) -> usize {
        self.disk().live.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.disk.lock().expect(NOT_POISONED)
    }
}

impl DecisionLog for MemoryLog {
    fn append_batch(
        &mut self,
        epoch: Epoch,
        batch: &[LogWrite],
        durability: Durability,
    ) -> Result<(), AppendError> {
        let mut disk = self.disk();
        if disk.gate_closed {
            disk.waiting += 1;
            self.0.gate.notify_all();
            while disk.gate_closed {
                disk = self.0.gate.wait(disk).expect(NOT_POISONED);
            }
            disk.waiting -= 1;
        }
        disk.append(epoch, batch, durability)
    }

    fn replay(
        &mut self,
        each: &mut dyn FnMut(TxId, Vec<u8>) -> Result<(), ReplayError>,
    ) -> Result<(), ReplayError> {
        let live = self.disk().live.clone();
        live.into_iter().try_for_each(|(tx, value)| each(tx, value.to_vec()))
    }

    fn close(self: Box<Self>) -> Result<(), AppendError> {
        let mut disk = self.disk();
        match disk.epoch {
            Some(epoch) => disk.append(epoch, &[], Durability::Forced),
            None => Ok(()),
        }
    }
}

impl Disk {
    fn append(
        &mut self,
        epoch: Epoch,
        batch: &[LogWrite],
        durability: Durability,
    ) -> Result<(), AppendError> {
        match self.epoch {
            Some(theirs) if theirs == epoch => {}
            theirs => return Err(AppendError::Fenced { ours: epoch, theirs: theirs.unwrap_or(Epoch(0)) }),
        }
        if self.broken {
            return Err(AppendError::Unknown("an earlier append failed".to_owned()));
        }
        let failed = match &mut self.fail_in {
            Some((1, writes)) => {
                let writes = *writes;
                self.fail_in = None;
                Some(writes)
            }
            Some((nth, _)) => {
                *nth -= 1;
                None
            }
            None => None,
        };
        if failed != Some(FailedAppend::Lost) {
            self.write(batch);
            if durability == Durability::Forced || failed.is_some() {
                self.force();
            }
        }
        if failed.is_some() {
            self.broken = true;
            return Err(AppendError::Unknown("told to fail".to_owned()));
        }
        Ok(())
    }

    fn write(&mut self, batch: &[LogWrite]) {
        self.appends += 1;
        for write in batch {
            apply(&mut self.live, write.clone());
        }
        self.unforced.extend_from_slice(batch);
    }

    fn force(&mut self) {
        self.syncs += 1;
        self.durable_appends = self.appends;
        for write in self.unforced.drain(..) {
            apply(&mut self.durable, write);
        }
    }
}

fn apply(values: &mut BTreeMap<TxId, Bytes>, write: LogWrite) {
    match write {
        LogWrite::Put { tx, value } => {
            values.insert(tx, value);
        }
        LogWrite::Remove { tx } => {
            values.remove(&tx);
        }
    }
}

const NOT_POISONED: &str = "nothing panics while it holds the disk";
