//! `assent demo`: a shop and two banks as separate processes over real sockets, each with a SQLite file of its own, and
//! the coordinator among them. Six things happen to them, two crashes and one hanging partner included; then the books
//! are checked. With `--databases` most of the data are in PostgreSQL and MariaDB instead, and those servers crash, too.
//!
//! | Module | Part |
//! |---|---|
//! | `participant` | the services, as examples of the SDK: start reading at `participant/stock.rs` |
//! | `front_door` | how an initiator calls such a service within a transaction |
//! | `initiator` | an initiator that will be killed |
//! | `scenario` | what happens |
//! | `databases` | the same services on PostgreSQL and MariaDB, and what happens to those only |
//! | `stage` | what the scenarios are played on: processes, clients, conditions to wait for |
//! | `store` | where a service keeps its data, and how to read them past it |
//! | `books` | what the databases say, and whether it adds up |

mod books;
mod databases;
mod front_door;
mod initiator;
mod participant;
mod scenario;
mod stage;
mod store;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use assent_proto::TxId;
use assent_sdk::postgres::sqlx;
use assent_sdk::sqlite::rusqlite;
use assent_sdk::throwaway;
use tempfile::TempDir;

pub use self::books::{Books, Check};
use self::databases::Servers;
pub use self::initiator::run as abandon_an_order;
pub use self::participant::Service;
use self::stage::Stage;
pub use self::store::Store;
use crate::process::{self, logs};

/// How the demo is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `assent` binary, which all processes are.
    pub executable: PathBuf,
    pub cast: Cast,
    pub afterwards: Afterwards,
}

/// Where the services keep their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// Each in a SQLite file.
    Files,
    /// Order and the banks in PostgreSQL, stock in MariaDB: on servers that are started for it and go away.
    Databases,
}

/// What becomes of the directory with the databases and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    Remove,
    Keep,
}

/// Whoever watches.
pub trait Audience {
    /// # Errors
    /// When nobody listens any more; the demo then ends.
    fn hear(&mut self, told: Told<'_>) -> io::Result<()>;
}

/// What the audience is told, in the order in which it happens.
#[derive(Clone, Copy, Debug)]
pub enum Told<'a> {
    /// A scenario begins.
    Scenario { number: usize, title: &'a str },
    /// What happens.
    Step(&'a str),
    /// What a database says.
    Figures(&'a str),
    /// A scenario has ended.
    Ended(&'a Report),
}

/// How a scenario ended.
#[derive(Debug)]
pub struct Report {
    pub name: &'static str,
    pub duration: Duration,
    /// Ok: as it had to.
    pub result: Result<Ended, String>,
    /// As the databases are now, where they can be read.
    pub books: Option<Books>,
}

/// A scenario that ended as it had to.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub xid: TxId,
    pub outcome: Outcome,
}

/// How a transaction of the demo can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    Aborted,
}

/// What the check at the end found.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What was checked.
    pub checks: Vec<Check>,
    /// Where everything is, if it is kept.
    pub kept: Option<PathBuf>,
}

/// Why the demo could not be played to its end.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    pub error: Error,
    /// What the processes had to say: kept, for whoever wants to know.
    pub logs: Vec<PathBuf>,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Process(process::Error),
    #[error("{what}: {found}; it must be {expected}")]
    Wrong { what: String, found: String, expected: String },
    #[error("a service's front door: {0}")]
    FrontDoor(String),
    #[error(transparent)]
    Sdk(#[from] assent_sdk::Error),
    #[error("the coordinator answered {}: {}", .0.code(), .0.message())]
    Coordinator(Box<tonic::Status>),
    #[error("a file with data cannot be read: {0}")]
    File(#[from] rusqlite::Error),
    #[error("a database cannot be read: {0}")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Server(#[from] throwaway::Error),
    /// Of a kind that tells the caller when nobody reads the output any more.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Plays the demo. Drop the future to end it early: every process is gone when that returns.
///
/// # Errors
/// When a scenario does not end as it must. Then the directory is kept.
pub async fn run(options: &Options, audience: &mut dyn Audience) -> Result<Verdict, Failure> {
    let nothing = |error| Failure { error, logs: Vec::new() };
    // First, while there is nothing to keep where the programs are not installed.
    let servers = match options.cast {
        Cast::Files => None,
        Cast::Databases => Some(Servers::start().await.map_err(nothing)?),
    };
    let place = Place::new(options.afterwards).map_err(|error| nothing(error.into()))?;
    match play(&options.executable, place.path(), servers, audience).await {
        Ok(checks) => Ok(Verdict { checks, kept: place.leave().map_err(|e| nothing(e.into()))? }),
        // Nobody is there to be told where to look.
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Err(nothing(error.into())),
        Err(error) => Err(Failure { error, logs: logs(&place.keep()) }),
    }
}

async fn play(
    executable: &Path,
    directory: &Path,
    servers: Option<Servers>,
    audience: &mut dyn Audience,
) -> Result<Vec<Check>, Error> {
    let on_databases = servers.is_some();
    let mut stage = Stage::set_up(executable, directory, servers, audience).await?;
    let opening = stage.books().await?;
    let played =
        if on_databases { databases::play(&mut stage).await } else { play_on_files(&mut stage).await };
    // What went wrong in the play is the news, not that the logs could not be written then.
    let written = stage.write_server_logs();
    played.and(written)?;
    stage.settled().await?;
    Ok(stage.books().await?.checks(&opening))
}

async fn play_on_files(stage: &mut Stage<'_>) -> Result<(), Error> {
    scenario::play_first(stage).await?;
    let title = "The coordinator is killed (kill -9) between its decision and phase two";
    stage.play("coordinator-killed", title, scenario::coordinator_is_killed).await?;
    scenario::play_last(stage).await
}

/// The directory of everything that the demo writes.
enum Place {
    Temporary(TempDir),
    Kept(PathBuf),
}

impl Place {
    fn new(afterwards: Afterwards) -> io::Result<Place> {
        let directory = tempfile::Builder::new().prefix("assent-demo-").tempdir()?;
        Ok(match afterwards {
            Afterwards::Remove => Place::Temporary(directory),
            // At once, so that it stays whatever happens.
            Afterwards::Keep => Place::Kept(directory.keep()),
        })
    }

    fn path(&self) -> &Path {
        match self {
            Place::Temporary(directory) => directory.path(),
            Place::Kept(path) => path,
        }
    }

    /// Removes it, or says where it is.
    fn leave(self) -> io::Result<Option<PathBuf>> {
        match self {
            Place::Temporary(directory) => directory.close().map(|()| None),
            Place::Kept(path) => Ok(Some(path)),
        }
    }

    fn keep(self) -> PathBuf {
        match self {
            Place::Temporary(directory) => directory.keep(),
            Place::Kept(path) => path,
        }
    }
}

impl Verdict {
    pub fn conserved(&self) -> bool {
        self.checks.iter().all(Check::holds)
    }
}

impl Outcome {
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Committed => "committed",
            Outcome::Aborted => "aborted",
        }
    }
}

impl Error {
    /// A service that knows no such store.
    fn misplaced(service: Service, store: &str) -> Error {
        let (found, expected) = (store.to_owned(), "a store that it is written for".to_owned());
        Error::Wrong { what: format!("the data of {service}"), found, expected }
    }
}

impl From<process::Error> for Error {
    fn from(error: process::Error) -> Error {
        match error {
            process::Error::Io(error) => Error::Io(error),
            other => Error::Process(other),
        }
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Error {
        Error::Coordinator(Box::new(status))
    }
}

impl From<assent_sdk::Failure> for Error {
    fn from(failure: assent_sdk::Failure) -> Error {
        Error::FrontDoor(failure.to_string())
    }
}
