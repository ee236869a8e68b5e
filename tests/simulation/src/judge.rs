//! What must hold at every moment, judged at every change of a database and at every answer.
//!
//! What shows only in the end, and what takes looking at all of it, is left to `assent-history`.

use std::collections::{BTreeMap, BTreeSet};

use assent_history::{Answer, Record, Told};
use assent_sdk::TxId;
use clap::ValueEnum;

use crate::world::{HostId, World};

#[derive(Debug, Default)]
pub struct Judge {
    transfers: BTreeMap<String, Seen>,
    /// Databases that fail all calls, until then.
    out_of_order: BTreeMap<&'static str, u64>,
    pub told: BTreeMap<&'static str, u64>,
    /// Operations that have no answer.
    pub under_way: BTreeSet<(HostId, u64)>,
    /// Transactions that the coordinator has not ended, when it was last asked, and when that was.
    pub active: Option<(u64, u64)>,
    /// Initiators to whom all participants answered after the last fault.
    pub served: BTreeSet<HostId>,
    pub flaw: Flaw,
}

/// What is wrong on purpose, to see whether it is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Flaw {
    #[default]
    None,
    /// The coordinator's disk says that it has synced, and has not.
    SyncsNothing,
    /// A participant votes yes and keeps nothing, now and then.
    VotesAndForgets,
    /// A participant that starts again has forgotten what it had prepared.
    ForgetsDoubts,
    /// The log says that a decision is durable, and only then writes it.
    TellsBeforeDurable,
    /// An initiator takes a lost answer for an abort.
    UnknownIsAbort,
    /// Nobody who dials looks whether his connection lives.
    NoKeepAlive,
}

/// What was seen of one transfer.
#[derive(Debug, Default)]
struct Seen {
    sets: usize,
    /// By transaction: one that was asked for again after it had aborted unheard is another one.
    ends: BTreeMap<TxId, Ends>,
    told: Option<Told>,
}

/// Where a transaction ended how.
#[derive(Debug, Default)]
struct Ends {
    committed: BTreeSet<&'static str>,
    rolled_back: BTreeSet<&'static str>,
}

impl Judge {
    pub fn is_out_of_order(&self, set: &str, now_ms: u64) -> bool {
        self.out_of_order.get(set).is_some_and(|until_ms| *until_ms > now_ms)
    }

    pub fn put_out_of_order(&mut self, set: &'static str, until_ms: u64) {
        self.out_of_order.insert(set, until_ms);
    }

    pub fn transfers(&self) -> u64 {
        self.transfers.len() as u64
    }

    pub fn mend(&mut self) {
        self.out_of_order.clear();
    }
}

impl World {
    /// A transfer that changes so many sets is begun.
    pub fn begun(&mut self, by: HostId, op: u64, transfer: &str, sets: usize) {
        self.judge.under_way.insert((by, op));
        self.judge.transfers.entry(transfer.to_owned()).or_default().sets = sets;
    }

    pub fn committed(&mut self, transfer: &str, xid: TxId, set: &'static str) {
        self.note(format_args!("db {set}: {transfer} committed by {xid}"));
        let seen = self.judge.transfers.entry(transfer.to_owned()).or_default();
        seen.ends.entry(xid).or_default().committed.insert(set);
        self.weigh(transfer);
    }

    pub fn rolled_back(&mut self, transfer: &str, xid: TxId, set: &'static str) {
        self.note(format_args!("db {set}: {transfer} rolled back by {xid}"));
        let seen = self.judge.transfers.entry(transfer.to_owned()).or_default();
        seen.ends.entry(xid).or_default().rolled_back.insert(set);
        self.weigh(transfer);
    }

    /// An initiator has its answer. One whose process has crashed has none.
    pub fn told(&mut self, by: HostId, op: u64, transfer: &str, told: Told) {
        if !self.is_alive(by) {
            return;
        }
        let process = self.hosts[by.0].name.to_owned();
        let what = match told {
            Told::Complete => "complete",
            Told::Committed => "committed",
            Told::Aborted => "aborted",
            Told::Unknown => "unknown",
        };
        self.judge.under_way.remove(&(by, op));
        *self.judge.told.entry(what).or_default() += 1;
        self.record(Record::End { process, op, answer: Answer::Told(told) });
        let seen = self.judge.transfers.entry(transfer.to_owned()).or_default();
        let contrary = match (seen.told, told) {
            (Some(Told::Complete | Told::Committed), Told::Aborted)
            | (Some(Told::Aborted), Told::Complete | Told::Committed) => true,
            (_, Told::Unknown | Told::Complete | Told::Committed | Told::Aborted) => false,
        };
        if told != Told::Unknown && seen.told != Some(Told::Complete) {
            seen.told = Some(told);
        }
        let whole = seen.ends.values().any(|ends| ends.committed.len() == seen.sets);
        let missing = told == Told::Complete && !whole;
        if contrary {
            self.breach(format!("{transfer} was told {what}, and had been told otherwise"));
        }
        if missing {
            self.breach(format!("{transfer} was told complete, and is not in all of its databases"));
        }
        self.weigh(transfer);
    }

    fn weigh(&mut self, transfer: &str) {
        let Some(seen) = self.judge.transfers.get(transfer) else { return };
        let mut found = Vec::new();
        for (xid, Ends { committed, rolled_back }) in &seen.ends {
            if !committed.is_empty() && !rolled_back.is_empty() {
                found.push(format!(
                    "{transfer} ({xid}) is committed in {committed:?} and rolled back in {rolled_back:?}"
                ));
            }
            if seen.told == Some(Told::Aborted) && !committed.is_empty() {
                found.push(format!("{transfer} ({xid}) was told aborted and is committed in {committed:?}"));
            }
        }
        let committed = seen.ends.iter().filter(|(_, ends)| !ends.committed.is_empty());
        if committed.count() > 1 {
            found.push(format!("{transfer} is committed by more than one transaction"));
        }
        for what in found {
            self.breach(what);
        }
    }
}
