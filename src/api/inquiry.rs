//! What participants in doubt ask.

use assent_proto::v1 as pb;
use pb::inquiry_service_server::InquiryService as Service;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};
use tracing::warn;

use super::status;
use crate::coordinator::{Coordinator, ReplyTo, Stopped};
use crate::core::{Answer, Event, InquiryAnswer};
use crate::wire::{self, Invalid};

/// How many inquiries one request may bring.
const INQUIRIES_MAX: usize = 1_000;

/// The gRPC service `assent.v1.InquiryService`.
#[derive(Clone, Debug)]
pub struct InquiryService {
    coordinator: Coordinator,
}

impl InquiryService {
    pub fn new(coordinator: Coordinator) -> InquiryService {
        InquiryService { coordinator }
    }

    /// Answers all, in their order.
    async fn ask(
        &self,
        field: impl Fn(usize) -> String,
        inquiries: Vec<pb::Inquiry>,
    ) -> Result<Vec<pb::InquiryResult>, Status> {
        // All are looked at before the first is asked: one that is expired aborts its transaction.
        let keys = inquiries.iter().enumerate().map(|(at, inquiry)| {
            wire::branch_key(&inquiry.xid, &inquiry.branch_id)
                .map_err(|wrong| status::invalid(&wrong.within(&field(at))))
        });
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        let (to, mut answered) = mpsc::unbounded_channel();
        for ((tx, branch), (call_id, inquiry)) in keys.into_iter().zip((0..).zip(&inquiries)) {
            let known_life = self.coordinator.identity().lives.contains(tx);
            let expired = inquiry.expired;
            self.coordinator
                .ask_for(ReplyTo::Stream { call_id, to: to.clone() }, |waiter| Event::Inquire {
                    waiter,
                    tx,
                    branch,
                    expired,
                    known_life,
                })
                .await
                .map_err(|Stopped| status::stopped())?;
        }
        // So that the channel ends when the coordinator stops before it has answered.
        drop(to);
        let mut results: Vec<_> = inquiries
            .into_iter()
            .map(|pb::Inquiry { xid, branch_id, .. }| pb::InquiryResult { xid, branch_id, answer: 0 })
            .collect();
        for _ in 0..results.len() {
            let (call_id, answer) = answered.recv().await.ok_or_else(status::stopped)?;
            let Answer::Inquiry(answer) = answer else { return Err(status::unanswered(&answer)) };
            let result = &mut results[usize::try_from(call_id).expect("it is an index")];
            if answer == InquiryAnswer::Foreign {
                warn!(
                    xid = result.xid,
                    branch = result.branch_id,
                    "was asked for a transaction of a log that is not this one; presuming nothing"
                );
            }
            result.answer = wire::inquiry_answer_to_pb(answer).into();
        }
        Ok(results)
    }

    fn horizon(&self) -> pb::Horizon {
        pb::Horizon {
            cluster_id: self.coordinator.identity().cluster.to_string(),
            before: self.coordinator.horizon().to_string(),
        }
    }
}

#[tonic::async_trait]
impl Service for InquiryService {
    async fn get_outcome(
        &self,
        request: Request<pb::GetOutcomeRequest>,
    ) -> Result<Response<pb::GetOutcomeResponse>, Status> {
        status::serving(&self.coordinator)?;
        let inquiry = request
            .into_inner()
            .inquiry
            .ok_or_else(|| status::invalid(&Invalid::new("inquiry", "is not set; give xid and branch_id")))?;
        let result = self.ask(|_at| "inquiry".to_owned(), vec![inquiry]).await?.pop();
        Ok(Response::new(pb::GetOutcomeResponse { result, horizon: Some(self.horizon()) }))
    }

    async fn batch_get_outcomes(
        &self,
        request: Request<pb::BatchGetOutcomesRequest>,
    ) -> Result<Response<pb::BatchGetOutcomesResponse>, Status> {
        status::serving(&self.coordinator)?;
        let inquiries = request.into_inner().inquiries;
        if inquiries.len() > INQUIRIES_MAX {
            let problem = format!("has {} elements; the limit is {INQUIRIES_MAX}", inquiries.len());
            return Err(status::invalid(&Invalid::new("inquiries", problem)));
        }
        let results = self.ask(|at| format!("inquiries[{at}]"), inquiries).await?;
        Ok(Response::new(pb::BatchGetOutcomesResponse { results, horizon: Some(self.horizon()) }))
    }
}
