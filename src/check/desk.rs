//! The coordinator's side that participants dial: sessions and inquiries. It decides nothing by itself.

mod service;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use assent_proto::TxId;
use assent_proto::v1 as pb;
use pb::inquiry_service_server::InquiryServiceServer;
use pb::participant_session_service_server::ParticipantSessionServiceServer;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use uuid::Uuid;

use super::subject::Trouble;
use crate::core::ParticipantName;

const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whom the kit plays: a cluster of its own, in a life of its own, so that its transactions are nobody else's.
#[derive(Clone, Debug)]
pub struct Identity {
    pub cluster: String,
    pub life_tag: u32,
}

/// A clone is the same desk. It serves until the last one that is not the server's own is dropped.
#[derive(Clone, Debug)]
pub struct Desk {
    shared: Arc<Shared>,
    _serving: Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct Shared {
    /// Whose sessions are taken. None: inquiries only.
    participant: Option<ParticipantName>,
    identity: Identity,
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Those open, the newest last; it gets the calls.
    sessions: Vec<OpenSession>,
    /// How many were ever opened.
    opened: u64,
    turned_away: Option<String>,
    /// Who waits for replies. A reply names the branch and not the call, so it goes to whoever has waited longest.
    waiting: HashMap<CallKey, VecDeque<oneshot::Sender<Result<pb::call_reply::Result, Trouble>>>>,
    /// What is answered to inquiries; else PENDING.
    answers: HashMap<BranchKey, pb::InquiryAnswer>,
    /// How often each branch was asked about.
    asked: HashMap<BranchKey, u64>,
}

#[derive(Debug)]
struct OpenSession {
    number: u64,
    outbox: mpsc::Sender<Result<pb::SessionResponse, tonic::Status>>,
    reading: AbortHandle,
}

/// The xid and the branch id, as they were sent.
type BranchKey = (String, String);
type CallKey = (String, String, i32);

impl Identity {
    pub fn random() -> Identity {
        let (high, low) = Uuid::new_v4().as_u64_pair();
        let life_tag = u32::try_from((high ^ low) & u64::from(u32::MAX)).expect("it is cut to 32 bits");
        Identity { cluster: Uuid::new_v4().to_string(), life_tag }
    }
}

impl Desk {
    pub fn serve(listener: TcpListener, participant: Option<ParticipantName>, identity: Identity) -> Desk {
        let shared = Arc::new(Shared { participant, identity, state: watch::Sender::default() });
        let service = service::Service(Arc::clone(&shared));
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .add_service(ParticipantSessionServiceServer::new(service.clone()))
            .add_service(InquiryServiceServer::new(service))
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        // If it fails nobody gets through, and whoever waits for that says so.
        let serving = tokio::spawn(async move { drop(server.await) }).abort_handle();
        Desk { shared, _serving: Arc::new(AbortOnDrop(serving)) }
    }

    /// Waits for an open session. If none comes, it says why the last one was turned away.
    pub async fn ready(&self, wait: Duration) -> Result<(), Option<String>> {
        let mut state = self.shared.state.subscribe();
        let open = timeout(wait, state.wait_for(|state| !state.sessions.is_empty())).await.is_ok();
        if open { Ok(()) } else { Err(self.shared.state.borrow().turned_away.clone()) }
    }

    /// Makes a call on the newest session, and waits for it as long as it takes.
    pub async fn call(&self, call: pb::Call) -> Result<pb::call_reply::Result, Trouble> {
        let key = (call.xid.clone(), call.branch_id.clone(), call.operation);
        let mut state = self.shared.state.subscribe();
        let open = state.wait_for(|state| !state.sessions.is_empty()).await.map(drop);
        open.expect("the sender is in `shared`");
        let (reply, replied) = oneshot::channel();
        let mut outbox = None;
        self.shared.state.send_modify(|state| {
            outbox = state.sessions.last().map(|session| session.outbox.clone());
            state.waiting.entry(key).or_default().push_back(reply);
        });
        let message = pb::SessionResponse { calls: vec![call], ..pb::SessionResponse::default() };
        let lost = || Trouble::Again("the session was lost".to_owned());
        outbox.ok_or_else(lost)?.send(Ok(message)).await.map_err(|_| lost())?;
        replied.await.unwrap_or_else(|_| Err(lost()))
    }

    /// Breaks all sessions; a participant is to open a new one.
    pub fn break_sessions(&self) {
        self.shared.state.send_modify(|state| {
            for session in std::mem::take(&mut state.sessions) {
                session.reading.abort();
            }
            state.waiting.clear();
        });
    }

    /// What the participant is told when it asks about this branch from now on.
    pub fn answer(&self, xid: &str, branch_id: &str, answer: pb::InquiryAnswer) {
        let key = (xid.to_owned(), branch_id.to_owned());
        self.shared.state.send_modify(|state| {
            state.answers.insert(key, answer);
        });
    }

    /// Waits until it has asked about this branch so often. False: it has not.
    pub async fn asked(&self, xid: &str, branch_id: &str, times: u64, wait: Duration) -> bool {
        let key = (xid.to_owned(), branch_id.to_owned());
        let mut state = self.shared.state.subscribe();
        let asked = state.wait_for(|state| state.asked.get(&key).is_some_and(|asked| *asked >= times));
        timeout(wait, asked).await.is_ok()
    }
}

impl Shared {
    fn open(
        &self,
        outbox: mpsc::Sender<Result<pb::SessionResponse, tonic::Status>>,
        reading: AbortHandle,
    ) -> u64 {
        let mut number = 0;
        self.state.send_modify(|state| {
            state.opened += 1;
            number = state.opened;
            state.sessions.push(OpenSession { number, outbox, reading });
        });
        number
    }

    /// Whoever waits for a reply has to call again: it is not known which session would have brought it.
    fn closed(&self, number: u64) {
        self.state.send_modify(|state| {
            let before = state.sessions.len();
            state.sessions.retain(|session| session.number != number);
            if state.sessions.len() < before {
                state.waiting.clear();
            }
        });
    }

    fn replied(&self, reply: pb::CallReply) {
        let key = (reply.xid, reply.branch_id, reply.operation);
        let result = match reply.result {
            Some(pb::call_reply::Result::Error(error)) => Err(Trouble::Again(error)),
            Some(result) => Ok(result),
            None => Err(Trouble::Again("its reply has no `result`".to_owned())),
        };
        self.state.send_modify(|state| {
            let Some(waiting) = state.waiting.get_mut(&key) else { return };
            while let Some(first) = waiting.pop_front() {
                if !first.is_closed() {
                    // It may go away just now; then nobody wants the reply.
                    let _ = first.send(result);
                    break;
                }
            }
            if waiting.is_empty() {
                state.waiting.remove(&key);
            }
        });
    }

    fn inquired(&self, inquiry: pb::Inquiry) -> pb::InquiryResult {
        let pb::Inquiry { xid, branch_id, .. } = inquiry;
        let own = xid.parse::<TxId>().is_ok_and(|tx| tx.life_tag() == self.identity.life_tag);
        let key = (xid.clone(), branch_id.clone());
        let mut answer = if own { pb::InquiryAnswer::Pending } else { pb::InquiryAnswer::Foreign };
        if own {
            self.state.send_modify(|state| {
                answer = state.answers.get(&key).copied().unwrap_or(answer);
                *state.asked.entry(key).or_default() += 1;
            });
        }
        pb::InquiryResult { xid, branch_id, answer: answer.into() }
    }
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
