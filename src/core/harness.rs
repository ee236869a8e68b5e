//! A driver for tests: an engine, a log that can lose its tail, and the promises that are checked at every step.
//!
//! Scenarios drive it step by step; the model check (`tests/model`) through everything that can happen. A promise that is
//! broken is a panic that begins with the name of the property.

#[cfg(model)]
mod digest;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::{
    Action, Answer, Backoff, BranchState, Decision, Durability, Engine, EngineSettings, Epoch, Event,
    InquiryAnswer, LogWrite, Now, Operation, Outcome, Shard, State, Step, Timestamp, Transaction, TxId,
    WallTime, What,
};

/// Above this many transactions the engine's own check, which looks at each, is left out.
const CHECKED_MAX: usize = 64;

pub(crate) const SETTINGS: EngineSettings = EngineSettings {
    max_active: 100,
    max_branches: 8,
    call_timeout: Duration::from_secs(5),
    backoff: Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(8) },
    reservation_margin: Duration::from_millis(500),
    retention: Duration::from_hours(1),
    retention_max: 1000,
};

/// One life of a coordinator after another, over one log.
#[derive(Clone, Debug)]
pub(crate) struct Harness {
    pub engine: Engine,
    pub settings: EngineSettings,
    pub now: Now,
    epoch: Epoch,
    log: Log,
    /// Actions in order, some of which wait for a write.
    held: VecDeque<Held>,
    /// Per transaction, the position up to which the log must be durable before anything of it is told.
    fences: BTreeMap<TxId, u64>,
    promises: Promises,
}

/// An action that may be carried out once the log is durable up to a position.
#[derive(Clone, Debug)]
struct Held {
    fence: u64,
    subject: Option<TxId>,
    /// The decision when the action was made.
    decision: Option<Decision>,
    action: Action,
}

/// A log as the driver's rule 2 describes it: ordered, and only its synced prefix survives for certain.
#[derive(Clone, Debug, Default)]
struct Log {
    durable: BTreeMap<TxId, Bytes>,
    unsynced: VecDeque<LogWrite>,
    synced: u64,
}

/// What was told, and so must never be contradicted.
#[derive(Clone, Debug, Default)]
struct Promises {
    /// The decision to commit was durable at some time.
    commit_durable: BTreeSet<TxId>,
    /// A heuristic outcome was.
    heuristic_durable: BTreeSet<TxId>,
    delegated: BTreeSet<TxId>,
    /// What branches were told in phase two.
    phase_two: BTreeMap<TxId, Operation>,
    outcomes: BTreeMap<TxId, Outcome>,
}

impl Harness {
    pub fn new(settings: EngineSettings) -> Harness {
        let epoch = Epoch(1);
        Harness {
            engine: Engine::new(settings, epoch, Shard(0), 7),
            settings,
            now: Now { mono: Timestamp::ZERO, wall: WallTime(1_800_000_000_000) },
            epoch,
            log: Log::default(),
            held: VecDeque::new(),
            fences: BTreeMap::new(),
            promises: Promises::default(),
        }
    }

    /// Handles an event and submits its log writes. Its actions come out of [`Harness::released`].
    pub fn submit(&mut self, event: Event) -> Step {
        let step = self.engine.handle(self.now, event);
        self.submit_step(step)
    }

    /// What was handed in, without its actions.
    pub fn submit_step(&mut self, step: Step) -> Step {
        self.check_replay(&step);
        let step = self.submit_unchecked(step);
        if self.engine.counts().active + self.engine.counts().retained <= CHECKED_MAX {
            self.engine.check();
        }
        step
    }

    /// The same, where each state is checked that is reached, and not each step.
    pub fn submit_unchecked(&mut self, mut step: Step) -> Step {
        self.log.unsynced.extend(step.log.iter().cloned());
        let end = self.log.synced + self.log.unsynced.len() as u64;
        if step.durability == Durability::Forced
            && let Some(tx) = step.subject
        {
            self.fences.insert(tx, end);
        }
        let fence = step.subject.and_then(|tx| self.fences.get(&tx).copied()).unwrap_or(0);
        let actions = std::mem::take(&mut step.then);
        let subject = step.subject;
        let decision = subject.and_then(|tx| self.engine.get(tx)).and_then(|tx| tx.decision);
        self.held.extend(actions.into_iter().map(|action| Held { fence, subject, decision, action }));
        step
    }

    /// The actions that may be carried out now, checked.
    pub fn released(&mut self) -> Vec<Action> {
        let synced = self.log.synced;
        let (free, held): (VecDeque<_>, _) =
            std::mem::take(&mut self.held).into_iter().partition(|held| held.fence <= synced);
        self.held = held;
        for held in &free {
            self.promises.check(held);
        }
        free.into_iter().map(|held| held.action).collect()
    }

    /// Makes everything durable that was submitted.
    pub fn sync(&mut self) {
        self.log.keep(usize::MAX, &mut self.promises);
    }

    /// Whether actions wait for a sync.
    #[cfg(model)]
    pub fn holds_actions(&self) -> bool {
        !self.held.is_empty()
    }

    /// How many writes a crash could lose.
    #[cfg(model)]
    pub fn unsynced(&self) -> usize {
        self.log.unsynced.len()
    }

    /// Ends this life; of the writes that are not durable the first `kept` survive. The next life takes the log back and
    /// resumes; returns the steps that this made, their actions in [`Harness::released`] once synced.
    pub fn crash(&mut self, kept: usize) -> Vec<Step> {
        let resumable = self.restart(kept);
        let steps: Vec<_> =
            resumable.into_iter().map(|tx| self.engine.handle(self.now, Event::Resume { tx })).collect();
        let steps = steps.into_iter().map(|step| self.submit_step(step)).collect();
        self.engine.check();
        steps
    }

    /// The same without the resumption: the transactions to go on with.
    pub fn restart(&mut self, kept: usize) -> Vec<TxId> {
        self.held.clear();
        self.fences.clear();
        self.log.keep(kept, &mut self.promises);
        self.log.unsynced.clear();
        self.epoch = Epoch(self.epoch.0 + 1);
        // The monotonic clock starts anew with each process; the wall clock goes on.
        self.now.mono = Timestamp::ZERO;
        self.engine = Engine::new(self.settings, self.epoch, Shard(0), 7 + self.epoch.0);
        for (tx, value) in &self.log.durable {
            self.engine.replay(self.now, *tx, value.to_vec()).expect("what was written can be read");
        }
        self.engine.resumable()
    }

    pub fn pass(&mut self, span: Duration) {
        self.now.mono = self.now.mono + span;
        self.now.wall.0 += u64::try_from(span.as_millis()).expect("it is no age");
    }

    /// The next timer that is due, handled. Call until it returns `None`.
    pub fn due(&mut self) -> Option<Step> {
        let step = self.due_step()?;
        let step = self.submit_step(step);
        let next = step.subject.and_then(|tx| self.engine.get(tx)).and_then(|tx| tx.live.timer);
        assert!(next.is_none_or(|at| at > self.now.mono), "{step:?} is due again at once: a busy loop");
        Some(step)
    }

    /// The same, neither submitted nor checked.
    pub fn due_step(&mut self) -> Option<Step> {
        if let Some(tx) = self.engine.pop_due(self.now.mono) {
            return Some(self.engine.handle(self.now, Event::Due { tx }));
        }
        let step = self.engine.evict(self.now.mono);
        (!step.log.is_empty()).then_some(step)
    }

    /// What the log holds for certain, by transaction.
    pub fn durable(&self) -> &BTreeMap<TxId, Bytes> {
        &self.log.durable
    }

    /// Its records replay to what the engine holds.
    fn check_replay(&self, step: &Step) {
        let Some(live) = step.subject.and_then(|tx| self.engine.get(tx)) else { return };
        check_fold(&live);
        let put = step.log.iter().rev().find_map(|write| match write {
            LogWrite::Put { tx, value } if *tx == live.id => Some(value),
            LogWrite::Put { .. } | LogWrite::Remove { .. } => None,
        });
        assert!(put.is_none_or(|value| *value == live.history), "the log gets all records so far");
    }

    /// What must hold in every state, unless a transaction is still to be resumed.
    #[cfg(model)]
    pub fn check(&self) {
        self.engine.check();
        self.engine.list(None, CHECKED_MAX, |_any| true).0.iter().for_each(|tx| check_fold(tx));
    }
}

/// Its records replay to what it is.
fn check_fold(live: &Transaction) {
    let replayed = Transaction::replay(live.id, live.history.clone()).expect("its records decode");
    assert_eq!(lasting(&replayed), lasting(live), "a replay differs");
}

/// What of a transaction must survive a restart. That phase one was called need not.
fn lasting(tx: &Transaction) -> impl PartialEq + std::fmt::Debug + '_ {
    let state = match tx.state() {
        State::Preparing => State::Active,
        other => other,
    };
    let begun = (tx.id, tx.protocol, &tx.label, tx.timeout, &tx.request);
    let times = (tx.begun_at, tx.decided_at(), tx.ended_at());
    let branches = tx.branches.iter().map(|branch| {
        let state = match branch.state {
            BranchState::Preparing => BranchState::Enlisted,
            other => other,
        };
        let enlisted = (&branch.id, &branch.participant, branch.endpoint(), branch.protocol, branch.inquires);
        (enlisted, state, branch.vote, branch.reason(), branch.reservation_ttl, branch.class)
    });
    (begun, times, state, tx.decision, tx.outcome, &tx.reason, branches.collect::<Vec<_>>())
}

impl Log {
    /// The first `count` unsynced writes become durable.
    fn keep(&mut self, count: usize, promises: &mut Promises) {
        for write in self.unsynced.drain(..count.min(self.unsynced.len())) {
            self.synced += 1;
            match write {
                LogWrite::Put { tx, value } => {
                    promises.durable(tx, &value);
                    self.durable.insert(tx, value);
                }
                LogWrite::Remove { tx } => {
                    self.durable.remove(&tx);
                }
            }
        }
    }
}

impl Promises {
    fn durable(&mut self, tx: TxId, history: &[u8]) {
        for record in super::Record::decode_all(history) {
            match record.expect("its own records decode").what {
                What::Decided { decision: Decision::Commit, .. } => drop(self.commit_durable.insert(tx)),
                What::Ended { outcome: Outcome::Mixed | Outcome::Hazard } => {
                    self.heuristic_durable.insert(tx);
                }
                _other => {}
            }
        }
    }

    fn check(&mut self, held: &Held) {
        match &held.action {
            Action::Call(call) => {
                match call.operation {
                    Operation::CommitOnePhase => drop(self.delegated.insert(call.tx)),
                    Operation::PhaseOne => drop(self.delegated.remove(&call.tx)),
                    Operation::Commit => {
                        assert!(
                            self.commit_durable.contains(&call.tx),
                            "stability: commit was called before it was durable"
                        );
                    }
                    Operation::Rollback => {}
                }
                let phase_two = matches!(call.operation, Operation::Commit | Operation::Rollback);
                if phase_two && held.decision.is_some() {
                    let told = *self.phase_two.entry(call.tx).or_insert(call.operation);
                    assert_eq!(told, call.operation, "stability: both directions were called");
                }
            }
            Action::Answer { answer: Answer::Ended(result), .. } => {
                if let Some(outcome) = result.outcome {
                    self.outcome_told(result.tx, outcome);
                    assert!(
                        !outcome.is_heuristic() || self.heuristic_durable.contains(&result.tx),
                        "stability: {outcome:?} was told before it was durable"
                    );
                    let empty = result.branches.iter().all(|branch| branch.state == BranchState::ReadOnly);
                    assert!(
                        outcome != Outcome::Committed || empty || self.may_tell_commit(result.tx),
                        "stability: committed was told before it was durable"
                    );
                }
            }
            Action::Answer { answer: Answer::Inquiry(InquiryAnswer::Commit), .. } => {
                let tx = held.subject.expect("a commit is of a known transaction");
                assert!(self.may_tell_commit(tx), "stability: commit was answered before it was durable");
            }
            Action::Answer { .. } | Action::Publish(_) => {}
        }
    }

    fn may_tell_commit(&self, tx: TxId) -> bool {
        self.commit_durable.contains(&tx) || self.delegated.contains(&tx)
    }

    /// An outcome may become heuristic, and an operator may clear that. It never changes sides.
    fn outcome_told(&mut self, tx: TxId, outcome: Outcome) {
        match (self.outcomes.get(&tx), outcome) {
            (_, Outcome::Mixed | Outcome::Hazard) => {}
            (Some(Outcome::Committed), Outcome::Aborted) | (Some(Outcome::Aborted), Outcome::Committed) => {
                panic!("stability: {tx} was {:?} and now is {outcome:?}", self.outcomes[&tx]);
            }
            (_, Outcome::Committed | Outcome::Aborted) => drop(self.outcomes.insert(tx, outcome)),
        }
    }
}
