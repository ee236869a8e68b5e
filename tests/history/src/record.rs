//! What a history is made of, and how it is written and read.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What stands on each account.
pub type Balances = BTreeMap<String, i64>;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Record {
    /// A set of accounts, before the first transfer.
    Open { set: String, balances: Balances },
    /// A process begins an operation; its number is its own within the process.
    Begin {
        process: String,
        op: u64,
        #[serde(flatten)]
        call: Call,
    },
    /// The operation is over, and this was its answer.
    End {
        process: String,
        op: u64,
        #[serde(flatten)]
        answer: Answer,
    },
    /// Something was broken on purpose.
    Fault {
        what: String,
        /// The process that ended with it: what it had begun has no end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ended: Option<String>,
    },
    /// Everything is up, and nothing is under way that would not have come to its end by itself.
    Quiet,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// May be begun several times, by several processes: it is one transfer.
    Transfer(Transfer),
    /// A look at one database, in one transaction. `of`: at one transfer only; absent: at all of it.
    Read {
        set: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<String>,
    },
}

/// All of the moves, or none.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Transfer {
    pub id: String,
    pub moves: Vec<Move>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Move {
    pub set: String,
    pub account: String,
    pub amount: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Told(Told),
    Saw(Saw),
}

/// What an initiator was told of its transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// It is committed, and done everywhere.
    Complete,
    /// It is committed; perhaps not yet done everywhere.
    Committed,
    Aborted,
    /// Nothing, or that it is not known.
    Unknown,
}

/// What a database showed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Saw {
    pub effects: Vec<Effect>,
    /// Where all of it was looked at.
    #[serde(default, skip_serializing_if = "Balances::is_empty")]
    pub balances: Balances,
    /// The transfers for which something is prepared or reserved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<String>,
}

/// A transfer has changed an account by so much.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct Effect {
    pub id: String,
    pub account: String,
    pub amount: i64,
}

/// All lines, each with its number in the file, from 1.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub(crate) lines: Vec<(usize, Record)>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read {path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("line {line} is no record: {error}")]
    Line { line: usize, error: serde_json::Error },
    #[error("{torn} lines are cut off, and only {ended} processes were killed while they could write")]
    Torn { torn: usize, ended: usize },
}

/// Writes a history as it happens. Several processes may write to one file.
#[derive(Debug)]
pub struct Recorder {
    file: File,
}

impl History {
    /// # Errors
    /// [`ReadError`]
    pub fn load(path: &Path) -> Result<History, ReadError> {
        let failed = |source| ReadError::Io { path: path.display().to_string(), source };
        History::parse(&fs::read_to_string(path).map_err(failed)?)
    }

    /// A writer that is killed may leave a line that is cut off. It says nothing: a call that was to be recorded was not made
    /// yet, and an answer is as good as none.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn parse(text: &str) -> Result<History, ReadError> {
        let (mut lines, mut torn, mut ended) = (Vec::new(), 0, 0);
        for (text, line) in text.lines().zip(1..).filter(|(text, _)| !text.is_empty()) {
            match serde_json::from_str(text) {
                Ok(record) => {
                    ended += usize::from(matches!(record, Record::Fault { ended: Some(_), .. }));
                    lines.push((line, record));
                }
                Err(error) if error.is_eof() => torn += 1,
                Err(error) => return Err(ReadError::Line { line, error }),
            }
        }
        if torn > ended { Err(ReadError::Torn { torn, ended }) } else { Ok(History { lines }) }
    }

    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.lines.iter().map(|(_, record)| record)
    }

    /// Transfers that a process has begun and not ended, with their numbers.
    pub fn unended(&self, of: &str) -> Vec<(u64, Transfer)> {
        let mut open = BTreeMap::new();
        for record in self.records() {
            match record {
                Record::Begin { process, op, call: Call::Transfer(transfer) } if process == of => {
                    open.insert(*op, transfer.clone());
                }
                Record::End { process, op, .. } if process == of => drop(open.remove(op)),
                _other => {}
            }
        }
        open.into_iter().collect()
    }
}

impl FromIterator<Record> for History {
    fn from_iter<T: IntoIterator<Item = Record>>(records: T) -> History {
        History { lines: (1..).zip(records).collect() }
    }
}

impl Recorder {
    /// # Errors
    /// What the system says.
    pub fn append_to(path: &Path) -> io::Result<Recorder> {
        Ok(Recorder { file: File::options().create(true).append(true).open(path)? })
    }

    /// The line is in the file when this returns. (It need not survive a power cut: whoever writes it does.)
    ///
    /// # Errors
    /// What the system says.
    pub fn record(&self, record: &Record) -> io::Result<()> {
        // A line of its own, even if the one before it is cut off. One write, so that lines of others come before or after it.
        let mut line = b"\n".to_vec();
        serde_json::to_writer(&mut line, record)?;
        line.push(b'\n');
        (&self.file).write_all(&line)
    }
}
