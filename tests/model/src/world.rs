//! A coordinator, its log, the network, participants and initiators: everything that can happen, one step at a time.
//!
//! The coordinator is the real core behind the [harness](crate::core::harness) that its scenarios use as well; what
//! participants do is decided by the SDK's real barrier. A step that breaks a promise panics with a text that begins with
//! the [property](crate::property::Property).

mod happening;
mod judge;
mod possible;

pub use self::happening::{At, Happening};

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use crate::core::digest::Digest;
use crate::core::harness::{Harness, SETTINGS};
use crate::core::{
    Action, Answer, Backoff, BeginSpec, BranchId, BranchSpec, Call, EngineSettings, Enlistment, Event,
    FailureKind, InquiryAnswer, Operation, ParticipantName, Protocol, Report, Request, Step, TxId, TxOrder,
    Vote, Waiter,
};
use crate::plan::{Limits, Nature, Plan, Style, TxPlan};
use crate::site::Site;

/// Where everything stands.
#[derive(Clone, Debug)]
pub struct World {
    plan: Arc<Plan>,
    harness: Harness,
    /// The time since the beginning; the coordinator's own clock starts anew with each life.
    elapsed: Duration,
    transactions: Vec<Tx>,
    left: Limits,
    /// Transactions that this life took back from the log and has not gone on with, oldest first.
    asleep: Vec<TxId>,
    /// Requests of this life so far, and those that have no answer.
    requests: u8,
    unanswered: Vec<u8>,
    /// The furthest horizon that may have been told.
    horizon: Option<TxOrder>,
    /// What the coordinator did, for people.
    trail: Option<Vec<String>>,
}

/// A transaction that was begun, with its branches.
#[derive(Clone, Debug)]
struct Tx {
    id: TxId,
    /// Its place in the plan.
    plan: usize,
    sites: Vec<Site>,
    /// Interactive: what the initiator was told by each participant, and whether it is enlisted.
    known: Vec<Known>,
    commit_asked: bool,
    /// An operator had it forgotten.
    cleared: bool,
    /// It ended and was forgotten, as it should be some day.
    forgotten: bool,
}

/// What an initiator knows of a branch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Known {
    vote: Option<Vote>,
    enlisted: bool,
}

/// Waiters above these stand for enlistments and inquiries, by place.
const ENLISTING: u64 = 1 << 16;
const ASKING: u64 = 2 << 16;

impl World {
    pub fn new(plan: &Arc<Plan>) -> World {
        let times = plan.times;
        let settings = EngineSettings {
            call_timeout: times.call_timeout,
            backoff: Backoff { initial: times.backoff, max: times.backoff.saturating_mul(8) },
            reservation_margin: times.margin,
            retention: times.retention,
            ..SETTINGS
        };
        World {
            plan: Arc::clone(plan),
            harness: Harness::new(settings),
            elapsed: Duration::ZERO,
            transactions: Vec::new(),
            left: plan.limits,
            asleep: Vec::new(),
            requests: 0,
            unanswered: Vec::new(),
            horizon: None,
            trail: None,
        }
    }

    /// From here on notes what the coordinator does.
    pub fn watch(&mut self) {
        self.trail = Some(Vec::new());
    }

    /// What it did since this was asked.
    pub fn noted(&mut self) -> Vec<String> {
        self.trail.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Tells this state from others: equal ones have equal futures.
    pub fn fingerprint(&self, digest: &mut Digest) -> u64 {
        digest.clear();
        self.harness.digest(digest);
        for tx in &self.transactions {
            let Tx { id, plan, sites, known, commit_asked, cleared, forgotten } = tx;
            (id, plan, commit_asked, cleared, forgotten).hash(digest);
            // Who is enlisted matters to an initiator that may still ask for commit.
            let may_ask = !commit_asked || self.left.repeats > 0;
            for Known { vote, enlisted } in known {
                (vote, may_ask && *enlisted).hash(digest);
            }
            (self.horizon.is_some_and(|horizon| id.order() < horizon)).hash(digest);
            for (site, nature) in sites.iter().zip(&self.plan.transactions[*plan].branches) {
                site.digest(nature, self.elapsed, self.left.unsent > 0, digest);
            }
        }
        (&self.left, &self.asleep, self.requests, &self.unanswered).hash(digest);
        digest.value()
    }

    /// Something happens.
    pub fn take(&mut self, happening: Happening) {
        match happening {
            Happening::Begin { plan } => self.begin(plan.into()),
            Happening::Work { at, vote } => self.work(at, vote),
            Happening::Enlist { at } => self.enlist(at),
            Happening::Commit { tx, bring } => self.commit(tx.into(), bring),
            Happening::Abort { tx } => {
                self.left.aborts -= 1;
                let waiter = self.waiter();
                let wait = self.tx_plan(tx.into()).wait;
                let tx = self.transactions[usize::from(tx)].id;
                self.submit(Event::Abort { waiter, tx, reason: "".into(), wait });
            }
            Happening::Call { at, operation, vote } => {
                self.at_site(at, |site, nature, now| site.called(operation, vote, nature, now));
            }
            Happening::Report { at, operation, said } => {
                let report = self.nature(at).report(said);
                self.report(at, operation, report);
            }
            Happening::Fail { at } => {
                self.left.failures -= 1;
                self.fail(at, FailureKind::Unknown);
            }
            Happening::Unsent { at } => {
                self.left.unsent -= 1;
                self.fail(at, FailureKind::NotSent);
            }
            Happening::Inquire { at, expired } => {
                let (tx, branch) = (self.tx(at).id, branch_id(at.branch));
                let waiter = Waiter(ASKING + at.number());
                self.submit(Event::Inquire { waiter, tx, branch, expired, known_life: true });
            }
            Happening::Answer { at, answer } => self.site_mut(at).told(answer),
            Happening::Expire { at } => self.site_mut(at).expire(),
            Happening::Horizon { at } => self.site_mut(at).clean(),
            Happening::Sync => self.harness.sync(),
            Happening::Crash { kept } => self.crash(kept.into()),
            Happening::Resume => {
                let tx = self.asleep.remove(0);
                self.submit(Event::Resume { tx });
            }
            Happening::Jump => {
                let span = self.until_due().expect("something is due");
                self.harness.now.mono = self.harness.now.mono + span;
                self.elapsed += span;
            }
            Happening::Pass { ms } => {
                self.harness.pass(Duration::from_millis(ms.into()));
                self.elapsed += Duration::from_millis(ms.into());
            }
            Happening::WallClock { hours } => {
                let wall = &mut self.harness.now.wall.0;
                *wall = wall.saturating_add_signed(i64::from(hours) * 3_600_000);
            }
            Happening::Fire => {
                if let Some(step) = self.harness.due_step() {
                    self.follow(step);
                }
            }
            Happening::Wake { at } => {
                let (tx, participant) = (self.tx(at).id, participant(at.branch));
                self.submit(Event::Wake { tx, participant });
            }
            Happening::Resolve { at, committed } => self.resolve(at, committed),
            Happening::Retry { tx } => {
                self.left.operator -= 1;
                let (waiter, tx) = (self.waiter(), self.transactions[usize::from(tx)].id);
                self.submit(Event::Retry { waiter, tx });
            }
            Happening::Forget { tx } => {
                self.left.operator -= 1;
                self.transactions[usize::from(tx)].cleared = true;
                let (waiter, tx) = (self.waiter(), self.transactions[usize::from(tx)].id);
                self.submit(Event::Forget { waiter, tx });
            }
        }
        self.act();
        self.asleep.retain(|tx| self.harness.engine.get(*tx).is_some_and(|tx| tx.is_asleep()));
        self.note_horizon();
        self.judge_state();
        for tx in &mut self.transactions {
            let over = self.harness.engine.get(tx.id).is_none_or(|tx| tx.outcome.is_some());
            tx.sites.iter_mut().for_each(|site| site.tidy(over));
        }
    }

    fn begin(&mut self, plan: usize) {
        let tx_plan = self.plan.transactions[plan].clone();
        if self.transactions.iter().any(|tx| tx.plan == plan) {
            self.left.repeats -= 1;
        }
        let id = format!("request-{plan}").parse().expect("it is a request id");
        let spec = BeginSpec {
            protocol: Protocol::TwoPhase,
            label: "".parse().expect("it may be empty"),
            timeout: self.plan.times.timeout,
            request: tx_plan.with_request.then_some(Request { id, fingerprint: [0; 16] }),
        };
        let waiter = self.waiter();
        let branches = tx_plan.branches.len();
        let event = match tx_plan.style {
            Style::Interactive => Event::Begin { waiter, spec },
            Style::Run => {
                let branches = (0..branches).map(|branch| spec_of(&tx_plan, branch)).collect();
                Event::Run { waiter, spec, branches, wait: tx_plan.wait }
            }
        };
        let step = self.harness.engine.handle(self.harness.now, event);
        let id = step.subject.expect("nothing forbids to begin");
        if self.transactions.iter().all(|tx| tx.id != id) {
            let late = self.horizon.is_some_and(|horizon| id.order() < horizon);
            assert!(!late, "honesty: the horizon that was told lies past a transaction that begins");
            self.transactions.push(Tx {
                id,
                plan,
                sites: vec![Site::default(); branches],
                known: vec![Known::default(); branches],
                commit_asked: false,
                cleared: false,
                forgotten: false,
            });
        }
        self.follow(step);
    }

    fn work(&mut self, at: At, vote: Vote) {
        let vote = self.at_site(at, |site, nature, now| site.phase_one(vote, nature, now));
        let tx = &mut self.transactions[usize::from(at.tx)];
        tx.known[usize::from(at.branch)].vote.get_or_insert(vote);
    }

    fn enlist(&mut self, at: At) {
        let enlistment = self.enlistment(at);
        let (waiter, tx) = (Waiter(ENLISTING + at.number()), self.tx(at).id);
        self.submit(Event::Enlist { waiter, tx, enlistment });
    }

    fn commit(&mut self, tx: usize, bring: bool) {
        if std::mem::replace(&mut self.transactions[tx].commit_asked, true) {
            self.left.repeats -= 1;
        }
        let brought = if bring { self.transactions[tx].sites.len() } else { 0 };
        let enlistments = (0..brought).map(|branch| self.enlistment(At::new(tx, branch))).collect();
        let waiter = self.waiter();
        let wait = self.tx_plan(tx).wait;
        let tx = self.transactions[tx].id;
        self.submit(Event::Commit { waiter, tx, enlistments, wait });
    }

    fn fail(&mut self, at: At, kind: FailureKind) {
        let operation = self.calling(at).expect("only a call that is out can fail");
        if kind == FailureKind::NotSent {
            self.site_mut(at).take_back(operation);
        }
        self.report(at, operation, Report::Failed { error: "no answer".into(), kind });
    }

    fn report(&mut self, at: At, operation: Operation, report: Report) {
        let (tx, branch) = (self.tx(at).id, branch_id(at.branch));
        self.submit(Event::Reported { tx, branch, operation, report });
    }

    fn resolve(&mut self, at: At, committed: bool) {
        self.left.operator -= 1;
        let (tx, branch) = (self.tx(at).id, branch_id(at.branch));
        let waiter = self.waiter();
        let state = |world: &World| {
            let tx = world.harness.engine.get(tx)?;
            Some(tx.branches.iter().find(|it| it.id == branch_id(at.branch))?.state)
        };
        let before = (state(self), self.site(at).facts);
        self.site_mut(at).facts.settled = true;
        self.submit(Event::Resolve { waiter, tx, branch, committed, reason: "".into() });
        if state(self) == before.0 {
            // It was refused.
            self.site_mut(at).facts = before.1;
        }
    }

    fn crash(&mut self, kept: usize) {
        self.left.crashes = self.left.crashes.saturating_sub(1);
        // Its new life's clock is an hour behind: it decides nothing.
        self.harness.now.wall.0 -= 3_600_000;
        self.asleep = self.harness.restart(kept);
        self.requests = 0;
        self.unanswered.clear();
    }

    fn submit(&mut self, event: Event) {
        let before = tx_of(&event).and_then(|tx| self.harness.engine.get(tx)).and_then(|tx| tx.decision);
        let step = self.harness.engine.handle(self.harness.now, event);
        if before.is_none() {
            self.judge_decision(&step);
        }
        self.follow(step);
    }

    /// Does what the coordinator says.
    fn follow(&mut self, step: Step) {
        if let Some(trail) = &mut self.trail {
            crate::story::note(&step, trail);
        }
        for write in &step.log {
            if matches!(write, crate::core::LogWrite::Remove { .. })
                && let Some(tx) = self.transactions.iter_mut().find(|tx| tx.id == write.tx())
            {
                tx.forgotten = true;
            }
        }
        self.harness.submit_unchecked(step);
    }

    /// Carries out what may be carried out.
    fn act(&mut self) {
        for action in self.harness.released() {
            match action {
                Action::Call(Call { tx, branch, operation, .. }) => {
                    let tx = self.transactions.iter_mut().find(|it| it.id == tx).expect("it was begun");
                    tx.sites[index_of(&branch)].send(operation);
                }
                Action::Answer { waiter, answer } => self.answered(waiter, &answer),
                Action::Publish(_) => {}
            }
        }
    }

    fn answered(&mut self, waiter: Waiter, answer: &Answer) {
        if waiter.0 < ENLISTING {
            let request = u8::try_from(waiter.0).expect("there are few");
            let at = self.unanswered.iter().position(|it| *it == request);
            self.unanswered.remove(at.expect("honesty: a request has two answers"));
            if let Answer::Ended(result) = answer {
                self.judge_result(result);
            }
            return;
        }
        let place = waiter.0 & 0xffff;
        let (tx, branch) = (place >> 8, usize::try_from(place & 0xff).expect("one byte"));
        let tx = &mut self.transactions[usize::try_from(tx).expect("one byte")];
        match answer {
            Answer::Enlisted { .. } => tx.known[branch].enlisted = true,
            // To be told to wait changes nothing.
            Answer::Inquiry(InquiryAnswer::Pending) | Answer::Rejected(_) => {}
            Answer::Inquiry(answer) => tx.sites[branch].answer(*answer),
            Answer::Begun { .. }
            | Answer::Ended(_)
            | Answer::Transaction(_)
            | Answer::Retried { .. }
            | Answer::Forgotten => panic!("honesty: an answer to another question: {answer:?}"),
        }
    }

    fn note_horizon(&mut self) {
        if self.harness.unsynced() == 0 {
            self.horizon = self.horizon.max(Some(self.harness.engine.horizon()));
        }
    }

    fn enlistment(&self, at: At) -> Enlistment {
        let known = self.tx(at).known[usize::from(at.branch)];
        let branch = spec_of(self.tx_plan(at.tx.into()), at.branch.into());
        Enlistment { branch, vote: known.vote.map(|vote| self.nature(at).vote(vote)) }
    }

    fn waiter(&mut self) -> Waiter {
        self.unanswered.push(self.requests);
        self.requests += 1;
        Waiter(u64::from(self.requests) - 1)
    }

    fn tx(&self, at: At) -> &Tx {
        &self.transactions[usize::from(at.tx)]
    }

    fn tx_plan(&self, tx: usize) -> &TxPlan {
        &self.plan.transactions[self.transactions[tx].plan]
    }

    fn at_site<T>(&mut self, at: At, does: impl FnOnce(&mut Site, &Nature, Duration) -> T) -> T {
        let tx = &mut self.transactions[usize::from(at.tx)];
        let nature = &self.plan.transactions[tx.plan].branches[usize::from(at.branch)];
        does(&mut tx.sites[usize::from(at.branch)], nature, self.elapsed)
    }

    fn nature(&self, at: At) -> &Nature {
        &self.tx_plan(at.tx.into()).branches[usize::from(at.branch)]
    }

    fn site_mut(&mut self, at: At) -> &mut Site {
        &mut self.transactions[usize::from(at.tx)].sites[usize::from(at.branch)]
    }
}

fn spec_of(plan: &TxPlan, branch: usize) -> BranchSpec {
    let nature = &plan.branches[branch];
    BranchSpec {
        id: Some(branch_id(u8::try_from(branch).expect("there are few"))),
        participant: participant(u8::try_from(branch).expect("there are few")),
        endpoint: None,
        protocol: Some(nature.protocol),
        payload: b"".as_slice().into(),
        reservation_ttl: Some(nature.ttl),
        inquires: nature.asks,
    }
}

fn branch_id(branch: u8) -> BranchId {
    BranchId::numbered(branch.into())
}

fn index_of(branch: &BranchId) -> usize {
    branch.as_str().parse().expect("branches are numbered")
}

fn participant(branch: u8) -> ParticipantName {
    crate::story::participant(branch).parse().expect("it is a name")
}

fn tx_of(event: &Event) -> Option<TxId> {
    match event {
        Event::Begin { .. } | Event::Run { .. } => None,
        Event::Enlist { tx, .. }
        | Event::Commit { tx, .. }
        | Event::Abort { tx, .. }
        | Event::Reported { tx, .. }
        | Event::Inquire { tx, .. }
        | Event::Due { tx }
        | Event::Wake { tx, .. }
        | Event::Resume { tx }
        | Event::Resolve { tx, .. }
        | Event::Retry { tx, .. }
        | Event::Forget { tx, .. } => Some(*tx),
    }
}
