//! A server that answers what it was told to, and remembers what it was asked.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use assent_proto::v1::admin_service_server::{AdminService, AdminServiceServer};
use assent_proto::v1::transaction_service_server::{TransactionService, TransactionServiceServer};
use assent_proto::v1::{
    AbortRequest, AbortResponse, BeginRequest, BeginResponse, CommitRequest, CommitResponse, EnlistRequest,
    EnlistResponse, ForgetRequest, ForgetResponse, GetRequest, GetResponse, GetServerStatusRequest,
    GetServerStatusResponse, ListParticipantsRequest, ListParticipantsResponse, ListRequest, ListResponse,
    Participant, ParticipantSession, PauseRequest, PauseResponse, PipelineRequest, PipelineResponse,
    ResolveRequest, ResolveResponse, ResumeRequest, ResumeResponse, RetryRequest, RetryResponse, RunRequest,
    RunResponse, Transaction, TransactionResult, WatchRequest, WatchResponse,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

pub const BEGUN_XID: &str = "018bcfe5-6800-8001-8000-004000000000";

#[derive(Clone, Debug, Default)]
pub struct Fake {
    /// How every transaction ends.
    pub result: TransactionResult,
    /// What every lookup finds.
    pub transaction: Transaction,
    /// How many of them there are to list.
    pub total: usize,
    /// What a watcher is sent.
    pub watched: Vec<Transaction>,
    /// In place of every answer.
    pub error: Option<Status>,
    pub asked: Asked,
}

#[derive(Clone, Default)]
pub struct Asked {
    requests: Arc<Mutex<Vec<String>>>,
    runs: Arc<Mutex<Vec<RunRequest>>>,
    health: Arc<Mutex<Option<HealthReporter>>>,
}

impl Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.requests.fmt(f)
    }
}

impl Fake {
    /// Serves on a free port until the test ends; alive, not ready.
    pub async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (reporter, health) = tonic_health::server::health_reporter();
        *self.asked.health.lock().unwrap() = Some(reporter);
        let server = tonic::transport::Server::builder()
            .add_service(health)
            .add_service(TransactionServiceServer::new(self.clone()))
            .add_service(AdminServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        format!("http://{address}")
    }

    pub async fn set_ready(&self) {
        let reporter = self.asked.health.lock().unwrap().clone().unwrap();
        reporter.set_service_status("assent.v1.TransactionService", ServingStatus::Serving).await;
    }

    /// Every request so far, as its `Debug` writes it.
    pub fn seen(&self) -> Vec<String> {
        self.asked.requests.lock().unwrap().clone()
    }

    pub fn run_requests(&self) -> Vec<RunRequest> {
        self.asked.runs.lock().unwrap().clone()
    }

    fn answer<Q: Debug, A>(&self, request: &Request<Q>, answer: A) -> Result<Response<A>, Status> {
        self.asked.requests.lock().unwrap().push(format!("{:?}", request.get_ref()));
        self.error.clone().map_or(Ok(Response::new(answer)), Err)
    }
}

/// A service whose unary calls are answered the same whatever was asked, and the rest of its methods.
macro_rules! answers {
    ($service:ident {
        $($name:ident: $request:ty => $response:ty = |$fake:ident| $answer:expr;)*
    } $($rest:tt)*) => {
        #[tonic::async_trait]
        impl $service for Fake {
            $(async fn $name(&self, request: Request<$request>) -> Result<Response<$response>, Status> {
                let $fake = self;
                self.answer(&request, $answer)
            })*
            $($rest)*
        }
    };
}

type Stream<T> = tokio_stream::Iter<std::vec::IntoIter<Result<T, Status>>>;

answers! {
    TransactionService {
        begin: BeginRequest => BeginResponse =
            |_fake| BeginResponse { xid: BEGUN_XID.to_owned(), timeout_ms: 30_000 };
        enlist: EnlistRequest => EnlistResponse = |_fake| EnlistResponse { branch_id: "1".to_owned() };
        commit: CommitRequest => CommitResponse = |fake| CommitResponse { result: Some(fake.result.clone()) };
        abort: AbortRequest => AbortResponse = |fake| AbortResponse { result: Some(fake.result.clone()) };
        get: GetRequest => GetResponse = |fake| GetResponse { transaction: Some(fake.transaction.clone()) };
    }

    type WatchStream = Stream<WatchResponse>;
    type PipelineStream = Stream<PipelineResponse>;

    async fn run(&self, request: Request<RunRequest>) -> Result<Response<RunResponse>, Status> {
        self.asked.runs.lock().unwrap().push(request.get_ref().clone());
        self.answer(&request, RunResponse { result: Some(self.result.clone()) })
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let ListRequest { page_size, page_token, .. } = request.get_ref().clone();
        assert!((1..=1000).contains(&page_size), "{page_size}");
        let from = page_token.parse().unwrap_or(0);
        let to = self.total.min(from + page_size as usize);
        let next_page_token = if to < self.total { to.to_string() } else { String::new() };
        let transactions = vec![self.transaction.clone(); to - from];
        self.answer(&request, ListResponse { transactions, next_page_token })
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let watched: Vec<_> = self
            .watched
            .iter()
            .map(|transaction| Ok(WatchResponse { transaction: Some(transaction.clone()) }))
            .collect();
        self.answer(&request, tokio_stream::iter(watched))
    }

    async fn pipeline(
        &self,
        _: Request<Streaming<PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        Err(Status::unimplemented("no command uses it"))
    }
}

answers! {
    AdminService {
        resolve: ResolveRequest => ResolveResponse =
            |fake| ResolveResponse { transaction: Some(fake.transaction.clone()) };
        retry: RetryRequest => RetryResponse = |_fake| RetryResponse { calls: 2 };
        pause: PauseRequest => PauseResponse = |_fake| PauseResponse {};
        resume: ResumeRequest => ResumeResponse = |_fake| ResumeResponse { calls: 0 };
        forget: ForgetRequest => ForgetResponse = |_fake| ForgetResponse {};
        list_participants: ListParticipantsRequest => ListParticipantsResponse = |_fake| {
            let session = ParticipantSession { instance_id: "a".to_owned(), ..ParticipantSession::default() };
            let stock = Participant {
                name: "shop/stock".to_owned(),
                sessions: vec![session],
                paused: true,
                ..Participant::default()
            };
            ListParticipantsResponse { participants: vec![stock] }
        };
        get_server_status: GetServerStatusRequest => GetServerStatusResponse = |_fake| GetServerStatusResponse {
            ready: true,
            phase: "serving".to_owned(),
            forced_writes: 7,
            log_syncs: 3,
            log_bytes: 700,
            ..GetServerStatusResponse::default()
        };
    }
}
