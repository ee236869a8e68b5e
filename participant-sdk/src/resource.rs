//! What stands behind a participant: a [`Resource`], and the words that it and its handlers answer with.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use crate::barrier::Completion;
use crate::branch::{Branch, ClusterId, Horizon, ParticipantName, Protocol};
use crate::error::{Failure, Result};

/// A handler's yes. A no is [`refuse`](crate::refuse), trouble is any other error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote<Reply> {
    /// The work is done; the participant will follow either decision.
    Prepared(Reply),
    /// Nothing was changed: the branch wants no phase two. Whatever was written all the same is undone.
    ReadOnly(Reply),
}

impl<Reply> Vote<Reply> {
    /// What the initiator is told.
    pub fn reply(&self) -> &Reply {
        match self {
            Vote::Prepared(reply) | Vote::ReadOnly(reply) => reply,
        }
    }
}

/// How long a reservation holds, and what happens then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Counted from when it was made, 1 ms at least. It is stored as milliseconds.
    pub ttl: Duration,
    /// What the participant promised to do at expiry. Kept with the reservation: a promise outlives a changed setting.
    pub class: ReservationClass,
}

/// What a participant does when a reservation expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReservationClass {
    /// It asks the coordinator, and holds on until it has an answer. A mixed outcome is impossible.
    #[default]
    Cooperative,
    /// It cancels by itself. Where the coordinator cannot be waited for; a mixed outcome is possible, and recorded.
    Autonomous,
}

/// A Prepare or a Try, or a commit in one phase.
#[derive(Clone, Debug)]
pub struct PhaseOne {
    /// The branch.
    pub branch: Branch,
    /// The coordinator that it comes from.
    pub cluster: ClusterId,
    /// What the initiator asks for.
    pub request: Bytes,
    /// What to grant, and to store with the branch. TCC only; absent: no expiry.
    pub reservation: Option<Reservation>,
}

/// What phase one came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The yes, with the reply. A repeated call has the first reply again.
    pub vote: Vote<Bytes>,
    /// What was granted the first time.
    pub reservation: Option<Reservation>,
}

/// What a commit in one phase came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnePhase {
    /// `Done`, or a heuristic.
    pub completion: Completion,
    /// What the initiator is told. A repeated call has the first reply again.
    pub reply: Bytes,
}

/// A branch that is prepared and does not know the decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InDoubt {
    /// The branch.
    pub branch: Branch,
    /// What was granted.
    pub reservation: Option<Reservation>,
}

/// How far housekeeping got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleaned {
    /// There is more: call again.
    Partly,
    /// Nothing is left to clear.
    Wholly,
}

/// A store that takes part in transactions: the raw trait, for those with a store of their own.
///
/// Most services want a ready one, [`postgres`](crate::postgres), [`mysql`](crate::mysql), [`sqlite`](crate::sqlite) or
/// [`memory`](crate::memory), and write handlers for it.
/// An implementation owes the coordinator what the table in [`barrier`](crate::barrier) says, and that what it answered
/// survives a crash. An `Err` that is no [`refuse`](crate::refuse)d one means "not known": the call comes again.
///
/// The SDK never makes two calls for one branch at a time; calls for different branches are concurrent.
pub trait Resource: Send + Sync + 'static {
    /// The protocol that its branches take part by. Calls for the other one are refused.
    fn protocol(&self) -> Protocol;

    /// Whether it can tell what is [`in_doubt`](Resource::in_doubt). If not, the coordinator is told to remember on
    /// the participant's behalf, and the participant must [`serve`](crate::participant::Builder::serve).
    fn inquires(&self) -> bool {
        true
    }

    /// How long a call may take. Then it is dropped, as when a caller goes away, and that is trouble. `None`: without end.
    ///
    /// For stores on the other side of a network, where an answer may never come; calls for the same branch wait for it.
    fn patience(&self) -> Option<Duration> {
        None
    }

    /// Prepare or Try. A business no is `Err(refuse(..))`, and leaves nothing behind.
    fn phase_one(&self, call: PhaseOne) -> impl Future<Output = Result<Granted>> + Send;

    /// Commit or Confirm; past the reservation's expiry too, as long as it is held.
    fn commit(&self, branch: &Branch) -> impl Future<Output = Result<Completion>> + Send;

    /// Rollback or Cancel. Of an unknown branch it leaves a tombstone that refuses a late phase one.
    fn rollback(
        &self,
        branch: &Branch,
        cluster: &ClusterId,
    ) -> impl Future<Output = Result<Completion>> + Send;

    /// Does the work and commits it, or refuses.
    fn commit_one_phase(&self, call: PhaseOne) -> impl Future<Output = Result<OnePhase>> + Send;

    /// The branches of this participant that are prepared, as they stand in the store.
    fn in_doubt(&self, participant: &ParticipantName) -> impl Future<Output = Result<Vec<InDoubt>>> + Send;

    /// Remembers the horizon for good and clears finished branches before it, a small batch a call.
    fn forget_before(&self, horizon: &Horizon) -> impl Future<Output = Result<Cleaned>> + Send;
}

/// [`Resource`] for use behind a pointer, so that a participant has one type whatever stands behind it.
pub(crate) trait AnyResource: Send + Sync {
    fn protocol(&self) -> Protocol;
    fn inquires(&self) -> bool;
    fn phase_one(&self, call: PhaseOne) -> BoxFuture<'_, Result<Granted>>;
    fn commit<'a>(&'a self, branch: &'a Branch) -> BoxFuture<'a, Result<Completion>>;
    fn rollback<'a>(
        &'a self,
        branch: &'a Branch,
        cluster: &'a ClusterId,
    ) -> BoxFuture<'a, Result<Completion>>;
    fn commit_one_phase(&self, call: PhaseOne) -> BoxFuture<'_, Result<OnePhase>>;
    fn in_doubt<'a>(&'a self, participant: &'a ParticipantName) -> BoxFuture<'a, Result<Vec<InDoubt>>>;
    fn forget_before<'a>(&'a self, horizon: &'a Horizon) -> BoxFuture<'a, Result<Cleaned>>;
}

impl<R: Resource> AnyResource for R {
    fn protocol(&self) -> Protocol {
        Resource::protocol(self)
    }

    fn inquires(&self) -> bool {
        Resource::inquires(self)
    }

    fn phase_one(&self, call: PhaseOne) -> BoxFuture<'_, Result<Granted>> {
        within(self.patience(), Resource::phase_one(self, call))
    }

    fn commit<'a>(&'a self, branch: &'a Branch) -> BoxFuture<'a, Result<Completion>> {
        within(self.patience(), Resource::commit(self, branch))
    }

    fn rollback<'a>(
        &'a self,
        branch: &'a Branch,
        cluster: &'a ClusterId,
    ) -> BoxFuture<'a, Result<Completion>> {
        within(self.patience(), Resource::rollback(self, branch, cluster))
    }

    fn commit_one_phase(&self, call: PhaseOne) -> BoxFuture<'_, Result<OnePhase>> {
        within(self.patience(), Resource::commit_one_phase(self, call))
    }

    fn in_doubt<'a>(&'a self, participant: &'a ParticipantName) -> BoxFuture<'a, Result<Vec<InDoubt>>> {
        within(self.patience(), Resource::in_doubt(self, participant))
    }

    fn forget_before<'a>(&'a self, horizon: &'a Horizon) -> BoxFuture<'a, Result<Cleaned>> {
        within(self.patience(), Resource::forget_before(self, horizon))
    }
}

fn within<'a, T>(
    patience: Option<Duration>,
    call: impl Future<Output = Result<T>> + Send + 'a,
) -> BoxFuture<'a, Result<T>> {
    let Some(patience) = patience else { return Box::pin(call) };
    Box::pin(async move {
        let silent = |_| Err(Failure::again(format!("the resource did not answer within {patience:?}")));
        tokio::time::timeout(patience, call).await.unwrap_or_else(silent)
    })
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    /// Its server's machine has lost its power.
    struct Silent;

    impl Resource for Silent {
        fn protocol(&self) -> Protocol {
            Protocol::TwoPhase
        }

        fn patience(&self) -> Option<Duration> {
            Some(Duration::from_mins(1))
        }

        async fn phase_one(&self, _: PhaseOne) -> Result<Granted> {
            pending().await
        }

        async fn commit(&self, _: &Branch) -> Result<Completion> {
            pending().await
        }

        async fn rollback(&self, _: &Branch, _: &ClusterId) -> Result<Completion> {
            pending().await
        }

        async fn commit_one_phase(&self, _: PhaseOne) -> Result<OnePhase> {
            pending().await
        }

        async fn in_doubt(&self, _: &ParticipantName) -> Result<Vec<InDoubt>> {
            pending().await
        }

        async fn forget_before(&self, _: &Horizon) -> Result<Cleaned> {
            pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn call_that_is_never_answered_is_given_up() {
        let (silent, cluster): (&dyn AnyResource, _) = (&Silent, ClusterId::from("cluster-1"));
        let xid: assent_proto::TxId = "00000000-0000-8000-8000-004000000000".parse().unwrap();
        let branch = Branch::new(xid, "a".parse().unwrap(), "shop/stock".parse().unwrap());
        let call = || PhaseOne {
            branch: branch.clone(),
            cluster: cluster.clone(),
            request: Bytes::new(),
            reservation: None,
        };
        let horizon = Horizon { cluster: cluster.clone(), before: xid.order() };
        let calls = async {
            [
                silent.phase_one(call()).await.unwrap_err(),
                silent.commit(&branch).await.unwrap_err(),
                silent.rollback(&branch, &cluster).await.unwrap_err(),
                silent.commit_one_phase(call()).await.unwrap_err(),
                silent.in_doubt(branch.participant()).await.unwrap_err(),
                silent.forget_before(&horizon).await.unwrap_err(),
            ]
        };
        let failures = tokio::time::timeout(Duration::from_hours(1), calls).await.unwrap();
        for failure in failures {
            assert_eq!(failure.refusal(), None);
            assert_eq!(failure.to_string(), "the resource did not answer within 60s");
        }
    }
}
