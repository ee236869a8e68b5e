//! The barrier carried out in a local transaction: the same for every store that keeps its rows beside the handler's work.

use std::time::Duration;

use bytes::Bytes;
#[cfg(any(feature = "memory", feature = "sqlite"))]
use futures_util::FutureExt as _;

use crate::barrier::{self, CommitStep, Completion, OnePhaseStep, PhaseOneStep, RollbackStep, State};
use crate::branch::{Branch, ClusterId, Horizon};
use crate::error::{Result, refuse};
use crate::payload::{Decode, Encode};
use crate::resource::{Granted, OnePhase, PhaseOne, Reservation, ReservationClass, Vote};

/// What is kept of a branch.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) status: Status,
    pub(crate) cluster: ClusterId,
    /// Handed to the handler again in phase two; dropped once that is done.
    pub(crate) request: Bytes,
    pub(crate) reply: Bytes,
    pub(crate) reservation: Option<Reservation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Prepared,
    Committed,
    RolledBack,
}

/// Whether the local transaction is to be kept when the call has its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Writes,
    Nothing,
}

/// An open local transaction, with the handler whose work belongs into it. On `Err` all of it is undone.
pub(crate) trait Local {
    /// The branch's row, locked: until the end of the local transaction nobody else changes it.
    async fn row(&mut self, branch: &Branch) -> Result<Option<Row>>;
    /// Fails where there is a row already: somebody else was faster, and the call has to come again.
    async fn insert(&mut self, branch: &Branch, row: Row) -> Result<()>;
    /// Changes the status of a row. The request is not needed any more; the reply stays, for calls that are repeated.
    async fn finish(&mut self, branch: &Branch, status: Status) -> Result<()>;
    /// Asked for only after `row`, so that a row that was cleared meanwhile is not taken for one that never was.
    async fn horizon(&mut self, cluster: &ClusterId) -> Result<Option<Horizon>>;

    async fn work(&mut self, branch: &Branch, request: Bytes) -> Result<Vote<Bytes>>;
    async fn commit(&mut self, branch: &Branch, request: Bytes) -> Result<()>;
    async fn rollback(&mut self, branch: &Branch, request: Bytes) -> Result<()>;
}

/// The result of a future of a store that never waits.
#[cfg(any(feature = "memory", feature = "sqlite"))]
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing in it waits")
}

pub(crate) async fn phase_one(local: &mut impl Local, call: PhaseOne) -> Result<(Granted, Keep)> {
    let row = local.row(&call.branch).await?;
    match barrier::phase_one(state(local, row.as_ref(), &call.branch, &call.cluster).await?) {
        PhaseOneStep::Refuse(late) => Err(refuse(late.to_string())),
        PhaseOneStep::Repeat => {
            let row = row.expect("only a branch with a row is answered again");
            Ok((Granted { vote: Vote::Prepared(row.reply), reservation: row.reservation }, Keep::Nothing))
        }
        PhaseOneStep::Work => match local.work(&call.branch, call.request.clone()).await? {
            vote @ Vote::ReadOnly(_) => Ok((Granted { vote, reservation: None }, Keep::Nothing)),
            Vote::Prepared(reply) => {
                let row = Row {
                    status: Status::Prepared,
                    cluster: call.cluster,
                    request: call.request,
                    reply: reply.clone(),
                    reservation: call.reservation,
                };
                local.insert(&call.branch, row).await?;
                let granted = Granted { vote: Vote::Prepared(reply), reservation: call.reservation };
                Ok((granted, Keep::Writes))
            }
        },
    }
}

pub(crate) async fn commit(local: &mut impl Local, branch: &Branch) -> Result<(Completion, Keep)> {
    let row = local.row(branch).await?;
    match barrier::commit(row.as_ref().map_or(State::Absent, Row::state)) {
        CommitStep::Answer(completion) => Ok((completion, Keep::Nothing)),
        CommitStep::Work => {
            let row = row.expect("only a prepared branch is committed");
            local.commit(branch, row.request).await?;
            local.finish(branch, Status::Committed).await?;
            Ok((Completion::Done, Keep::Writes))
        }
    }
}

pub(crate) async fn rollback(
    local: &mut impl Local,
    branch: &Branch,
    cluster: &ClusterId,
) -> Result<(Completion, Keep)> {
    let row = local.row(branch).await?;
    match barrier::rollback(state(local, row.as_ref(), branch, cluster).await?) {
        RollbackStep::Answer(completion) => Ok((completion, Keep::Nothing)),
        RollbackStep::Tombstone => {
            let tombstone = Row {
                status: Status::RolledBack,
                cluster: cluster.clone(),
                request: Bytes::new(),
                reply: Bytes::new(),
                reservation: None,
            };
            local.insert(branch, tombstone).await?;
            Ok((Completion::UnknownBranch, Keep::Writes))
        }
        RollbackStep::Work => {
            let row = row.expect("only a prepared branch is rolled back");
            local.rollback(branch, row.request).await?;
            local.finish(branch, Status::RolledBack).await?;
            Ok((Completion::Done, Keep::Writes))
        }
    }
}

pub(crate) async fn commit_one_phase(local: &mut impl Local, call: PhaseOne) -> Result<(OnePhase, Keep)> {
    let row = local.row(&call.branch).await?;
    let done = |reply| OnePhase { completion: Completion::Done, reply };
    match barrier::commit_one_phase(state(local, row.as_ref(), &call.branch, &call.cluster).await?) {
        OnePhaseStep::Refuse(late) => Err(refuse(late.to_string())),
        OnePhaseStep::Repeat => {
            let row = row.expect("only a branch with a row is answered again");
            Ok((done(row.reply), Keep::Nothing))
        }
        OnePhaseStep::Commit => {
            let reply = row.expect("only a prepared branch is committed").reply;
            let (_, keep) = commit(local, &call.branch).await?;
            Ok((done(reply), keep))
        }
        OnePhaseStep::Work => {
            let branch = call.branch.clone();
            let (granted, keep) = phase_one(local, call).await?;
            match granted.vote {
                Vote::ReadOnly(reply) => Ok((done(reply), keep)),
                Vote::Prepared(reply) => {
                    let (_, keep) = commit(local, &branch).await?;
                    Ok((done(reply), keep))
                }
            }
        }
    }
}

impl Row {
    fn state(&self) -> State {
        match self.status {
            Status::Prepared => State::Prepared,
            Status::Committed => State::Committed,
            Status::RolledBack => State::RolledBack,
        }
    }
}

impl Status {
    pub(crate) fn to_text(self) -> &'static str {
        match self {
            Status::Prepared => "prepared",
            Status::Committed => "committed",
            Status::RolledBack => "rolled_back",
        }
    }

    /// The tables let nothing in but these three.
    pub(crate) fn from_text(text: &str) -> Status {
        match text {
            "prepared" => Status::Prepared,
            "committed" => Status::Committed,
            _ => Status::RolledBack,
        }
    }
}

/// The columns of the key: order of the transaction, transaction, branch, participant.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(crate) fn key(branch: &Branch) -> [String; 4] {
    let xid = branch.xid();
    [xid.order().to_string(), xid.to_string(), branch.id().to_string(), branch.participant().to_string()]
}

/// The columns of a reservation: milliseconds, class.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(crate) fn reservation_columns(reservation: Option<Reservation>) -> (Option<i64>, Option<&'static str>) {
    let Some(Reservation { ttl, class }) = reservation else { return (None, None) };
    let class = match class {
        ReservationClass::Cooperative => "cooperative",
        ReservationClass::Autonomous => "autonomous",
    };
    // 292 million years of milliseconds fit.
    (Some(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX)), Some(class))
}

#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(crate) fn reservation_from_columns(ttl_ms: Option<i64>, class: Option<&str>) -> Option<Reservation> {
    let ttl = Duration::from_millis(u64::try_from(ttl_ms?).ok()?);
    let class = match class {
        Some("autonomous") => ReservationClass::Autonomous,
        Some(_) | None => ReservationClass::Cooperative,
    };
    Some(Reservation { ttl, class })
}

async fn state(
    local: &mut impl Local,
    row: Option<&Row>,
    branch: &Branch,
    cluster: &ClusterId,
) -> Result<State> {
    if let Some(row) = row {
        return Ok(row.state());
    }
    let horizon = local.horizon(cluster).await?;
    let covered = horizon.is_some_and(|horizon| horizon.covers(branch.xid()));
    Ok(if covered { State::BeforeHorizon } else { State::Absent })
}

/// The request of a phase one. One that cannot be read is refused: repeating the call would not mend it.
pub(crate) fn read_new<T: Decode>(request: Bytes) -> Result<T> {
    T::from_bytes(request).map_err(|error| refuse(format!("the request cannot be read: {error}")))
}

/// The same request in phase two, where there is no way back: it is trouble, and the call comes again.
pub(crate) fn read_kept<T: Decode>(request: Bytes) -> Result<T> {
    T::from_bytes(request)
        .map_err(|error| crate::Failure::again(format!("the kept request cannot be read: {error}")))
}

pub(crate) fn write_reply<T: Encode>(vote: &Vote<T>) -> Result<Vote<Bytes>> {
    let write = |reply: &T| {
        reply
            .to_bytes()
            .map_err(|error| crate::Failure::again(format!("the reply cannot be written: {error}")))
    };
    Ok(match vote {
        Vote::Prepared(reply) => Vote::Prepared(write(reply)?),
        Vote::ReadOnly(reply) => Vote::ReadOnly(write(reply)?),
    })
}
