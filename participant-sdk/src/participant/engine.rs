//! Carries out calls on the resource, whichever way they came: one at a time for each branch, and no more at once than
//! the participant takes on.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use assent_proto::v1 as pb;
use bytes::Bytes;
use foldhash::fast::RandomState;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use super::doubts::{Doubts, Due};
use crate::barrier::Completion;
use crate::branch::{Branch, ClusterId, Horizon, ParticipantName, Protocol};
use crate::crash_point;
use crate::error::{Failure, Result, refuse};
use crate::resource::{
    AnyResource, Cleaned, Granted, OnePhase, PhaseOne, Reservation, ReservationClass, Vote,
};

/// Calls of one branch that may be under way or wait for their turn; further ones come again. A call that hangs is
/// repeated for ever, and its repetitions must not take up the room of all other branches.
const BRANCH_CALLS_MAX: usize = 4;

/// Reasons and errors are sent up to here: the coordinator keeps no more.
const TEXT_BYTES_MAX: usize = 1024;

/// The shortest time to live that is granted: messages count in milliseconds, and 0 there means no expiry.
const RESERVATION_MIN: Duration = Duration::from_millis(1);

pub(crate) struct Engine {
    name: ParticipantName,
    resource: Box<dyn AnyResource>,
    rules: Rules,
    locks: Arc<Locks>,
    permits: Arc<Semaphore>,
    doubts: Mutex<Doubts>,
    /// Told when there may be something to do earlier than it seemed.
    doubts_changed: Notify,
    /// The coordinator last heard of.
    cluster: Mutex<ClusterId>,
    /// The horizon that the resource has been cleared up to.
    cleared: tokio::sync::Mutex<Option<Horizon>>,
}

/// What the author set for the participant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) max_in_flight: u32,
    pub(crate) max_reservation: Option<Duration>,
    pub(crate) class: ReservationClass,
    pub(crate) asking: Asking,
}

/// Whether there is a coordinator that can be asked for decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asking {
    Coordinator,
    Nobody,
}

/// A phase-one call as it came in, whatever way.
pub(crate) struct Asked {
    pub(crate) branch: Branch,
    pub(crate) cluster: ClusterId,
    pub(crate) protocol: Protocol,
    pub(crate) request: Bytes,
    /// Absent: no expiry is asked for.
    pub(crate) ttl: Option<Duration>,
}

impl Engine {
    pub(crate) fn new(
        name: ParticipantName,
        resource: Box<dyn AnyResource>,
        rules: Rules,
        doubts: Doubts,
    ) -> Engine {
        Engine {
            name,
            resource,
            rules,
            locks: Arc::default(),
            permits: Arc::new(Semaphore::new(permits(rules.max_in_flight))),
            doubts: Mutex::new(doubts),
            doubts_changed: Notify::new(),
            cluster: Mutex::default(),
            cleared: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn name(&self) -> &ParticipantName {
        &self.name
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.resource.protocol()
    }

    /// The branch of this participant that a coordinator names, or what is wrong with the names.
    pub(crate) fn branch(&self, xid: &str, id: &str) -> Result<Branch> {
        Ok(Branch::new(xid.parse()?, id.parse()?, self.name.clone()))
    }

    /// Room among the calls in flight, if there is some now.
    pub(crate) fn try_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// Waits for room among the calls in flight.
    pub(crate) async fn permit(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        permit.expect("the semaphore is never closed")
    }

    /// Waits until nothing is in flight.
    pub(crate) async fn idle(&self) {
        let all = self.permits.acquire_many(self.rules.max_in_flight).await;
        drop(all.expect("the semaphore is never closed"));
    }

    pub(crate) async fn phase_one(&self, asked: Asked) -> Result<Granted> {
        let _turn = Locks::lock(&self.locks, &asked.branch).await?;
        let branch = asked.branch.clone();
        let granted = self.resource.phase_one(self.admit(asked)?).await?;
        crash_point!("vote-kept");
        if let Vote::Prepared(_) = granted.vote {
            self.hold(branch, granted.reservation);
        }
        Ok(granted)
    }

    pub(crate) async fn commit(&self, branch: &Branch) -> Result<Completion> {
        let _turn = Locks::lock(&self.locks, branch).await?;
        crash_point!("commit-received");
        let completion = self.resource.commit(branch).await?;
        crash_point!("commit-applied");
        self.release(branch);
        Ok(completion)
    }

    pub(crate) async fn rollback(&self, branch: &Branch) -> Result<Completion> {
        let _turn = Locks::lock(&self.locks, branch).await?;
        let cluster = self.cluster();
        crash_point!("rollback-received");
        let completion = self.resource.rollback(branch, &cluster).await?;
        crash_point!("rollback-applied");
        self.release(branch);
        Ok(completion)
    }

    pub(crate) async fn commit_one_phase(&self, asked: Asked) -> Result<OnePhase> {
        let _turn = Locks::lock(&self.locks, &asked.branch).await?;
        let branch = asked.branch.clone();
        let done = self.resource.commit_one_phase(self.admit(asked)?).await?;
        crash_point!("one-phase-applied");
        self.release(&branch);
        Ok(done)
    }

    /// A vote as it is sent.
    pub(crate) fn vote(&self, granted: Granted) -> pb::PhaseOneResult {
        let (vote, reply) = match granted.vote {
            Vote::Prepared(reply) => (pb::Vote::Prepared, reply),
            Vote::ReadOnly(reply) => (pb::Vote::ReadOnly, reply),
        };
        let class = match granted.reservation.map(|held| held.class) {
            None => pb::ReservationClass::Unspecified,
            Some(ReservationClass::Cooperative) => pb::ReservationClass::Cooperative,
            Some(ReservationClass::Autonomous) => pb::ReservationClass::Autonomous,
        };
        pb::PhaseOneResult {
            vote: vote.into(),
            reason: String::new(),
            reply,
            reservation_ttl_ms: granted.reservation.map_or(0, |held| millis(held.ttl)),
            reservation_class: class.into(),
            inquires: self.asks() && self.resource.inquires(),
        }
    }

    /// Loads what the resource says is in doubt. What is known already keeps its timer.
    pub(crate) async fn load_doubts(&self) -> Result<usize> {
        let in_doubt = self.resource.in_doubt(&self.name).await?;
        let count = in_doubt.len();
        for doubt in in_doubt {
            // A call that finished meanwhile may have ended it; asking about that is harmless.
            self.hold(doubt.branch, doubt.reservation);
        }
        Ok(count)
    }

    /// Takes up what the resource said was in doubt at the last look, and still says: `seen` is what it said then, and
    /// becomes what it says now. Branches that are under way in some replica come and go between two looks.
    pub(crate) async fn load_lingering_doubts(&self, seen: &mut HashSet<Branch>) -> Result<()> {
        let in_doubt = self.resource.in_doubt(&self.name).await?;
        let now = in_doubt.iter().map(|doubt| doubt.branch.clone()).collect();
        let before = std::mem::replace(seen, now);
        for doubt in in_doubt.into_iter().filter(|doubt| before.contains(&doubt.branch)) {
            self.hold(doubt.branch, doubt.reservation);
        }
        Ok(())
    }

    /// Everything in doubt is to be asked about now.
    pub(crate) fn ask_about_all(&self) {
        self.lock_doubts().all_due(Instant::now());
        self.doubts_changed.notify_one();
    }

    /// This branch is to be asked about now.
    pub(crate) fn ask_about(&self, branch: &Branch) {
        self.lock_doubts().make_due(branch, Instant::now());
        self.doubts_changed.notify_one();
    }

    pub(crate) fn take_due(&self, max: usize) -> Vec<Due> {
        self.lock_doubts().take_due(Instant::now(), max)
    }

    /// Waits until something may be due.
    pub(crate) async fn until_due(&self) {
        let changed = self.doubts_changed.notified();
        let next = self.lock_doubts().next();
        match next {
            None => changed.await,
            Some(next) => tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = changed => {}
            },
        }
    }

    /// Does what the coordinator answered. Results for branches that are in doubt no more are passed over.
    pub(crate) fn answered(self: &Arc<Self>, results: Vec<pb::InquiryResult>) {
        for result in results {
            crash_point!("inquiry-answered");
            let answer = result.answer();
            let Ok(branch) = self.branch(&result.xid, &result.branch_id) else {
                tracing::warn!(xid = result.xid, branch = result.branch_id, "answer names no branch");
                continue;
            };
            if !self.lock_doubts().contains(&branch) {
                continue;
            }
            match answer {
                pb::InquiryAnswer::Commit => self.finish(branch, Decision::Commit),
                pb::InquiryAnswer::Abort => self.finish(branch, Decision::Abort),
                pb::InquiryAnswer::Pending | pb::InquiryAnswer::Unspecified => {}
                pb::InquiryAnswer::Foreign => tracing::error!(
                    xid = %branch.xid(), branch = %branch.id(),
                    "in doubt, and the coordinator has never lived through this transaction's epoch: its log was \
                     wiped or restored, or it is another cluster's; the branch is held until a person settles it"
                ),
            }
        }
    }

    /// Ends a branch that is in doubt, in a task of its own. If that fails the branch stays in doubt and is asked about
    /// again. While it is being ended, further answers are passed over.
    pub(crate) fn finish(self: &Arc<Self>, branch: Branch, decision: Decision) {
        if !self.lock_doubts().begin_ending(&branch) {
            return;
        }
        let ending = Ending { engine: Arc::clone(self), branch };
        tokio::spawn(async move {
            let Ending { engine, branch } = &ending;
            let _permit = engine.permit().await;
            let done = match decision {
                Decision::Commit => engine.commit(branch).await,
                Decision::Abort | Decision::Expire => engine.rollback(branch).await,
            };
            crash_point!("doubt-settled", if done.is_ok());
            let (xid, id) = (branch.xid(), branch.id());
            match done {
                Ok(completion) => tracing::info!(%xid, branch = %id, ?decision, ?completion, "doubt settled"),
                Err(failure) => {
                    tracing::warn!(%xid, branch = %id, ?decision, error = %failure, "doubt not settled yet");
                }
            }
        });
    }

    pub(crate) fn learn_cluster(&self, cluster: &ClusterId) {
        if cluster.is_known() {
            self.cluster.lock().unwrap_or_else(PoisonError::into_inner).clone_from(cluster);
        }
    }

    pub(crate) fn cluster(&self) -> ClusterId {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Clears the resource up to a horizon, in a task of its own.
    pub(crate) fn learn_horizon(self: &Arc<Self>, horizon: &pb::Horizon) {
        let Some(horizon) = Horizon::from_pb(horizon) else {
            tracing::warn!(before = horizon.before, "horizon cannot be read");
            return;
        };
        self.learn_cluster(&horizon.cluster);
        let engine = Arc::clone(self);
        tokio::spawn(async move {
            // One cleaner at a time; whoever comes meanwhile leaves it to the next horizon.
            let Ok(mut cleared) = engine.cleared.try_lock() else { return };
            if cleared
                .as_ref()
                .is_some_and(|old| old.cluster == horizon.cluster && old.before >= horizon.before)
            {
                return;
            }
            crash_point!("horizon-learnt");
            loop {
                let cleaned = engine.resource.forget_before(&horizon).await;
                crash_point!("rows-cleared", if cleaned.is_ok());
                match cleaned {
                    Ok(Cleaned::Partly) => tokio::task::yield_now().await,
                    Ok(Cleaned::Wholly) => break *cleared = Some(horizon),
                    Err(failure) => break tracing::warn!(error = %failure, "barrier rows were not cleared"),
                }
            }
        });
    }

    /// Checks the protocol and grants the reservation.
    fn admit(&self, asked: Asked) -> Result<PhaseOne> {
        self.learn_cluster(&asked.cluster);
        let own = self.resource.protocol();
        if asked.protocol != own {
            return Err(refuse(format!("{} takes part by {own}, not by {}", self.name, asked.protocol)));
        }
        let ttl = match (asked.ttl, self.rules.max_reservation) {
            (Some(asked), Some(max)) => Some(asked.min(max)),
            (one, other) => one.or(other),
        };
        let reservation = match own {
            Protocol::TwoPhase => None,
            Protocol::Tcc => {
                ttl.map(|ttl| Reservation { ttl: ttl.max(RESERVATION_MIN), class: self.rules.class })
            }
        };
        Ok(PhaseOne { branch: asked.branch, cluster: asked.cluster, request: asked.request, reservation })
    }

    fn hold(&self, branch: Branch, reservation: Option<Reservation>) {
        // With nobody to ask, all that can come due is the end of an autonomous reservation.
        let expires_alone = reservation.is_some_and(|held| held.class == ReservationClass::Autonomous);
        if self.asks() || expires_alone {
            let mut doubts = self.lock_doubts();
            let before = doubts.next();
            doubts.add(branch, reservation, Instant::now());
            if before.is_none() || doubts.next() < before {
                self.doubts_changed.notify_one();
            }
        }
    }

    fn release(&self, branch: &Branch) {
        self.lock_doubts().remove(branch);
    }

    fn asks(&self) -> bool {
        self.rules.asking == Asking::Coordinator
    }

    fn lock_doubts(&self) -> MutexGuard<'_, Doubts> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a branch in doubt is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The coordinator decided so.
    Commit,
    /// The coordinator decided so, or never heard of it.
    Abort,
    /// An autonomous reservation has run out.
    Expire,
}

/// A branch that is being ended by an answer; gives up the claim when it is dropped, after a panic too.
struct Ending {
    engine: Arc<Engine>,
    branch: Branch,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.engine.lock_doubts().end_ending(&self.branch);
    }
}

type Table = HashMap<Branch, VecDeque<oneshot::Sender<Turn>>, RandomState>;

/// One turn at a time for each branch, so that a slow branch holds up no other.
#[derive(Default)]
struct Locks {
    /// Branches that have a call under way, and those who wait for the next turn.
    taken: Mutex<Table>,
}

/// A branch's turn; goes to the next in line when it is dropped.
struct Turn {
    locks: Arc<Locks>,
    /// Absent: it was handed on.
    branch: Option<Branch>,
}

impl Locks {
    async fn lock(locks: &Arc<Locks>, branch: &Branch) -> Result<Turn> {
        let turn = match locks.table().entry(branch.clone()) {
            Entry::Vacant(free) => {
                free.insert(VecDeque::new());
                return Ok(Turn { locks: Arc::clone(locks), branch: Some(branch.clone()) });
            }
            Entry::Occupied(mut taken) => {
                let line = taken.get_mut();
                line.retain(|next| !next.is_closed());
                if line.len() + 1 >= BRANCH_CALLS_MAX {
                    let trouble = format!("{BRANCH_CALLS_MAX} calls of branch {branch} are still under way");
                    return Err(Failure::again(trouble));
                }
                let (next, turn) = oneshot::channel();
                line.push_back(next);
                turn
            }
        };
        Ok(turn.await.expect("a turn is handed on, never dropped"))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(mut branch) = self.branch.take() else { return };
        let mut table = self.locks.table();
        while let Some(next) = table.get_mut(&branch).and_then(VecDeque::pop_front) {
            match next.send(Turn { locks: Arc::clone(&self.locks), branch: Some(branch) }) {
                Ok(()) => return,
                // This one has given up waiting.
                Err(mut turn) => branch = turn.branch.take().expect("it comes back as it was sent"),
            }
        }
        table.remove(&branch);
    }
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// 0 stands for none.
pub(crate) fn ttl(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

pub(crate) fn completion(completion: Completion) -> pb::Completion {
    match completion {
        Completion::Done => pb::Completion::Done,
        Completion::UnknownBranch => pb::Completion::UnknownBranch,
        Completion::HeuristicCommit => pb::Completion::HeuristicCommit,
        Completion::HeuristicRollback => pb::Completion::HeuristicRollback,
        Completion::Hazard => pb::Completion::HeuristicHazard,
    }
}

/// The vote that says no, or the trouble that is no vote.
pub(crate) fn refused(failure: Failure) -> Result<pb::PhaseOneResult> {
    match failure.refusal() {
        None => Err(failure),
        Some(reason) => Ok(pb::PhaseOneResult {
            vote: pb::Vote::Refused.into(),
            reason: clipped(reason.to_owned()),
            ..pb::PhaseOneResult::default()
        }),
    }
}

/// A text for people as long as it is sent at most. One without bound could break the stream that carries it.
pub(crate) fn clipped(mut text: String) -> String {
    let end = (0..=text.len().min(TEXT_BYTES_MAX)).rev().find(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or(0));
    text
}

fn permits(max_in_flight: u32) -> usize {
    usize::try_from(max_in_flight).expect("32 bits fit")
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn branch() -> Branch {
        let xid = "00000000-0000-8000-8000-004000000000".parse().unwrap();
        Branch::new(xid, "a".parse().unwrap(), "shop/stock".parse().unwrap())
    }

    #[tokio::test]
    async fn turn_passes_over_those_who_gave_up_waiting_for_it() {
        let (locks, branch) = (Arc::new(Locks::default()), branch());
        let first = Locks::lock(&locks, &branch).await.unwrap();
        let [mut gives_up, mut waits] = [(), ()].map(|()| Box::pin(Locks::lock(&locks, &branch)));
        assert!(gives_up.as_mut().now_or_never().is_none() && waits.as_mut().now_or_never().is_none());
        drop(gives_up);
        drop(first);
        let second = waits.as_mut().now_or_never().expect("it is its turn").unwrap();
        drop(second);
        assert!(locks.table().is_empty(), "a branch without calls is kept");
    }

    #[tokio::test]
    async fn turn_that_came_to_one_who_had_just_given_up_goes_on_to_the_next() {
        let (locks, branch) = (Arc::new(Locks::default()), branch());
        let first = Locks::lock(&locks, &branch).await.unwrap();
        let [mut gives_up, mut waits] = [(), ()].map(|()| Box::pin(Locks::lock(&locks, &branch)));
        assert!(gives_up.as_mut().now_or_never().is_none() && waits.as_mut().now_or_never().is_none());
        drop(first);
        assert!(waits.as_mut().now_or_never().is_none(), "another is before it");
        drop(gives_up);
        drop(waits.as_mut().now_or_never().expect("it is its turn").unwrap());
        assert!(locks.table().is_empty(), "a branch without calls is kept");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(clipped("out of stock".into()), "out of stock");
        let long = format!("x{}", "ö".repeat(TEXT_BYTES_MAX));
        assert_eq!(clipped(long), format!("x{}", "ö".repeat((TEXT_BYTES_MAX - 1) / 2)));
        assert_eq!(clipped("x".repeat(TEXT_BYTES_MAX)).len(), TEXT_BYTES_MAX);
    }
}
