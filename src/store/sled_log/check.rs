//! Holding what is in the database against what the witness says of it.

use super::medium::Medium;
use super::scan::{Scan, scan};
use super::witness::Witness;
use crate::store::{CutOff, Refusal};

/// What a check found, when all is well.
#[derive(Debug)]
pub struct Checked {
    pub scan: Scan,
    pub cut_off: Option<CutOff>,
}

/// Reads all of the log and holds it against the witness.
pub fn check<M: Medium>(medium: &M, witness: &Witness<M::Witness>) -> Result<Checked, Refusal> {
    let claim = witness.claim();
    let scan = scan(medium, claim.durable)?;
    if scan.newest < claim.durable {
        return Err(Refusal::TailLost { durable: claim.durable, found: scan.newest });
    }
    if scan.cluster.is_some_and(|cluster| cluster != claim.cluster) {
        return Err(Refusal::Mismatch("they name different clusters"));
    }
    if scan.asked.is_some_and(|sum| sum != claim.sum) {
        return Err(Refusal::Mismatch("the group that the witness saw durable is another one in the log"));
    }
    if claim.durable > 0 && !scan.lives.has(claim.life.0, claim.life.1) {
        return Err(Refusal::Mismatch("the log does not know the life that the witness saw"));
    }
    let torn = scan.torn.last().map_or(0, |key| key.group);
    let last_begun = claim.begun.max(torn);
    let cut_off = (last_begun > scan.newest).then_some(CutOff { last_whole: scan.newest, last_begun });
    Ok(Checked { scan, cut_off })
}
