//! The network, the participants and the initiator around an engine.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::participant::{Barrier, Nature, Participant};
use crate::core::harness::{Harness, SETTINGS};
use crate::core::{
    Action, Answer, BeginSpec, BranchId, BranchSpec, Call, Decision, EngineSettings, Enlistment, Event,
    FailureKind, InquiryAnswer, Operation, Outcome, PhaseOne, Protocol, Report, Request, Step, TxId, Wait,
    Waiter,
};

/// What is to be tried.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub style: Style,
    pub wait: Wait,
    pub with_request: bool,
    pub retention: Duration,
    pub branches: Vec<Nature>,
    /// The coordinator dies once more when all has ended; so many of its unsynced writes survive.
    pub last_crash: Option<u16>,
}

/// How the initiator goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Run,
    Interactive,
}

/// One thing that happens. Numbers choose among what there is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    /// A call reaches its participant.
    Deliver(u16),
    /// An answer reaches the coordinator, or an inquiry's answer its participant.
    Report(u16),
    /// A message is doubled.
    Repeat(u16),
    Lose(u16),
    /// A call is lost, and the transport says so.
    Fail(u16),
    /// The log syncs.
    Sync,
    Pass(Duration),
    PassUnnoticed(Duration),
    /// The coordinator dies; so many of its unsynced writes survive.
    Crash(u16),
    /// A participant in doubt asks.
    Inquire(u16),
    /// Interactive: the initiator has a participant do its part, and enlists it.
    Work(u16),
    /// With an even number it brings again what is enlisted.
    Commit(u16),
    Abort,
    /// The initiator asks again for all it asked for.
    Again,
    Wake(u16),
    /// Somebody looks at lists, counts and the horizon.
    Look,
}

pub(super) struct World {
    plan: Plan,
    harness: Harness,
    /// Real time: the coordinator's own clock starts anew with each life.
    elapsed: Duration,
    participants: BTreeMap<(TxId, usize), Participant>,
    wire: Vec<Message>,
    /// The transaction that the initiator is busy with.
    current: Option<TxId>,
    /// Votes that the initiator collected, by branch.
    collected: BTreeMap<usize, Option<PhaseOne>>,
    commit_asked: bool,
    inquiries: HashMap<Waiter, (TxId, usize)>,
    waiters: u64,
    told: BTreeMap<TxId, Outcome>,
}

/// Something on its way.
#[derive(Clone, Debug)]
enum Message {
    Call(Call),
    Report { tx: TxId, branch: BranchId, operation: Operation, report: Report },
    Told { tx: TxId, branch: usize, answer: InquiryAnswer },
}

/// After so many rounds without faults something hangs.
const ROUNDS_MAX: usize = 200;

impl World {
    pub fn new(plan: Plan) -> World {
        let settings = EngineSettings { retention: plan.retention, ..SETTINGS };
        let mut world = World {
            plan,
            harness: Harness::new(settings),
            elapsed: Duration::ZERO,
            participants: BTreeMap::new(),
            wire: Vec::new(),
            current: None,
            collected: BTreeMap::new(),
            commit_asked: false,
            inquiries: HashMap::new(),
            waiters: 0,
            told: BTreeMap::new(),
        };
        world.begin();
        world
    }

    pub fn take(&mut self, op: Op) {
        match op {
            Op::Deliver(at) => self.deliver(at, |message| matches!(message, Message::Call(_))),
            Op::Report(at) => self.deliver(at, |message| !matches!(message, Message::Call(_))),
            Op::Repeat(at) => {
                if let Some(at) = pick(at, self.wire.len()) {
                    self.wire.push(self.wire[at].clone());
                }
            }
            Op::Lose(at) => {
                if let Some(at) = pick(at, self.wire.len()) {
                    self.wire.remove(at);
                }
            }
            Op::Fail(at) => self.fail(at),
            Op::Sync => {
                self.harness.sync();
                self.act();
            }
            Op::Pass(span) => self.pass(span),
            Op::PassUnnoticed(span) => {
                self.harness.pass(span);
                self.elapsed += span;
            }
            Op::Crash(at) => self.crash(at),
            Op::Inquire(at) => self.inquire(at),
            Op::Work(at) => self.work(usize::from(at) % self.plan.branches.len()),
            Op::Commit(at) => self.commit(at % 2 == 0),
            Op::Abort => {
                if let Some(tx) = self.current {
                    let waiter = self.waiter();
                    let wait = self.plan.wait;
                    self.submit(Event::Abort { waiter, tx, reason: "".into(), wait });
                }
            }
            Op::Again => match (self.plan.with_request, self.plan.style) {
                (true, Style::Run) => self.begin(),
                (true, Style::Interactive) if self.collected.is_empty() => self.begin(),
                (_, Style::Run | Style::Interactive) if self.commit_asked => self.commit(true),
                (_, Style::Run | Style::Interactive) => {}
            },
            Op::Wake(at) => {
                let participant = name(usize::from(at) % self.plan.branches.len());
                for tx in self.harness.engine.waiting_for(&participant.parse().unwrap()) {
                    self.submit(Event::Wake { tx, participant: participant.parse().unwrap() });
                }
            }
            Op::Look => {
                let engine = &mut self.harness.engine;
                let horizon = engine.horizon();
                let (all, _) = engine.list(None, 10, |_any| true);
                assert!(all.iter().all(|tx| tx.outcome.is_some() || tx.id.order() >= horizon));
            }
        }
    }

    /// No more faults, but for a last crash if the plan has one: everything ends, and what happened is judged. Tells
    /// how each transaction ended.
    pub fn finish(mut self) -> Vec<String> {
        self.settle();
        if let Some(at) = self.plan.last_crash {
            self.crash(at);
            self.settle();
        }
        self.judge()
    }

    fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            self.sync_and_act();
            while !self.wire.is_empty() {
                self.deliver(0, |_any| true);
                self.sync_and_act();
            }
            let in_doubt =
                self.participants.values().filter(|it| it.is_in_doubt() && it.nature.inquires).count();
            (0..in_doubt).for_each(|at| self.inquire(u16::try_from(at).unwrap()));
            self.sync_and_act();
            let settled = !self.participants.values().any(Participant::is_in_doubt);
            if self.harness.engine.counts().active == 0 && self.wire.is_empty() && settled {
                return self.harness.engine.check_idle();
            }
            self.pass(Duration::from_secs(1));
        }
        panic!("does not end: {:#?} {:#?}", self.participants, self.harness.engine);
    }

    /// Lazy writes stay for the next crash to lose.
    fn sync_and_act(&mut self) {
        if self.harness.holds_actions() {
            self.harness.sync();
            self.act();
        }
    }

    /// Atomicity, and what was told.
    fn judge(&self) -> Vec<String> {
        let mut endings = Vec::new();
        let mut committed_times = 0;
        let mut transactions: BTreeMap<TxId, Vec<&Participant>> = BTreeMap::new();
        for ((tx, _), participant) in &self.participants {
            transactions.entry(*tx).or_default().push(participant);
        }
        for (tx, participants) in transactions {
            let any = |wanted: fn(Barrier) -> bool| participants.iter().any(|it| wanted(it.barrier));
            let committed = any(|barrier| matches!(barrier, Barrier::Committed { .. }));
            let undone = any(|barrier| {
                matches!(barrier, Barrier::RolledBack | Barrier::Expired | Barrier::Refused | Barrier::Clean)
            });
            let outcome = self.harness.engine.get(tx).and_then(|tx| tx.outcome);
            let told = self.told.get(&tx).copied();
            let state = || format!("{tx}: {outcome:?}, told {told:?}, {participants:#?}");
            if committed && undone {
                assert_eq!(outcome, Some(Outcome::Mixed), "not atomic, and not recorded: {}", state());
            } else {
                assert_ne!(outcome, Some(Outcome::Hazard), "{}", state());
            }
            match outcome {
                Some(Outcome::Committed) => assert!(!undone, "{}", state()),
                Some(Outcome::Aborted) => assert!(!committed, "{}", state()),
                Some(Outcome::Mixed | Outcome::Hazard) => {
                    let expired = any(|barrier| barrier == Barrier::Expired);
                    assert!(expired, "mixed without a participant that went its own way: {}", state());
                }
                None => {}
            }
            match told {
                Some(Outcome::Committed) => {
                    assert!(!undone || outcome == Some(Outcome::Mixed), "{}", state());
                }
                Some(Outcome::Aborted) => assert!(!committed, "{}", state()),
                Some(Outcome::Mixed | Outcome::Hazard) | None => {}
            }
            committed_times += u32::from(committed);
            let ending = match (committed, undone) {
                (true, true) => "mixed",
                (true, false) => "committed",
                (false, true) => "aborted",
                (false, false) => "read-only",
            };
            let forgotten = if outcome.is_none() { ", forgotten" } else { "" };
            endings.push(format!("{ending}{forgotten}"));
        }
        let repeatable = self.plan.with_request && !self.plan.retention.is_zero();
        assert!(!repeatable || committed_times < 2, "one request was carried out {committed_times} times");
        endings
    }

    fn begin(&mut self) {
        let waiter = self.waiter();
        let id = "order-1".parse().unwrap();
        let request = self.plan.with_request.then_some(Request { id, fingerprint: [0; 16] });
        let spec = BeginSpec {
            protocol: Protocol::TwoPhase,
            label: "".parse().unwrap(),
            timeout: Duration::from_secs(20),
            request,
        };
        let step = match self.plan.style {
            Style::Interactive => self.submit(Event::Begin { waiter, spec }),
            Style::Run => {
                let branches = (0..self.plan.branches.len()).map(|index| self.spec(index)).collect();
                self.submit(Event::Run { waiter, spec, branches, wait: self.plan.wait })
            }
        };
        let tx = step.subject.expect("nothing forbids to begin");
        self.current = Some(tx);
        if self.plan.style == Style::Run {
            for index in 0..self.plan.branches.len() {
                self.participant(tx, index);
            }
        }
    }

    /// The initiator calls a participant that asks for outcomes; one that does not is enlisted first, and called by the
    /// coordinator.
    fn work(&mut self, index: usize) {
        let Some(tx) = self.current else { return };
        if self.plan.style != Style::Interactive || self.commit_asked {
            return;
        }
        let now = self.elapsed;
        let inquires = self.plan.branches[index].inquires;
        let participant = self.participant(tx, index);
        let vote = inquires.then(|| participant.work(now));
        self.collected.insert(index, vote.clone());
        let (waiter, enlistment) = (self.waiter(), self.enlistment(index, vote));
        self.submit(Event::Enlist { waiter, tx, enlistment });
    }

    fn commit(&mut self, bring: bool) {
        let Some(tx) = self.current else { return };
        self.commit_asked = true;
        let bring = bring && self.plan.style == Style::Interactive;
        let collected = if bring { self.collected.clone() } else { BTreeMap::new() };
        let enlistments =
            collected.into_iter().map(|(index, vote)| self.enlistment(index, vote)).collect::<Vec<_>>();
        let waiter = self.waiter();
        let wait = self.plan.wait;
        self.submit(Event::Commit { waiter, tx, enlistments, wait });
    }

    fn inquire(&mut self, at: u16) {
        let in_doubt: Vec<_> = self
            .participants
            .iter()
            .filter(|(_, it)| it.is_in_doubt() && it.nature.inquires)
            .map(|(key, it)| (*key, it.has_expired(self.elapsed)))
            .collect();
        let Some(at) = pick(at, in_doubt.len()) else { return };
        let ((tx, index), expired) = in_doubt[at];
        let waiter = self.waiter();
        self.inquiries.insert(waiter, (tx, index));
        let branch = branch_id(index);
        self.submit(Event::Inquire { waiter, tx, branch, expired, known_life: true });
    }

    fn deliver(&mut self, at: u16, which: impl Fn(&Message) -> bool) {
        let fitting: Vec<_> = (0..self.wire.len()).filter(|&at| which(&self.wire[at])).collect();
        let Some(at) = pick(at, fitting.len()) else { return };
        match self.wire.remove(fitting[at]) {
            Message::Call(call) => {
                let (now, index) = (self.elapsed, index_of(&call.branch));
                let report = self.participant(call.tx, index).called(now, call.operation);
                let Call { tx, branch, operation, .. } = call;
                self.wire.push(Message::Report { tx, branch, operation, report });
            }
            Message::Report { tx, branch, operation, report } => {
                self.submit(Event::Reported { tx, branch, operation, report });
            }
            Message::Told { tx, branch, answer } => self.participant(tx, branch).told(answer),
        }
    }

    fn fail(&mut self, at: u16) {
        let calls: Vec<_> =
            (0..self.wire.len()).filter(|&at| matches!(self.wire[at], Message::Call(_))).collect();
        let Some(at) = pick(at, calls.len()) else { return };
        if let Message::Call(call) = self.wire.remove(calls[at]) {
            let report = Report::Failed { error: "connection reset".into(), kind: FailureKind::Unknown };
            let Call { tx, branch, operation, .. } = call;
            self.submit(Event::Reported { tx, branch, operation, report });
        }
    }

    fn pass(&mut self, span: Duration) {
        self.harness.pass(span);
        self.elapsed += span;
        for participant in self.participants.values_mut() {
            participant.expire(self.elapsed);
        }
        while self.harness.due().is_some() {}
        self.act();
    }

    fn crash(&mut self, at: u16) {
        let kept = usize::from(at) % (self.harness.unsynced() + 1);
        self.harness.crash(kept);
        self.inquiries.clear();
        self.act();
        for (tx, told) in &self.told {
            let decision = self.harness.engine.get(*tx).and_then(|tx| tx.decision);
            match told {
                Outcome::Committed => assert_ne!(decision, Some(Decision::Abort), "{tx} was told committed"),
                Outcome::Aborted => assert_ne!(decision, Some(Decision::Commit), "{tx} was told aborted"),
                Outcome::Mixed | Outcome::Hazard => {}
            }
        }
    }

    fn submit(&mut self, event: Event) -> Step {
        let step = self.harness.submit(event);
        self.act();
        step
    }

    /// Carries out what may be carried out.
    fn act(&mut self) {
        for action in self.harness.released() {
            match action {
                Action::Call(call) => self.wire.push(Message::Call(call)),
                Action::Answer { waiter, answer: Answer::Inquiry(answer) } => {
                    if let Some((tx, branch)) = self.inquiries.remove(&waiter) {
                        self.wire.push(Message::Told { tx, branch, answer });
                    }
                }
                Action::Answer { answer: Answer::Ended(result), .. } => {
                    if let Some(outcome) = result.outcome {
                        self.told.insert(result.tx, outcome);
                    }
                }
                Action::Answer { .. } | Action::Publish(_) => {}
            }
        }
    }

    fn participant(&mut self, tx: TxId, index: usize) -> &mut Participant {
        let nature = &self.plan.branches[index];
        self.participants.entry((tx, index)).or_insert_with(|| Participant::new(nature.clone()))
    }

    fn enlistment(&self, index: usize, vote: Option<PhaseOne>) -> Enlistment {
        Enlistment { branch: self.spec(index), vote }
    }

    fn spec(&self, index: usize) -> BranchSpec {
        let nature = &self.plan.branches[index];
        BranchSpec {
            id: Some(branch_id(index)),
            participant: name(index).parse().unwrap(),
            endpoint: None,
            protocol: Some(nature.protocol),
            payload: b"payload".as_slice().into(),
            reservation_ttl: None,
            inquires: nature.inquires,
        }
    }

    fn waiter(&mut self) -> Waiter {
        self.waiters += 1;
        Waiter(self.waiters)
    }
}

fn pick(at: u16, count: usize) -> Option<usize> {
    (count > 0).then(|| usize::from(at) % count)
}

fn name(index: usize) -> String {
    format!("participant-{index}")
}

fn branch_id(index: usize) -> BranchId {
    format!("b{index}").parse().unwrap()
}

fn index_of(branch: &BranchId) -> usize {
    branch.as_str()[1..].parse().unwrap()
}
