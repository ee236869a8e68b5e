//! TCC: the barrier's row and the handler's work in one local transaction.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sqlx::MySqlConnection;

use super::{MySql, code, number, results, rows, run};
use crate::branch::{Branch, ClusterId, Horizon, ParticipantName, Protocol};
use crate::error::{Failure, Result};
use crate::local::{self, Keep, Local, Row, Status};
use crate::resource::{Cleaned, Completion, Granted, InDoubt, OnePhase, PhaseOne, Resource, Vote};
use crate::sql::handler::{AsyncTcc, AsyncTccHandler, ByAsyncTcc, caught};
use crate::sql::name::quotable;

/// Begins. The savepoint tells at the end whether it is still the same transaction: the server ends one by itself at a
/// deadlock, and a handler that does not mind that error would go on outside of it. So nothing commits by itself meanwhile.
const BEGIN: &str = "SET autocommit = 0; SAVEPOINT assent;";
const STILL_THE_SAME: &str = "RELEASE SAVEPOINT assent;";
const COMMIT: &str = "COMMIT; SET autocommit = 1";
const ROLLBACK: &str = "ROLLBACK; SET autocommit = 1";

/// [`MySql`] with its handler, by TCC.
pub struct MySqlTcc {
    db: MySql,
    handler: Arc<dyn AsyncTccHandler<MySql>>,
}

/// An open local transaction, with the handler.
///
/// Statements whose answer nobody needs yet wait, and are sent with the next one: a call costs two messages besides the
/// handler's own.
struct Open<'a> {
    db: &'a mut MySqlConnection,
    handler: &'a dyn AsyncTccHandler<MySql>,
    /// Each with its semicolon.
    waiting: String,
    horizon: Option<Horizon>,
    /// Whose horizon is read with the row; absent where nobody asks for it.
    cluster: Option<ClusterId>,
}

impl MySqlTcc {
    pub(super) fn new(db: MySql, handler: impl AsyncTcc<MySql>) -> MySqlTcc {
        MySqlTcc { db, handler: Arc::new(ByAsyncTcc(handler)) }
    }

    fn open<'a>(&'a self, db: &'a mut MySqlConnection, cluster: Option<&ClusterId>) -> Open<'a> {
        let cluster = cluster.cloned();
        Open { db, handler: &*self.handler, waiting: BEGIN.to_owned(), horizon: None, cluster }
    }
}

impl Resource for MySqlTcc {
    fn protocol(&self) -> Protocol {
        Protocol::Tcc
    }

    fn patience(&self) -> Option<Duration> {
        Some(self.db.shared.patience)
    }

    async fn phase_one(&self, call: PhaseOne) -> Result<Granted> {
        let mut lease = self.db.work().await?;
        let mut open = self.open(&mut lease, Some(&call.cluster));
        let done = local::phase_one(&mut open, call).await;
        let answer = open.end(done).await?;
        lease.back();
        answer
    }

    async fn commit(&self, branch: &Branch) -> Result<Completion> {
        let mut lease = self.db.spare().await?;
        let mut open = self.open(&mut lease, None);
        let done = local::commit(&mut open, branch).await;
        let answer = open.end(done).await?;
        lease.back();
        answer
    }

    async fn rollback(&self, branch: &Branch, cluster: &ClusterId) -> Result<Completion> {
        let mut lease = self.db.spare().await?;
        let mut open = self.open(&mut lease, Some(cluster));
        let done = local::rollback(&mut open, branch, cluster).await;
        let answer = open.end(done).await?;
        lease.back();
        answer
    }

    async fn commit_one_phase(&self, call: PhaseOne) -> Result<OnePhase> {
        let mut lease = self.db.work().await?;
        let mut open = self.open(&mut lease, Some(&call.cluster));
        let done = local::commit_one_phase(&mut open, call).await;
        let answer = open.end(done).await?;
        lease.back();
        answer
    }

    async fn in_doubt(&self, participant: &ParticipantName) -> Result<Vec<InDoubt>> {
        let mut lease = self.db.spare().await?;
        let in_doubt = rows::in_doubt(&mut lease, participant).await?;
        lease.back();
        Ok(in_doubt)
    }

    async fn forget_before(&self, horizon: &Horizon) -> Result<Cleaned> {
        let mut lease = self.db.spare().await?;
        let cleaned = rows::forget_before(&mut lease, horizon).await?;
        lease.back();
        Ok(cleaned)
    }
}

impl fmt::Debug for MySqlTcc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlTcc").field("db", &self.db).finish_non_exhaustive()
    }
}

impl Open<'_> {
    /// Ends the transaction. On an outer `Err` it may still be open, and the connection is to be closed.
    async fn end<T>(self, done: Result<(T, Keep)>) -> Result<Result<T>> {
        let (answer, statements) = match done {
            Ok((answer, Keep::Writes)) => (Ok(answer), format!("{STILL_THE_SAME} {}{COMMIT}", self.waiting)),
            Ok((answer, Keep::Nothing)) => (Ok(answer), ROLLBACK.to_owned()),
            Err(failure) if failure.refusal().is_some() => (Err(failure), ROLLBACK.to_owned()),
            Err(trouble) => return Err(trouble),
        };
        match run(self.db, statements).await {
            Ok(()) => Ok(answer),
            Err(error) if number(&error) == Some(code::NO_SUCH_SAVEPOINT) => Err(Failure::again(
                "the transaction ended while the handler worked in it: at a deadlock, or by a statement of the handler",
            )),
            Err(error) => Err(error.into()),
        }
    }
}

impl Local for Open<'_> {
    async fn row(&mut self, branch: &Branch) -> Result<Option<Row>> {
        let mut statements = std::mem::take(&mut self.waiting);
        statements += &rows::select(branch, "FOR UPDATE");
        if let Some(cluster) = &self.cluster {
            // A statement after that of the row sees what was committed in between.
            statements = format!("{statements}; {}", rows::select_horizon(quotable(cluster)?));
        }
        let mut results = results(self.db, statements).await?;
        if let Some(cluster) = &self.cluster {
            self.horizon = rows::read_horizon(&results.pop().unwrap_or_default(), cluster)?;
        }
        Ok(results.pop().unwrap_or_default().first().map(rows::read).transpose()?)
    }

    async fn insert(&mut self, branch: &Branch, row: Row) -> Result<()> {
        self.waiting += &rows::insert(branch, &row)?;
        self.waiting += ";";
        Ok(())
    }

    async fn finish(&mut self, branch: &Branch, status: Status) -> Result<()> {
        self.waiting += &rows::finish(branch, status);
        self.waiting += ";";
        Ok(())
    }

    async fn horizon(&mut self, _: &ClusterId) -> Result<Option<Horizon>> {
        Ok(self.horizon.clone())
    }

    async fn work(&mut self, branch: &Branch, request: Bytes) -> Result<Vote<Bytes>> {
        caught(self.handler.work(self.db, branch, request)).await
    }

    async fn commit(&mut self, branch: &Branch, request: Bytes) -> Result<()> {
        caught(self.handler.commit(self.db, branch, request)).await
    }

    async fn rollback(&mut self, branch: &Branch, request: Bytes) -> Result<()> {
        caught(self.handler.rollback(self.db, branch, request)).await
    }
}
