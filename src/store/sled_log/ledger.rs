//! Where in the log the value in force of each transaction is, and how much of each group is still in force.

use std::collections::VecDeque;

use super::group::{Entry, FRAME_HEADER_BYTES};
use crate::core::{Map, TxId};

/// What the log may waste, besides as much as is in force: 8 MiB.
const WASTE_BYTES_MAX: u64 = 8 << 20;

/// What lies in the log, from the oldest group on.
#[derive(Debug, Default)]
pub struct Ledger {
    places: Map<TxId, Place>,
    groups: VecDeque<Group>,
    /// The number of the first of them.
    oldest: u64,
    /// Of all groups; it has no frames.
    total: Group,
    /// Bytes that were in force, since this was last taken.
    voided: u64,
    pub waste_bytes_max: u64,
}

/// Where a value is.
#[derive(Clone, Copy, Debug)]
struct Place {
    group: u64,
    bytes: u32,
}

/// What is in a group.
#[derive(Clone, Copy, Debug, Default)]
pub struct Group {
    pub frames: u32,
    /// With all that is around the entries.
    pub bytes: u64,
    /// Of the entries.
    pub in_force: u64,
}

impl Ledger {
    /// Of a log that begins with this group.
    pub fn new(oldest: u64) -> Ledger {
        Ledger { oldest, waste_bytes_max: WASTE_BYTES_MAX, ..Ledger::default() }
    }

    pub fn oldest(&self) -> u64 {
        self.oldest
    }

    /// Begins the next group.
    pub fn begin(&mut self) {
        self.groups.push_back(Group::default());
    }

    /// The newest group is whole: this is its content, in so many frames.
    pub fn end(&mut self, frames: u32, content: &[u8]) {
        let bytes = (content.len() + FRAME_HEADER_BYTES * frames as usize) as u64;
        let newest = self.newest();
        (newest.frames, newest.bytes) = (frames, bytes);
        self.total.bytes += bytes;
    }

    /// The newest group has this.
    pub fn record(&mut self, entry: &Entry<'_>) {
        match *entry {
            Entry::Put { tx, .. } => self.put(tx, entry.bytes()),
            Entry::Remove { tx } => self.remove(tx),
            Entry::Life { .. } => self.keep(entry.bytes()),
        }
    }

    fn put(&mut self, tx: TxId, bytes: u64) {
        let group = self.oldest + self.groups.len() as u64 - 1;
        let place = Place { group, bytes: u32::try_from(bytes).expect("at most 64 MiB") };
        if let Some(former) = self.places.insert(tx, place) {
            self.void(former);
        }
        self.keep(bytes);
    }

    fn remove(&mut self, tx: TxId) {
        if let Some(former) = self.places.remove(&tx) {
            self.void(former);
        }
    }

    fn keep(&mut self, bytes: u64) {
        self.newest().in_force += bytes;
        self.total.in_force += bytes;
    }

    /// Whether that group has the value in force of this transaction.
    pub fn is_in(&self, tx: TxId, group: u64) -> bool {
        self.places.get(&tx).is_some_and(|place| place.group == group)
    }

    /// More is kept than is worth it.
    pub fn is_wasteful(&self) -> bool {
        self.total.bytes > 2 * self.total.in_force + self.waste_bytes_max
    }

    /// Of all groups; it has no frames.
    pub fn total(&self) -> Group {
        self.total
    }

    pub fn oldest_group(&self) -> Group {
        self.groups.front().copied().unwrap_or_default()
    }

    /// Takes the oldest group out of the account. What was in force of it is elsewhere now.
    pub fn drop_oldest(&mut self) {
        if let Some(group) = self.groups.pop_front() {
            self.oldest += 1;
            self.total.bytes -= group.bytes;
            self.total.in_force -= group.in_force;
        }
    }

    /// How many bytes are not in force any more, since this was last asked.
    pub fn take_voided(&mut self) -> u64 {
        std::mem::take(&mut self.voided)
    }

    fn void(&mut self, place: Place) {
        let bytes = u64::from(place.bytes);
        self.voided += bytes;
        let at = usize::try_from(place.group - self.oldest).expect("as many as are in memory");
        self.groups[at].in_force -= bytes;
        self.total.in_force -= bytes;
    }

    fn newest(&mut self) -> &mut Group {
        self.groups.back_mut().expect("a group has begun")
    }
}
