//! A log with transactions in it, as the core makes them.

use std::path::Path;
use std::time::Duration;

use assent::core::{
    Action, Admission, Answer, Backoff, BeginSpec, BranchId, BranchSpec, Completion, Durability, Engine,
    EngineSettings, Enlistment, Event, InquiryAnswer, LogWrite, Now, Operation, PhaseOne, Protocol, Report,
    Request, ReservationClass, Shard, Step, Timestamp, TxId, Vote, Wait, Waiter, WallTime,
};
use assent::store::{DecisionLog as _, Lives, Opened, ReplayError, SledLog, SledOptions};
use bytes::Bytes;

/// One life of a coordinator.
pub struct Book {
    log: SledLog,
    pub opened: Opened,
    pub engine: Engine,
    now: Now,
}

impl Book {
    pub fn open(dir: &Path) -> Book {
        let options = SledOptions { ballast_bytes: 0, ..SledOptions::default() };
        let (mut log, opened) = SledLog::open(dir, &options).unwrap();
        let now = Now { mono: Timestamp::ZERO, wall: WallTime(1_800_000_000_000) };
        let settings = EngineSettings {
            max_active: 1000,
            max_branches: 8,
            call_timeout: Duration::from_secs(5),
            backoff: Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(8) },
            reservation_margin: Duration::from_millis(500),
            retention: Duration::from_hours(1),
            retention_max: 1000,
        };
        let mut engine = Engine::new(settings, opened.epoch, Shard(0), opened.life_tag);
        engine.set_admission(Admission::Open);
        log.replay(&mut |tx, value| {
            engine
                .replay(now, tx, value)
                .map_err(|error| ReplayError::Rejected { tx, reason: error.to_string() })
        })
        .unwrap();
        Book { log, opened, engine, now }
    }

    /// Goes on with what the last life left open, and gives the calls that this leads to.
    pub fn resume(&mut self) -> Vec<(TxId, Operation)> {
        let open = self.engine.resumable();
        let steps: Vec<_> = open.into_iter().map(|tx| self.take(Event::Resume { tx })).collect();
        let actions = steps.into_iter().flat_map(|step| step.then);
        let calls = actions.filter_map(|action| match action {
            Action::Call(call) => Some((call.tx, call.operation)),
            Action::Answer { .. } | Action::Publish(_) => None,
        });
        calls.collect()
    }

    /// A transaction with a prepared branch that never asks, which is therefore durable.
    pub fn begin(&mut self) -> TxId {
        self.begin_for(None)
    }

    /// The same for a request.
    pub fn begin_for(&mut self, request: Option<Request>) -> TxId {
        let spec = BeginSpec {
            protocol: Protocol::TwoPhase,
            label: "order".parse().unwrap(),
            timeout: Duration::from_secs(30),
            request,
        };
        let step = self.take(Event::Begin { waiter: Waiter(0), spec });
        let [Action::Answer { answer: Answer::Begun { tx, .. }, .. }] = step.then[..] else {
            panic!("{step:?}")
        };
        self.enlist(tx);
        tx
    }

    pub fn enlist(&mut self, tx: TxId) {
        let branch = BranchSpec {
            id: None,
            participant: "shop/stock".parse().unwrap(),
            endpoint: None,
            protocol: None,
            payload: Bytes::new(),
            reservation_ttl: None,
            inquires: false,
        };
        let vote = Some(PhaseOne {
            vote: Vote::Prepared,
            reason: "".into(),
            reply: Bytes::new(),
            reservation_ttl: Duration::ZERO,
            class: ReservationClass::Cooperative,
        });
        self.take(Event::Enlist { waiter: Waiter(0), tx, enlistment: Enlistment { branch, vote } });
    }

    pub fn commit(&mut self, tx: TxId) {
        let wait = Wait::Decision;
        self.take(Event::Commit { waiter: Waiter(0), tx, enlistments: Vec::new(), wait });
    }

    pub fn abort(&mut self, tx: TxId) {
        self.take(Event::Abort { waiter: Waiter(0), tx, reason: "no more".into(), wait: Wait::Decision });
    }

    /// Its branches say that they are done.
    pub fn done(&mut self, tx: TxId, operation: Operation) {
        let branches: Vec<BranchId> =
            self.engine.get(tx).unwrap().branches.iter().map(|branch| branch.id.clone()).collect();
        for branch in branches {
            let report =
                Report::Completed { completion: Completion::Done, detail: "".into(), reply: Bytes::new() };
            self.take(Event::Reported { tx, branch, operation, report });
        }
    }

    /// What a participant is told that asks.
    pub fn ask(&mut self, tx: TxId, branch: &str) -> InquiryAnswer {
        let lives: &Lives = &self.opened.lives;
        let known_life = lives.contains(tx);
        let branch = branch.parse().unwrap();
        let step = self.take(Event::Inquire { waiter: Waiter(9), tx, branch, expired: false, known_life });
        let answers = step.then.into_iter().filter_map(|action| match action {
            Action::Answer { answer: Answer::Inquiry(answer), .. } => Some(answer),
            Action::Answer { .. } | Action::Call(_) | Action::Publish(_) => None,
        });
        answers.last().unwrap()
    }

    pub fn resolve(&mut self, tx: TxId, committed: bool) {
        let branch = "1".parse().unwrap();
        self.take(Event::Resolve { waiter: Waiter(1), tx, branch, committed, reason: "seen".into() });
    }

    /// What the log has of a transaction.
    pub fn value(&mut self, tx: TxId) -> Bytes {
        self.engine.get(tx).unwrap().history.clone().into()
    }

    /// Writes past the core.
    pub fn write(&mut self, write: LogWrite) {
        self.log.append_batch(self.opened.epoch, &[write], Durability::Forced).unwrap();
    }

    pub fn close(self) {
        Box::new(self.log).close().unwrap();
    }

    /// Logs all that is said at once, and so leaves nothing to chance.
    fn take(&mut self, event: Event) -> Step {
        let step = self.engine.handle(self.now, event);
        if !step.log.is_empty() {
            self.log.append_batch(self.opened.epoch, &step.log, Durability::Forced).unwrap();
        }
        step
    }
}
