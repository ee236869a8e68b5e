//! What a rule works with: the participant on the bench, fresh branches, calls with their repetitions, and its data.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use assent_proto::v1 as pb;
use assent_proto::{Epoch, Shard};
use bytes::Bytes;
use pb::Operation;
use pb::call_reply::Result as Answer;
use tokio::task::JoinSet;

use super::desk::{Desk, Identity};
use super::process::{self, Launch};
use super::subject::{Subject, Trouble};
use super::{Error, Plan};
use crate::core::TxIdSource;

/// How soon a call is repeated that was answered with an error, and how the pauses grow.
const AGAIN_FIRST: Duration = Duration::from_millis(20);
const AGAIN_MAX: Duration = Duration::from_secs(1);
/// The time to live that a Try asks for, so long that nothing expires during the check.
pub const TTL_ASKED_MS: u64 = 600_000;
/// Calls made at once where a rule is about concurrency.
pub const AT_ONCE: usize = 8;
/// Numbers are compared as what they are: decimal fractions that went through binary ones.
const TOLERANCE: f64 = 1e-6;

#[derive(Debug)]
pub struct Bench {
    plan: Plan,
    subject: Subject,
    desk: Option<Desk>,
    launch: Option<Launch>,
    state: Mutex<State>,
}

/// A branch of a transaction of the kit's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Branch {
    pub xid: String,
    pub id: String,
}

/// What a kept rule did to the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    NotLookedAt,
    /// The work of so many committed branches.
    Units(u32),
}

/// Why a rule was not seen to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    Failed(String),
    NotRun(String),
}

/// How a commit in one phase was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnePhase {
    Completed(pb::Completion, Bytes),
    Refused,
    Unimplemented,
}

#[derive(Debug)]
struct State {
    ids: TxIdSource,
    life_tag: u32,
    branches: u32,
    protocol: pb::Protocol,
    attempts: HashMap<(Branch, i32), u32>,
    /// Those that may be prepared.
    open: BTreeSet<(Branch, i32)>,
    /// Those whose rollback was tried in vain.
    left: BTreeSet<(Branch, i32)>,
    /// How one committed branch changes the numbers.
    unit: Option<Vec<f64>>,
}

impl Bench {
    pub fn new(
        plan: Plan,
        identity: &Identity,
        subject: Subject,
        desk: Option<Desk>,
        launch: Option<Launch>,
    ) -> Bench {
        let life_tag = identity.life_tag;
        let state = State {
            ids: TxIdSource::new(Epoch(1), Shard(0), life_tag),
            life_tag,
            branches: 0,
            protocol: pb::Protocol::Unspecified,
            attempts: HashMap::new(),
            open: BTreeSet::new(),
            left: BTreeSet::new(),
            unit: None,
        };
        Bench { plan, subject, desk, launch, state: Mutex::new(state) }
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What is called from now on is this protocol's.
    pub fn takes_part_by(&self, protocol: pb::Protocol) {
        let mut state = self.lock();
        (state.protocol, state.unit) = (protocol, None);
    }

    /// Starts the participant, where that is the kit's task, and waits until it is there.
    pub async fn start(&self) -> Result<(), Error> {
        if let Some(launch) = &self.launch {
            launch.start()?;
        }
        self.subject.ready(self.plan.wait, self.launch.as_ref()).await
    }

    /// `kill -9`, and starts it again.
    pub async fn kill_and_restart(&self) -> Result<(), Stop> {
        let launch = self.launch.as_ref().expect("rules that kill are run with --run only");
        launch.kill().await;
        if let Some(desk) = &self.desk {
            // What has been killed may not have been noticed yet.
            desk.break_sessions();
        }
        self.start()
            .await
            .map_err(|error| Stop::Failed(format!("it was killed, and did not come back: {error}")))
    }

    pub async fn end(&self) {
        if let Some(launch) = &self.launch {
            launch.kill().await;
        }
    }

    /// A branch that never was, in a transaction that never was.
    pub fn branch(&self) -> Branch {
        let mut state = self.lock();
        state.branches += 1;
        // Of one length, so that none is a prefix of another: that is a rule of its own.
        let id = format!("{:08x}-{:05}", state.life_tag, state.branches);
        Branch { xid: state.ids.next(self.plan.now_ms).to_string(), id }
    }

    /// Asks for good work in phase one.
    pub async fn phase_one(&self, branch: &Branch) -> Result<pb::PhaseOneResult, Stop> {
        self.phase_one_of(branch, self.plan.payload.clone()).await
    }

    pub async fn phase_one_of(&self, branch: &Branch, payload: Bytes) -> Result<pb::PhaseOneResult, Stop> {
        let call = self.call(branch, Operation::PhaseOne, payload);
        vote(self.ask(call).await.map_err(|trouble| troubled("phase one", &trouble))?)
    }

    /// Phase one of good work, which must be voted PREPARED for a rule to go on.
    pub async fn prepare(&self, branch: &Branch) -> Result<pb::PhaseOneResult, Stop> {
        let voted = self.phase_one(branch).await?;
        match voted.vote() {
            pb::Vote::Prepared => Ok(voted),
            pb::Vote::ReadOnly => Err(Stop::NotRun(
                "the payload was voted READ_ONLY; give one that changes something".to_owned(),
            )),
            pb::Vote::Refused | pb::Vote::Unspecified => Err(Stop::Failed(format!(
                "phase one of good work was voted {}; expected PREPARED: the payload must be possible again and again",
                described(&voted)
            ))),
        }
    }

    pub async fn commit(&self, branch: &Branch) -> Result<pb::Completion, Stop> {
        self.phase_two(branch, Operation::Commit).await
    }

    pub async fn rollback(&self, branch: &Branch) -> Result<pb::Completion, Stop> {
        self.phase_two(branch, Operation::Rollback).await
    }

    async fn phase_two(&self, branch: &Branch, operation: Operation) -> Result<pb::Completion, Stop> {
        let call = self.call(branch, operation, Bytes::new());
        let what = word_of(operation);
        let answer = self.ask(call).await.map_err(|trouble| troubled(what, &trouble))?;
        completion(what, &answer)
    }

    pub async fn one_phase(&self, branch: &Branch, payload: Bytes) -> Result<OnePhase, Stop> {
        let what = word_of(Operation::CommitOnePhase);
        let answer = match self.ask(self.call(branch, Operation::CommitOnePhase, payload)).await {
            Ok(answer) => answer,
            Err(Trouble::Unimplemented(_)) => return Ok(OnePhase::Unimplemented),
            Err(trouble @ (Trouble::Again(_) | Trouble::Silent(_))) => return Err(troubled(what, &trouble)),
        };
        match &answer {
            Answer::Vote(vote) if vote.vote() == pb::Vote::Refused => Ok(OnePhase::Refused),
            Answer::Completion(done) => {
                Ok(OnePhase::Completed(completion(what, &answer)?, done.reply.clone()))
            }
            Answer::Vote(vote) => {
                Err(Stop::Failed(format!("{what} was answered with the vote {}", described(vote))))
            }
            Answer::Error(error) => Err(troubled(what, &Trouble::Again(error.clone()))),
        }
    }

    /// One phase one as it stands, made once; for what must be turned down. Only what was not is to be rolled back: who
    /// does not take a phase one may not take its rollback either.
    pub async fn attempt(&self, call: pb::Call) -> Result<Answer, Trouble> {
        let answer = self.subject.call(self.numbered(call.clone()), self.plan.call_timeout).await;
        match &answer {
            Ok(Answer::Vote(vote)) if vote.vote() == pb::Vote::Refused => {}
            Ok(Answer::Error(_)) | Err(Trouble::Again(_) | Trouble::Unimplemented(_)) => {}
            Ok(Answer::Vote(_) | Answer::Completion(_)) | Err(Trouble::Silent(_)) => self.opened(&call),
        }
        answer
    }

    /// The same call several times at once; each repeated where it was answered with an error. All must be answered, but
    /// on a session one reply may stand for several calls.
    pub async fn at_once(&self, branch: &Branch, operation: Operation) -> Result<Vec<Answer>, Stop> {
        let payload = match operation {
            Operation::PhaseOne | Operation::CommitOnePhase => self.plan.payload.clone(),
            Operation::Commit | Operation::Rollback | Operation::Unspecified => Bytes::new(),
        };
        let calls = self.call(branch, operation, payload);
        let what = format!("{} made {AT_ONCE} times at once", word_of(operation));
        let mut asked = FanOut::default();
        for _ in 0..AT_ONCE {
            self.opened(&calls);
            asked.spawn(self.subject.clone(), self.numbered(calls.clone()), self.plan.call_timeout);
        }
        let mut answers = Vec::new();
        let grace = self.subject.burst_grace();
        while let Some(answer) = asked.next(grace.filter(|_| !answers.is_empty())).await {
            let answer = answer.map_err(|trouble| troubled(&what, &trouble))?;
            self.answered(&calls, &answer);
            answers.push(answer);
        }
        Ok(answers)
    }

    /// A call in the protocol of the check.
    pub fn call(&self, branch: &Branch, operation: Operation, payload: Bytes) -> pb::Call {
        let protocol = self.lock().protocol;
        let reserves = protocol == pb::Protocol::Tcc && operation == Operation::PhaseOne;
        pb::Call {
            xid: branch.xid.clone(),
            branch_id: branch.id.clone(),
            protocol: protocol.into(),
            operation: operation.into(),
            payload,
            reservation_ttl_ms: if reserves { TTL_ASKED_MS } else { 0 },
            attempt: 0,
            traceparent: String::new(),
        }
    }

    /// Calls, and repeats what was answered with an error, as a coordinator would, for as long as a call may take.
    async fn ask(&self, call: pb::Call) -> Result<Answer, Trouble> {
        self.opened(&call);
        let numbered = || self.numbered(call.clone());
        let answer = ask(&self.subject, numbered, self.plan.call_timeout).await?;
        self.answered(&call, &answer);
        Ok(answer)
    }

    fn numbered(&self, call: pb::Call) -> pb::Call {
        let mut state = self.lock();
        let attempts = state.attempts.entry((Branch::of(&call), call.operation)).or_default();
        *attempts += 1;
        pb::Call { attempt: *attempts, ..call }
    }

    /// Phase one may be done from now on, whatever is answered.
    fn opened(&self, call: &pb::Call) {
        if call.operation() == Operation::PhaseOne {
            self.lock().open.insert((Branch::of(call), call.protocol));
        }
    }

    fn answered(&self, call: &pb::Call, answer: &Answer) {
        let ended = match (call.operation(), answer) {
            (Operation::Rollback, Answer::Completion(_)) => true,
            (Operation::Commit | Operation::CommitOnePhase, Answer::Completion(done)) => {
                done.completion() == pb::Completion::Done
            }
            _others_leave_it_open => false,
        };
        if ended {
            self.lock().open.remove(&(Branch::of(call), call.protocol));
        }
    }

    /// Rolls back what a rule left open, so that the next finds the data at rest.
    pub async fn tidy(&self) {
        let open = std::mem::take(&mut self.lock().open);
        for (branch, protocol) in open {
            let call = pb::Call { protocol, ..self.call(&branch, Operation::Rollback, Bytes::new()) };
            match self.ask(call).await {
                Ok(Answer::Completion(_)) => {}
                Ok(Answer::Vote(_) | Answer::Error(_)) | Err(_) => {
                    self.lock().left.insert((branch, protocol));
                }
            }
        }
    }

    /// Tries once more to roll back what could not be before.
    pub async fn tidy_what_was_left(&self) {
        let left = std::mem::take(&mut self.lock().left);
        self.lock().open.extend(left);
        self.tidy().await;
    }

    /// Those that may still be prepared: their rollback was not acknowledged.
    pub fn left_open(&self) -> Vec<String> {
        self.lock().left.iter().map(|(branch, _)| format!("{}/{}", branch.xid, branch.id)).collect()
    }

    pub async fn observe(&self) -> Result<Vec<f64>, Stop> {
        let command = self.plan.observe.as_deref().expect("rules that look are run with --observe only");
        let numbers = process::numbers(command, self.plan.call_timeout).await;
        numbers.map_err(|why| Stop::Failed(format!("the command of --observe {why}")))
    }

    /// The numbers now, where it is known what a committed branch does to them.
    pub async fn observe_if_judged(&self) -> Result<Option<Vec<f64>>, Stop> {
        let judged = self.lock().unit.is_some();
        if judged { self.observe().await.map(Some) } else { Ok(None) }
    }

    /// From now on every effect is compared with this one.
    pub fn judge_by(&self, unit: Vec<f64>) {
        self.lock().unit = Some(unit);
    }

    /// The numbers must have changed as by so many committed branches.
    pub async fn expect_change(&self, before: &[f64], units: u32) -> Result<(), Stop> {
        let unit = self.lock().unit.clone().unwrap_or_default();
        let expected: Vec<f64> = unit.iter().map(|number| number * f64::from(units) + 0.0).collect();
        let change = change(before, &self.observe().await?);
        if alike(&change, &expected) {
            return Ok(());
        }
        let meant = match units {
            0 => "nothing was committed, and so nothing may have changed".to_owned(),
            1 => "one branch was committed, and its work counts once".to_owned(),
            units => format!("{units} branches were committed, and the work of each counts once"),
        };
        Err(Stop::Failed(format!("the numbers changed by {change:?}; expected {expected:?}: {meant}")))
    }

    /// Whoever answers inquiries.
    pub fn desk(&self) -> &Desk {
        self.desk.as_ref().expect("rules that answer inquiries are run with --listen only")
    }

    /// Gives the participant cause to ask: its session breaks. One that is dialled asks when its patience ends.
    pub fn provoke_inquiry(&self) {
        match &self.subject {
            Subject::Session { desk, .. } => desk.break_sessions(),
            Subject::Dialled(_) => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Branch {
    fn of(call: &pb::Call) -> Branch {
        Branch { xid: call.xid.clone(), id: call.branch_id.clone() }
    }
}

/// Several calls under way.
#[derive(Debug, Default)]
struct FanOut(JoinSet<Result<Answer, Trouble>>);

impl FanOut {
    fn spawn(&mut self, subject: Subject, call: pb::Call, wait: Duration) {
        self.0.spawn(async move { ask(&subject, || call.clone(), wait).await });
    }

    /// The next answer; none where all are in, or where the grace is over.
    async fn next(&mut self, grace: Option<Duration>) -> Option<Result<Answer, Trouble>> {
        let joined = match grace {
            None => self.0.join_next().await,
            Some(grace) => tokio::time::timeout(grace, self.0.join_next()).await.ok().flatten(),
        };
        joined.map(|answer| answer.expect("calls neither panic nor are aborted while they are waited for"))
    }
}

async fn ask(
    subject: &Subject,
    mut call: impl FnMut() -> pb::Call,
    wait: Duration,
) -> Result<Answer, Trouble> {
    let started = Instant::now();
    let mut pause = AGAIN_FIRST;
    loop {
        let answer = subject.call(call(), wait.saturating_sub(started.elapsed())).await;
        match answer {
            Err(Trouble::Again(_)) if started.elapsed() + pause < wait => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(AGAIN_MAX);
            }
            Err(Trouble::Again(last)) => {
                return Err(Trouble::Again(format!("repeated for {wait:?}; it last said {last:?}")));
            }
            Err(Trouble::Silent(_)) => return Err(Trouble::Silent(wait)),
            answer @ (Ok(_) | Err(Trouble::Unimplemented(_))) => return answer,
        }
    }
}

/// What one is called to do, for people.
fn word_of(operation: Operation) -> &'static str {
    match operation {
        Operation::PhaseOne => "phase one",
        Operation::Commit => "commit",
        Operation::Rollback => "rollback",
        Operation::CommitOnePhase => "commit in one phase",
        Operation::Unspecified => "a call",
    }
}

fn troubled(what: &str, trouble: &Trouble) -> Stop {
    Stop::Failed(match trouble {
        Trouble::Again(why) => format!("{what} was not answered but with errors: {why}"),
        Trouble::Unimplemented(why) => format!("{what} is not implemented ({why})"),
        Trouble::Silent(waited) => format!("{what} was not answered within {waited:?}"),
    })
}

/// The vote in an answer to phase one.
pub fn vote(answer: Answer) -> Result<pb::PhaseOneResult, Stop> {
    match answer {
        Answer::Vote(vote) => Ok(vote),
        Answer::Completion(_) => {
            Err(Stop::Failed("phase one was answered with a completion, not a vote".to_owned()))
        }
        Answer::Error(error) => Err(troubled("phase one", &Trouble::Again(error))),
    }
}

/// The completion in an answer to phase two.
pub fn completion(what: &str, answer: &Answer) -> Result<pb::Completion, Stop> {
    match answer {
        Answer::Completion(done) => Ok(done.completion()),
        Answer::Vote(_) => Err(Stop::Failed(format!("{what} was answered with a vote, not a completion"))),
        Answer::Error(error) => Err(troubled(what, &Trouble::Again(error.clone()))),
    }
}

/// A vote, with its reason where there is one.
pub fn described(vote: &pb::PhaseOneResult) -> String {
    let name = vote.vote().as_str_name();
    let word = name.strip_prefix("VOTE_").unwrap_or(name);
    if vote.reason.is_empty() { word.to_owned() } else { format!("{word} ({})", vote.reason) }
}

pub fn change(before: &[f64], after: &[f64]) -> Vec<f64> {
    let longer = before.len().max(after.len());
    let at = |numbers: &[f64], place: usize| numbers.get(place).copied().unwrap_or(0.0);
    (0..longer).map(|place| at(after, place) - at(before, place)).collect()
}

pub fn alike(one: &[f64], other: &[f64]) -> bool {
    change(one, other).iter().all(|difference| difference.abs() < TOLERANCE)
}

/// A future that a rule can be.
pub type Checking<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Effect, Stop>> + 'a>>;
