//! A coordinator in this process, on a log in memory, called without a network: what a call goes through is all the same
//! from the decoding of its message on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use assent::api::{self, ApiParts, LogStatsCell};
use assent::coordinator::{
    Coordinator, Driver, DriverError, DriverParts, Identity, Phase, system_wall_clock,
};
use assent::core::{Backoff, Engine, EngineSettings, Shard};
use assent::store::{LogWriter, MemoryLog};
use assent::transport::{DialSettings, Dialer, Sessions, Transport};
use assent::wire::Limits;
use assent_proto::v1 as pb;
use pb::admin_service_client::AdminServiceClient;
use pb::inquiry_service_client::InquiryServiceClient;
use pb::participant_session_service_client::ParticipantSessionServiceClient;
use pb::transaction_service_client::TransactionServiceClient;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::service::Routes;
use tonic::transport::Endpoint;
use tonic::{Status, Streaming};

/// Longer than anything here takes: what is waited for longer never comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// The limit on payloads: small, so that inputs can be over it.
pub const PAYLOAD_BYTES_MAX: usize = 1024;
pub const BRANCHES_MAX: usize = 4;

const IN_FLIGHT_MAX: usize = 4;

/// The coordinator and the ways to call it.
#[derive(Debug)]
pub struct Lab {
    pub coordinator: Coordinator,
    pub routes: Routes,
    driver: JoinHandle<Result<(), DriverError>>,
}

/// One participant's stream.
#[derive(Debug)]
pub struct Session {
    pub requests: mpsc::UnboundedSender<pb::SessionRequest>,
    pub responses: Streaming<pb::SessionResponse>,
}

/// One thread for everything, so that an input does the same every time, as far as that goes.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made")
}

/// Waits for what must come.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it comes in time")
}

impl Lab {
    pub async fn start() -> Lab {
        let (coordinator, inputs) = Coordinator::new(system_wall_clock);
        let limits = Arc::new(limits());
        let settings = DialSettings {
            max_in_flight: IN_FLIGHT_MAX,
            call_timeout: PATIENCE,
            channel: Endpoint::connect_lazy,
        };
        let dialer = Dialer::new(coordinator.clone(), limits.clone(), settings);
        let transport = Transport::new(Sessions::new(IN_FLIGHT_MAX), dialer, limits.endpoints.clone());
        let log = MemoryLog::new();
        let opened = log.open();
        let (epoch, lives) = (opened.epoch, opened.lives);
        coordinator.identify(Identity { cluster: opened.cluster, lives, epoch });
        let engine = Engine::new(engine_settings(), epoch, Shard(0), opened.life_tag);
        let (told, written) = mpsc::unbounded_channel();
        let writer = LogWriter::spawn(Box::new(log), epoch, move |event| drop(told.send(event)));
        let writer = writer.expect("a thread can be made");
        let log_stats = LogStatsCell::default();
        let _ = log_stats.set(writer.stats());
        let routes = api::routes(ApiParts {
            coordinator: coordinator.clone(),
            transport: transport.clone(),
            limits,
            data_dir: PathBuf::from("/memory"),
            log_stats,
        });
        let parts =
            DriverParts { coordinator: coordinator.clone(), inputs, engine, writer, written, transport };
        let driver = tokio::spawn(Driver::new(parts).run());
        let mut phase = coordinator.watch_phase();
        phase.wait_for(|phase| *phase == Phase::Serving).await.expect("it serves");
        Lab { coordinator, routes, driver }
    }

    pub fn transactions(&self) -> TransactionServiceClient<Routes> {
        TransactionServiceClient::new(self.routes.clone())
    }

    pub fn inquiries(&self) -> InquiryServiceClient<Routes> {
        InquiryServiceClient::new(self.routes.clone())
    }

    pub fn admin(&self) -> AdminServiceClient<Routes> {
        AdminServiceClient::new(self.routes.clone())
    }

    pub async fn begin(&self, label: &str) -> String {
        let request = pb::BeginRequest { label: label.to_owned(), ..pb::BeginRequest::default() };
        soon(self.transactions().begin(request)).await.expect("it begins").into_inner().xid
    }

    pub async fn get(&self, xid: &str) -> pb::Transaction {
        let key = Some(pb::get_request::Key::Xid(xid.to_owned()));
        let found = soon(self.transactions().get(pb::GetRequest { key })).await.expect("it is known");
        found.into_inner().transaction.expect("it is shown")
    }

    /// Opens a stream with this first request.
    pub async fn session(&self, first: pb::SessionRequest) -> Result<Session, Status> {
        let (requests, sent) = mpsc::unbounded_channel();
        requests.send(first).expect("the other half is here");
        let mut client = ParticipantSessionServiceClient::new(self.routes.clone());
        let responses = soon(client.session(UnboundedReceiverStream::new(sent))).await?.into_inner();
        Ok(Session { requests, responses })
    }

    /// Opens a session that says yes to everything from now on.
    pub async fn willing(&self, participant: &str) {
        let session = self.session(hello(participant)).await.expect("it may");
        tokio::spawn(be_willing(session));
    }

    /// Ends it, and looks whether it had ended by itself.
    pub async fn stop(self) {
        assert!(!self.driver.is_finished(), "the coordinator has ended");
        self.coordinator.stop().await.expect("it lives");
        soon(self.driver).await.expect("its driver does not panic").expect("its log does not fail");
    }
}

async fn be_willing(mut session: Session) {
    while let Ok(Some(response)) = session.responses.message().await {
        let replies: Vec<_> = response.calls.iter().map(|call| reply(call, yes(call.operation()))).collect();
        let _ = session.requests.send(pb::SessionRequest { replies, ..pb::SessionRequest::default() });
    }
}

pub fn hello(participant: &str) -> pb::SessionRequest {
    let hello = pb::Hello { participant: participant.to_owned(), ..pb::Hello::default() };
    pb::SessionRequest { hello: Some(hello), ..pb::SessionRequest::default() }
}

pub fn reply(call: &pb::Call, result: pb::call_reply::Result) -> pb::CallReply {
    pb::CallReply {
        xid: call.xid.clone(),
        branch_id: call.branch_id.clone(),
        operation: call.operation,
        result: Some(result),
    }
}

pub fn yes(operation: pb::Operation) -> pb::call_reply::Result {
    use pb::call_reply::Result::{Completion, Vote};
    match operation {
        pb::Operation::PhaseOne | pb::Operation::Unspecified => {
            Vote(pb::PhaseOneResult { vote: pb::Vote::Prepared.into(), ..Default::default() })
        }
        pb::Operation::Commit | pb::Operation::Rollback | pb::Operation::CommitOnePhase => {
            Completion(pb::PhaseTwoResult { completion: pb::Completion::Done.into(), ..Default::default() })
        }
    }
}

pub fn branch(participant: &str) -> pb::BranchSpec {
    pb::BranchSpec { participant: participant.to_owned(), ..pb::BranchSpec::default() }
}

fn limits() -> Limits {
    Limits {
        max_payload: PAYLOAD_BYTES_MAX,
        max_branches: BRANCHES_MAX,
        default_timeout: Duration::from_secs(30),
        max_timeout: Duration::from_mins(1),
        endpoints: BTreeMap::new(),
        allowed_hosts: vec!["127.0.0.1".parse().expect("it is a host")],
    }
}

fn engine_settings() -> EngineSettings {
    EngineSettings {
        max_active: 64,
        max_branches: BRANCHES_MAX,
        call_timeout: PATIENCE,
        // So that what was answered wrong is asked again while an input is tried.
        backoff: Backoff { initial: Duration::from_millis(1), max: Duration::from_millis(5) },
        reservation_margin: Duration::from_millis(1),
        retention: Duration::from_hours(1),
        retention_max: 64,
    }
}
