//! Loads on a coordinator, over pipelines made by hand: a client of the SDK would call again where it is refused, and
//! what is refused is a figure here.

use std::collections::HashMap;
use std::time::Duration;

use assent_proto::v1 as pb;
use hdrhistogram::Histogram;
use pb::pipeline_answer::Answer;
use pb::pipeline_call::Call;
use pb::transaction_service_client::TransactionServiceClient;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Streaming};

use crate::lab::Lab;

/// Sequences of calls that fill a coordinator. A pipeline has at most 1024 calls under way.
const SLOTS: usize = 1_000;
/// Pipelines of a load that does not wait for answers: with 1024 calls under way on each, more than any limit on open
/// transactions that is tried here, so that it is the coordinator that refuses.
const STREAMS: u32 = 4;
/// Every call is answered sooner than that: a transaction has 30 s.
const PATIENCE: Duration = Duration::from_mins(2);
const TIMEOUT_MS: u64 = 3_600_000;

/// How transactions ended, and after how long those that were taken.
pub struct Tally {
    pub committed: u64,
    pub aborted: u64,
    /// Not begun, because there were too many.
    pub refused: u64,
    /// Any other answer.
    pub unknown: u64,
    pub latency_us: Histogram<u64>,
    /// From the first call to the last answer.
    pub elapsed: Duration,
    /// From the first call to the last.
    pub offered_for: Duration,
}

impl Tally {
    fn new() -> Tally {
        Tally {
            committed: 0,
            aborted: 0,
            refused: 0,
            unknown: 0,
            latency_us: Histogram::new(3).unwrap(),
            elapsed: Duration::ZERO,
            offered_for: Duration::ZERO,
        }
    }

    fn count(&mut self, answer: Answer, due: Instant) {
        let outcome = match answer {
            Answer::Run(pb::RunResponse { result: Some(result) }) => result.outcome(),
            Answer::Error(error) if error.code == Code::ResourceExhausted as i32 => {
                self.refused += 1;
                return;
            }
            _other => pb::Outcome::Unknown,
        };
        let counted = match outcome {
            pb::Outcome::Committed => &mut self.committed,
            pb::Outcome::Aborted => &mut self.aborted,
            _other => &mut self.unknown,
        };
        *counted += 1;
        self.latency_us.record(u64::try_from(due.elapsed().as_micros()).unwrap()).unwrap();
    }

    fn add(&mut self, other: &Tally) {
        self.committed += other.committed;
        self.aborted += other.aborted;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.latency_us.add(&other.latency_us).unwrap();
        self.offered_for = self.offered_for.max(other.offered_for);
    }

    pub fn per_second(&self) -> f64 {
        self.committed as f64 / self.elapsed.as_secs_f64()
    }

    pub fn ms(&self, quantile: f64) -> f64 {
        self.latency_us.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// A transaction of so many branches, each of another of the benchmark's participants, the first being `bench/FIRST`.
pub fn run(first: u32, branches: u32) -> pb::RunRequest {
    let branches = (first..first + branches).map(|number| spec(&format!("bench/{number}")));
    pb::RunRequest { branches: branches.collect(), ..pb::RunRequest::default() }
}

/// Who does not ask is to be told, come what may: its branch is written down before the answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Inquires {
    Yes,
    No,
}

/// A branch that has voted: prepared.
pub fn voted(participant: &str, inquires: Inquires) -> pb::Enlistment {
    let vote = pb::PhaseOneResult {
        vote: pb::Vote::Prepared.into(),
        inquires: inquires == Inquires::Yes,
        ..pb::PhaseOneResult::default()
    };
    pb::Enlistment { branch: Some(spec(participant)), vote: Some(vote) }
}

pub fn enlist(xid: &str, participant: &str, inquires: Inquires) -> Call {
    let enlistment = Some(voted(participant, inquires));
    Call::Enlist(pb::EnlistRequest { xid: xid.to_owned(), enlistment })
}

/// Commits what these have voted for, and does not wait until they have heard of it.
pub fn decide(xid: &str, participants: &[&str]) -> Call {
    let enlistments = participants.iter().map(|participant| voted(participant, Inquires::Yes));
    let wait = pb::Wait::Decision.into();
    Call::Commit(pb::CommitRequest { xid: xid.to_owned(), enlistments: enlistments.collect(), wait })
}

/// Begins so many transactions and makes these calls for each, one after the other. Answers with the longest time in which
/// nothing was answered.
pub async fn fill(lab: &Lab, count: u64, calls: impl Fn(&str) -> Vec<Call>) -> Duration {
    let mut left = count;
    let mut to_do = vec![Vec::new(); SLOTS];
    pump(lab, SLOTS, |slot, answer| {
        match answer {
            Some(Answer::Begin(begun)) => to_do[slot] = calls(&begun.xid).into_iter().rev().collect(),
            Some(Answer::Enlist(_) | Answer::Commit(_)) | None => {}
            Some(other) => panic!("{other:?}"),
        }
        to_do[slot].pop().or_else(|| {
            left = left.checked_sub(1)?;
            Some(Call::Begin(pb::BeginRequest { timeout_ms: TIMEOUT_MS, ..pb::BeginRequest::default() }))
        })
    })
    .await
}

/// Keeps so many transactions under way for as long as there is to be another.
pub async fn closed(
    lab: &Lab,
    in_flight: usize,
    run: pb::RunRequest,
    mut more: impl FnMut() -> bool,
) -> Tally {
    let mut tally = Tally::new();
    let mut began = vec![Instant::now(); in_flight];
    let started = Instant::now();
    pump(lab, in_flight, |slot, answer| {
        if let Some(answer) = answer {
            tally.count(answer, began[slot]);
        }
        began[slot] = Instant::now();
        more().then(|| Call::Run(run.clone()))
    })
    .await;
    tally.elapsed = started.elapsed();
    tally
}

/// The same for so long.
pub async fn closed_for(lab: &Lab, in_flight: usize, run: pb::RunRequest, duration: Duration) -> Tally {
    let end = Instant::now() + duration;
    closed(lab, in_flight, run, || Instant::now() < end).await
}

/// Begins so many transactions a second for so long, however many have ended, and waits for all of them. A transaction's
/// latency counts from when it was due: if it had to wait for the generator or in a buffer, that was in its way too.
pub async fn open(lab: &Lab, per_second: f64, run: pb::RunRequest, duration: Duration) -> Tally {
    let each = per_second / f64::from(STREAMS);
    let started = Instant::now();
    let mut streams = JoinSet::new();
    for stream in 0..STREAMS {
        let pace = Pace {
            // Not all at the same instant.
            start: started + Duration::from_secs_f64(f64::from(stream) / per_second),
            step: Duration::from_secs_f64(1.0 / each),
            end: started + duration,
        };
        let (pipe, run) = (Pipe::open(lab).await, run.clone());
        streams.spawn(open_one(pipe, pace, run));
    }
    let mut total = Tally::new();
    while let Some(tally) = streams.join_next().await {
        total.add(&tally.unwrap());
    }
    total.elapsed = started.elapsed();
    total
}

struct Pace {
    start: Instant,
    step: Duration,
    end: Instant,
}

async fn open_one(mut pipe: Pipe, pace: Pace, run: pb::RunRequest) -> Tally {
    let mut tally = Tally::new();
    let mut under_way = HashMap::new();
    let (mut next, mut due) = (0, pace.start);
    loop {
        let now = Instant::now();
        let mut calls = Vec::new();
        while due <= now && due < pace.end {
            under_way.insert(next, due);
            calls.push(pb::PipelineCall { call_id: next, call: Some(Call::Run(run.clone())) });
            (next, due) = (next + 1, due + pace.step);
        }
        if !calls.is_empty() {
            tally.offered_for = pace.start.elapsed();
            pipe.send(calls);
        }
        if due >= pace.end && under_way.is_empty() {
            return tally;
        }
        tokio::select! {
            answers = pipe.answers() => for answer in answers {
                let due = under_way.remove(&answer.call_id).expect("it answers a call");
                tally.count(answer.answer.expect("an answer says something"), due);
            },
            () = sleep_until(due), if due < pace.end => {}
        }
    }
}

/// Keeps sequences of calls going, each in a slot: `next` has the answer to the last call of its slot, and gives the next.
/// Answers with the longest time in which nothing was answered.
async fn pump(
    lab: &Lab,
    slots: usize,
    mut next: impl FnMut(usize, Option<Answer>) -> Option<Call>,
) -> Duration {
    let mut pipe = Pipe::open(lab).await;
    let to_call = |slot: usize, call| pb::PipelineCall { call_id: slot as u64, call: Some(call) };
    let first = (0..slots).filter_map(|slot| Some(to_call(slot, next(slot, None)?)));
    let mut calls: Vec<_> = first.collect();
    let mut under_way = 0;
    let mut silence = Duration::ZERO;
    loop {
        under_way += calls.len();
        if under_way == 0 {
            return silence;
        }
        if !calls.is_empty() {
            pipe.send(calls);
        }
        let asked = Instant::now();
        let answers = pipe.answers().await;
        silence = silence.max(asked.elapsed());
        under_way -= answers.len();
        let following = answers.into_iter().filter_map(|answer| {
            let slot = usize::try_from(answer.call_id).unwrap();
            Some(to_call(slot, next(slot, answer.answer)?))
        });
        calls = following.collect();
    }
}

/// One open pipeline.
struct Pipe {
    requests: mpsc::UnboundedSender<pb::PipelineRequest>,
    responses: Streaming<pb::PipelineResponse>,
}

impl Pipe {
    async fn open(lab: &Lab) -> Pipe {
        let mut client = TransactionServiceClient::new(lab.connect().await);
        let (requests, sent) = mpsc::unbounded_channel();
        let responses = client.pipeline(UnboundedReceiverStream::new(sent)).await.unwrap().into_inner();
        Pipe { requests, responses }
    }

    fn send(&self, calls: Vec<pb::PipelineCall>) {
        self.requests.send(pb::PipelineRequest { calls }).expect("the pipeline is open");
    }

    async fn answers(&mut self) -> Vec<pb::PipelineAnswer> {
        let message = timeout(PATIENCE, self.responses.message()).await.expect("there is an answer in time");
        message.unwrap().expect("the coordinator leaves the pipeline open").answers
    }
}

fn spec(participant: &str) -> pb::BranchSpec {
    pb::BranchSpec { participant: participant.to_owned(), ..pb::BranchSpec::default() }
}
