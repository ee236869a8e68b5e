//! How a command ends.

use std::io::{self, Write as _};
use std::process::ExitCode;

use assent_proto::v1::Outcome;

use super::output::{Colour, Paint, printable};
use crate::config::ConfigError;

/// The exit code, by meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Ok,
    Error,
    /// Wrong usage. Clap ends with the same code.
    Usage,
    NotFound,
    /// The transaction aborted.
    Aborted,
    /// The outcome is not known, or heuristic.
    InDoubt,
    /// The server was not reached, or did not answer in time.
    Unreachable,
    /// The server recovers or drains.
    NotReady,
}

/// Why a command could not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// Something to be told.
    Told { exit: Exit, message: String, hint: Option<String> },
    /// Whoever read our output has left (`assent tx list | head`). Nothing is wrong.
    ReaderGone,
}

impl Exit {
    pub const ALL: [Exit; 8] = [
        Exit::Ok,
        Exit::Error,
        Exit::Usage,
        Exit::NotFound,
        Exit::Aborted,
        Exit::InDoubt,
        Exit::Unreachable,
        Exit::NotReady,
    ];

    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Error => 1,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::Aborted => 4,
            Exit::InDoubt => 5,
            Exit::Unreachable => 6,
            Exit::NotReady => 7,
        }
    }

    /// How a command ends that wanted a commit.
    pub fn of_outcome(outcome: Outcome) -> Exit {
        match outcome {
            Outcome::Committed => Exit::Ok,
            Outcome::Aborted => Exit::Aborted,
            Outcome::Unspecified | Outcome::Mixed | Outcome::Hazard | Outcome::Unknown => Exit::InDoubt,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure::Told { exit, message: message.into(), hint: None }
    }

    /// Adds what to do about it, in place of an earlier hint.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Failure {
        match self {
            Failure::Told { exit, message, .. } => Failure::Told { exit, message, hint: Some(hint.into()) },
            Failure::ReaderGone => Failure::ReaderGone,
        }
    }

    pub fn exit(&self) -> Exit {
        match self {
            Failure::Told { exit, .. } => *exit,
            Failure::ReaderGone => Exit::Ok,
        }
    }

    /// Tells it on standard error.
    pub fn report(&self) -> Exit {
        if let Failure::Told { message, hint, .. } = self {
            let paint = Paint::for_stderr();
            let mut stderr = io::stderr().lock();
            // Nobody is left to be told when standard error itself fails.
            let _ = writeln!(stderr, "{} {}", paint.paint(Colour::Red, "error:"), printable(message));
            if let Some(hint) = hint {
                let _ = writeln!(stderr, "{} {}", paint.paint(Colour::Cyan, "hint:"), printable(hint));
            }
        }
        self.exit()
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ReaderGone,
            _ => Failure::new(Exit::Error, error.to_string()),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        let failure = Failure::new(Exit::Error, error.to_string());
        match error {
            ConfigError::Read { .. } | ConfigError::Syntax { .. } | ConfigError::Invalid { .. } => failure,
            ConfigError::Unknown { .. } => failure.with_hint("`assent config init` prints every setting"),
        }
    }
}
