//! One participant's sessions: which replica gets a call, and how many are out at a time.

use std::collections::{BTreeSet, VecDeque};

use tokio::sync::mpsc;

use super::session::Outgoing;
use crate::core::{BranchId, Call, Map, Operation, Replica, TxId, WallTime};

/// The calls to one participant that keeps sessions.
#[derive(Debug, Default)]
pub(super) struct Lane {
    sessions: Vec<OpenSession>,
    /// Branches with a call out, and the replica that has it.
    in_flight: Map<BranchKey, InFlight>,
    /// Branches whose call waits for room; the latest call of each, in order of the first.
    queue: VecDeque<BranchKey>,
    queued: Map<BranchKey, Call>,
    turn: usize,
    pub paused: bool,
}

pub type BranchKey = (TxId, BranchId);

#[derive(Debug)]
struct InFlight {
    replica: Replica,
    operation: Operation,
}

#[derive(Debug)]
pub(super) struct OpenSession {
    pub replica: Replica,
    pub outbox: mpsc::Sender<Outgoing>,
    pub draining: bool,
    pub view: SessionView,
}

/// A session, for people.
#[derive(Clone, Debug)]
pub struct SessionView {
    pub instance_id: String,
    pub agent: String,
    pub peer: String,
    pub connected_at: WallTime,
}

/// A participant, for people.
#[derive(Clone, Debug)]
pub struct LaneView {
    pub sessions: Vec<SessionView>,
    pub paused: bool,
    pub in_flight: usize,
    pub queued: usize,
}

impl Lane {
    pub fn open(&mut self, session: OpenSession) {
        self.sessions.push(session);
    }

    /// Closes a session and gives the calls that it takes along. What is queued goes to the other sessions.
    pub fn close(&mut self, replica: Replica, max_in_flight: usize) -> Vec<(BranchKey, Operation)> {
        self.sessions.retain(|session| session.replica != replica);
        let lost: BTreeSet<_> = self
            .in_flight
            .iter()
            .filter(|(_, call)| call.replica == replica)
            .map(|(key, _)| key.clone())
            .collect();
        let mut lost: Vec<_> = lost
            .into_iter()
            .filter_map(|key| self.in_flight.remove(&key).map(|call| (key, call.operation)))
            .collect();
        if self.sessions.is_empty() {
            self.queue.clear();
            lost.extend(self.queued.drain().map(|(key, call)| (key, call.operation)));
        }
        // The places of the lost calls are free, and perhaps no answer is to come that would say so.
        self.send_queued(max_in_flight);
        lost
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty() && !self.paused
    }

    pub fn drain(&mut self, replica: Replica) {
        for session in &mut self.sessions {
            session.draining |= session.replica == replica;
        }
    }

    /// Sends the call, or queues it. `Some`: nobody is there to take it.
    #[must_use = "a call that nobody takes must be reported"]
    pub fn call(&mut self, call: Call, max_in_flight: usize) -> Option<Call> {
        if self.sessions.is_empty() {
            return Some(call);
        }
        let key = (call.tx, call.branch.clone());
        // A branch has one place, whatever it is called for: a repeated call, or a rollback that follows a prepare.
        if self.in_flight.contains_key(&key)
            || (self.in_flight.len() < max_in_flight && self.queue.is_empty())
        {
            return self.send(key, call);
        }
        if self.queued.insert(key.clone(), call).is_none() {
            self.queue.push_back(key);
        }
        None
    }

    /// A branch has answered: its place is free. False: no call to it is out, so this is not an answer: one to a
    /// branch of somebody else, or a repetition. (One to a call on a connection that was lost is made again.)
    pub fn answered(&mut self, key: &BranchKey, operation: Operation, max_in_flight: usize) -> bool {
        let Some(call) = self.in_flight.get(key) else { return false };
        if call.operation == operation {
            self.in_flight.remove(key);
        }
        self.send_queued(max_in_flight);
        true
    }

    /// No answer for this branch is to come any more: its place is free.
    pub fn give_up(&mut self, key: &BranchKey, max_in_flight: usize) {
        self.in_flight.remove(key);
        if self.queued.remove(key).is_some() {
            self.queue.retain(|queued| queued != key);
        }
        self.send_queued(max_in_flight);
    }

    /// Stops sending what is queued, or goes on with it. New calls to a paused participant are refused elsewhere.
    pub fn set_paused(&mut self, paused: bool, max_in_flight: usize) {
        self.paused = paused;
        self.send_queued(max_in_flight);
    }

    fn send_queued(&mut self, max_in_flight: usize) {
        if self.paused {
            return;
        }
        while self.in_flight.len() < max_in_flight
            && let Some(key) = self.queue.pop_front()
        {
            let call = self.queued.remove(&key).expect("what is queued has its call");
            let unsent = self.send(key, call);
            debug_assert!(unsent.is_none(), "without sessions the queue is empty");
        }
    }

    pub fn view(&self) -> LaneView {
        LaneView {
            sessions: self.sessions.iter().map(|session| session.view.clone()).collect(),
            paused: self.paused,
            in_flight: self.in_flight.len(),
            queued: self.queued.len(),
        }
    }

    fn send(&mut self, key: BranchKey, call: Call) -> Option<Call> {
        let Some(session) = self.pick(&call) else { return Some(call) };
        let in_flight = InFlight { replica: session.replica, operation: call.operation };
        // A session that is just closing loses the call, and says so when it has closed. One whose participant does not
        // read loses it too: it keeps its place, and is repeated when its time is over.
        let _ = session.outbox.try_send(Outgoing::Call(call));
        self.in_flight.insert(key, in_flight);
        None
    }

    /// The replica that voted, if it is here; else the next in turn that is not about to leave. Every second attempt goes
    /// by turns in any case: the replica that voted may hang, and another do what it does not.
    fn pick(&mut self, call: &Call) -> Option<&OpenSession> {
        let prefer = call.prefer.filter(|_| call.attempt % 2 == 1);
        let preferred = self.sessions.iter().position(|session| Some(session.replica) == prefer);
        let in_turn = || {
            let count = self.sessions.len();
            let order = (0..count).map(|offset| (self.turn + offset) % count);
            order.clone().find(|&at| !self.sessions[at].draining).or_else(|| order.clone().next())
        };
        let at = preferred.or_else(in_turn)?;
        if preferred.is_none() {
            self.turn = at + 1;
        }
        self.sessions.get(at)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::core::{Epoch, Protocol, Shard};

    fn call(n: u64, operation: Operation) -> Call {
        Call {
            tx: TxId::new(n, 0, Epoch(1), Shard(0), 0),
            branch: BranchId::numbered(1),
            participant: "shop/stock".parse().unwrap(),
            endpoint: None,
            protocol: Protocol::TwoPhase,
            operation,
            payload: Bytes::new(),
            reservation_ttl: std::time::Duration::ZERO,
            attempt: 1,
            prefer: None,
        }
    }

    fn open(lane: &mut Lane, replica: u64) -> mpsc::Receiver<Outgoing> {
        let (outbox, sent) = mpsc::channel(8);
        let view = SessionView {
            instance_id: String::new(),
            agent: String::new(),
            peer: String::new(),
            connected_at: WallTime(0),
        };
        lane.open(OpenSession { replica: Replica(replica), outbox, draining: false, view });
        sent
    }

    fn sent(outbox: &mut mpsc::Receiver<Outgoing>) -> Vec<(u64, Operation)> {
        std::iter::from_fn(|| outbox.try_recv().ok())
            .map(|outgoing| match outgoing {
                Outgoing::Call(call) => (call.tx.time_ms(), call.operation),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn calls_past_the_limit_wait_until_one_is_answered() {
        let mut lane = Lane::default();
        let mut outbox = open(&mut lane, 1);
        for n in 1..=4 {
            assert_eq!(lane.call(call(n, Operation::PhaseOne), 2), None);
        }
        assert_eq!(sent(&mut outbox), [(1, Operation::PhaseOne), (2, Operation::PhaseOne)]);
        let first = call(1, Operation::PhaseOne);
        assert!(lane.answered(&(first.tx, first.branch), Operation::PhaseOne, 2));
        assert_eq!(sent(&mut outbox), [(3, Operation::PhaseOne)]);
    }

    #[test]
    fn a_paused_participant_gets_nothing_that_is_queued_until_it_is_resumed() {
        let mut lane = Lane::default();
        let mut outbox = open(&mut lane, 1);
        for n in 1..=2 {
            assert_eq!(lane.call(call(n, Operation::PhaseOne), 1), None);
        }
        lane.set_paused(true, 1);
        let first = call(1, Operation::PhaseOne);
        assert!(lane.answered(&(first.tx, first.branch), Operation::PhaseOne, 1));
        assert_eq!(sent(&mut outbox), [(1, Operation::PhaseOne)]);
        lane.set_paused(false, 1);
        assert_eq!(sent(&mut outbox), [(2, Operation::PhaseOne)]);
    }

    #[test]
    fn a_rollback_takes_the_place_of_its_queued_prepare() {
        let mut lane = Lane::default();
        let mut outbox = open(&mut lane, 1);
        assert_eq!(lane.call(call(1, Operation::PhaseOne), 1), None);
        assert_eq!(lane.call(call(2, Operation::PhaseOne), 1), None);
        assert_eq!(lane.call(call(2, Operation::Rollback), 1), None);
        assert_eq!(lane.call(call(1, Operation::Rollback), 1), None);
        assert_eq!(sent(&mut outbox), [(1, Operation::PhaseOne), (1, Operation::Rollback)]);
        let first = call(1, Operation::PhaseOne);
        assert!(lane.answered(&(first.tx, first.branch.clone()), Operation::PhaseOne, 1));
        assert_eq!(sent(&mut outbox), []);
        assert!(lane.answered(&(first.tx, first.branch.clone()), Operation::Rollback, 1));
        assert_eq!(sent(&mut outbox), [(2, Operation::Rollback)]);
        assert!(!lane.answered(&(first.tx, first.branch), Operation::Rollback, 1), "it was answered already");
    }

    #[test]
    fn a_lost_session_gives_back_its_calls_and_the_others_take_over() {
        let mut lane = Lane::default();
        let (_one, mut two) = (open(&mut lane, 1), open(&mut lane, 2));
        let preferred = Call { prefer: Some(Replica(1)), ..call(1, Operation::Commit) };
        assert_eq!(lane.call(preferred.clone(), 8), None);
        assert_eq!(
            lane.close(Replica(1), 8),
            [((preferred.tx, preferred.branch.clone()), Operation::Commit)]
        );
        assert_eq!(lane.call(preferred, 8), None);
        assert_eq!(sent(&mut two), [(1, Operation::Commit)]);
        lane.close(Replica(2), 8);
        assert!(lane.call(call(3, Operation::PhaseOne), 8).is_some());
    }

    #[test]
    fn what_is_queued_goes_to_the_others_when_the_session_with_all_places_is_lost() {
        let mut lane = Lane::default();
        let _one = open(&mut lane, 1);
        for n in 1..=2 {
            assert_eq!(lane.call(call(n, Operation::PhaseOne), 1), None);
        }
        let mut two = open(&mut lane, 2);
        assert_eq!(lane.close(Replica(1), 1).len(), 1);
        assert_eq!(sent(&mut two), [(2, Operation::PhaseOne)]);
    }

    #[test]
    fn repetitions_to_a_participant_that_does_not_read_do_not_pile_up() {
        let mut lane = Lane::default();
        let mut outbox = open(&mut lane, 1);
        for _attempt in 0..100 {
            assert_eq!(lane.call(call(1, Operation::Commit), 1), None);
        }
        assert_eq!(sent(&mut outbox).len(), 8, "as many as there is room for");
        assert_eq!(lane.call(call(1, Operation::Commit), 1), None);
        assert_eq!(sent(&mut outbox).len(), 1);
    }

    #[test]
    fn a_replica_that_voted_and_hangs_does_not_keep_the_decision_from_the_others() {
        let mut lane = Lane::default();
        let (mut one, mut two) = (open(&mut lane, 1), open(&mut lane, 2));
        for attempt in 1..=4 {
            let call = Call { prefer: Some(Replica(1)), attempt, ..call(1, Operation::Commit) };
            assert_eq!(lane.call(call, 8), None);
        }
        assert_eq!((sent(&mut one).len(), sent(&mut two).len()), (3, 1));
    }

    #[test]
    fn a_draining_replica_gets_only_what_it_has_voted_on() {
        let mut lane = Lane::default();
        let (mut one, mut two) = (open(&mut lane, 1), open(&mut lane, 2));
        lane.drain(Replica(1));
        for n in 1..=3 {
            assert_eq!(lane.call(call(n, Operation::PhaseOne), 8), None);
        }
        assert_eq!(lane.call(Call { prefer: Some(Replica(1)), ..call(4, Operation::Commit) }, 8), None);
        assert_eq!((sent(&mut one).len(), sent(&mut two).len()), (1, 3));
    }
}
