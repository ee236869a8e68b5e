//! The services of a coordinator, whose streams are handed out as they come.

use std::pin::Pin;

use assent_proto::v1 as pb;
use pb::participant_session_service_server::{ParticipantSessionService, ParticipantSessionServiceServer};
use pb::transaction_service_server::{TransactionService, TransactionServiceServer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use crate::lab::soon;

/// Listens on the loopback.
#[derive(Debug)]
pub struct Coordinator {
    pub url: String,
    pub sessions: mpsc::UnboundedReceiver<Session>,
    pub pipelines: mpsc::UnboundedReceiver<Pipeline>,
    server: JoinHandle<()>,
}

/// Both ends of a stream.
#[derive(Debug)]
pub struct Duplex<In, Out> {
    incoming: Streaming<In>,
    outgoing: mpsc::UnboundedSender<Result<Out, Status>>,
}

pub type Session = Duplex<pb::SessionRequest, pb::SessionResponse>;
pub type Pipeline = Duplex<pb::PipelineRequest, pb::PipelineResponse>;

type Answers<T> = UnboundedReceiverStream<Result<T, Status>>;

#[derive(Clone, Debug)]
struct Service {
    sessions: mpsc::UnboundedSender<Session>,
    pipelines: mpsc::UnboundedSender<Pipeline>,
}

impl Coordinator {
    pub async fn start() -> Coordinator {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let (told, sessions) = mpsc::unbounded_channel();
        let (asked, pipelines) = mpsc::unbounded_channel();
        let service = Service { sessions: told, pipelines: asked };
        let server = tokio::spawn(async move {
            let served = tonic::transport::Server::builder()
                .add_service(ParticipantSessionServiceServer::new(service.clone()))
                .add_service(TransactionServiceServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener));
            served.await.expect("the loopback works");
        });
        Coordinator { url, sessions, pipelines, server }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl<In, Out> Duplex<In, Out> {
    fn open(
        requests: &mpsc::UnboundedSender<Duplex<In, Out>>,
        incoming: Streaming<In>,
    ) -> Response<Answers<Out>> {
        let (outgoing, answers) = mpsc::unbounded_channel();
        let _ = requests.send(Duplex { incoming, outgoing });
        Response::new(UnboundedReceiverStream::new(answers))
    }

    /// `None`: the other end has gone.
    pub async fn receive(&mut self) -> Option<In> {
        soon(self.incoming.message()).await.ok().flatten()
    }

    pub fn send(&self, message: Out) {
        let _ = self.outgoing.send(Ok(message));
    }

    pub fn fail(self, status: Status) {
        let _ = self.outgoing.send(Err(status));
    }
}

#[tonic::async_trait]
impl ParticipantSessionService for Service {
    type SessionStream = Answers<pb::SessionResponse>;

    async fn session(
        &self,
        request: Request<Streaming<pb::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Ok(Duplex::open(&self.sessions, request.into_inner()))
    }
}

#[tonic::async_trait]
impl TransactionService for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::WatchResponse, Status>> + Send>>;
    type PipelineStream = Answers<pb::PipelineResponse>;

    async fn pipeline(
        &self,
        request: Request<Streaming<pb::PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        Ok(Duplex::open(&self.pipelines, request.into_inner()))
    }

    async fn begin(&self, _: Request<pb::BeginRequest>) -> Result<Response<pb::BeginResponse>, Status> {
        Err(Status::unimplemented("by pipeline"))
    }

    async fn enlist(&self, _: Request<pb::EnlistRequest>) -> Result<Response<pb::EnlistResponse>, Status> {
        Err(Status::unimplemented("by pipeline"))
    }

    async fn commit(&self, _: Request<pb::CommitRequest>) -> Result<Response<pb::CommitResponse>, Status> {
        Err(Status::unimplemented("by pipeline"))
    }

    async fn abort(&self, _: Request<pb::AbortRequest>) -> Result<Response<pb::AbortResponse>, Status> {
        Err(Status::unimplemented("by pipeline"))
    }

    async fn run(&self, _: Request<pb::RunRequest>) -> Result<Response<pb::RunResponse>, Status> {
        Err(Status::unimplemented("by pipeline"))
    }

    async fn get(&self, _: Request<pb::GetRequest>) -> Result<Response<pb::GetResponse>, Status> {
        Err(Status::unimplemented("not called"))
    }

    async fn list(&self, _: Request<pb::ListRequest>) -> Result<Response<pb::ListResponse>, Status> {
        Err(Status::unimplemented("not called"))
    }

    async fn watch(&self, _: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not called"))
    }
}
