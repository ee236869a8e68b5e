//! A coordinator whose part the test plays: it hands out every stream and every call as it comes.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use assent_sdk::proto::v1 as pb;
use assent_sdk::proto::v1::inquiry_service_server::{InquiryService, InquiryServiceServer};
use assent_sdk::proto::v1::participant_session_service_server::{
    ParticipantSessionService, ParticipantSessionServiceServer,
};
use assent_sdk::proto::v1::transaction_service_server::{TransactionService, TransactionServiceServer};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::soon;

pub const CLUSTER: &str = "cluster-1";

pub struct Coordinator {
    pub addr: SocketAddr,
    streams: Arc<Streams>,
    server: JoinHandle<()>,
}

/// Both ends of a bidirectional stream.
pub struct Duplex<In, Out> {
    incoming: Streaming<In>,
    outgoing: mpsc::Sender<Result<Out, Status>>,
}

/// A unary call that waits for its answer.
pub struct Unary<In, Out> {
    pub request: In,
    answer: oneshot::Sender<Result<Out, Status>>,
}

pub type Session = Duplex<pb::SessionRequest, pb::SessionResponse>;
pub type Pipeline = Duplex<pb::PipelineRequest, pb::PipelineResponse>;
pub type Inquiries = Unary<pb::BatchGetOutcomesRequest, pb::BatchGetOutcomesResponse>;
type Enlisting = Unary<pb::EnlistRequest, pb::EnlistResponse>;
type Getting = Unary<pb::GetRequest, pb::GetResponse>;

struct Lane<T>(mpsc::Sender<T>, Mutex<mpsc::Receiver<T>>);

#[derive(Default)]
struct Streams {
    sessions: Lane<Session>,
    pipelines: Lane<Pipeline>,
    inquiries: Lane<Inquiries>,
    enlisting: Lane<Enlisting>,
    getting: Lane<Getting>,
}

#[derive(Clone)]
struct Service(Arc<Streams>);

impl Coordinator {
    pub async fn start() -> Coordinator {
        Coordinator::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    /// Comes back at an address that it had before.
    pub async fn start_at(addr: SocketAddr) -> Coordinator {
        let listener = soon(async {
            loop {
                match TcpListener::bind(addr).await {
                    Ok(listener) => return listener,
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                }
            }
        })
        .await;
        let addr = listener.local_addr().unwrap();
        let streams = Arc::new(Streams::default());
        let service = Service(Arc::clone(&streams));
        let server = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(ParticipantSessionServiceServer::new(service.clone()))
                .add_service(TransactionServiceServer::new(service.clone()))
                .add_service(InquiryServiceServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Coordinator { addr, streams, server }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The next session, not welcomed yet.
    pub async fn session(&self) -> Session {
        self.streams.sessions.next().await
    }

    /// The next session, its hello read and its welcome said.
    pub async fn welcomed(&self) -> Session {
        let mut session = self.session().await;
        let hello = session.receive().await.hello.expect("the first message says hello");
        assert_eq!(hello.participant, "shop/stock");
        let welcome = pb::Welcome { cluster_id: CLUSTER.into(), epoch: 1, max_payload_bytes: 1 << 20 };
        session.send(pb::SessionResponse { welcome: Some(welcome), ..Default::default() }).await;
        session
    }

    pub async fn pipeline(&self) -> Pipeline {
        self.streams.pipelines.next().await
    }

    pub async fn inquiries(&self) -> Inquiries {
        self.streams.inquiries.next().await
    }

    pub async fn enlisting(&self) -> Enlisting {
        self.streams.enlisting.next().await
    }

    pub async fn getting(&self) -> Getting {
        self.streams.getting.next().await
    }
}

/// As a crash: connections just break.
impl Drop for Coordinator {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl<In, Out> Duplex<In, Out> {
    pub async fn receive(&mut self) -> In {
        soon(self.incoming.message()).await.unwrap().expect("the stream goes on")
    }

    /// The next message, or `None` where the other end has closed in good order.
    pub async fn receive_or_end(&mut self) -> Option<In> {
        soon(self.incoming.message()).await.unwrap()
    }

    pub async fn send(&self, message: Out) {
        soon(self.outgoing.send(Ok(message))).await.expect("the other end listens");
    }
}

impl Session {
    /// Calls and waits for the reply to that call.
    pub async fn call(&mut self, call: pb::Call) -> pb::call_reply::Result {
        let (branch_id, operation) = (call.branch_id.clone(), call.operation);
        self.send(pb::SessionResponse { calls: vec![call], ..Default::default() }).await;
        loop {
            for reply in self.receive().await.replies {
                if (&reply.branch_id, reply.operation) == (&branch_id, operation) {
                    return reply.result.expect("a reply has a result");
                }
            }
        }
    }

    /// The next message with inquiries.
    pub async fn inquiries(&mut self) -> Vec<pb::Inquiry> {
        loop {
            let inquiries = self.receive().await.inquiries;
            if !inquiries.is_empty() {
                return inquiries;
            }
        }
    }

    pub async fn answer(&self, inquiry: &pb::Inquiry, answer: pb::InquiryAnswer) {
        let inquiry_results = vec![result(inquiry, answer)];
        self.send(pb::SessionResponse { inquiry_results, ..Default::default() }).await;
    }
}

impl<In, Out> Unary<In, Out> {
    pub fn answer(self, answer: Result<Out, Status>) {
        // A caller that has gone is what some tests are about.
        let _ = self.answer.send(answer);
    }
}

pub fn result(inquiry: &pb::Inquiry, answer: pb::InquiryAnswer) -> pb::InquiryResult {
    pb::InquiryResult {
        xid: inquiry.xid.clone(),
        branch_id: inquiry.branch_id.clone(),
        answer: answer.into(),
    }
}

impl<T> Default for Lane<T> {
    fn default() -> Lane<T> {
        let (send, receive) = mpsc::channel(64);
        Lane(send, Mutex::new(receive))
    }
}

impl<T> Lane<T> {
    async fn next(&self) -> T {
        soon(async { self.1.lock().await.recv().await }).await.expect("the lane holds its sender")
    }
}

impl<In, Out> Lane<Duplex<In, Out>> {
    async fn open(&self, incoming: Streaming<In>) -> Response<ReceiverStream<Result<Out, Status>>> {
        let (outgoing, answers) = mpsc::channel(16);
        assert!(self.0.send(Duplex { incoming, outgoing }).await.is_ok());
        Response::new(ReceiverStream::new(answers))
    }
}

impl<In, Out> Lane<Unary<In, Out>> {
    async fn ask(&self, request: Request<In>) -> Result<Response<Out>, Status> {
        let (answer, answered) = oneshot::channel();
        assert!(self.0.send(Unary { request: request.into_inner(), answer }).await.is_ok());
        answered.await.unwrap_or_else(|_| Err(Status::unavailable("dropped"))).map(Response::new)
    }
}

#[tonic::async_trait]
impl ParticipantSessionService for Service {
    type SessionStream = ReceiverStream<Result<pb::SessionResponse, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<pb::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Ok(self.0.sessions.open(request.into_inner()).await)
    }
}

#[tonic::async_trait]
impl InquiryService for Service {
    async fn get_outcome(
        &self,
        _: Request<pb::GetOutcomeRequest>,
    ) -> Result<Response<pb::GetOutcomeResponse>, Status> {
        Err(Status::unimplemented("the SDK asks in batches"))
    }

    async fn batch_get_outcomes(
        &self,
        request: Request<pb::BatchGetOutcomesRequest>,
    ) -> Result<Response<pb::BatchGetOutcomesResponse>, Status> {
        self.0.inquiries.ask(request).await
    }
}

#[tonic::async_trait]
impl TransactionService for Service {
    type WatchStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<pb::WatchResponse, Status>> + Send>>;
    type PipelineStream = ReceiverStream<Result<pb::PipelineResponse, Status>>;

    async fn pipeline(
        &self,
        request: Request<Streaming<pb::PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        Ok(self.0.pipelines.open(request.into_inner()).await)
    }

    async fn enlist(
        &self,
        request: Request<pb::EnlistRequest>,
    ) -> Result<Response<pb::EnlistResponse>, Status> {
        self.0.enlisting.ask(request).await
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::GetResponse>, Status> {
        self.0.getting.ask(request).await
    }

    async fn begin(&self, _: Request<pb::BeginRequest>) -> Result<Response<pb::BeginResponse>, Status> {
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

    async fn list(&self, _: Request<pb::ListRequest>) -> Result<Response<pb::ListResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn watch(&self, _: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not used"))
    }
}
