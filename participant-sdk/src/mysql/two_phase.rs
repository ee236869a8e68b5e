//! Two-phase commit: each branch is an XA transaction.
//!
//! The barrier's row is the first statement of the branch and says `committed`. So a row that is seen says how the branch
//! ended; while there is none, the branch is prepared if the server lists it, and else unknown.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sqlx::MySqlConnection;

use super::connect::AfterPrepare;
use super::pins::{LEAVE_SOON, STAY};
use super::xa::{self, Owner, XaName};
use super::{MySql, Shared, code, number, results, rows, run};
use crate::barrier::{self, CommitStep, Late, PhaseOneStep, RollbackStep, State};
use crate::branch::{Branch, ClusterId, Horizon, ParticipantName, Protocol};
use crate::error::{Failure, Result, refuse};
use crate::local::{Row, Status};
use crate::resource::{Cleaned, Completion, Granted, InDoubt, OnePhase, PhaseOne, Resource, Vote};
use crate::sql::handler::{ByPrepare, Prepare, PrepareHandler, caught};
use crate::sql::name::quotable;
use crate::sql::pool::Lease;

/// After what pauses a call looks again for a branch that it cannot end, or cannot open.
const LOOK_AGAIN_AFTER: [Duration; 5] = [
    Duration::from_millis(10),
    Duration::from_millis(40),
    Duration::from_millis(150),
    Duration::from_millis(300),
    Duration::from_millis(500),
];

/// Lets the one statement that follows see what is written and not committed, such as the rows of prepared branches.
const SEE_UNCOMMITTED: &str = "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED";

/// [`MySql`] with its handler, by two-phase commit.
pub struct MySqlTwoPhase {
    db: MySql,
    handler: Arc<dyn PrepareHandler<MySql>>,
    warned: AtomicBool,
}

/// How far phase one is.
enum Worked {
    /// The work is done, and open on this connection.
    Open(Lease<MySqlConnection>, Bytes),
    /// Nothing is left to do.
    ReadOnly(Bytes),
    /// It had been prepared or committed already, with this reply.
    Before(Bytes),
}

/// What opening a branch came to.
enum Opened {
    /// It is open on this connection, with the barrier's row in it.
    Work(Lease<MySqlConnection>),
    /// The answer does not want any work.
    Known(Worked),
}

/// Which rows are seen.
#[derive(Clone, Copy, Debug)]
enum Rows {
    Committed,
    /// Those of prepared branches too.
    Uncommitted,
}

/// What a branch has left behind, for those who cannot end it.
struct Seen {
    row: Option<Row>,
    /// The server lists it as prepared.
    listed: bool,
    before_horizon: bool,
}

impl MySqlTwoPhase {
    pub(super) fn new(db: MySql, handler: impl Prepare<MySql>) -> MySqlTwoPhase {
        MySqlTwoPhase { db, handler: Arc::new(ByPrepare(handler)), warned: AtomicBool::new(false) }
    }

    fn name(&self, branch: &Branch) -> XaName {
        XaName::new(branch, &self.db.shared.database)
    }

    /// Opens the branch and does the work in it.
    async fn work(&self, call: PhaseOne) -> Result<Worked> {
        let name = self.name(&call.branch);
        let mut lease = match self.open(&call, &name).await? {
            Opened::Work(lease) => lease,
            Opened::Known(worked) => return Ok(worked),
        };
        match caught(self.handler.work(&mut lease, &call.branch, call.request)).await {
            Ok(Vote::Prepared(reply)) => Ok(Worked::Open(lease, reply)),
            Ok(Vote::ReadOnly(reply)) => {
                undo(lease, &name).await;
                Ok(Worked::ReadOnly(reply))
            }
            Err(failure) if failure.refusal().is_some() => {
                undo(lease, &name).await;
                Err(failure)
            }
            // Nobody knows what is open on the connection. Closing it undoes all of it.
            Err(trouble) => Err(trouble),
        }
    }

    /// Opens the branch, unless there is an answer already. Where another call is under way it is waited for a little: it may
    /// be one whose connection was lost, and the server has not noticed yet.
    async fn open(&self, call: &PhaseOne, name: &XaName) -> Result<Opened> {
        if self.db.shared.pins.has(&call.branch)
            && let Some(worked) = self.repeat(&call.branch).await?
        {
            return Ok(Opened::Known(worked));
        }
        let mut pauses = LOOK_AGAIN_AFTER.into_iter();
        loop {
            let mut lease = self.db.work().await?;
            match begin(&mut lease, name, call).await? {
                Begun::Open => return Ok(Opened::Work(lease)),
                Begun::Late(late) => {
                    undo(lease, name).await;
                    return Err(refuse(late.to_string()));
                }
                Begun::RowThere => {
                    undo(lease, name).await;
                    return self.repeat_ended(call).await.map(Opened::Known);
                }
                Begun::NameTaken => lease.back(),
            }
            if let Some(worked) = self.repeat(&call.branch).await? {
                return Ok(Opened::Known(worked));
            }
            let Some(pause) = pauses.next() else {
                return Err(Failure::again(format!("another call of branch {} is under way", call.branch)));
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Answers for a branch whose name is taken: with the first reply if it is prepared.
    async fn repeat(&self, branch: &Branch) -> Result<Option<Worked>> {
        let mut lease = self.db.spare().await?;
        let seen =
            see(&mut lease, branch, &self.name(branch), &ClusterId::default(), Rows::Uncommitted).await?;
        lease.back();
        Ok(seen.row.filter(|_| seen.listed).map(|row| Worked::Before(row.reply)))
    }

    /// Answers for a branch that has a row.
    async fn repeat_ended(&self, call: &PhaseOne) -> Result<Worked> {
        let mut lease = self.db.spare().await?;
        let seen =
            see(&mut lease, &call.branch, &self.name(&call.branch), &call.cluster, Rows::Committed).await?;
        lease.back();
        match (barrier::phase_one(seen.state()), seen.row) {
            (PhaseOneStep::Repeat, Some(row)) => Ok(Worked::Before(row.reply)),
            (PhaseOneStep::Refuse(late), _) => Err(refuse(late.to_string())),
            (PhaseOneStep::Repeat | PhaseOneStep::Work, _) => {
                Err(Failure::again(format!("branch {} changes just now", call.branch)))
            }
        }
    }

    /// Keeps the connection for phase two where the server wants that.
    fn keep(&self, branch: Branch, lease: Lease<MySqlConnection>) {
        match self.db.shared.server.after_prepare {
            AfterPrepare::StaysWithConnection => Shared::pin(&self.db.shared, branch, lease),
            AfterPrepare::Detached => lease.back(),
        }
    }

    /// Tries to end the branch on its own connection. `None`: it has none, or not any more.
    async fn end_pinned(&self, branch: &Branch, statements: &str) -> Option<Completion> {
        let mut lease = self.db.shared.pins.take(branch)?;
        match run(&mut lease, format!("{statements}; {STAY}")).await {
            Ok(()) => {
                lease.back();
                Some(Completion::Done)
            }
            Err(error) => {
                // It is closed, and another connection finds out how the branch stands.
                tracing::debug!(%branch, %error, "branch was not ended on its own connection");
                None
            }
        }
    }

    /// Tries to commit the branch on any connection. An inner `Err` is what was seen where it could not.
    async fn try_commit(&self, branch: &Branch, name: &XaName) -> Result<Result<Completion, Seen>> {
        let mut lease = self.db.spare().await?;
        let done = match run(&mut lease, format!("XA COMMIT {name}")).await {
            Ok(()) => Ok(Completion::Done),
            Err(error) if number(&error) == Some(code::XA_UNKNOWN) => {
                let seen = see(&mut lease, branch, name, &ClusterId::default(), Rows::Committed).await?;
                match barrier::commit(seen.state()) {
                    CommitStep::Answer(Completion::UnknownBranch) | CommitStep::Work => Err(seen),
                    CommitStep::Answer(completion) => Ok(completion),
                }
            }
            Err(error) => return Err(error.into()),
        };
        lease.back();
        Ok(done)
    }
}

impl Resource for MySqlTwoPhase {
    fn protocol(&self) -> Protocol {
        Protocol::TwoPhase
    }

    fn patience(&self) -> Option<Duration> {
        Some(self.db.shared.patience)
    }

    async fn phase_one(&self, call: PhaseOne) -> Result<Granted> {
        let branch = call.branch.clone();
        let vote = match self.work(call).await? {
            Worked::Open(mut lease, reply) => {
                let name = self.name(&branch);
                let reply_statement = set_reply(&branch, &reply);
                let first = match self.db.shared.server.after_prepare {
                    AfterPrepare::StaysWithConnection => LEAVE_SOON,
                    AfterPrepare::Detached => "",
                };
                run(&mut lease, format!("{first} {reply_statement} XA END {name}; XA PREPARE {name}"))
                    .await?;
                self.keep(branch, lease);
                Vote::Prepared(reply)
            }
            Worked::ReadOnly(reply) => Vote::ReadOnly(reply),
            Worked::Before(reply) => Vote::Prepared(reply),
        };
        Ok(Granted { vote, reservation: None })
    }

    async fn commit(&self, branch: &Branch) -> Result<Completion> {
        let name = self.name(branch);
        if let Some(done) = self.end_pinned(branch, &format!("XA COMMIT {name}")).await {
            return Ok(done);
        }
        let mut pauses = LOOK_AGAIN_AFTER.into_iter();
        loop {
            let seen = match self.try_commit(branch, &name).await? {
                Ok(completion) => return Ok(completion),
                Err(seen) => seen,
            };
            match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None if seen.state() == State::Prepared => {
                    tracing::debug!(%branch, "prepared branch is still with another connection");
                    return Err(Failure::again(held_elsewhere(branch)));
                }
                None => break,
            }
        }
        tracing::error!(
            %branch,
            "told to commit a branch that this database does not know: it was restored from an old copy, is another \
             one than the branch was prepared in, or somebody rolled the branch back by hand"
        );
        Ok(Completion::UnknownBranch)
    }

    async fn rollback(&self, branch: &Branch, cluster: &ClusterId) -> Result<Completion> {
        let name = self.name(branch);
        let tombstone = Row {
            status: Status::RolledBack,
            cluster: cluster.clone(),
            request: Bytes::new(),
            reply: Bytes::new(),
            reservation: None,
        };
        let tombstone = rows::insert(branch, &tombstone)?;
        // The tombstone comes second: it would wait for the row of what is prepared.
        let statements = format!("XA ROLLBACK {name}; {tombstone}");
        if let Some(done) = self.end_pinned(branch, &statements).await {
            return Ok(done);
        }
        let mut lease = self.db.spare().await?;
        match run(&mut lease, statements).await {
            Ok(()) => {
                lease.back();
                return Ok(Completion::Done);
            }
            // A branch that has changed nothing is gone when its connection is, and the server says so.
            Err(error)
                if matches!(
                    number(&error),
                    Some(code::XA_UNKNOWN | code::XA_ROLLED_BACK | code::DUPLICATE)
                ) => {}
            Err(error) => return Err(error.into()),
        }
        let seen = see(&mut lease, branch, &name, cluster, Rows::Committed).await?;
        let completion = match barrier::rollback(seen.state()) {
            RollbackStep::Answer(completion) => completion,
            RollbackStep::Tombstone => {
                // Waits for a phase one that is under way; at the lock time-out the call comes again.
                run(&mut lease, tombstone).await?;
                Completion::UnknownBranch
            }
            RollbackStep::Work => return Err(Failure::again(held_elsewhere(branch))),
        };
        lease.back();
        Ok(completion)
    }

    async fn commit_one_phase(&self, call: PhaseOne) -> Result<OnePhase> {
        let branch = call.branch.clone();
        let (completion, reply) = match self.work(call).await? {
            Worked::Open(mut lease, reply) => {
                let name = self.name(&branch);
                let reply_statement = set_reply(&branch, &reply);
                run(&mut lease, format!("{reply_statement} XA END {name}; XA COMMIT {name} ONE PHASE"))
                    .await?;
                lease.back();
                (Completion::Done, reply)
            }
            Worked::ReadOnly(reply) => (Completion::Done, reply),
            Worked::Before(reply) => (self.commit(&branch).await?, reply),
        };
        Ok(OnePhase { completion, reply })
    }

    async fn in_doubt(&self, participant: &ParticipantName) -> Result<Vec<InDoubt>> {
        let owner = Owner::new(participant.as_str(), &self.db.shared.database);
        let mut lease = self.db.spare().await?;
        let listed = results(&mut lease, xa::RECOVER.to_owned()).await?.into_iter().flatten();
        let mut in_doubt = Vec::new();
        for row in listed {
            let name = XaName::read(&row)?;
            match name.parse() {
                Some(named) if named.owner == owner => {
                    let branch = Branch::new(named.xid, named.id, participant.clone());
                    in_doubt.push(InDoubt { branch, reservation: None });
                }
                None if name.has_our_format() && !self.warned.swap(true, Ordering::Relaxed) => {
                    tracing::warn!(
                        %name,
                        "prepared transaction has our format id and a name that is not known here; it is left alone"
                    );
                }
                Some(_) | None => {}
            }
        }
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

impl fmt::Debug for MySqlTwoPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlTwoPhase").field("db", &self.db).finish_non_exhaustive()
    }
}

/// What came of opening a branch.
enum Begun {
    Open,
    /// It is open, and not to be.
    Late(Late),
    /// A branch of the name is prepared, or open on another connection.
    NameTaken,
    /// It is open, without its row: there is one.
    RowThere,
}

/// Opens the branch with its row. One message.
async fn begin(db: &mut MySqlConnection, name: &XaName, call: &PhaseOne) -> Result<Begun> {
    let row = Row {
        status: Status::Committed,
        cluster: call.cluster.clone(),
        request: Bytes::new(),
        reply: Bytes::new(),
        reservation: None,
    };
    let insert = rows::insert(&call.branch, &row)?;
    // The horizon is read after the row was written: where a row was cleared in between, the horizon tells.
    let horizon = rows::select_horizon(quotable(&call.cluster)?);
    match results(db, format!("XA START {name}; {insert}; {horizon}")).await {
        Ok(mut results) => {
            let horizon = rows::read_horizon(&results.pop().unwrap_or_default(), &call.cluster)?;
            let late = horizon.is_some_and(|horizon| horizon.covers(call.branch.xid()));
            Ok(if late { Begun::Late(Late::BeforeHorizon) } else { Begun::Open })
        }
        Err(error) => match number(&error) {
            Some(code::XA_DUPLICATE) => Ok(Begun::NameTaken),
            Some(code::DUPLICATE) => Ok(Begun::RowThere),
            _ => Err(error.into()),
        },
    }
}

/// Undoes what is open on the connection, which is closed if that fails.
async fn undo(mut lease: Lease<MySqlConnection>, name: &XaName) {
    if run(&mut lease, format!("XA END {name}; XA ROLLBACK {name}")).await.is_ok() {
        lease.back();
    }
}

/// The row was written before the reply was known. A branch without a reply is spared the statement.
fn set_reply(branch: &Branch, reply: &[u8]) -> String {
    if reply.is_empty() { String::new() } else { format!("{};", rows::set_reply(branch, reply)) }
}

/// Looks at a branch. The list comes first: what is committed after that has a row. The horizon comes last: what is
/// cleared after the row was looked for lies before it.
async fn see(
    db: &mut MySqlConnection,
    branch: &Branch,
    name: &XaName,
    cluster: &ClusterId,
    rows: Rows,
) -> Result<Seen> {
    let list = xa::RECOVER;
    let row = match rows {
        Rows::Committed => rows::select(branch, ""),
        Rows::Uncommitted => format!("{SEE_UNCOMMITTED}; {}", rows::select(branch, "")),
    };
    let horizon = rows::select_horizon(quotable(cluster)?);
    let mut results = results(db, format!("{list}; {row}; {horizon}")).await?;
    let horizon = rows::read_horizon(&results.pop().unwrap_or_default(), cluster)?;
    let row = results.pop().unwrap_or_default().first().map(rows::read).transpose()?;
    let mut listed = false;
    for row in results.first().into_iter().flatten() {
        listed |= XaName::read(row)? == *name;
    }
    let before_horizon = horizon.is_some_and(|horizon| horizon.covers(branch.xid()));
    Ok(Seen { row, listed, before_horizon })
}

impl Seen {
    fn state(&self) -> State {
        match self.row.as_ref().map(|row| row.status) {
            Some(Status::Committed) => State::Committed,
            Some(Status::RolledBack) => State::RolledBack,
            Some(Status::Prepared) => State::Prepared,
            None if self.listed => State::Prepared,
            None if self.before_horizon => State::BeforeHorizon,
            None => State::Absent,
        }
    }
}

fn held_elsewhere(branch: &Branch) -> String {
    format!("prepared branch {branch} is still with the connection that prepared it")
}
