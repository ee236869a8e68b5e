//! Participants that dial the coordinator and keep one stream open.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use assent_proto::v1 as pb;
use pb::participant_session_service_server::ParticipantSessionService;
use smol_str::SmolStr;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use super::lane::{BranchKey, Lane, LaneView, OpenSession, SessionView};
use super::not_sent;
use crate::api::status;
use crate::coordinator::{Coordinator, Phase, ReplyTo, Stopped};
use crate::core::{
    Answer, BranchId, Call, Event, FailureKind, InquiryAnswer, Map, Operation, ParticipantName, Replica,
    Report, TxId,
};
use crate::crash_point;
use crate::wire::{self, Invalid, Limits};

/// How many calls and answers go into one message at most.
const MESSAGE_MAX: usize = 256;
/// A message that has this many bytes of payload is sent; so none is larger than this and one payload.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// How often a session is told of a new horizon at most. It moves with every sync of the log, and is in no hurry.
const HORIZON_INTERVAL: Duration = Duration::from_millis(500);
/// How many inquiries one message may carry.
const INQUIRIES_MAX: usize = 1_000;
/// How many questions of a session may wait for their answers before the next message of it is read.
const ASKED_MAX: usize = 1_024;
/// How much may wait to be sent on a session besides its calls. Whoever lets more wait does not read, and is cut off.
const UNSENT_MAX: usize = 4_096;

/// All sessions that are open.
#[derive(Clone, Debug)]
pub struct Sessions {
    lanes: Arc<Mutex<Map<ParticipantName, Lane>>>,
    replicas: Arc<AtomicU64>,
    max_in_flight: usize,
}

/// What goes out on a session.
#[derive(Debug)]
pub(super) enum Outgoing {
    Call(Call),
    Inquiry(pb::InquiryResult),
    Enlisted(pb::SessionEnlistAnswer),
    Horizon(pb::Horizon),
    /// The end: the coordinator stops, or the participant broke the rules.
    End(Status),
}

impl Sessions {
    /// At most `max_in_flight` calls are out to one participant at a time.
    pub fn new(max_in_flight: usize) -> Sessions {
        Sessions { lanes: Arc::default(), replicas: Arc::default(), max_in_flight }
    }

    pub(super) fn call(&self, call: Call) -> Option<Event> {
        let mut lanes = self.lock();
        let refused = match lanes.get_mut(&call.participant) {
            Some(lane) => lane.call(call, self.max_in_flight),
            None => Some(call),
        };
        refused.map(|call| not_sent(call, "it is not connected"))
    }

    pub(super) fn is_paused(&self, participant: &ParticipantName) -> bool {
        self.lock().get(participant).is_some_and(|lane| lane.paused)
    }

    /// Stops or resumes calls to a participant.
    pub fn set_paused(&self, participant: &ParticipantName, paused: bool) {
        let mut lanes = self.lock();
        lanes.entry(participant.clone()).or_default().set_paused(paused, self.max_in_flight);
        lanes.retain(|_, lane| !lane.is_empty());
    }

    /// No answer for this branch is to come any more: its place is free.
    pub fn give_up(&self, participant: &ParticipantName, key: &BranchKey) {
        self.with_lane(participant, |lane| lane.give_up(key, self.max_in_flight));
    }

    /// Every participant that has a session or is paused.
    pub fn view(&self) -> Vec<(ParticipantName, LaneView)> {
        self.lock().iter().map(|(name, lane)| (name.clone(), lane.view())).collect()
    }

    fn open(&self, participant: &ParticipantName, session: OpenSession) {
        self.lock().entry(participant.clone()).or_default().open(session);
    }

    /// How much may wait to be sent on one session: for each place in flight its call and a repetition, and the rest.
    fn outbox_capacity(&self) -> usize {
        2 * self.max_in_flight + UNSENT_MAX
    }

    fn close(&self, participant: &ParticipantName, replica: Replica) -> Vec<(BranchKey, Operation)> {
        let mut lanes = self.lock();
        let lost = lanes
            .get_mut(participant)
            .map(|lane| lane.close(replica, self.max_in_flight))
            .unwrap_or_default();
        lanes.retain(|_, lane| !lane.is_empty());
        lost
    }

    fn with_lane(&self, participant: &ParticipantName, change: impl FnOnce(&mut Lane)) {
        if let Some(lane) = self.lock().get_mut(participant) {
            change(lane);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Map<ParticipantName, Lane>> {
        // Nothing under this lock panics half-way through a change.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The gRPC service behind sessions.
#[derive(Clone, Debug)]
pub struct SessionService {
    coordinator: Coordinator,
    sessions: Sessions,
    limits: Arc<Limits>,
}

impl SessionService {
    pub fn new(coordinator: Coordinator, sessions: Sessions, limits: Arc<Limits>) -> SessionService {
        SessionService { coordinator, sessions, limits }
    }

    fn welcome(&self) -> pb::SessionResponse {
        let identity = self.coordinator.identity();
        pb::SessionResponse {
            welcome: Some(pb::Welcome {
                cluster_id: identity.cluster.to_string(),
                epoch: identity.epoch.0,
                max_payload_bytes: self.limits.max_payload as u64,
            }),
            ..pb::SessionResponse::default()
        }
    }
}

#[tonic::async_trait]
impl ParticipantSessionService for SessionService {
    type SessionStream = Outbox;

    async fn session(
        &self,
        request: Request<Streaming<pb::SessionRequest>>,
    ) -> Result<Response<Outbox>, Status> {
        status::serving(&self.coordinator)?;
        let peer = request.remote_addr().map_or_else(String::new, |peer| peer.to_string());
        let mut inbound = request.into_inner();
        let first = inbound.message().await?.unwrap_or_default();
        let hello = first.hello.clone().ok_or_else(|| {
            status::invalid(&Invalid::new(
                "hello",
                "is not set; the first request of a session must bring it",
            ))
        })?;
        let participant: ParticipantName = wire::name("hello.participant", &hello.participant)
            .map_err(|invalid| status::invalid(&invalid))?;
        for (field, text, limit) in
            [("hello.instance_id", &hello.instance_id, 64), ("hello.agent", &hello.agent, 128)]
        {
            if text.len() > limit {
                let problem = format!("has {} bytes; the limit is {limit}", text.len());
                return Err(status::invalid(&Invalid::new(field, problem)));
            }
        }
        let replica = Replica(self.sessions.replicas.fetch_add(1, Ordering::Relaxed));
        let (outbox, outgoing) = mpsc::channel(self.sessions.outbox_capacity());
        let view = SessionView {
            instance_id: hello.instance_id,
            agent: hello.agent,
            peer,
            connected_at: self.coordinator.now().wall,
        };
        info!(%participant, instance = view.instance_id, peer = view.peer, "participant connected");
        self.sessions
            .open(&participant, OpenSession { replica, outbox: outbox.clone(), draining: false, view });
        let session = Session {
            coordinator: self.coordinator.clone(),
            sessions: self.sessions.clone(),
            limits: self.limits.clone(),
            participant,
            replica,
            outbox,
        };
        tokio::spawn(session.run(first, inbound));
        Ok(Response::new(Outbox { welcome: Some(self.welcome()), outgoing, batch: Vec::new() }))
    }
}

/// One open stream.
struct Session {
    coordinator: Coordinator,
    sessions: Sessions,
    limits: Arc<Limits>,
    participant: ParticipantName,
    replica: Replica,
    outbox: mpsc::Sender<Outgoing>,
}

impl Session {
    async fn run(self, first: pb::SessionRequest, mut inbound: Streaming<pb::SessionRequest>) {
        let end = self.serve(first, &mut inbound).await;
        info!(participant = %self.participant, replica = self.replica.0, reason = end.message(), "participant disconnected");
        let lost = self.sessions.close(&self.participant, self.replica);
        let reports = lost.into_iter().map(|((tx, branch), operation)| Event::Reported {
            tx,
            branch,
            operation,
            report: Report::Failed {
                error: SmolStr::new_static("the connection was lost"),
                kind: FailureKind::Unknown,
            },
        });
        let reports: Vec<_> = reports.collect();
        if !reports.is_empty() {
            let _ = self.coordinator.report(reports).await;
        }
        // Last, since it waits for room: whoever does not read hears the reason when it has read the rest.
        let _ = self.outbox.send(Outgoing::End(end)).await;
    }

    /// Serves until one side ends it, and says why.
    async fn serve(&self, first: pb::SessionRequest, inbound: &mut Streaming<pb::SessionRequest>) -> Status {
        let (answers, mut answered) = mpsc::unbounded_channel();
        let mut phase = self.coordinator.watch_phase();
        let mut horizon = self.coordinator.watch_horizon();
        let mut horizon_due = tokio::time::interval(HORIZON_INTERVAL);
        self.tell_horizon();
        if self.coordinator.participant_up(self.participant.clone()).await.is_err() {
            return status::stopped();
        }
        let mut asked = Asked::default();
        let mut told = Vec::new();
        let mut request = first;
        loop {
            if let Err(end) = self.request(request, &mut asked, &answers).await {
                return end;
            }
            request = loop {
                tokio::select! {
                    received = inbound.message(), if asked.questions.len() < ASKED_MAX => match received {
                        Ok(Some(request)) => break request,
                        Ok(None) => return status::closed(),
                        Err(status) => return status,
                    },
                    _count = answered.recv_many(&mut told, ASKED_MAX) => {
                        for (number, answer) in told.drain(..) {
                            if let Err(end) = self.answered(asked.take(number), answer) {
                                return end;
                            }
                        }
                    }
                    _ = horizon_due.tick() => if horizon.has_changed().unwrap_or(false) {
                        horizon.mark_unchanged();
                        self.tell_horizon();
                    },
                    () = async { drop(phase.wait_for(|phase| *phase == Phase::Stopped).await) } => {
                        return status::stopped();
                    }
                }
            };
        }
    }

    async fn request(
        &self,
        request: pb::SessionRequest,
        asked: &mut Asked,
        answers: &mpsc::UnboundedSender<(u64, Answer)>,
    ) -> Result<(), Status> {
        if request.draining {
            self.sessions.with_lane(&self.participant, |lane| lane.drain(self.replica));
        }
        let mut reports = Vec::with_capacity(request.replies.len());
        let mut ignored: Option<(usize, Invalid)> = None;
        for reply in request.replies {
            match self.report(reply) {
                Ok(report) => reports.push(report),
                // One bad reply harms its own branch only: the call is repeated.
                Err(invalid) => ignored.get_or_insert((0, invalid)).0 += 1,
            }
        }
        // Once, since there can be millions in a message.
        if let Some((count, first)) = ignored {
            warn!(participant = %self.participant, count, %first, "ignored replies that cannot be understood");
        }
        if !reports.is_empty() {
            self.sessions.with_lane(&self.participant, |lane| {
                reports.retain(|(tx, branch, operation, _): &(TxId, BranchId, Operation, Report)| {
                    let known = lane.answered(&(*tx, branch.clone()), *operation, self.sessions.max_in_flight);
                    if !known {
                        debug!(participant = %self.participant, xid = %tx, %branch, "ignored a reply to no call");
                    }
                    known
                });
            });
            let events = reports.into_iter().map(|(tx, branch, operation, report)| Event::Reported {
                tx,
                branch,
                operation,
                report,
            });
            self.coordinator.report(events.collect()).await.map_err(|Stopped| status::stopped())?;
        }
        if request.inquiries.len() > INQUIRIES_MAX {
            let count = request.inquiries.len();
            let problem = format!("has {count} elements; the limit is {INQUIRIES_MAX}");
            return Err(status::invalid(&Invalid::new("inquiries", problem)));
        }
        for inquiry in request.inquiries {
            let (tx, branch) = wire::branch_key(&inquiry.xid, &inquiry.branch_id)
                .map_err(|invalid| status::invalid(&invalid.within("inquiries")))?;
            let number = asked.put(Question::Inquiry { tx, branch: branch.clone() });
            let known_life = self.coordinator.identity().lives.contains(tx);
            let reply = ReplyTo::Stream { call_id: number, to: answers.clone() };
            let expired = inquiry.expired;
            self.coordinator
                .ask_for(reply, |waiter| Event::Inquire { waiter, tx, branch, expired, known_life })
                .await
                .map_err(|Stopped| status::stopped())?;
        }
        for enlistment in request.enlistments {
            self.enlist(enlistment, asked, answers).await?;
        }
        Ok(())
    }

    async fn enlist(
        &self,
        request: pb::SessionEnlistment,
        asked: &mut Asked,
        answers: &mpsc::UnboundedSender<(u64, Answer)>,
    ) -> Result<(), Status> {
        let call_id = request.call_id;
        let parsed = wire::tx_id("xid", &request.xid).and_then(|tx| {
            let enlistment = request.enlistment.unwrap_or_default();
            let mut enlistment = wire::enlistment(enlistment, &self.limits)?;
            if enlistment.branch.participant != self.participant {
                let problem = format!(
                    "is {}; this session enlists only for {}",
                    enlistment.branch.participant, self.participant
                );
                return Err(Invalid::new("branch.participant", problem));
            }
            // It has a session, and so asks when it comes back.
            enlistment.branch.inquires = true;
            Ok((tx, enlistment))
        });
        match parsed {
            Ok((tx, enlistment)) => {
                let number = asked.put(Question::Enlistment { call_id });
                let reply = ReplyTo::Stream { call_id: number, to: answers.clone() };
                self.coordinator
                    .ask_for(reply, |waiter| Event::Enlist { waiter, tx, enlistment })
                    .await
                    .map_err(|Stopped| status::stopped())
            }
            Err(invalid) => {
                self.send(Outgoing::Enlisted(enlist_answer(call_id, Err(status::invalid(&invalid)))))
            }
        }
    }

    fn report(&self, reply: pb::CallReply) -> Result<(TxId, BranchId, Operation, Report), Invalid> {
        let (tx, branch) = wire::branch_key(&reply.xid, &reply.branch_id)?;
        let operation = wire::operation("operation", reply.operation)?;
        let report = match reply.result {
            None => return Err(Invalid::new("result", "is not set")),
            Some(pb::call_reply::Result::Vote(vote)) => match wire::phase_one(vote, &self.limits) {
                Ok(result) => Report::Voted { result, replica: Some(self.replica) },
                Err(invalid) => bad_answer(&invalid),
            },
            Some(pb::call_reply::Result::Completion(completion)) => {
                match wire::completion("completion", completion.completion) {
                    Ok(done) => Report::Completed {
                        completion: done,
                        detail: wire::reason(&completion.detail),
                        reply: wire::reply_to_completion(completion.reply, &self.participant, &self.limits),
                    },
                    Err(invalid) => bad_answer(&invalid),
                }
            }
            Some(pb::call_reply::Result::Error(error)) => {
                Report::Failed { error: wire::reason(&error), kind: FailureKind::Unknown }
            }
        };
        Ok((tx, branch, operation, report))
    }

    fn answered(&self, question: Option<Question>, answer: Answer) -> Result<(), Status> {
        match (question, answer) {
            (Some(Question::Inquiry { tx, branch }), Answer::Inquiry(answer)) => {
                if answer == InquiryAnswer::Foreign {
                    warn!(participant = %self.participant, xid = %tx, %branch, "was asked for a transaction of a log that is not this one; presuming nothing");
                }
                self.send(Outgoing::Inquiry(pb::InquiryResult {
                    xid: tx.to_string(),
                    branch_id: branch.to_string(),
                    answer: wire::inquiry_answer_to_pb(answer).into(),
                }))
            }
            (Some(Question::Enlistment { call_id }), Answer::Enlisted { .. }) => {
                self.send(Outgoing::Enlisted(enlist_answer(call_id, Ok(()))))
            }
            (Some(Question::Enlistment { call_id }), Answer::Rejected(rejection)) => {
                self.send(Outgoing::Enlisted(enlist_answer(call_id, Err(status::rejected(&rejection)))))
            }
            (question, _answer_with_payloads) => {
                warn!(?question, "an answer that fits no question");
                Ok(())
            }
        }
    }

    fn tell_horizon(&self) {
        // Where there is no room for it, the next one says all that this one would.
        let _ = self.outbox.try_send(Outgoing::Horizon(pb::Horizon {
            cluster_id: self.coordinator.identity().cluster.to_string(),
            before: self.coordinator.horizon().to_string(),
        }));
        crash_point!("horizon-told");
    }

    /// It never waits: meanwhile no replies would be read, and the participant may need to be rid of these before it reads.
    fn send(&self, outgoing: Outgoing) -> Result<(), Status> {
        match self.outbox.try_send(outgoing) {
            // A session that is closing has no use for it: the participant asks again on its next one.
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err(status::unread()),
        }
    }
}

/// What was asked for on a session and not answered.
#[derive(Debug, Default)]
struct Asked {
    next: u64,
    questions: Map<u64, Question>,
}

#[derive(Debug)]
enum Question {
    Inquiry { tx: TxId, branch: BranchId },
    Enlistment { call_id: u64 },
}

impl Asked {
    fn put(&mut self, question: Question) -> u64 {
        self.next += 1;
        self.questions.insert(self.next, question);
        self.next
    }

    fn take(&mut self, number: u64) -> Option<Question> {
        self.questions.remove(&number)
    }
}

/// The outgoing half: each message takes all that waits.
#[derive(Debug)]
pub struct Outbox {
    welcome: Option<pb::SessionResponse>,
    outgoing: mpsc::Receiver<Outgoing>,
    /// Taken from there and not sent, the next one last.
    batch: Vec<Outgoing>,
}

impl Stream for Outbox {
    type Item = Result<pb::SessionResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(welcome) = self.welcome.take() {
            return Poll::Ready(Some(Ok(welcome)));
        }
        let this = &mut *self;
        if this.batch.is_empty() {
            if ready!(this.outgoing.poll_recv_many(context, &mut this.batch, MESSAGE_MAX)) == 0 {
                return Poll::Ready(None);
            }
            this.batch.reverse();
        }
        let mut response = pb::SessionResponse::default();
        let mut payload_bytes = 0;
        while payload_bytes < MESSAGE_BYTES_MAX
            && let Some(outgoing) = this.batch.pop()
        {
            match outgoing {
                Outgoing::Call(call) => {
                    payload_bytes += call.payload.len();
                    response.calls.push(wire::call_to_pb(call));
                }
                Outgoing::Inquiry(result) => response.inquiry_results.push(result),
                Outgoing::Enlisted(answer) => response.enlist_answers.push(answer),
                Outgoing::Horizon(horizon) => response.horizon = Some(horizon),
                Outgoing::End(status) if status.code() == tonic::Code::Ok => return Poll::Ready(None),
                Outgoing::End(status) => return Poll::Ready(Some(Err(status))),
            }
        }
        Poll::Ready(Some(Ok(response)))
    }
}

fn bad_answer(invalid: &Invalid) -> Report {
    let error = smol_str::format_smolstr!("its answer was not understood: {invalid}");
    Report::Failed { error, kind: FailureKind::Unknown }
}

fn enlist_answer(call_id: u64, result: Result<(), Status>) -> pb::SessionEnlistAnswer {
    let (code, message) = match result {
        Ok(()) => (0, String::new()),
        Err(status) => (i32::from(status.code()), status.message().to_owned()),
    };
    pb::SessionEnlistAnswer { call_id, code, message }
}
