//! Being dialled: the two gRPC services over the same engine.
//!
//! A gRPC error means "not known, ask again"; what the participant decided is in the reply. Work runs in a task of its
//! own, because a caller that hangs up would otherwise cancel it half-way.

use std::sync::Arc;

use assent_proto::v1 as pb;
use assent_proto::v1::tcc_participant_service_server::TccParticipantService;
use assent_proto::v1::two_phase_participant_service_server::TwoPhaseParticipantService;
use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::engine::{Asked, Engine, clipped, completion, refused, ttl};
use crate::branch::{Branch, ClusterId, Protocol};
use crate::context;
use crate::error::Result;

/// One engine, dialled.
#[derive(Clone)]
pub(super) struct Dialled(pub(super) Arc<Engine>);

impl Dialled {
    async fn phase_one(&self, asked: Asked) -> Result<pb::PhaseOneResult, Status> {
        self.run(asked.branch.clone(), async move |engine: Arc<Engine>| match engine.phase_one(asked).await {
            Ok(granted) => Ok(engine.vote(granted)),
            Err(failure) => refused(failure),
        })
        .await
    }

    async fn commit(&self, xid: &str, id: &str) -> Result<i32, Status> {
        let branch = self.branch(xid, id)?;
        let done = self.run(branch.clone(), async move |engine: Arc<Engine>| engine.commit(&branch).await);
        Ok(completion(done.await?).into())
    }

    async fn rollback(&self, xid: &str, id: &str) -> Result<i32, Status> {
        let branch = self.branch(xid, id)?;
        let done = self.run(branch.clone(), async move |engine: Arc<Engine>| engine.rollback(&branch).await);
        Ok(completion(done.await?).into())
    }

    /// Runs a call as one of those in flight, whether or not its caller stays.
    async fn run<T, F, Fut>(&self, branch: Branch, work: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Engine>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>> + Send,
    {
        let engine = Arc::clone(&self.0);
        // Within the caller's trace, which the server's layer has read.
        let context = context::for_transaction(branch.xid());
        // Waited for here, so that a caller who hangs up leaves the queue.
        let permit = engine.permit().await;
        let work = async move {
            let _permit = permit;
            context::scope(context, work(Arc::clone(&engine))).await
        };
        match tokio::spawn(work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(failure)) => Err(Status::unavailable(clipped(failure.to_string()))),
            Err(panic) => Err(Status::unavailable(format!("the call ended in a panic: {panic}"))),
        }
    }

    fn branch(&self, xid: &str, id: &str) -> Result<Branch, Status> {
        self.0.branch(xid, id).map_err(|failure| Status::invalid_argument(failure.to_string()))
    }
}

#[tonic::async_trait]
impl TwoPhaseParticipantService for Dialled {
    async fn prepare(
        &self,
        request: Request<pb::PrepareRequest>,
    ) -> Result<Response<pb::PrepareResponse>, Status> {
        let request = request.into_inner();
        let asked = Asked {
            branch: self.branch(&request.xid, &request.branch_id)?,
            cluster: ClusterId::from(request.cluster_id.as_str()),
            protocol: Protocol::TwoPhase,
            request: request.payload,
            ttl: None,
        };
        Ok(Response::new(pb::PrepareResponse { result: Some(self.phase_one(asked).await?) }))
    }

    async fn commit(
        &self,
        request: Request<pb::TwoPhaseParticipantServiceCommitRequest>,
    ) -> Result<Response<pb::TwoPhaseParticipantServiceCommitResponse>, Status> {
        let request = request.into_inner();
        let completion = self.commit(&request.xid, &request.branch_id).await?;
        let detail = String::new();
        Ok(Response::new(pb::TwoPhaseParticipantServiceCommitResponse { completion, detail }))
    }

    async fn rollback(
        &self,
        request: Request<pb::RollbackRequest>,
    ) -> Result<Response<pb::RollbackResponse>, Status> {
        let request = request.into_inner();
        let completion = self.rollback(&request.xid, &request.branch_id).await?;
        Ok(Response::new(pb::RollbackResponse { completion, detail: String::new() }))
    }

    async fn commit_one_phase(
        &self,
        request: Request<pb::CommitOnePhaseRequest>,
    ) -> Result<Response<pb::CommitOnePhaseResponse>, Status> {
        use pb::commit_one_phase_response::Result::{Completion, Refused};

        let request = request.into_inner();
        let asked = Asked {
            branch: self.branch(&request.xid, &request.branch_id)?,
            cluster: ClusterId::from(request.cluster_id.as_str()),
            protocol: Protocol::TwoPhase,
            request: request.payload,
            ttl: None,
        };
        let work = async move |engine: Arc<Engine>| match engine.commit_one_phase(asked).await {
            Ok(done) => Ok((Completion(completion(done.completion).into()), done.reply)),
            Err(failure) => refused(failure).map(|vote| (Refused(vote.reason), Bytes::new())),
        };
        let branch = self.branch(&request.xid, &request.branch_id)?;
        let (result, reply) = self.run(branch, work).await?;
        Ok(Response::new(pb::CommitOnePhaseResponse { result: Some(result), reply }))
    }
}

#[tonic::async_trait]
impl TccParticipantService for Dialled {
    async fn r#try(&self, request: Request<pb::TryRequest>) -> Result<Response<pb::TryResponse>, Status> {
        let request = request.into_inner();
        let asked = Asked {
            branch: self.branch(&request.xid, &request.branch_id)?,
            cluster: ClusterId::from(request.cluster_id.as_str()),
            protocol: Protocol::Tcc,
            request: request.payload,
            ttl: ttl(request.reservation_ttl_ms),
        };
        Ok(Response::new(pb::TryResponse { result: Some(self.phase_one(asked).await?) }))
    }

    async fn confirm(
        &self,
        request: Request<pb::ConfirmRequest>,
    ) -> Result<Response<pb::ConfirmResponse>, Status> {
        let request = request.into_inner();
        let completion = self.commit(&request.xid, &request.branch_id).await?;
        Ok(Response::new(pb::ConfirmResponse { completion, detail: String::new() }))
    }

    async fn cancel(
        &self,
        request: Request<pb::CancelRequest>,
    ) -> Result<Response<pb::CancelResponse>, Status> {
        let request = request.into_inner();
        let completion = self.rollback(&request.xid, &request.branch_id).await?;
        Ok(Response::new(pb::CancelResponse { completion, detail: String::new() }))
    }
}
