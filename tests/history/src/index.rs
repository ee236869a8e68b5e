//! A history put in order: which transfers there were, who was told what of them, and which reads saw what.

use std::collections::{BTreeMap, HashMap};

use crate::record::{Answer, Balances, Call, History, Move, Record, Saw, Told, Transfer};

/// The number of a line: later is greater.
pub type Line = usize;

#[derive(Debug, Default)]
pub struct Index<'a> {
    /// The sets, each with the line that opens it.
    pub sets: BTreeMap<&'a str, (Line, &'a Balances)>,
    pub transfers: BTreeMap<&'a str, Known<'a>>,
    /// In the order in which they ended.
    pub reads: Vec<Read<'a>>,
    /// Operations without an end whose process lives: the line of each, and what it is.
    pub unended: Vec<(Line, String)>,
    pub quiets: Vec<Quiet>,
    pub faults: usize,
    /// What cannot have happened as it is written.
    pub nonsense: Vec<(String, Vec<Line>)>,
}

/// All that is known of a transfer but for what databases show.
#[derive(Debug)]
pub struct Known<'a> {
    pub begun: Line,
    pub moves: &'a [Move],
    pub told: Vec<(Line, Told)>,
}

#[derive(Debug)]
pub struct Read<'a> {
    pub begun: Line,
    pub ended: Line,
    pub set: &'a str,
    pub of: Option<&'a str>,
    pub saw: &'a Saw,
}

/// A time in which nothing is under way: from the line that says so until something is begun or broken.
#[derive(Debug)]
pub struct Quiet {
    pub from: Line,
    pub until: Line,
    /// Operations that had begun, had not ended by then, and whose process lives.
    pub under_way: Vec<(Line, String)>,
}

struct Open<'a> {
    line: Line,
    call: &'a Call,
}

impl<'a> Index<'a> {
    pub fn of(history: &'a History) -> Index<'a> {
        let mut index = Index::default();
        let mut open: HashMap<(&str, u64), Open<'a>> = HashMap::new();
        for (line, record) in &history.lines {
            let line = *line;
            match record {
                Record::Open { set, balances } => {
                    if index.sets.insert(set, (line, balances)).is_some() {
                        index.nonsense.push((format!("set {set} is opened twice"), vec![line]));
                    }
                }
                Record::Begin { process, op, call } => {
                    if let Call::Transfer(transfer) = call {
                        index.end_quiet(line);
                        index.begin(line, transfer);
                    }
                    if let Some(former) = open.insert((process, *op), Open { line, call }) {
                        let what = format!("operation {op} of {process} is begun twice");
                        index.nonsense.push((what, vec![former.line, line]));
                    }
                }
                Record::End { process, op, answer } => {
                    let begun = open.remove(&(process.as_str(), *op));
                    index.end(begun.as_ref(), line, answer);
                }
                Record::Fault { ended, .. } => {
                    index.faults += 1;
                    index.end_quiet(line);
                    if let Some(ended) = ended {
                        open.retain(|(process, _), _| process != ended);
                    }
                }
                Record::Quiet => {
                    index.end_quiet(line);
                    let under_way = under_way(&open);
                    index.quiets.push(Quiet { from: line, until: usize::MAX, under_way });
                }
            }
        }
        index.unended = under_way(&open);
        index
    }

    fn begin(&mut self, line: Line, transfer: &'a Transfer) {
        let Transfer { id, moves } = transfer;
        let first =
            self.transfers.entry(id).or_insert_with(|| Known { begun: line, moves, told: Vec::new() });
        if first.moves != moves.as_slice() {
            let what = format!("transfer {id} is begun again with other moves");
            self.nonsense.push((what, vec![first.begun, line]));
        }
        if first.begun == line && moves.iter().map(|it| it.amount).sum::<i64>() != 0 {
            self.nonsense
                .push((format!("the moves of transfer {id} do not make up for one another"), vec![line]));
        }
        for Move { set, account, .. } in moves {
            if !self.sets.get(set.as_str()).is_some_and(|(_, balances)| balances.contains_key(account)) {
                let what =
                    format!("transfer {id} is about account {account} of set {set}, which is not open");
                self.nonsense.push((what, vec![line]));
            }
        }
    }

    fn end(&mut self, begun: Option<&Open<'a>>, line: Line, answer: &'a Answer) {
        match (begun.map(|begun| (begun.line, begun.call)), answer) {
            (Some((_, Call::Transfer(transfer))), Answer::Told(told)) => {
                let known = self.transfers.get_mut(transfer.id.as_str()).expect("it was begun");
                known.told.push((line, *told));
            }
            (Some((begun, Call::Read { set, of })), Answer::Saw(saw)) => {
                self.reads.push(Read { begun, ended: line, set, of: of.as_deref(), saw });
            }
            (Some((begun, Call::Transfer(_))), Answer::Saw(_))
            | (Some((begun, Call::Read { .. })), Answer::Told(_)) => {
                let what = format!("the answer in line {line} fits no such operation");
                self.nonsense.push((what, vec![begun, line]));
            }
            (None, _) => {
                let what = format!("line {line} ends an operation that is not under way");
                self.nonsense.push((what, vec![line]));
            }
        }
    }

    fn end_quiet(&mut self, line: Line) {
        if let Some(quiet) = self.quiets.last_mut().filter(|quiet| quiet.until == usize::MAX) {
            quiet.until = line;
        }
    }
}

impl Known<'_> {
    /// When it was first told one of these.
    pub fn told(&self, wanted: &[Told]) -> Option<Line> {
        self.told.iter().find(|(_, told)| wanted.contains(told)).map(|(line, _)| *line)
    }

    pub fn told_committed(&self) -> Option<Line> {
        self.told(&[Told::Complete, Told::Committed])
    }

    pub fn is_about(&self, set: &str) -> bool {
        self.moves.iter().any(|it| it.set == set)
    }
}

fn under_way(open: &HashMap<(&str, u64), Open<'_>>) -> Vec<(Line, String)> {
    let describe = |((process, op), open): (&(&str, u64), &Open<'_>)| {
        let what = match open.call {
            Call::Transfer(transfer) => format!("transfer {}", transfer.id),
            Call::Read { set, .. } => format!("a read of {set}"),
        };
        (open.line, format!("{what} (operation {op} of {process})"))
    };
    let mut all: Vec<_> = open.iter().map(describe).collect();
    all.sort();
    all
}
