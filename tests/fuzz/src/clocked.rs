//! A driver for the core: a clock that is moved by hand, and a log that can lose its end. It checks what is promised to
//! whoever is told something.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use assent::core::{
    Action, Answer, Backoff, BranchState, Call, Completion, Decision, DecodeError, Durability, Engine,
    EngineSettings, Epoch, Event, LogWrite, Now, Operation, Outcome, PhaseOne, Report, ReservationClass,
    Shard, Step, Timestamp, Transaction, TxId, Vote, Waiter, WallTime,
};
use bytes::Bytes;

/// One life of a coordinator after the other, over one log.
#[derive(Debug)]
pub struct Clocked {
    pub engine: Engine,
    pub now: Now,
    /// Calls that are out.
    pub calls: Vec<Call>,
    /// Every transaction that was ever begun here.
    pub begun: Vec<TxId>,
    epoch: Epoch,
    durable: BTreeMap<TxId, Bytes>,
    unsynced: VecDeque<LogWrite>,
    synced: u64,
    /// Whose commit was durable at some time.
    committed: HashSet<TxId>,
    held: VecDeque<(u64, Action)>,
    fences: HashMap<TxId, u64>,
    /// Whose participant was to decide: what it says is what happened, even if it says one thing and then another.
    delegated: HashSet<TxId>,
    told: HashMap<TxId, Outcome>,
    waiters: u64,
}

const SETTINGS: EngineSettings = EngineSettings {
    max_active: 8,
    max_branches: 4,
    call_timeout: Duration::from_secs(5),
    backoff: Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(8) },
    reservation_margin: Duration::from_millis(500),
    retention: Duration::from_hours(1),
    retention_max: 4,
};

/// More rounds than any end takes: what has not ended by then never will.
const ROUNDS_MAX: usize = 500;

/// The id of the n-th transaction of a first life.
pub fn tx(n: u64) -> TxId {
    TxId::new(n, 0, Epoch(1), Shard(0), 7)
}

impl Clocked {
    #[expect(clippy::new_without_default, reason = "nothing about it is a default")]
    pub fn new() -> Clocked {
        Clocked {
            engine: Engine::new(SETTINGS, Epoch(1), Shard(0), 7),
            now: Now { mono: Timestamp::ZERO, wall: WallTime(1_800_000_000_000) },
            calls: Vec::new(),
            begun: Vec::new(),
            epoch: Epoch(1),
            durable: BTreeMap::new(),
            unsynced: VecDeque::new(),
            synced: 0,
            committed: HashSet::new(),
            held: VecDeque::new(),
            fences: HashMap::new(),
            delegated: HashSet::new(),
            told: HashMap::new(),
            waiters: 0,
        }
    }

    pub fn waiter(&mut self) -> Waiter {
        self.waiters += 1;
        Waiter(self.waiters)
    }

    pub fn handle(&mut self, event: Event) {
        let step = self.engine.handle(self.now, event);
        self.take(step);
        self.engine.check();
    }

    /// Everything that was written is durable, and what waited for it is told.
    pub fn sync(&mut self) {
        self.keep(usize::MAX);
        let (free, held): (VecDeque<_>, _) =
            std::mem::take(&mut self.held).into_iter().partition(|(fence, _)| *fence <= self.synced);
        self.held = held;
        for (_, action) in free {
            self.act(action);
        }
    }

    pub fn pass(&mut self, span: Duration) {
        self.now.mono = self.now.mono + span;
        self.now.wall.0 = self.now.wall.0.saturating_add(u64::try_from(span.as_millis()).unwrap());
        while let Some(tx) = self.engine.pop_due(self.now.mono) {
            self.handle(Event::Due { tx });
        }
        let step = self.engine.evict(self.now.mono);
        self.take(step);
        self.engine.check();
        assert!(self.engine.next_due().is_none_or(|due| due > self.now.mono), "due again at once");
    }

    /// Of what is not durable, so many writes survive.
    pub fn crash(&mut self, kept: usize) {
        self.keep(kept);
        self.unsynced.clear();
        self.held.clear();
        self.fences.clear();
        self.calls.clear();
        self.epoch = Epoch(self.epoch.0 + 1);
        self.now.mono = Timestamp::ZERO;
        self.engine = Engine::new(SETTINGS, self.epoch, Shard(0), 7);
        for (tx, value) in &self.durable {
            self.engine.replay(self.now, *tx, value.to_vec()).expect("it was written by the core");
        }
    }

    /// Takes a history for what the log holds, before anything else.
    pub fn replay(&mut self, tx: TxId, history: Vec<u8>) -> Result<(), DecodeError> {
        self.engine.replay(self.now, tx, history.clone())?;
        let transaction = self.engine.get(tx).expect("it was just taken");
        if transaction.decision == Some(Decision::Commit) {
            self.committed.insert(tx);
        }
        self.durable.insert(tx, history.into());
        Ok(())
    }

    /// Goes on with what the log holds.
    pub fn resume(&mut self) {
        for tx in self.engine.resumable() {
            let step = self.engine.handle(self.now, Event::Resume { tx });
            self.take(step);
        }
        self.engine.check();
    }

    /// From now on all are honest, nothing is lost, and so everything ends.
    pub fn finish(&mut self) {
        for _ in 0..ROUNDS_MAX {
            self.sync();
            for call in std::mem::take(&mut self.calls) {
                self.handle(honest(call));
            }
            self.sync();
            if self.engine.counts().active == 0 {
                return;
            }
            let due = self.engine.next_due().expect("what is open is looked at some time");
            self.pass(due.since(self.now.mono));
        }
        panic!("{} never end", self.engine.counts().active);
    }

    fn take(&mut self, step: Step) {
        let Step { subject, log, durability, then, ended: _ } = step;
        self.unsynced.extend(log);
        if let Some(tx) = subject {
            if durability == Durability::Forced {
                self.fences.insert(tx, self.synced + self.unsynced.len() as u64);
            }
            self.compare(tx);
        }
        let fence = subject.and_then(|tx| self.fences.get(&tx).copied()).unwrap_or(0);
        self.held.extend(then.into_iter().map(|action| (fence, action)));
    }

    /// What it is now, its records make.
    fn compare(&mut self, tx: TxId) {
        let Some(live) = self.engine.get(tx) else { return };
        if live.delegated {
            self.delegated.insert(tx);
        }
        let replayed = Transaction::replay(tx, live.history.clone()).expect("its records make a transaction");
        assert_eq!(lasting(&replayed), lasting(&live));
    }

    fn keep(&mut self, count: usize) {
        for write in self.unsynced.drain(..count.min(self.unsynced.len())) {
            self.synced += 1;
            match write {
                LogWrite::Put { tx, value } => {
                    let transaction = Transaction::replay(tx, value.to_vec()).expect("it was just made");
                    if transaction.decision == Some(Decision::Commit) {
                        self.committed.insert(tx);
                    }
                    self.durable.insert(tx, value);
                }
                LogWrite::Remove { tx } => drop(self.durable.remove(&tx)),
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Call(call) => {
                if call.operation == Operation::Commit {
                    assert!(self.committed.contains(&call.tx), "{} was told before it was durable", call.tx);
                }
                self.calls.push(call);
            }
            Action::Answer { answer: Answer::Begun { tx, .. }, .. } => self.begun.push(tx),
            Action::Answer { answer: Answer::Ended(result), .. } => {
                self.begun.push(result.tx);
                if let Some(outcome) = result.outcome {
                    self.told(result.tx, outcome);
                }
            }
            Action::Answer { .. } | Action::Publish(_) => {}
        }
    }

    /// An outcome that was told may turn out heuristic, and be settled. It never changes sides.
    fn told(&mut self, tx: TxId, outcome: Outcome) {
        if outcome.is_heuristic() || self.delegated.contains(&tx) {
            return;
        }
        let before = self.told.insert(tx, outcome);
        assert!(before.is_none_or(|before| before == outcome), "{tx} was {before:?} and is {outcome:?}");
    }
}

/// What a participant says that does as it is told.
fn honest(call: Call) -> Event {
    let report = match call.operation {
        Operation::PhaseOne => Report::Voted { result: vote(Vote::Prepared), replica: None },
        Operation::Commit | Operation::Rollback | Operation::CommitOnePhase => {
            Report::Completed { completion: Completion::Done, detail: "".into(), reply: Bytes::new() }
        }
    };
    Event::Reported { tx: call.tx, branch: call.branch, operation: call.operation, report }
}

pub fn vote(vote: Vote) -> PhaseOne {
    PhaseOne {
        vote,
        reason: "".into(),
        reply: Bytes::new(),
        reservation_ttl: Duration::ZERO,
        class: ReservationClass::Cooperative,
    }
}

/// What of a transaction must survive a restart. That phase one was called need not.
fn lasting(tx: &Transaction) -> impl PartialEq + std::fmt::Debug + '_ {
    let branches = tx.branches.iter().map(|branch| {
        let state = match branch.state {
            BranchState::Preparing => BranchState::Enlisted,
            other => other,
        };
        let enlisted = (&branch.id, &branch.participant, branch.endpoint(), branch.protocol, branch.inquires);
        (enlisted, state, branch.vote, branch.reason(), branch.reservation_ttl, branch.class)
    });
    let times = (tx.begun_at, tx.decided_at(), tx.ended_at(), tx.timeout);
    let what = (tx.id, tx.protocol, &tx.label, &tx.request, &tx.reason);
    (what, times, tx.delegated, tx.decision, tx.outcome, branches.collect::<Vec<_>>())
}
