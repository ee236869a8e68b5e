//! What databases showed, against what initiators asked for and were told.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Findings, Rule};
use crate::index::{Index, Known, Line, Quiet, Read};
use crate::record::{Effect, Told};

/// When a transfer was first seen in a set: the end of that read.
type Seen<'a> = HashMap<(&'a str, &'a str), Line>;

/// The effects of each transfer in one read.
type Shown<'a> = BTreeMap<&'a str, Vec<(&'a str, i64)>>;

/// Judges all reads, and gives the transfers that took effect, as far as any read showed.
pub fn check<'a>(index: &Index<'a>, findings: &mut Findings) -> BTreeSet<&'a str> {
    let mut seen = Seen::new();
    for read in &index.reads {
        if !index.sets.contains_key(read.set) {
            let what = format!("set {} is read and is not open", read.set);
            findings.add(Rule::History, read.set, what, &[read.ended]);
            continue;
        }
        let mut judge = Judge { index, read, shown: shown(read), seen: &mut seen, findings };
        judge.effects();
        judge.absences();
        judge.balances();
    }
    for quiet in &index.quiets {
        at_rest(index, quiet, &seen, findings);
    }
    how_it_ended(index, findings);
    seen.into_keys().map(|(id, _)| id).collect()
}

/// One read.
struct Judge<'i, 'a> {
    index: &'i Index<'a>,
    read: &'i Read<'a>,
    shown: Shown<'a>,
    seen: &'i mut Seen<'a>,
    findings: &'i mut Findings,
}

impl<'a> Judge<'_, 'a> {
    /// What is there may be there.
    fn effects(&mut self) {
        let Read { set, ended, of, .. } = *self.read;
        for (id, effects) in &self.shown {
            if of.is_some_and(|of| of != *id) {
                let what = format!("a read of {} shows {id}", of.unwrap_or_default());
                self.findings.add(Rule::History, id, what, &[ended]);
            }
            let Some(known) = self.index.transfers.get(id).filter(|known| known.begun < ended) else {
                let what = format!("set {set} shows {id}, which nobody had begun");
                self.findings.add(Rule::Invented, id, what, &[ended]);
                continue;
            };
            if let Some(told) = known.told(&[Told::Aborted]) {
                let what = format!("{id} was told aborted, and set {set} shows it");
                self.findings.add(Rule::Stability, id, what, &[known.begun, told, ended]);
            }
            let mut owed = moves(known, set);
            for effect in effects {
                if let Some(at) = owed.iter().position(|it| it == effect) {
                    owed.swap_remove(at);
                } else if moves(known, set).contains(effect) {
                    let what =
                        format!("{id} took effect more than once on account {} of set {set}", effect.0);
                    self.findings.add(Rule::Doubled, id, what, &[known.begun, ended]);
                } else {
                    let (account, amount) = effect;
                    let what = format!(
                        "set {set} shows {amount} on account {account} for {id}, which did not ask for that"
                    );
                    self.findings.add(Rule::Invented, id, what, &[known.begun, ended]);
                }
            }
            if !owed.is_empty() {
                let what =
                    format!("{id} took effect on some of its accounts in set {set}, and not on others");
                self.findings.add(Rule::Atomicity, id, what, &[known.begun, ended]);
            }
            self.seen.entry((id, set)).or_insert(ended);
        }
    }

    /// What is not there need not be there yet.
    fn absences(&mut self) {
        let set = self.read.set;
        let index = self.index;
        if let Some(id) = self.read.of {
            self.absence(id);
        } else {
            let about = index.transfers.iter().filter(|(_, known)| known.is_about(set));
            about.for_each(|(id, _)| self.absence(id));
        }
    }

    fn absence(&mut self, id: &'a str) {
        let Read { set, begun, ended, .. } = *self.read;
        let Some(known) = self.index.transfers.get(id).filter(|known| known.is_about(set)) else { return };
        if self.shown.contains_key(id) {
            return;
        }
        if let Some(seen) = self.seen.get(&(id, set)).filter(|seen| **seen < begun) {
            let what = format!("set {set} showed {id}, and does not any more");
            self.findings.add(Rule::Stability, id, what, &[*seen, ended]);
        } else if let Some(told) = known.told(&[Told::Complete]).filter(|told| *told < begun)
            && !self.index.quiets.iter().any(|quiet| quiet.has(self.read))
        {
            let what =
                format!("{id} was told complete, and a read of set {set} that began later does not show it");
            self.findings.add(Rule::RealTime, id, what, &[told, begun, ended]);
        }
    }

    fn balances(&mut self) {
        let Read { set, ended, of, saw, .. } = *self.read;
        if of.is_some() {
            return;
        }
        let (opened, opening) = self.index.sets[set];
        let mut expected = opening.clone();
        for Effect { account, amount, .. } in &saw.effects {
            *expected.entry(account.clone()).or_default() += amount;
        }
        if expected != saw.balances {
            let differs = |account: &&String| expected.get(*account) != saw.balances.get(*account);
            let accounts: BTreeSet<_> =
                expected.keys().chain(saw.balances.keys()).filter(differs).map(String::as_str).collect();
            let accounts = accounts.into_iter().collect::<Vec<_>>().join(", ");
            let what = format!("the effects in set {set} do not make its balances: see account {accounts}");
            self.findings.add(Rule::Money, set, what, &[opened, ended]);
        }
    }
}

/// What a whole set showed while all was quiet.
struct Look<'i, 'a> {
    read: &'i Read<'a>,
    shown: Shown<'a>,
}

/// When all is quiet, each transfer is in all of its sets or in none, in all if that was told, and no money is gone.
fn at_rest(index: &Index<'_>, quiet: &Quiet, seen: &Seen<'_>, findings: &mut Findings) {
    let reads = index.reads.iter().filter(|read| read.of.is_none() && quiet.has(read));
    let looks: BTreeMap<_, _> = reads.map(|read| (read.set, Look { read, shown: shown(read) })).collect();
    for (id, known) in index.transfers.iter().filter(|(_, known)| known.begun < quiet.from) {
        let about = looks.values().filter(|look| known.is_about(look.read.set));
        let (there, absent): (Vec<_>, Vec<_>) = about.partition(|look| look.shown.contains_key(id));
        if !there.is_empty() && !absent.is_empty() {
            let what = format!("{id} took effect in {}, and not in {}", names(&there), names(&absent));
            let ends = there.iter().chain(&absent).map(|look| look.read.ended);
            let lines: Vec<_> = ends.chain([known.begun]).collect();
            findings.add(Rule::Atomicity, id, what, &lines);
        } else if let Some(told) = known.told_committed().filter(|told| *told < quiet.from)
            && !absent.is_empty()
            && !absent.iter().any(|look| seen.contains_key(&(*id, look.read.set)))
        {
            let what = format!("{id} was told committed, and is not in {}", names(&absent));
            let lines: Vec<_> = absent.iter().map(|look| look.read.ended).chain([told]).collect();
            findings.add(Rule::Lost, id, what, &lines);
        }
    }
    if index.sets.keys().all(|set| looks.contains_key(set)) {
        let before: i64 = index.sets.values().flat_map(|(_, balances)| balances.values()).sum();
        let now: i64 = looks.values().flat_map(|look| look.read.saw.balances.values()).sum();
        if before != now {
            let lines: Vec<_> = looks.values().map(|look| look.read.ended).collect();
            let what = format!("there was {before} at first, and there is {now} now");
            findings.add(Rule::Money, "", what, &lines);
        }
    }
}

fn names(looks: &[&Look<'_, '_>]) -> String {
    looks.iter().map(|look| look.read.set).collect::<Vec<_>>().join(", ")
}

/// A history that does not look at all sets when everything was over can hide anything.
fn how_it_ended(index: &Index<'_>, findings: &mut Findings) {
    let looked = |quiet: &Quiet, set: &str| {
        index.reads.iter().any(|read| read.set == set && read.of.is_none() && quiet.has(read))
    };
    let shown = index
        .quiets
        .last()
        .is_some_and(|quiet| quiet.until == usize::MAX && index.sets.keys().all(|set| looked(quiet, set)));
    if !shown {
        let last = index.quiets.last().map_or(1, |quiet| quiet.from);
        findings.add(
            Rule::History,
            "",
            "it does not end with a look at every set while all is quiet".to_owned(),
            &[last],
        );
    }
}

impl Quiet {
    fn has(&self, read: &Read<'_>) -> bool {
        self.from < read.begun && read.ended < self.until
    }
}

fn shown<'a>(read: &Read<'a>) -> Shown<'a> {
    let mut shown = Shown::new();
    for Effect { id, account, amount } in &read.saw.effects {
        shown.entry(id.as_str()).or_default().push((account, *amount));
    }
    shown
}

fn moves<'a>(known: &Known<'a>, set: &str) -> Vec<(&'a str, i64)> {
    known.moves.iter().filter(|it| it.set == set).map(|it| (it.account.as_str(), it.amount)).collect()
}
