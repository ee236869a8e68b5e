//! Branches by two-phase commit, prepared by the server itself.
//!
//! The barrier's row is written first of all in the transaction that is prepared, with the status *committed*. So it can be
//! seen exactly when the branch is committed, and until then whoever wants to write the same row waits or fails. That
//! tells the three things apart for which the server has one answer only (there is nothing prepared by that name).

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sqlx::{PgConnection, Row as _};

use super::rows::{self, BEGIN, CHECK, Trace};
use super::{Postgres, send};
use crate::barrier::{self, CommitStep, Completion, OnePhaseStep, PhaseOneStep, RollbackStep, State};
use crate::branch::{Branch, ClusterId, Horizon, ParticipantName, Protocol};
use crate::error::{Failure, Result, refuse};
use crate::local::{Row, Status};
use crate::resource::{Cleaned, Granted, InDoubt, OnePhase, PhaseOne, Resource, Vote};
use crate::sql::handler::{PrepareHandler, caught};
use crate::sql::name::quotable;
use crate::sql::pool::Lease;

/// Branches of which it is remembered that they may be prepared. When there are more, all are forgotten.
const NOTES_MAX: usize = 10_000;

/// A branch that is to be committed and cannot be found is looked for again after each of these, in a connection of its
/// own: one that was open before a failover may lead to a server that is not the database any more.
const LOOKS: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(600)];

/// [`Postgres`] with a handler of two-phase commit.
pub struct PostgresTwoPhase {
    db: Postgres,
    handler: Arc<dyn PrepareHandler<Postgres>>,
    /// Branches that this process has prepared, or was about to. A hint, that saves a repeated call from waiting for the
    /// locks of what it prepared itself.
    notes: Mutex<HashSet<Branch>>,
    warned: AtomicBool,
}

/// What opening a branch's transaction came to.
enum Opened {
    /// It is open, with the barrier's row in it.
    Work(Work),
    /// The answer does not want any work.
    Known(Trace),
}

/// A transaction that is open. Dropped, it is closed with its connection.
struct Work {
    db: Lease<PgConnection>,
    cluster: String,
    /// An attempt before this one has left a reply.
    has_reply: bool,
}

impl PostgresTwoPhase {
    pub(super) fn new(db: Postgres, handler: Arc<dyn PrepareHandler<Postgres>>) -> PostgresTwoPhase {
        PostgresTwoPhase { db, handler, notes: Mutex::default(), warned: AtomicBool::new(false) }
    }

    async fn open(&self, branch: &Branch, cluster: &ClusterId) -> Result<Opened> {
        let cluster = quotable(cluster)?.to_owned();
        let mut db = self.db.work.lease().await?;
        if self.notes().contains(branch) {
            let trace = rows::look(&mut db, branch, &cluster).await?;
            if trace.state != State::Absent {
                db.back();
                return Ok(Opened::Known(trace));
            }
        }
        match begin(&mut db, branch, &cluster).await {
            Ok(Begun { before_horizon: false, has_reply }) => {
                Ok(Opened::Work(Work { db, cluster, has_reply }))
            }
            Ok(Begun { before_horizon: true, .. }) => {
                undo(db).await;
                Ok(Opened::Known(Trace { state: State::BeforeHorizon, reply: Bytes::new() }))
            }
            Err(error) => match rows::code(&error) {
                // There is a row, or somebody is about to write one, or has prepared it.
                Some(rows::UNIQUE_VIOLATION | rows::LOCK_TIMEOUT) => {
                    send(&mut db, "ROLLBACK").await?;
                    let trace = rows::look(&mut db, branch, &cluster).await?;
                    db.back();
                    Ok(Opened::Known(trace))
                }
                Some(_) | None => Err(rows::trouble(error)),
            },
        }
    }

    /// Lets the handler work. After a no the transaction is undone.
    async fn work(&self, work: &mut Work, call: PhaseOne) -> Result<Vote<Bytes>> {
        caught(self.handler.work(&mut work.db, &call.branch, call.request)).await
    }

    /// Prepares, and keeps the reply.
    async fn prepare(&self, mut work: Work, branch: &Branch, reply: &Bytes) -> Result<()> {
        if let Some(statement) = work.keep_reply(branch, reply) {
            // Not synced by itself: the log of the server is one sequence, and preparing syncs all of it up to there.
            let statements = format!("BEGIN; SET LOCAL synchronous_commit = off; {statement}COMMIT");
            let mut db = self.db.ends.lease().await?;
            send(&mut db, statements).await.map_err(rows::trouble)?;
            db.back();
        }
        // Noted before, because the answer may be lost.
        self.note(branch);
        let statements = format!("{CHECK}PREPARE TRANSACTION '{}'", rows::gid(branch));
        send(&mut work.db, statements).await.map_err(rows::trouble)?;
        work.db.back();
        Ok(())
    }

    /// Why nothing is prepared under the name of a branch that is to be committed.
    async fn missed(&self, mut db: Lease<PgConnection>, branch: &Branch) -> Result<Completion> {
        let mut trace = rows::look(&mut db, branch, "").await?;
        db.back();
        let mut looks = LOOKS.iter();
        loop {
            match barrier::commit(trace.state) {
                CommitStep::Answer(Completion::UnknownBranch) => {}
                CommitStep::Answer(completion) => return Ok(completion),
                CommitStep::Work => return Err(Failure::again("it has been prepared only now")),
            }
            let Some(pause) = looks.next() else { break };
            tokio::time::sleep(*pause).await;
            trace = rows::look(&mut self.db.ends.fresh().await?, branch, "").await?;
        }
        tracing::error!(
            xid = %branch.xid(), branch = %branch.id(), participant = %branch.participant(),
            "a branch that is to be committed is neither prepared in the database nor committed: the database has lost \
             data, or it is another one than the branch was prepared in, or somebody has rolled it back by hand"
        );
        Ok(Completion::UnknownBranch)
    }

    fn note(&self, branch: &Branch) {
        let mut notes = self.notes();
        if notes.len() >= NOTES_MAX {
            notes.clear();
        }
        notes.insert(branch.clone());
    }

    fn notes(&self) -> MutexGuard<'_, HashSet<Branch>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resource for PostgresTwoPhase {
    fn protocol(&self) -> Protocol {
        Protocol::TwoPhase
    }

    fn patience(&self) -> Option<Duration> {
        Some(self.db.patience)
    }

    async fn phase_one(&self, call: PhaseOne) -> Result<Granted> {
        let branch = call.branch.clone();
        let vote = match self.open(&branch, &call.cluster).await? {
            Opened::Known(trace) => match barrier::phase_one(trace.state) {
                PhaseOneStep::Work => return Err(overtaken(&branch)),
                PhaseOneStep::Repeat => Vote::Prepared(trace.reply),
                PhaseOneStep::Refuse(late) => return Err(refuse(late.to_string())),
            },
            Opened::Work(mut work) => match self.work(&mut work, call).await {
                Ok(Vote::Prepared(reply)) => {
                    self.prepare(work, &branch, &reply).await?;
                    Vote::Prepared(reply)
                }
                undone => work.undone(undone).await?,
            },
        };
        Ok(Granted { vote, reservation: None })
    }

    async fn commit(&self, branch: &Branch) -> Result<Completion> {
        let mut db = self.db.ends.lease().await?;
        let completion = match send(&mut db, format!("COMMIT PREPARED '{}'", rows::gid(branch))).await {
            Ok(_) => {
                db.back();
                Completion::Done
            }
            Err(error) if rows::code(&error) == Some(rows::UNDEFINED_OBJECT) => {
                self.missed(db, branch).await?
            }
            Err(error) => return Err(rows::trouble(error)),
        };
        self.notes().remove(branch);
        Ok(completion)
    }

    async fn rollback(&self, branch: &Branch, cluster: &ClusterId) -> Result<Completion> {
        let cluster = quotable(cluster)?;
        let mut db = self.db.ends.lease().await?;
        // First what is prepared, then the tombstone, which would wait for it.
        let done = match send(&mut db, format!("ROLLBACK PREPARED '{}'", rows::gid(branch))).await {
            Ok(_) => Completion::Done,
            Err(error) if rows::code(&error) == Some(rows::UNDEFINED_OBJECT) => Completion::UnknownBranch,
            Err(error) => return Err(rows::trouble(error)),
        };
        self.notes().remove(branch);
        let tombstone = send(&mut db, rows::insert_tombstone(branch, cluster)).await;
        let completion = match tombstone {
            Ok(written) if !written.is_empty() => done,
            Err(error) if rows::code(&error) != Some(rows::UNIQUE_VIOLATION) => {
                return Err(rows::trouble(error));
            }
            // There is a row already, or the horizon covers it.
            Ok(_) | Err(_) => match barrier::rollback(rows::look(&mut db, branch, cluster).await?.state) {
                RollbackStep::Answer(Completion::UnknownBranch) => done,
                RollbackStep::Answer(completion) => completion,
                RollbackStep::Work | RollbackStep::Tombstone => return Err(overtaken(branch)),
            },
        };
        db.back();
        Ok(completion)
    }

    async fn commit_one_phase(&self, call: PhaseOne) -> Result<OnePhase> {
        let branch = call.branch.clone();
        let done = |reply| OnePhase { completion: Completion::Done, reply };
        match self.open(&branch, &call.cluster).await? {
            Opened::Known(trace) => match barrier::commit_one_phase(trace.state) {
                OnePhaseStep::Work => Err(overtaken(&branch)),
                OnePhaseStep::Commit => {
                    Ok(OnePhase { completion: self.commit(&branch).await?, reply: trace.reply })
                }
                OnePhaseStep::Repeat => Ok(done(trace.reply)),
                OnePhaseStep::Refuse(late) => Err(refuse(late.to_string())),
            },
            Opened::Work(mut work) => match self.work(&mut work, call).await {
                Ok(Vote::Prepared(reply)) => {
                    let kept = work.keep_reply(&branch, &reply).unwrap_or_default();
                    send(&mut work.db, format!("{CHECK}{kept}COMMIT")).await.map_err(rows::trouble)?;
                    work.db.back();
                    Ok(done(reply))
                }
                undone => Ok(done(work.undone(undone).await?.reply().clone())),
            },
        }
    }

    async fn in_doubt(&self, participant: &ParticipantName) -> Result<Vec<InDoubt>> {
        let mut db = self.db.ends.lease().await?;
        let (in_doubt, unreadable) = rows::prepared(&mut db, participant).await?;
        db.back();
        if unreadable > 0 && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                count = unreadable,
                "prepared transactions have names that begin like this library's, but are of no format that it knows: \
                 they were prepared by a later version, or by somebody else; they are left alone"
            );
        }
        Ok(in_doubt)
    }

    async fn forget_before(&self, horizon: &Horizon) -> Result<Cleaned> {
        let mut db = self.db.ends.lease().await?;
        let cleaned = rows::forget_before(&mut db, horizon).await?;
        db.back();
        Ok(cleaned)
    }
}

impl fmt::Debug for PostgresTwoPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresTwoPhase").finish_non_exhaustive()
    }
}

impl Work {
    /// The statement that keeps the reply, unless an empty one says it as well.
    fn keep_reply(&self, branch: &Branch, reply: &Bytes) -> Option<String> {
        let wanted = !reply.is_empty() || self.has_reply;
        wanted.then(|| rows::upsert_reply(branch, &self.cluster, reply))
    }

    /// Undoes the work, whose answer this is. After trouble the connection is closed: it may be part of it.
    async fn undone(self, answer: Result<Vote<Bytes>>) -> Result<Vote<Bytes>> {
        if answer.as_ref().err().is_none_or(|failure| failure.refusal().is_some()) {
            undo(self.db).await;
        }
        answer
    }
}

/// What is found in the transaction of a branch that has just written its row.
struct Begun {
    before_horizon: bool,
    has_reply: bool,
}

async fn begin(db: &mut PgConnection, branch: &Branch, cluster: &str) -> sqlx::Result<Begun> {
    let row = Row {
        status: Status::Committed,
        cluster: ClusterId::default(),
        request: Bytes::new(),
        reply: Bytes::new(),
        reservation: None,
    };
    // The horizon is read after the row is written: whoever clears rows commits the horizon before.
    let statements = format!(
        "{BEGIN}{}SELECT {}, {}",
        rows::insert(branch, cluster, &row),
        rows::is_before_horizon(branch, cluster),
        rows::has_reply(branch)
    );
    let found = send(db, statements).await?;
    let found = found.first().ok_or(sqlx::Error::RowNotFound)?;
    Ok(Begun { before_horizon: found.try_get(0)?, has_reply: found.try_get(1)? })
}

/// Rolls back. Where that fails the connection is closed, and the transaction ends with it.
async fn undo(mut db: Lease<PgConnection>) {
    if send(&mut db, "ROLLBACK").await.is_ok() {
        db.back();
    }
}

fn overtaken(branch: &Branch) -> Failure {
    Failure::again(format!("another call for {branch} is under way"))
}
