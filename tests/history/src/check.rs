//! The judge.

mod reads;
mod rest;

use std::collections::BTreeSet;
use std::fmt;

use crate::index::{Index, Line};
use crate::record::{History, Told};

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// At the end a transfer has all of its effects or none.
    Atomicity,
    /// What was told committed stays; what was told aborted never is; nobody is told otherwise later; what was seen is not
    /// taken back.
    Stability,
    /// What was told committed is there.
    Lost,
    /// No effect happens more often than it was asked for.
    Doubled,
    /// No effect but those that somebody had asked for.
    Invented,
    /// Money is neither made nor destroyed: balances are what effects make of them, and their sum stays.
    Money,
    /// What was begun ends, and nothing stays held.
    Termination,
    /// A read that begins after a transfer was told complete shows it.
    RealTime,
    /// The history itself can be what happened, and shows how it ended.
    History,
}

/// A breach of a rule, with the lines that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub rule: Rule,
    pub what: String,
    pub lines: Vec<Line>,
}

/// How much the history shows. One that shows little proves little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub committed: usize,
    pub aborted: usize,
    /// Nobody was told how they ended.
    pub unknown: usize,
    /// Those of them that took effect all the same.
    pub unknown_and_done: usize,
    pub reads: usize,
    pub faults: usize,
    pub quiets: usize,
}

#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub findings: Vec<Finding>,
    pub summary: Summary,
}

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let index = Index::of(history);
    let mut findings = Findings::default();
    rest::nonsense(&index, &mut findings);
    rest::contradictions(&index, &mut findings);
    let done = reads::check(&index, &mut findings);
    rest::termination(&index, &mut findings);
    let mut summary = Summary {
        reads: index.reads.len(),
        faults: index.faults,
        quiets: index.quiets.len(),
        ..Summary::default()
    };
    for (id, known) in &index.transfers {
        if known.told_committed().is_some() {
            summary.committed += 1;
        } else if known.told(&[Told::Aborted]).is_some() {
            summary.aborted += 1;
        } else {
            summary.unknown += 1;
            summary.unknown_and_done += usize::from(done.contains(id));
        }
    }
    findings.all.sort_by_key(|finding| finding.lines.last().copied());
    Verdict { findings: findings.all, summary }
}

impl Verdict {
    pub fn is_good(&self) -> bool {
        self.findings.is_empty()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::Atomicity => "atomicity",
            Rule::Stability => "stability",
            Rule::Lost => "lost effect",
            Rule::Doubled => "doubled effect",
            Rule::Invented => "invented effect",
            Rule::Money => "money",
            Rule::Termination => "termination",
            Rule::RealTime => "real-time order",
            Rule::History => "history",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.lines.iter().map(ToString::to_string).collect();
        let label = if lines.len() == 1 { "line" } else { "lines" };
        write!(f, "{}: {} ({label} {})", self.rule, self.what, lines.join(", "))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { committed, aborted, unknown, unknown_and_done, reads, faults, quiets } = self;
        write!(
            f,
            "{committed} transfers told committed, {aborted} aborted, {unknown} neither ({unknown_and_done} of them done); \
             {reads} reads, {faults} faults, quiet {quiets} times"
        )
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        write!(f, "{}", self.summary)
    }
}

/// Findings, each subject of a rule once: what is wrong at one look is mostly wrong at all later ones.
#[derive(Debug, Default)]
struct Findings {
    all: Vec<Finding>,
    subjects: BTreeSet<(Rule, String)>,
}

impl Findings {
    fn add(&mut self, rule: Rule, subject: &str, what: String, lines: &[Line]) {
        if self.subjects.insert((rule, subject.to_owned())) {
            let mut lines = lines.to_vec();
            lines.sort_unstable();
            lines.dedup();
            self.all.push(Finding { rule, what, lines });
        }
    }
}

#[cfg(test)]
mod tests;
