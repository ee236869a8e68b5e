//! The gRPC services of the desk.

use std::sync::Arc;
use std::time::Duration;

use assent_proto::v1 as pb;
use pb::inquiry_service_server::InquiryService;
use pb::participant_session_service_server::ParticipantSessionService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::Shared;
use crate::api::status;
use crate::wire::Invalid;

/// How long a session may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How many messages may wait on a session.
const OUTBOX_MAX: usize = 64;
/// The epoch of a cluster that has started once.
const EPOCH: u32 = 1;
/// How large replies may be where nothing else is set (`limits.max_payload`).
const MAX_PAYLOAD_BYTES: u64 = 1 << 20;

#[derive(Clone, Debug)]
pub struct Service(pub Arc<Shared>);

impl Service {
    /// The hello of a session, if it is one of the participant that is checked.
    fn admit(&self, hello: Option<&pb::Hello>) -> Result<(), Status> {
        let invalid = |field, problem: String| status::invalid(&Invalid::new(field, problem));
        let wanted =
            self.0.participant.as_ref().ok_or_else(|| {
                invalid("hello", "is not wanted: this check dials the participant".to_owned())
            })?;
        let named = &hello
            .ok_or_else(|| invalid("hello", "is not set; the first request must bring it".to_owned()))?
            .participant;
        if named == wanted.as_str() {
            return Ok(());
        }
        let problem = format!("is {named:?}; this is a check of {wanted}");
        let told = format!("one came whose name {problem}");
        self.0.state.send_modify(|state| state.turned_away = Some(told));
        Err(invalid("hello.participant", problem))
    }

    async fn read(
        self,
        first: pb::SessionRequest,
        mut inbound: Streaming<pb::SessionRequest>,
        outbox: mpsc::Sender<Result<pb::SessionResponse, Status>>,
    ) {
        let mut request = Some(first);
        while let Some(pb::SessionRequest { replies, inquiries, enlistments, .. }) = request {
            for reply in replies {
                self.0.replied(reply);
            }
            let response = pb::SessionResponse {
                inquiry_results: inquiries.into_iter().map(|inquiry| self.0.inquired(inquiry)).collect(),
                enlist_answers: enlistments.iter().map(refused).collect(),
                ..pb::SessionResponse::default()
            };
            let empty = response.inquiry_results.is_empty() && response.enlist_answers.is_empty();
            if !empty && outbox.send(Ok(response)).await.is_err() {
                return;
            }
            request = inbound.message().await.unwrap_or_default();
        }
    }
}

#[tonic::async_trait]
impl ParticipantSessionService for Service {
    type SessionStream = ReceiverStream<Result<pb::SessionResponse, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<pb::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut inbound = request.into_inner();
        let first = tokio::time::timeout(HELLO_TIMEOUT, inbound.message()).await;
        let first = first.unwrap_or(Ok(None))?.unwrap_or_default();
        self.admit(first.hello.as_ref())?;
        let (outbox, outgoing) = mpsc::channel(OUTBOX_MAX);
        let welcome = pb::Welcome {
            cluster_id: self.0.identity.cluster.clone(),
            epoch: EPOCH,
            max_payload_bytes: MAX_PAYLOAD_BYTES,
        };
        let welcome = pb::SessionResponse { welcome: Some(welcome), ..pb::SessionResponse::default() };
        outbox.try_send(Ok(welcome)).expect("there is room for the first message");
        let (service, answers) = (self.clone(), outbox.clone());
        let reading = tokio::spawn(service.read(first, inbound, answers));
        let number = self.0.open(outbox, reading.abort_handle());
        let shared = Arc::clone(&self.0);
        tokio::spawn(async move {
            // Ended or broken off, the session is over.
            let _ = reading.await;
            shared.closed(number);
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

#[tonic::async_trait]
impl InquiryService for Service {
    async fn get_outcome(
        &self,
        request: Request<pb::GetOutcomeRequest>,
    ) -> Result<Response<pb::GetOutcomeResponse>, Status> {
        let inquiry = request.into_inner().inquiry.unwrap_or_default();
        let result = Some(self.0.inquired(inquiry));
        Ok(Response::new(pb::GetOutcomeResponse { result, horizon: None }))
    }

    async fn batch_get_outcomes(
        &self,
        request: Request<pb::BatchGetOutcomesRequest>,
    ) -> Result<Response<pb::BatchGetOutcomesResponse>, Status> {
        let inquiries = request.into_inner().inquiries;
        let results = inquiries.into_iter().map(|inquiry| self.0.inquired(inquiry)).collect();
        Ok(Response::new(pb::BatchGetOutcomesResponse { results, horizon: None }))
    }
}

/// Nothing can be enlisted: whoever is checked takes part in the kit's own transactions.
fn refused(enlistment: &pb::SessionEnlistment) -> pb::SessionEnlistAnswer {
    pb::SessionEnlistAnswer {
        call_id: enlistment.call_id,
        code: Code::FailedPrecondition.into(),
        message: "this is a check of participants; it takes no enlistments".to_owned(),
    }
}
