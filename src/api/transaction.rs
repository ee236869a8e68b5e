//! What initiators call.

mod ask;
mod list;
mod pipeline;
mod watch;

use std::pin::Pin;
use std::sync::Arc;

use assent_proto::v1 as pb;
use pb::get_request::Key;
use pb::transaction_service_server::TransactionService as Service;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use self::ask::Ask;
use self::pipeline::Pipeline;
use self::watch::{Watched, Watcher};
use super::status;
use crate::coordinator::{Coordinator, Stopped};
use crate::core::{Rejection, RequestId, Transaction};
use crate::wire::{self, History, Invalid, Limits};

/// The gRPC service `assent.v1.TransactionService`.
#[derive(Clone, Debug)]
pub struct TransactionService {
    coordinator: Coordinator,
    limits: Arc<Limits>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl TransactionService {
    pub fn new(coordinator: Coordinator, limits: Arc<Limits>) -> TransactionService {
        TransactionService { coordinator, limits }
    }

    /// A call that comes alone. (Those that come in a pipeline take the same way through [`Ask`].) The client's
    /// deadline may drop this at any moment: what the coordinator was asked, it does all the same.
    async fn ask<R: Ask>(&self, request: Request<R>) -> Result<Response<R::Response>, Status> {
        status::serving(&self.coordinator)?;
        let event = request.into_inner().event(&self.limits).map_err(|wrong| status::invalid(&wrong))?;
        let answer = self.coordinator.ask(event).await.map_err(|Stopped| status::stopped())?;
        R::response(answer).map(Response::new)
    }

    async fn find(&self, key: Key) -> Result<Transaction, Status> {
        match key {
            Key::Xid(text) => {
                let tx = wire::tx_id("xid", &text).map_err(|wrong| status::invalid(&wrong))?;
                let found = self.coordinator.get(tx).await.map_err(|Stopped| status::stopped())?;
                found.ok_or_else(|| status::rejected(&Rejection::NotFound { tx }))
            }
            Key::RequestId(text) => {
                let id: RequestId =
                    wire::name("request_id", &text).map_err(|wrong| status::invalid(&wrong))?;
                let found = self.coordinator.get_by_request(id).await.map_err(|Stopped| status::stopped())?;
                found.ok_or_else(|| {
                    status::not_found(format!(
                        "no transaction is known that was begun with request_id {text:?}: there was none, or it \
                         ended and is past its retention"
                    ))
                })
            }
        }
    }
}

#[tonic::async_trait]
impl Service for TransactionService {
    type WatchStream = Answers<pb::WatchResponse>;
    type PipelineStream = Answers<pb::PipelineResponse>;

    async fn begin(&self, request: Request<pb::BeginRequest>) -> Result<Response<pb::BeginResponse>, Status> {
        self.ask(request).await
    }

    async fn enlist(
        &self,
        request: Request<pb::EnlistRequest>,
    ) -> Result<Response<pb::EnlistResponse>, Status> {
        self.ask(request).await
    }

    async fn commit(
        &self,
        request: Request<pb::CommitRequest>,
    ) -> Result<Response<pb::CommitResponse>, Status> {
        self.ask(request).await
    }

    async fn abort(&self, request: Request<pb::AbortRequest>) -> Result<Response<pb::AbortResponse>, Status> {
        self.ask(request).await
    }

    async fn run(&self, request: Request<pb::RunRequest>) -> Result<Response<pb::RunResponse>, Status> {
        self.ask(request).await
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::GetResponse>, Status> {
        status::serving(&self.coordinator)?;
        let key = request
            .into_inner()
            .key
            .ok_or_else(|| status::invalid(&Invalid::new("key", "is not set; give xid or request_id")))?;
        let transaction = self.find(key).await?;
        let shown = wire::transaction_to_pb(&transaction, self.coordinator.now(), History::Shown);
        Ok(Response::new(pb::GetResponse { transaction: Some(shown) }))
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Result<Response<pb::ListResponse>, Status> {
        status::serving(&self.coordinator)?;
        list::list(&self.coordinator, request.into_inner()).await.map(Response::new)
    }

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        status::serving(&self.coordinator)?;
        let watched = Watched::parse(request.into_inner()).map_err(|wrong| status::invalid(&wrong))?;
        let watcher = Watcher::start(self.coordinator.clone(), watched).await?;
        Ok(Response::new(Box::pin(watcher.into_stream())))
    }

    async fn pipeline(
        &self,
        request: Request<Streaming<pb::PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        status::serving(&self.coordinator)?;
        let pipeline = Pipeline::new(self.coordinator.clone(), self.limits.clone(), request.into_inner());
        Ok(Response::new(Box::pin(pipeline.into_stream())))
    }
}
