//! The decision log: what must survive a crash.
//!
//! The log keeps one opaque value per transaction. The core encodes all records of a transaction into that value, so
//! every transition of a transaction is one write, and atomic. Nothing here knows what a record is.
//!
//! * [`DecisionLog`] is the seam. [`SledLog`] is the embedded log of the daemon, [`MemoryLog`] the one for tests. A
//!   replicated log can stand behind the same trait, which is why every append carries the epoch of its owner.
//! * [`LogWriter`] is the one thread that owns a log and commits in groups.
//!
//! Durable means: survives power loss. How [`SledLog`] gets there is told in `store/sled_log.rs`.

mod error;
mod memory;
mod sled_log;
mod writer;

pub use self::error::{AppendError, Damage, OpenError, Refusal, ReplayError};
pub use self::memory::{FailedAppend, MemoryLog};
pub use self::sled_log::{
    Claim, Medium, RawKey, Rebuilt, Sled, SledLog, SledOptions, Survey, Witness, WitnessFile, free_bytes,
};
pub use self::writer::{Crank, LAZY_FOR_MAX, LogStats, LogWriter, Submission, Turn, WriterEvent};

use std::collections::BTreeSet;
use std::fmt;

use uuid::Uuid;

pub use crate::core::{Durability, LogWrite};
use crate::core::{Epoch, TxId};

/// The longest value of a transaction: 64 MiB.
pub const VALUE_BYTES_MAX: usize = 64 << 20;

/// Where decisions are kept. One owner at a time; see the [module](self).
pub trait DecisionLog: Send + 'static {
    /// Appends `batch`, in order.
    ///
    /// # Errors
    /// [`AppendError::Fenced`] when `epoch` is not the one that the log was last opened for: nothing was written.
    /// [`AppendError::Unknown`] when any part may or may not have been written. The log takes no append after that.
    fn append_batch(
        &mut self,
        epoch: Epoch,
        batch: &[LogWrite],
        durability: Durability,
    ) -> Result<(), AppendError>;

    /// Hands over every live value, in the order of [`TxId`].
    ///
    /// # Errors
    /// [`ReplayError::Damaged`] when the log cannot be read; else what `each` returned, which ends the replay.
    fn replay(
        &mut self,
        each: &mut dyn FnMut(TxId, Vec<u8>) -> Result<(), ReplayError>,
    ) -> Result<(), ReplayError>;

    /// Makes everything durable and ends cleanly. A log that is dropped instead has crashed.
    ///
    /// # Errors
    /// As [`append_batch`](Self::append_batch).
    fn close(self: Box<Self>) -> Result<(), AppendError>;
}

/// What opening a log found, and took.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Drawn at random when the log was first opened; never changes.
    pub cluster: Uuid,
    /// The epoch taken by this opening: one more than the last. Durable.
    pub epoch: Epoch,
    /// Drawn at random by this opening. Durable.
    pub life_tag: u32,
    /// Every life of this log, this one included.
    pub lives: Lives,
    /// Present when writes that were never acknowledged got lost with the last crash.
    pub cut_off: Option<CutOff>,
    pub ballast: Ballast,
}

/// The lives that a log has lived through: one per opening.
///
/// A transaction whose life is not among them was begun by another cluster, or in a time that this log knows nothing of
/// because it was restored from an older copy. Nothing may be presumed of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lives(BTreeSet<(Epoch, u32)>);

/// Writes that had begun when the log crashed, were never acknowledged, and are gone in part or whole. This is no
/// damage: nobody was told of them. Each transaction has either its value from before the write, or the one after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutOff {
    /// The last group of writes that is wholly there.
    pub last_whole: u64,
    /// The last group of writes that had begun.
    pub last_begun: u64,
}

/// The file that an operator can delete to get a full disk going again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ballast {
    /// None is wanted.
    Off,
    Kept,
    /// Not made, because too little space was free. It is made at the first opening that finds twice its size free.
    Lacking {
        free_bytes: u64,
    },
}

impl Lives {
    /// Whether `tx` was begun in one of these lives.
    pub fn contains(&self, tx: TxId) -> bool {
        self.0.contains(&(tx.epoch(), tx.life_tag()))
    }

    /// The number of lives.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each with its tag, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Epoch, u32)> + '_ {
        self.0.iter().copied()
    }

    fn insert(&mut self, epoch: Epoch, life_tag: u32) {
        self.0.insert((epoch, life_tag));
    }

    fn has(&self, epoch: Epoch, life_tag: u32) -> bool {
        self.0.contains(&(epoch, life_tag))
    }

    /// The epoch for the next life; `None` when all are used up.
    fn next_epoch(&self) -> Option<Epoch> {
        let last = self.0.last().map_or(0, |(epoch, _)| epoch.0);
        (last < Epoch::MAX.0).then_some(Epoch(last + 1))
    }
}

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the log ends with group {}; groups up to {} had begun, were not acknowledged, and are lost in part or whole",
            self.last_whole, self.last_begun
        )
    }
}

/// 32 random bits.
fn draw_life_tag() -> u32 {
    // The low 62 bits of a version 4 UUID are random.
    u32::try_from(Uuid::new_v4().as_u128() & u128::from(u32::MAX)).expect("masked to 32 bits")
}
