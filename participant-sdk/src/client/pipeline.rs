//! All calls of a client over one stream, in batches.
//!
//! Every call that goes through here is idempotent, by its xid, branch id or request id. So when the stream breaks, calls
//! without an answer are sent again on the next one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use assent_proto::v1 as pb;
use assent_proto::v1::pipeline_answer::Answer;
use assent_proto::v1::pipeline_call::Call;
use assent_proto::v1::transaction_service_client::TransactionServiceClient;
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::backoff::{Backoff, later};
use crate::batch::{BATCH_BYTES_MAX, BATCH_ITEMS_MAX, next_batch};
use crate::crash_point;
use crate::network::Address;
use crate::participant::MESSAGE_BYTES_MAX;

/// Calls begun and not answered; further callers wait.
const IN_FLIGHT_MAX: usize = 4096;

/// Messages on their way into the stream. Calls wait in the queue rather than there, so that batches grow.
const MESSAGES_MAX: usize = 2;

/// Between streams, and between attempts of a call that the coordinator cannot take now.
const AGAIN: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(2) };

/// How long the stream may take to open.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// The way to the coordinator. The task behind it ends when the last clone is gone.
#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    jobs: mpsc::Sender<Job>,
    room: Arc<Semaphore>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The coordinator answered with an error.
    Error { error: pb::PipelineError, sent_before: bool },
    /// It was sent, and no answer came in time.
    Lost,
    /// It was not sent in time: nothing has happened.
    Unsent,
}

impl Pipeline {
    /// Connects when there is a first call.
    pub(super) fn new(address: Address) -> Pipeline {
        let (jobs, queue) = mpsc::channel(IN_FLIGHT_MAX);
        tokio::spawn(Carrier::new(address).run(queue));
        Pipeline { jobs, room: Arc::new(Semaphore::new(IN_FLIGHT_MAX)) }
    }

    /// Makes a call, again and again until it is answered or the deadline passes.
    pub(super) async fn call(&self, call: Call, deadline: Instant) -> Result<Answer, Trouble> {
        let mut attempt = 0;
        let mut sent_before = false;
        let mut call = Box::new(call);
        loop {
            match self.call_once(call, deadline).await {
                Err(Trouble::Unsent) if sent_before => return Err(Trouble::Lost),
                Err(trouble) => return Err(trouble),
                Ok(Returned { answer: Answer::Error(error), call: mine, sent_before: again }) => {
                    call = mine;
                    sent_before |= again;
                    let wait = AGAIN.delay(attempt).max(Duration::from_millis(error.retry_delay_ms));
                    let next = later(Instant::now(), wait);
                    if !is_busy(&error) || next >= deadline {
                        return Err(Trouble::Error { error, sent_before });
                    }
                    // A coordinator that shuts down may leave a call half-way; one that is full has not begun it.
                    sent_before |= Code::from_i32(error.code) == Code::Unavailable;
                    attempt += 1;
                    sleep_until(next).await;
                }
                Ok(Returned { answer, .. }) => return Ok(answer),
            }
        }
    }

    /// An error, too, is an answer.
    async fn call_once(&self, call: Box<Call>, deadline: Instant) -> Result<Returned, Trouble> {
        let Ok(room) = timeout_at(deadline, Arc::clone(&self.room).acquire_owned()).await else {
            return Err(Trouble::Unsent);
        };
        let room = room.expect("the semaphore is never closed");
        let (caller, answered) = oneshot::channel();
        let fate = Arc::new(Fate::default());
        let job = Job { call, fate: Arc::clone(&fate), caller, _room: room };
        if self.jobs.try_send(job).is_err() {
            // There is room for as many as there are permits, so this is a runtime that shuts down.
            return Err(Trouble::Unsent);
        }
        match timeout_at(deadline, answered).await {
            Ok(Ok((answer, call))) => Ok(Returned { answer, call, sent_before: fate.sendings() > 1 }),
            Ok(Err(_)) | Err(_) => Err(fate.abandon()),
        }
    }
}

/// An answer, and the call back.
struct Returned {
    answer: Answer,
    call: Box<Call>,
    sent_before: bool,
}

/// How often a call was sent, or that nobody waits for it any more: one number, so that of "the caller gives up" and "it
/// is sent" one is surely first.
#[derive(Debug, Default)]
struct Fate(AtomicU32);

impl Fate {
    const ABANDONED: u32 = u32::MAX;

    /// About to be sent: false, if nobody waits for it.
    fn send(&self) -> bool {
        let more = |sent| (sent != Fate::ABANDONED).then(|| sent + 1);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    fn abandon(&self) -> Trouble {
        match self.0.swap(Fate::ABANDONED, Ordering::AcqRel) {
            0 => Trouble::Unsent,
            _ => Trouble::Lost,
        }
    }

    fn sendings(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }
}

#[derive(Debug)]
struct Job {
    call: Box<Call>,
    fate: Arc<Fate>,
    caller: oneshot::Sender<(Answer, Box<Call>)>,
    _room: OwnedSemaphorePermit,
}

/// The task that owns the stream.
struct Carrier {
    address: Address,
    next_call: u64,
    unsent: VecDeque<Job>,
    /// Sent on the stream that is open.
    waiting: BTreeMap<u64, Job>,
}

impl Carrier {
    fn new(address: Address) -> Carrier {
        Carrier { address, next_call: 1, unsent: VecDeque::new(), waiting: BTreeMap::new() }
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut attempt = 0;
        loop {
            if self.unsent.is_empty() {
                let Some(batch) = next_batch(&mut queue, |_| 0).await else { return };
                self.unsent.extend(batch);
            }
            match self.open().await {
                Ok((outgoing, answers)) => {
                    attempt = 0;
                    let Err(status) = self.carry(&mut queue, outgoing, answers).await else { return };
                    tracing::debug!(%status, "the pipeline to the coordinator broke");
                }
                Err(status) => tracing::debug!(%status, attempt, "no pipeline to the coordinator"),
            }
            self.put_back();
            tokio::time::sleep(AGAIN.delay(attempt)).await;
            attempt = attempt.saturating_add(1);
        }
    }

    /// Opens the stream. The first calls go with it, because a server may wait for them before it answers.
    async fn open(
        &mut self,
    ) -> Result<(mpsc::Sender<pb::PipelineRequest>, Streaming<pb::PipelineResponse>), Status> {
        let channel = self.address.connect().await.map_err(|error| Status::from_error(error.into()))?;
        let mut client = TransactionServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (outgoing, requests) = mpsc::channel(MESSAGES_MAX);
        let first = self.message();
        outgoing.try_send(first).expect("the stream is empty");
        let answers = timeout(OPEN_TIMEOUT, client.pipeline(ReceiverStream::new(requests)))
            .await
            .map_err(|_| Status::deadline_exceeded("the coordinator did not open the pipeline"))??;
        Ok((outgoing, answers.into_inner()))
    }

    /// Carries calls and answers until the stream breaks (`Err`) or no caller is left (`Ok`).
    async fn carry(
        &mut self,
        queue: &mut mpsc::Receiver<Job>,
        outgoing: mpsc::Sender<pb::PipelineRequest>,
        mut answers: Streaming<pb::PipelineResponse>,
    ) -> Result<(), Status> {
        let mut callers = true;
        while callers || !self.waiting.is_empty() || !self.unsent.is_empty() {
            tokio::select! {
                batch = next_batch(queue, |_| 0), if callers && self.unsent.is_empty() => match batch {
                    Some(batch) => self.unsent.extend(batch),
                    None => callers = false,
                },
                room = outgoing.reserve(), if !self.unsent.is_empty() => {
                    room.map_err(|_| Status::unavailable("the stream takes no more"))?.send(self.message());
                    crash_point!("calls-queued");
                }
                message = answers.message() => {
                    let message = message?.ok_or_else(|| Status::unavailable("the coordinator closed the stream"))?;
                    for answer in message.answers {
                        crash_point!(
                            "outcome-received",
                            if matches!(answer.answer, Some(Answer::Commit(_) | Answer::Run(_)))
                        );
                        self.take(answer);
                    }
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, answer: pb::PipelineAnswer) {
        let Some(job) = self.waiting.remove(&answer.call_id) else { return };
        let unknown = || {
            let message = "the answer is of a kind that this version does not know".to_owned();
            // It was answered, so it was carried out, perhaps: no code that promises the contrary.
            Answer::Error(pb::PipelineError { code: Code::Unknown.into(), message, ..Default::default() })
        };
        // A caller that gave up has drawn its conclusion.
        let _ = job.caller.send((answer.answer.unwrap_or_else(unknown), job.call));
    }

    /// The next message, as full as may be.
    fn message(&mut self) -> pb::PipelineRequest {
        let (mut calls, mut bytes) = (Vec::new(), 0);
        while calls.len() < BATCH_ITEMS_MAX && bytes < BATCH_BYTES_MAX {
            let Some(job) = self.unsent.pop_front() else { break };
            if job.caller.is_closed() || !job.fate.send() {
                continue;
            }
            let call = pb::PipelineCall { call_id: self.next_call, call: Some(Call::clone(&job.call)) };
            bytes += call.encoded_len();
            calls.push(call);
            self.waiting.insert(self.next_call, job);
            self.next_call += 1;
        }
        pb::PipelineRequest { calls }
    }

    /// The stream is gone: what has no answer is to be sent again, in the same order.
    fn put_back(&mut self) {
        for job in std::mem::take(&mut self.waiting).into_values().rev() {
            self.unsent.push_front(job);
        }
        self.unsent.retain(|job| !job.caller.is_closed());
    }
}

/// Whether the coordinator cannot take the call now, and may later.
fn is_busy(error: &pb::PipelineError) -> bool {
    matches!(Code::from_i32(error.code), Code::Unavailable | Code::ResourceExhausted)
}
