//! Holding what is in the database against what the marker and the witness say of it.

use sled::Tree;

use super::frame::{seal, u64_at, unseal, weight};
use super::scan::{Scan, scan};
use super::witness::Witness;
use crate::store::{CutOff, Damage, Refusal, ReplayError};

/// What a check found, when all is well.
#[derive(Debug)]
pub struct Checked {
    pub scan: Scan,
    /// The last group that was begun, as far as anything tells.
    pub group: u64,
    pub cut_off: Option<CutOff>,
}

/// The frames of the default tree: how many, and the wrapping sum of their weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub keys: u64,
    pub sum: u64,
}

/// The record about the last group.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marker {
    pub begun: u64,
    pub whole: u64,
    /// After the last whole group.
    pub totals: Totals,
}

/// The key of that record, and the name of its tree.
pub const MARKER_KEY: &[u8] = b"marker";

/// Reads all of the log and holds it against the marker and the witness.
pub fn check(tree: &Tree, marker: &Tree, witness: &Witness) -> Result<Checked, Refusal> {
    let claim = witness.claim();
    let marker = Marker::read(marker)?;
    if marker.whole < claim.durable {
        return Err(Refusal::TailLost { durable: claim.durable, found: marker.whole });
    }
    let scan = scan(tree, &mut |_, _| Ok(())).map_err(|error| match error {
        ReplayError::Damaged(damage) => damage,
        ReplayError::Rejected { .. } => unreachable!("the reader above rejects nothing"),
    })?;
    if scan.latest.0 > marker.begun {
        let (found, what) = scan.latest;
        return Err(Damage::Sequence { what, found, last: marker.begun }.into());
    }
    // Within a group the count cannot be right; between two it must be.
    if marker.begun == marker.whole && scan.totals != marker.totals {
        return Err(Damage::Totals { counted: marker.totals.keys, found: scan.totals.keys }.into());
    }
    if marker.whole == claim.durable && marker.totals != claim.totals {
        return Err(Refusal::Mismatch("they counted different values"));
    }
    if claim.durable > 0 && !scan.lives.has(claim.life.0, claim.life.1) {
        return Err(Refusal::Mismatch("the log does not know the life that the witness saw"));
    }
    if scan.cluster.map_or(marker.whole > 0, |cluster| cluster != claim.cluster) {
        return Err(Refusal::Mismatch("they name different clusters"));
    }
    let group = marker.begun.max(claim.begun);
    let cut_off = (group > marker.whole).then_some(CutOff { last_whole: marker.whole, last_begun: group });
    Ok(Checked { scan, group, cut_off })
}

impl Totals {
    pub fn add(&mut self, frame: &[u8]) {
        self.keys += 1;
        self.sum = self.sum.wrapping_add(weight(frame));
    }

    pub fn subtract(&mut self, former: Option<&[u8]>) {
        if let Some(frame) = former {
            self.keys -= 1;
            self.sum = self.sum.wrapping_sub(weight(frame));
        }
    }
}

impl Marker {
    /// The record, as it lies in its tree.
    pub fn frame(&self) -> Vec<u8> {
        let body = [self.begun, self.whole, self.totals.keys, self.totals.sum].map(u64::to_le_bytes).concat();
        seal(MARKER_KEY, self.begun, &body)
    }

    /// The one in the tree; of a log that was never written to, an empty one.
    pub fn read(tree: &Tree) -> Result<Marker, Damage> {
        let Some(frame) = tree.get(MARKER_KEY).map_err(|error| Damage::Engine(error.to_string()))? else {
            return Ok(Marker::default());
        };
        let body = unseal(MARKER_KEY, &frame)?.body;
        let marker = (body.len() == 32).then(|| Marker {
            begun: u64_at(body, 0),
            whole: u64_at(body, 8),
            totals: Totals { keys: u64_at(body, 16), sum: u64_at(body, 24) },
        });
        // A group begins only when the one before it is whole.
        marker
            .filter(|marker| marker.begun.wrapping_sub(marker.whole) <= 1)
            .ok_or_else(|| Damage::Checksum("the marker".to_owned()))
    }
}
