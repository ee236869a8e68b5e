//! Participants that the coordinator dials: one unary RPC a call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use assent_proto::v1 as pb;
use pb::tcc_participant_service_client::TccParticipantServiceClient;
use pb::two_phase_participant_service_client::TwoPhaseParticipantServiceClient;
use smol_str::{SmolStr, format_smolstr};
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::{failed, not_sent};
use crate::coordinator::Coordinator;
use crate::core::{Call, Event, FailureKind, Operation, ParticipantName, Protocol, Report};
use crate::wire::{self, Invalid, Limits};

/// How often an idle connection is checked: half-open ones are found within twice that.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How many endpoints are kept connected, besides those that are being called.
const PEERS_MAX: usize = 1_024;

/// Dials participants.
#[derive(Clone, Debug)]
pub struct Dialer {
    coordinator: Coordinator,
    limits: Arc<Limits>,
    settings: DialSettings,
    peers: Arc<Mutex<HashMap<SmolStr, Peer>>>,
}

/// How participants are dialled.
#[derive(Clone, Copy, Debug)]
pub struct DialSettings {
    /// Calls out to one endpoint at a time; more of them wait.
    pub max_in_flight: usize,
    /// After which a call is given up; it is then repeated.
    pub call_timeout: Duration,
    /// Opens a channel that connects with its first call: [`Endpoint::connect_lazy`], but in simulations.
    pub channel: fn(&Endpoint) -> Channel,
}

#[derive(Clone, Debug)]
struct Peer {
    channel: Channel,
    places: Arc<Semaphore>,
}

impl Dialer {
    pub fn new(coordinator: Coordinator, limits: Arc<Limits>, settings: DialSettings) -> Dialer {
        Dialer { coordinator, limits, settings, peers: Arc::default() }
    }

    pub(super) fn call(&self, endpoint: &SmolStr, call: Call) -> Option<Event> {
        let Some(peer) = self.peer(endpoint) else {
            return Some(not_sent(call, "its endpoint is not a URL; give http://host:port"));
        };
        let dialer = self.clone();
        tokio::spawn(async move {
            let event = dialer.exchange(peer, call).await;
            // The coordinator has stopped: the call is repeated after the next start.
            let _ = dialer.coordinator.report(vec![event]).await;
        });
        None
    }

    async fn exchange(&self, peer: Peer, call: Call) -> Event {
        // One deadline for the wait and the call: what waited too long is repeated by the core anyhow.
        let answer = tokio::time::timeout(self.settings.call_timeout, async {
            let _place = peer.places.acquire().await.expect("the semaphore is never closed");
            self.send(peer.channel, &call).await
        })
        .await;
        match answer {
            Ok(Ok(report)) => {
                let Call { tx, branch, operation, .. } = call;
                Event::Reported { tx, branch, operation, report }
            }
            Ok(Err(failure)) => failed(call, failure.error, failure.kind),
            Err(_elapsed) => {
                let error = format_smolstr!("no answer within {:?}", self.settings.call_timeout);
                failed(call, error, FailureKind::Unknown)
            }
        }
    }

    async fn send(&self, channel: Channel, call: &Call) -> Result<Report, Failure> {
        match call.protocol {
            Protocol::TwoPhase => self.send_two_phase(channel, call).await,
            Protocol::Tcc => self.send_tcc(channel, call).await,
        }
    }

    async fn send_two_phase(&self, channel: Channel, call: &Call) -> Result<Report, Failure> {
        let max = self.message_max();
        let mut client = TwoPhaseParticipantServiceClient::new(channel).max_decoding_message_size(max);
        let (xid, branch_id, attempt) = (call.tx.to_string(), call.branch.to_string(), call.attempt);
        let cluster_id = self.coordinator.identity().cluster.to_string();
        let payload = call.payload.clone();
        match call.operation {
            Operation::PhaseOne => {
                let request = pb::PrepareRequest { xid, branch_id, payload, attempt, cluster_id };
                let result = client.prepare(request).await?.into_inner().result;
                Ok(self.voted(result)?)
            }
            Operation::Commit => {
                let request = pb::TwoPhaseParticipantServiceCommitRequest { xid, branch_id, attempt };
                let response = client.commit(request).await?.into_inner();
                Ok(completed(response.completion, &response.detail)?)
            }
            Operation::Rollback => {
                let request = pb::RollbackRequest { xid, branch_id, attempt };
                let response = client.rollback(request).await?.into_inner();
                Ok(completed(response.completion, &response.detail)?)
            }
            Operation::CommitOnePhase => {
                let request = pb::CommitOnePhaseRequest { xid, branch_id, payload, attempt, cluster_id };
                let response = client.commit_one_phase(request).await?.into_inner();
                Ok(self.one_phase(response, &call.participant)?)
            }
        }
    }

    async fn send_tcc(&self, channel: Channel, call: &Call) -> Result<Report, Failure> {
        let max = self.message_max();
        let mut client = TccParticipantServiceClient::new(channel).max_decoding_message_size(max);
        let (xid, branch_id, attempt) = (call.tx.to_string(), call.branch.to_string(), call.attempt);
        match call.operation {
            Operation::PhaseOne => {
                let request = pb::TryRequest {
                    xid,
                    branch_id,
                    payload: call.payload.clone(),
                    reservation_ttl_ms: wire::millis(call.reservation_ttl),
                    attempt,
                    cluster_id: self.coordinator.identity().cluster.to_string(),
                };
                let result = client.r#try(request).await?.into_inner().result;
                Ok(self.voted(result)?)
            }
            Operation::Commit => {
                let response =
                    client.confirm(pb::ConfirmRequest { xid, branch_id, attempt }).await?.into_inner();
                Ok(completed(response.completion, &response.detail)?)
            }
            Operation::Rollback => {
                let response =
                    client.cancel(pb::CancelRequest { xid, branch_id, attempt }).await?.into_inner();
                Ok(completed(response.completion, &response.detail)?)
            }
            Operation::CommitOnePhase => {
                let error = SmolStr::new_static("TCC has no commit in one phase");
                Err(Failure { error, kind: FailureKind::Unimplemented })
            }
        }
    }

    fn voted(&self, result: Option<pb::PhaseOneResult>) -> Result<Report, Invalid> {
        let result = result.ok_or_else(|| Invalid::new("result", "is not set"))?;
        Ok(Report::Voted { result: wire::phase_one(result, &self.limits)?, replica: None })
    }

    fn one_phase(
        &self,
        response: pb::CommitOnePhaseResponse,
        participant: &ParticipantName,
    ) -> Result<Report, Invalid> {
        match response.result {
            None => Err(Invalid::new("result", "is not set")),
            Some(pb::commit_one_phase_response::Result::Completion(completion)) => Ok(Report::Completed {
                completion: wire::completion("completion", completion)?,
                detail: SmolStr::default(),
                reply: wire::reply_to_completion(response.reply, participant, &self.limits),
            }),
            Some(pb::commit_one_phase_response::Result::Refused(reason)) => {
                let vote = pb::PhaseOneResult {
                    vote: pb::Vote::Refused.into(),
                    reason,
                    reply: response.reply,
                    ..pb::PhaseOneResult::default()
                };
                self.voted(Some(vote))
            }
        }
    }

    fn peer(&self, endpoint: &SmolStr) -> Option<Peer> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(endpoint) {
            return Some(peer.clone());
        }
        let dialled = Endpoint::from_shared(endpoint.to_string())
            .ok()?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        let channel = (self.settings.channel)(&dialled);
        // An allowed host has many ports, and who enlists chooses among them.
        if peers.len() >= PEERS_MAX {
            peers.retain(|_, peer| peer.places.available_permits() < self.settings.max_in_flight);
        }
        let peer = Peer { channel, places: Arc::new(Semaphore::new(self.settings.max_in_flight)) };
        peers.insert(endpoint.clone(), peer.clone());
        Some(peer)
    }

    fn message_max(&self) -> usize {
        message_max(self.limits.max_payload)
    }
}

/// How large a message may be that carries one payload: room for names and reasons besides.
pub(crate) fn message_max(max_payload: usize) -> usize {
    max_payload + 64 * 1024
}

fn completed(completion: i32, detail: &str) -> Result<Report, Invalid> {
    Ok(Report::Completed {
        completion: wire::completion("completion", completion)?,
        detail: wire::reason(detail),
        reply: bytes::Bytes::new(),
    })
}

/// A call whose answer is not known.
struct Failure {
    error: SmolStr,
    kind: FailureKind,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        let kind = match status.code() {
            tonic::Code::Unimplemented => FailureKind::Unimplemented,
            _other_codes => FailureKind::Unknown,
        };
        // The transport's own errors say little; what is behind them says more.
        let mut text = format!("{}: {}", status.code(), status.message());
        let mut source = std::error::Error::source(&status);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Failure { error: wire::reason(&text), kind }
    }
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Failure {
        let error = format_smolstr!("its answer was not understood: {invalid}");
        Failure { error, kind: FailureKind::Unknown }
    }
}
