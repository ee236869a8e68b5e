//! A participant that serves: one unary RPC a call.

use std::error::Error as _;
use std::time::{Duration, Instant};

use assent_proto::v1 as pb;
use pb::call_reply::Result::{Completion, Vote};
use pb::tcc_participant_service_client::TccParticipantServiceClient;
use pb::two_phase_participant_service_client::TwoPhaseParticipantServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::Trouble;
use crate::check::Error;
use crate::config::Endpoint;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_AGAIN: Duration = Duration::from_millis(50);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Room for the largest reply that a coordinator can be set to take.
const RESPONSE_MAX_BYTES: usize = 17 << 20;

#[derive(Clone, Debug)]
pub struct Dialled {
    endpoint: Endpoint,
    channel: Channel,
    cluster_id: String,
}

impl Dialled {
    pub fn new(endpoint: Endpoint, cluster_id: String) -> Dialled {
        let channel = dial(&endpoint).connect_lazy();
        Dialled { endpoint, channel, cluster_id }
    }

    /// Waits until somebody listens there. Without a process of our own to wait for, one refusal is enough.
    pub async fn ready(&self, wait: Duration, may_come: bool) -> Result<(), Error> {
        let started = Instant::now();
        loop {
            let Err(error) = dial(&self.endpoint).connect().await else { return Ok(()) };
            if !may_come || started.elapsed() >= wait {
                let mut why: &dyn std::error::Error = &error;
                while let Some(source) = why.source() {
                    why = source;
                }
                return Err(Error::Unreached { endpoint: self.endpoint.clone(), why: why.to_string() });
            }
            tokio::time::sleep(CONNECT_AGAIN).await;
        }
    }

    pub async fn call(&self, call: pb::Call) -> Result<pb::call_reply::Result, Trouble> {
        match call.protocol() {
            pb::Protocol::Tcc => self.tcc(call).await,
            pb::Protocol::TwoPhase | pb::Protocol::Unspecified => self.two_phase(call).await,
        }
    }

    async fn two_phase(&self, call: pb::Call) -> Result<pb::call_reply::Result, Trouble> {
        use pb::commit_one_phase_response::Result as OnePhase;

        let mut client = TwoPhaseParticipantServiceClient::new(self.channel.clone())
            .max_decoding_message_size(RESPONSE_MAX_BYTES);
        let operation = call.operation();
        let pb::Call { xid, branch_id, payload, attempt, .. } = call;
        let cluster_id = self.cluster_id.clone();
        match operation {
            pb::Operation::PhaseOne => {
                let request = pb::PrepareRequest { xid, branch_id, payload, attempt, cluster_id };
                voted(client.prepare(request).await?.into_inner().result)
            }
            pb::Operation::Commit => {
                let request = pb::TwoPhaseParticipantServiceCommitRequest { xid, branch_id, attempt };
                let response = client.commit(request).await?.into_inner();
                Ok(completed(response.completion, response.detail))
            }
            pb::Operation::Rollback => {
                let request = pb::RollbackRequest { xid, branch_id, attempt };
                let response = client.rollback(request).await?.into_inner();
                Ok(completed(response.completion, response.detail))
            }
            pb::Operation::CommitOnePhase => {
                let request = pb::CommitOnePhaseRequest { xid, branch_id, payload, attempt, cluster_id };
                let pb::CommitOnePhaseResponse { result, reply } =
                    client.commit_one_phase(request).await?.into_inner();
                match result {
                    Some(OnePhase::Completion(completion)) => {
                        Ok(Completion(pb::PhaseTwoResult { completion, detail: String::new(), reply }))
                    }
                    Some(OnePhase::Refused(reason)) => {
                        let vote = pb::Vote::Refused.into();
                        Ok(Vote(pb::PhaseOneResult { vote, reason, reply, ..pb::PhaseOneResult::default() }))
                    }
                    None => Err(no_result()),
                }
            }
            pb::Operation::Unspecified => Err(no_operation()),
        }
    }

    async fn tcc(&self, call: pb::Call) -> Result<pb::call_reply::Result, Trouble> {
        let mut client = TccParticipantServiceClient::new(self.channel.clone())
            .max_decoding_message_size(RESPONSE_MAX_BYTES);
        let operation = call.operation();
        let pb::Call { xid, branch_id, payload, attempt, reservation_ttl_ms, .. } = call;
        match operation {
            pb::Operation::PhaseOne => {
                let cluster_id = self.cluster_id.clone();
                let request =
                    pb::TryRequest { xid, branch_id, payload, reservation_ttl_ms, attempt, cluster_id };
                voted(client.r#try(request).await?.into_inner().result)
            }
            pb::Operation::Commit => {
                let request = pb::ConfirmRequest { xid, branch_id, attempt };
                let response = client.confirm(request).await?.into_inner();
                Ok(completed(response.completion, response.detail))
            }
            pb::Operation::Rollback => {
                let request = pb::CancelRequest { xid, branch_id, attempt };
                let response = client.cancel(request).await?.into_inner();
                Ok(completed(response.completion, response.detail))
            }
            pb::Operation::CommitOnePhase | pb::Operation::Unspecified => Err(no_operation()),
        }
    }
}

impl From<Status> for Trouble {
    fn from(status: Status) -> Trouble {
        let mut text = format!("{:?}: {}", status.code(), status.message());
        let mut source = status.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        match status.code() {
            Code::Unimplemented => Trouble::Unimplemented(text),
            _other_codes => Trouble::Again(text),
        }
    }
}

fn dial(endpoint: &Endpoint) -> tonic::transport::Endpoint {
    Channel::from_shared(endpoint.to_string())
        .expect("an endpoint is a URI")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
}

fn voted(result: Option<pb::PhaseOneResult>) -> Result<pb::call_reply::Result, Trouble> {
    result.map(Vote).ok_or_else(no_result)
}

fn completed(completion: i32, detail: String) -> pb::call_reply::Result {
    Completion(pb::PhaseTwoResult { completion, detail, reply: bytes::Bytes::new() })
}

fn no_result() -> Trouble {
    Trouble::Again("its response has no `result`".to_owned())
}

fn no_operation() -> Trouble {
    Trouble::Unimplemented("the protocol has no such operation".to_owned())
}
