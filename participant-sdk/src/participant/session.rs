//! The session: one stream to the coordinator, opened again whenever it breaks.

use std::future::poll_fn;
use std::mem;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use assent_proto::v1 as pb;
use assent_proto::v1::participant_session_service_client::ParticipantSessionServiceClient;
use bytes::Bytes;
use futures_util::{FutureExt as _, stream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::engine::{Asked, Engine, clipped, completion, refused, ttl};
use super::link::{self, Link, Outgoing};
use super::stopped;
use crate::backoff::Backoff;
use crate::batch::next_batch;
use crate::branch::{Branch, ClusterId, Protocol};
use crate::context::{self, Context};
use crate::crash_point;
use crate::error::{Failure, Result};
use crate::network::Address;

const RECONNECT: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5) };

/// How long the coordinator may take to say welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the coordinator may take to close the stream after we have said that there is no more to come.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How many calls begin in one task at most.
const CALLS_TOGETHER_MAX: usize = 16;

const AGENT: &str = concat!("assent-sdk/", env!("CARGO_PKG_VERSION"));

/// What the session task needs.
pub(super) struct Session {
    pub(super) engine: Arc<Engine>,
    pub(super) link: Arc<Link>,
    pub(super) address: Address,
    pub(super) instance_id: String,
    pub(super) drain_timeout: Duration,
    pub(super) stop: watch::Receiver<bool>,
}

impl Session {
    /// Runs until stopped. The coordinator may be down, at the start too.
    pub(super) async fn run(self) {
        let mut stop = self.stop.clone();
        let mut attempt = 0;
        loop {
            let opened = tokio::select! {
                opened = self.open() => opened,
                () = stopped(&mut stop) => return,
            };
            match opened {
                Ok(stream) => {
                    attempt = 0;
                    let ended = self.serve(stream).await;
                    self.link.closed();
                    match ended {
                        Ok(()) => return,
                        Err(status) => tracing::warn!(%status, "session broke"),
                    }
                }
                Err(trouble) => tracing::warn!(attempt, error = %trouble, "no session with the coordinator"),
            }
            let delay = RECONNECT.delay(attempt);
            attempt = attempt.saturating_add(1);
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = stopped(&mut stop) => return,
            }
        }
    }

    /// Dials, says hello, and is welcomed.
    async fn open(&self) -> Result<Open> {
        let channel = self.address.connect().await?;
        let (outgoing, queue) = Link::channel();
        let hello = pb::Hello {
            participant: self.engine.name().to_string(),
            instance_id: self.instance_id.clone(),
            agent: AGENT.into(),
        };
        outgoing.send(Outgoing::Hello(hello)).await?;
        let requests = stream::unfold(queue, |mut queue| async move {
            let batch = next_batch(&mut queue, Outgoing::bytes).await?;
            Some((link::message(batch), queue))
        });
        let mut client =
            ParticipantSessionServiceClient::new(channel).max_decoding_message_size(super::MESSAGE_BYTES_MAX);
        let welcomed = async {
            let mut incoming = client.session(requests).await?.into_inner();
            let first = incoming.message().await?;
            Ok::<_, Status>((incoming, first.unwrap_or_default()))
        };
        let (incoming, mut first) = timeout(WELCOME_TIMEOUT, welcomed).await??;
        let welcome =
            first.welcome.take().ok_or_else(|| Failure::again("the coordinator said no welcome"))?;
        tracing::info!(cluster = welcome.cluster_id, epoch = welcome.epoch, "session open");
        let caller = Caller {
            cluster: ClusterId::from(welcome.cluster_id.as_str()),
            // A coordinator that names no limit has none that we know of.
            reply_bytes_max: match usize::try_from(welcome.max_payload_bytes) {
                Ok(0) | Err(_) => usize::MAX,
                Ok(max) => max,
            },
        };
        Ok(Open { incoming, outgoing, first, caller })
    }

    /// Serves the stream until it breaks (`Err`) or the participant is told to stop and has drained (`Ok`).
    async fn serve(&self, open: Open) -> Result<(), Status> {
        let Open { mut incoming, outgoing, first, caller } = open;
        self.engine.learn_cluster(&caller.cluster);
        self.link.opened(outgoing.clone());
        let loading = AbortOnDrop(tokio::spawn(hand_over_doubts(Arc::clone(&self.engine))));
        let mut stop = self.stop.clone();
        let mut next = first;
        loop {
            // Taking a message may have to wait for calls in flight, and they may hang.
            tokio::select! {
                () = self.take(next, &caller, &outgoing) => {}
                () = stopped(&mut stop) => break,
            }
            tokio::select! {
                message = incoming.message() => {
                    let message = message?.ok_or_else(|| Status::unavailable("the coordinator closed the session"))?;
                    next = message;
                }
                () = stopped(&mut stop) => break,
            }
        }
        drop(loading);
        self.drain(incoming, outgoing, &caller).await;
        Ok(())
    }

    /// Asks for no more, finishes what is in flight within the time allowed, and closes.
    async fn drain(
        &self,
        mut incoming: Streaming<pb::SessionResponse>,
        outgoing: mpsc::Sender<Outgoing>,
        caller: &Caller,
    ) {
        let finished = timeout(self.drain_timeout, async {
            // The other end being gone is as good as drained. One that does not read may leave no room.
            let _ = outgoing.send(Outgoing::Draining).await;
            loop {
                tokio::select! {
                    biased;
                    () = self.engine.idle() => return,
                    message = incoming.message() => match message {
                        Ok(Some(message)) => self.take(message, caller, &outgoing).await,
                        Ok(None) | Err(_) => return,
                    },
                }
            }
        });
        if finished.await.is_err() {
            tracing::warn!("calls still in flight at the end of the drain time are left; they come again");
        }
        // When the last sender is gone what waits is sent, and then the stream ends.
        self.link.closed();
        drop(outgoing);
        let _ = timeout(CLOSE_TIMEOUT, async { while let Ok(Some(_)) = incoming.message().await {} }).await;
    }

    /// Takes one message. Calls go to other tasks; while too many are in flight, this waits, and so the coordinator
    /// does.
    async fn take(&self, message: pb::SessionResponse, caller: &Caller, outgoing: &mpsc::Sender<Outgoing>) {
        for answer in message.enlist_answers {
            self.link.enlisted(answer);
        }
        self.engine.answered(message.inquiry_results);
        if let Some(horizon) = &message.horizon {
            self.engine.learn_horizon(horizon);
        }
        let together = calls_together(message.calls.len());
        let mut portion = Vec::with_capacity(together);
        for call in message.calls {
            let permit = if let Some(permit) = self.engine.try_permit() {
                permit
            } else {
                // Those in hand have room, and would keep it for ever if they did not begin.
                begin(&mut portion);
                self.engine.permit().await
            };
            let (engine, caller, outgoing) = (Arc::clone(&self.engine), caller.clone(), outgoing.clone());
            // Boxed, because a future of this size is dear to move.
            portion.push(Box::pin(async move {
                let reply = answer(&engine, call, &caller).await;
                crash_point!("reply-made");
                // Where the stream is gone the call comes again on the next one.
                let _ = outgoing.send(Outgoing::Reply(reply)).await;
                crash_point!("reply-queued");
                drop(permit);
            }));
            if portion.len() == together {
                begin(&mut portion);
            }
        }
        begin(&mut portion);
    }
}

/// How many calls begin in one task: one, unless a message brings many more than there are workers to spread them over. A
/// handler that is long before it first waits holds up those that begin with it.
fn calls_together(calls: usize) -> usize {
    let workers = Handle::current().metrics().num_workers();
    (calls / (4 * workers)).clamp(1, CALLS_TOGETHER_MAX)
}

/// Has calls begin one after the other, in a task. Those that have to wait get tasks of their own.
fn begin(portion: &mut Vec<Pin<Box<impl Future<Output = ()> + Send + 'static>>>) {
    if portion.is_empty() {
        return;
    }
    let calls = mem::take(portion);
    tokio::spawn(async {
        for mut call in calls {
            if poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await.is_pending() {
                tokio::spawn(call);
            }
        }
    });
}

/// A stream that is welcomed.
struct Open {
    incoming: Streaming<pb::SessionResponse>,
    outgoing: mpsc::Sender<Outgoing>,
    /// What came with the welcome.
    first: pb::SessionResponse,
    caller: Caller,
}

/// The coordinator at the other end.
#[derive(Clone)]
struct Caller {
    cluster: ClusterId,
    /// It takes replies up to this.
    reply_bytes_max: usize,
}

/// Asks about everything that the resource holds in doubt, whoever prepared it: another replica may have died.
async fn hand_over_doubts(engine: Arc<Engine>) {
    let mut attempt = 0;
    loop {
        match engine.load_doubts().await {
            Ok(count) => {
                crash_point!("doubts-loaded");
                tracing::debug!(count, "in doubt at the opening of the session");
                return engine.ask_about_all();
            }
            Err(failure) => tracing::warn!(error = %failure, "branches in doubt cannot be listed yet"),
        }
        tokio::time::sleep(RECONNECT.delay(attempt)).await;
        attempt = attempt.saturating_add(1);
    }
}

impl Caller {
    /// A reply that is too big is trouble rather than a vote. The transaction will abort, and the message says why.
    fn takes(&self, reply: &Bytes) -> Result<()> {
        if reply.len() <= self.reply_bytes_max {
            return Ok(());
        }
        let (size, max) = (reply.len(), self.reply_bytes_max);
        Err(Failure::again(format!("the handler's reply is {size} bytes; the coordinator takes {max}")))
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn answer(engine: &Engine, mut call: pb::Call, caller: &Caller) -> pb::CallReply {
    crash_point!("call-received");
    let (xid, branch_id) = (mem::take(&mut call.xid), mem::take(&mut call.branch_id));
    let operation = call.operation;
    let result = match engine.branch(&xid, &branch_id) {
        Err(failure) => Err(failure),
        Ok(branch) => {
            let context = Context::new(branch.xid()).with_traceparent(&call.traceparent);
            let carried_out = context::scope(context, carry_out(engine, branch, call, caller));
            // A panic must not leave the coordinator without an answer until its time is up.
            let carried_out = AssertUnwindSafe(carried_out).catch_unwind().await;
            carried_out.unwrap_or_else(|_| Err(Failure::again("the call ended in a panic")))
        }
    };
    let result = result.unwrap_or_else(|failure| pb::call_reply::Result::Error(clipped(failure.to_string())));
    pb::CallReply { xid, branch_id, operation, result: Some(result) }
}

async fn carry_out(
    engine: &Engine,
    branch: Branch,
    call: pb::Call,
    caller: &Caller,
) -> Result<pb::call_reply::Result> {
    use pb::call_reply::Result::{Completion, Vote};

    let asked = |branch, call: pb::Call| Asked {
        branch,
        cluster: caller.cluster.clone(),
        protocol: Protocol::from_pb(call.protocol()),
        ttl: ttl(call.reservation_ttl_ms),
        request: call.payload,
    };
    let completed = |done, reply| {
        Completion(pb::PhaseTwoResult { completion: completion(done).into(), detail: String::new(), reply })
    };
    match call.operation() {
        pb::Operation::PhaseOne => match engine.phase_one(asked(branch, call)).await {
            Ok(granted) => caller.takes(granted.vote.reply()).map(|()| Vote(engine.vote(granted))),
            Err(failure) => refused(failure).map(Vote),
        },
        pb::Operation::CommitOnePhase => match engine.commit_one_phase(asked(branch, call)).await {
            // It is done; a reply that cannot be sent does not change that.
            Ok(done) => Ok(match caller.takes(&done.reply) {
                Ok(()) => completed(done.completion, done.reply),
                Err(_) => completed(done.completion, Bytes::new()),
            }),
            Err(failure) => refused(failure).map(Vote),
        },
        pb::Operation::Commit => Ok(completed(engine.commit(&branch).await?, Bytes::new())),
        pb::Operation::Rollback => Ok(completed(engine.rollback(&branch).await?, Bytes::new())),
        pb::Operation::Unspecified => {
            Err(Failure::again(format!("operation {} is not one that this version knows", call.operation)))
        }
    }
}
