//! What can be judged without looking at any database, and what is still held.

use super::{Findings, Rule};
use crate::index::Index;
use crate::record::Told;

pub fn nonsense(index: &Index<'_>, findings: &mut Findings) {
    for (what, lines) in &index.nonsense {
        findings.add(Rule::History, what, what.clone(), lines);
    }
}

/// One transfer that is asked about several times has one answer.
pub fn contradictions(index: &Index<'_>, findings: &mut Findings) {
    for (id, known) in &index.transfers {
        if let (Some(committed), Some(aborted)) = (known.told_committed(), known.told(&[Told::Aborted])) {
            let what = format!("transfer {id} was told both committed and aborted");
            findings.add(Rule::Stability, id, what, &[known.begun, committed, aborted]);
        }
    }
}

pub fn termination(index: &Index<'_>, findings: &mut Findings) {
    for quiet in &index.quiets {
        for (begun, what) in &quiet.under_way {
            let what = format!("{what} has not ended though all is quiet");
            findings.add(Rule::Termination, &begun.to_string(), what, &[*begun, quiet.from]);
        }
        let reads = index.reads.iter().filter(|read| quiet.from < read.begun && read.ended < quiet.until);
        for (read, id) in reads.flat_map(|read| read.saw.held.iter().map(move |id| (read, id))) {
            let what = format!("{id} is still held in set {} though all is quiet", read.set);
            findings.add(Rule::Termination, &format!("{id} {}", read.set), what, &[quiet.from, read.ended]);
        }
    }
    for (begun, what) in &index.unended {
        let what = format!("{what} has not ended, and nobody killed who began it");
        findings.add(Rule::Termination, &begun.to_string(), what, &[*begun]);
    }
}
