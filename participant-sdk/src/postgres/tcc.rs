//! Branches by TCC: each call is a transaction of its own, with the barrier's row in it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use assent_proto::TxOrder;
use bytes::Bytes;
use sqlx::{PgConnection, Row as _};

use super::rows::{self, BEGIN, CHECK};
use super::{Postgres, send};
use crate::branch::{Branch, ClusterId, Horizon, ParticipantName, Protocol};
use crate::error::Result;
use crate::local::{self, Keep, Local, Row, Status};
use crate::resource::{Cleaned, Completion, Granted, InDoubt, OnePhase, PhaseOne, Resource, Vote};
use crate::sql::handler::{AsyncTccHandler, caught};
use crate::sql::name::quotable;
use crate::sql::pool::Lease;

/// [`Postgres`] with a handler of TCC.
pub struct PostgresTcc {
    db: Postgres,
    handler: Arc<dyn AsyncTccHandler<Postgres>>,
}

impl PostgresTcc {
    pub(super) fn new(db: Postgres, handler: Arc<dyn AsyncTccHandler<Postgres>>) -> PostgresTcc {
        PostgresTcc { db, handler }
    }

    async fn open(&self, cluster: &ClusterId) -> Result<Open<'_>> {
        let cluster = quotable(cluster)?.to_owned();
        let db = self.db.work.lease().await?;
        Ok(Open { db, handler: &*self.handler, cluster, unsent: BEGIN.into(), before: None })
    }
}

impl Resource for PostgresTcc {
    fn protocol(&self) -> Protocol {
        Protocol::Tcc
    }

    fn patience(&self) -> Option<Duration> {
        Some(self.db.patience)
    }

    async fn phase_one(&self, call: PhaseOne) -> Result<Granted> {
        let mut open = self.open(&call.cluster).await?;
        let done = local::phase_one(&mut open, call).await;
        open.end(done).await
    }

    async fn commit(&self, branch: &Branch) -> Result<Completion> {
        let mut open = self.open(&ClusterId::default()).await?;
        let done = local::commit(&mut open, branch).await;
        open.end(done).await
    }

    async fn rollback(&self, branch: &Branch, cluster: &ClusterId) -> Result<Completion> {
        let mut open = self.open(cluster).await?;
        let done = local::rollback(&mut open, branch, cluster).await;
        open.end(done).await
    }

    async fn commit_one_phase(&self, call: PhaseOne) -> Result<OnePhase> {
        let mut open = self.open(&call.cluster).await?;
        let done = local::commit_one_phase(&mut open, call).await;
        open.end(done).await
    }

    async fn in_doubt(&self, participant: &ParticipantName) -> Result<Vec<InDoubt>> {
        let mut db = self.db.ends.lease().await?;
        let in_doubt = rows::reserved(&mut db, participant).await?;
        db.back();
        Ok(in_doubt)
    }

    async fn forget_before(&self, horizon: &Horizon) -> Result<Cleaned> {
        let mut db = self.db.ends.lease().await?;
        let cleaned = rows::forget_before(&mut db, horizon).await?;
        db.back();
        Ok(cleaned)
    }
}

impl fmt::Debug for PostgresTcc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresTcc").finish_non_exhaustive()
    }
}

/// A transaction that is open, or will be with the next message. Dropped, it is closed with its connection.
struct Open<'a> {
    db: Lease<PgConnection>,
    handler: &'a dyn AsyncTccHandler<Postgres>,
    /// Whose horizon counts.
    cluster: String,
    /// Statements whose answer nobody waits for: they go in front of the next message, to save a round trip.
    unsent: String,
    /// The horizon, read right after the branch's row.
    before: Option<TxOrder>,
}

impl Open<'_> {
    /// Commits, or undoes everything.
    async fn end<T>(mut self, done: Result<(T, Keep)>) -> Result<T> {
        let done = match done {
            Ok((answer, Keep::Writes)) => {
                let statements = format!("{CHECK}{}COMMIT", self.unsent);
                send(&mut self.db, statements).await.map_err(rows::trouble)?;
                self.db.back();
                return Ok(answer);
            }
            Ok((answer, Keep::Nothing)) => Ok(answer),
            Err(failure) if failure.refusal().is_some() => Err(failure),
            // Whatever the trouble is, the connection may be part of it.
            Err(failure) => return Err(failure),
        };
        if send(&mut self.db, "ROLLBACK").await.is_ok() {
            self.db.back();
        }
        done
    }
}

impl Local for Open<'_> {
    async fn row(&mut self, branch: &Branch) -> Result<Option<Row>> {
        let statements = format!(
            "{}SELECT status, cluster, request, reply, ttl_ms, class FROM assent_barrier WHERE {} FOR UPDATE;
             SELECT (SELECT before FROM assent_horizon WHERE cluster = '{}')",
            self.unsent,
            rows::key_is(branch),
            self.cluster,
        );
        self.unsent.clear();
        let mut found = send(&mut self.db, statements).await.map_err(rows::trouble)?;
        let horizon = found.pop().ok_or(sqlx::Error::RowNotFound)?;
        self.before = horizon.try_get::<Option<&str>, _>(0)?.map(str::parse).transpose()?;
        found.first().map(rows::read).transpose()
    }

    async fn insert(&mut self, branch: &Branch, row: Row) -> Result<()> {
        self.unsent += &rows::insert(branch, &self.cluster, &row);
        Ok(())
    }

    async fn finish(&mut self, branch: &Branch, status: Status) -> Result<()> {
        self.unsent += &rows::finish(branch, status);
        Ok(())
    }

    async fn horizon(&mut self, cluster: &ClusterId) -> Result<Option<Horizon>> {
        Ok(self.before.map(|before| Horizon { cluster: cluster.clone(), before }))
    }

    async fn work(&mut self, branch: &Branch, request: Bytes) -> Result<Vote<Bytes>> {
        caught(self.handler.work(&mut self.db, branch, request)).await
    }

    async fn commit(&mut self, branch: &Branch, request: Bytes) -> Result<()> {
        caught(self.handler.commit(&mut self.db, branch, request)).await
    }

    async fn rollback(&mut self, branch: &Branch, request: Bytes) -> Result<()> {
        caught(self.handler.rollback(&mut self.db, branch, request)).await
    }
}
