//! A resource over one SQLite file.
//!
//! The handler's writes and the barrier's row stand in one SQLite transaction. What was answered survives power loss:
//! the file is in WAL mode with `synchronous = FULL`. All work is done by one thread of its own, which takes the calls
//! that wait, does each in a savepoint, and commits them with one sync.

mod rows;
mod worker;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The SQLite library that handlers speak to, in the version that this crate is built with.
pub use rusqlite;
use rusqlite::{Connection, OpenFlags, Transaction};

pub use self::rows::SCHEMA;
use crate::branch::{Branch, ClusterId, Horizon, ParticipantName, Protocol};
use crate::error::{Error, Result};
use crate::handler::{ByTcc, ByTwoPhase, Database, Handler, Tcc, TwoPhase};
pub use crate::held::{Held, HeldBranch, HeldBy};
use crate::local::{self, Keep, at_once};
use crate::resource::{Cleaned, Completion, Granted, InDoubt, OnePhase, PhaseOne, Resource};

/// How long a statement waits for another process that holds the file's lock. After that the call fails and is repeated.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// An open SQLite file. A clone is the same connection and the same thread.
#[derive(Clone)]
pub struct Sqlite {
    worker: worker::Worker,
}

/// [`Sqlite`] with its handler.
pub struct SqliteResource {
    sqlite: Sqlite,
    handler: Arc<dyn Handler<Sqlite>>,
}

impl Sqlite {
    /// Opens or creates the file, and in it the two tables of the barrier, `assent_barrier` and `assent_horizon`.
    ///
    /// # Errors
    /// [`Error::Resource`] with what SQLite said.
    pub fn open(path: impl AsRef<Path>) -> Result<Sqlite, Error> {
        let db = Connection::open(path).and_then(prepared).map_err(|error| Error::Resource(error.into()))?;
        let worker = worker::Worker::start(db).map_err(|error| Error::Resource(error.into()))?;
        Ok(Sqlite { worker })
    }

    /// Runs statements of the service's own, in a transaction on the same connection: reads, or writes that belong to no
    /// branch. On `Err` nothing is kept.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.worker.call(move |db| work(db).map(|answer| (answer, Keep::Writes))).await
    }

    /// Runs statements at once and waits for them, to create tables before serving. Not for use in async code.
    ///
    /// # Errors
    /// [`Error::Resource`] with what SQLite said.
    pub fn setup(self, statements: &str) -> Result<Sqlite, Error> {
        let statements = statements.to_owned();
        self.worker
            .call_blocking(move |db| {
                db.execute_batch(&statements)?;
                Ok(((), Keep::Writes))
            })
            .map_err(|failure| Error::Resource(failure.to_string().into()))?;
        Ok(self)
    }

    /// A resource that takes part by TCC.
    pub fn tcc(self, handler: impl Tcc<Sqlite>) -> SqliteResource {
        SqliteResource { sqlite: self, handler: Arc::new(ByTcc(handler)) }
    }

    /// A resource that takes part by two-phase commit.
    pub fn two_phase(self, handler: impl TwoPhase<Sqlite>) -> SqliteResource {
        SqliteResource { sqlite: self, handler: Arc::new(ByTwoPhase(handler)) }
    }
}

/// What this file holds for branches: all that is prepared or reserved in it, by whichever participant. For operators: the
/// file must exist, and nothing is written. (A branch of two-phase commit and a reservation without a time to live look the
/// same, and count as prepared.) Blocks for a moment.
///
/// # Errors
/// [`Error::Resource`] with what SQLite said.
pub fn held(path: impl AsRef<Path>) -> Result<Vec<Held>, Error> {
    let read = || {
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        db.busy_timeout(BUSY_TIMEOUT)?;
        rows::held(&db)
    };
    read().map_err(|error: rusqlite::Error| Error::Resource(error.into()))
}

impl Database for Sqlite {
    type Transaction<'a> = &'a Transaction<'a>;
}

impl SqliteResource {
    async fn transact<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut rows::Open<'_>) -> Result<(T, Keep)> + Send + 'static,
    ) -> Result<T> {
        let handler = Arc::clone(&self.handler);
        self.sqlite.worker.call(move |db| work(&mut rows::Open { db, handler: &*handler })).await
    }
}

impl Resource for SqliteResource {
    fn protocol(&self) -> Protocol {
        self.handler.protocol()
    }

    async fn phase_one(&self, call: PhaseOne) -> Result<Granted> {
        self.transact(|open| at_once(local::phase_one(open, call))).await
    }

    async fn commit(&self, branch: &Branch) -> Result<Completion> {
        let branch = branch.clone();
        self.transact(move |open| at_once(local::commit(open, &branch))).await
    }

    async fn rollback(&self, branch: &Branch, cluster: &ClusterId) -> Result<Completion> {
        let (branch, cluster) = (branch.clone(), cluster.clone());
        self.transact(move |open| at_once(local::rollback(open, &branch, &cluster))).await
    }

    async fn commit_one_phase(&self, call: PhaseOne) -> Result<OnePhase> {
        self.transact(|open| at_once(local::commit_one_phase(open, call))).await
    }

    async fn in_doubt(&self, participant: &ParticipantName) -> Result<Vec<InDoubt>> {
        let participant = participant.clone();
        self.sqlite.worker.call(move |db| Ok((rows::in_doubt(db, &participant)?, Keep::Nothing))).await
    }

    async fn forget_before(&self, horizon: &Horizon) -> Result<Cleaned> {
        let horizon = horizon.clone();
        self.sqlite.worker.call(move |db| Ok((rows::forget_before(db, &horizon)?, Keep::Writes))).await
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").finish_non_exhaustive()
    }
}

impl fmt::Debug for SqliteResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteResource").finish_non_exhaustive()
    }
}

fn prepared(db: Connection) -> rusqlite::Result<Connection> {
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    // NORMAL would lose acknowledged votes at a power cut: in WAL mode it does not sync at commit.
    db.pragma_update(None, "synchronous", "FULL")?;
    // A process that was killed may have written what it had not synced yet, and it can be read now. Before anything is
    // answered from it, this syncs it.
    db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
    db.execute_batch(SCHEMA)?;
    Ok(db)
}
