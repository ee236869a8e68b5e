//! The services over a real connection, on a coordinator whose log is memory.

mod durability;
mod frames;
mod inquiries;
mod operators;
mod pipelines;
mod transactions;
mod watchers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use assent_proto::v1 as pb;
use pb::admin_service_client::AdminServiceClient;
use pb::inquiry_service_client::InquiryServiceClient;
use pb::participant_session_service_client::ParticipantSessionServiceClient;
use pb::transaction_service_client::TransactionServiceClient;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use super::{ApiParts, LogStatsCell, router};
use crate::coordinator::{
    Coordinator, Driver, DriverError, DriverParts, Identity, Input, Phase, system_wall_clock,
};
use crate::core::{Backoff, Engine, EngineSettings, Shard};
use crate::store::{DecisionLog as _, LogWriter, MemoryLog, ReplayError};
use crate::transport::{DialSettings, Dialer, Sessions, Transport};
use crate::wire::Limits;

/// Longer than anything here takes: what is waited for longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many calls are out to one participant at a time.
const IN_FLIGHT_MAX: usize = 16;

pub(super) struct Fixture {
    pub coordinator: Coordinator,
    url: String,
    channel: Channel,
    /// Starts the driver: until then the coordinator recovers.
    start: Option<oneshot::Sender<()>>,
    /// How the driver ended.
    driver: JoinHandle<Result<(), DriverError>>,
}

impl Fixture {
    pub async fn serving() -> Fixture {
        Fixture::serving_on(&MemoryLog::new()).await
    }

    /// A life on a log that a test can hold up, break, and open again.
    async fn serving_on(log: &MemoryLog) -> Fixture {
        let mut fixture = Fixture::recovering_on(log.clone()).await;
        fixture.start.take().unwrap().send(()).unwrap();
        let mut phase = fixture.coordinator.watch_phase();
        phase.wait_for(|phase| *phase == Phase::Serving).await.unwrap();
        fixture
    }

    async fn recovering() -> Fixture {
        Fixture::recovering_on(MemoryLog::new()).await
    }

    async fn recovering_on(log: MemoryLog) -> Fixture {
        let (coordinator, inputs) = Coordinator::new(system_wall_clock);
        let limits = Arc::new(limits());
        let settings = DialSettings {
            max_in_flight: IN_FLIGHT_MAX,
            call_timeout: PATIENCE,
            channel: Endpoint::connect_lazy,
        };
        let dialer = Dialer::new(coordinator.clone(), limits.clone(), settings);
        let transport = Transport::new(Sessions::new(IN_FLIGHT_MAX), dialer, limits.endpoints.clone());
        let log_stats = LogStatsCell::default();
        let parts = ApiParts {
            coordinator: coordinator.clone(),
            transport: transport.clone(),
            limits,
            data_dir: PathBuf::from("/memory"),
            log_stats: log_stats.clone(),
        };
        let (start, started) = oneshot::channel();
        let recovered = coordinator.clone();
        let driver = tokio::spawn(async move {
            match started.await {
                Ok(()) => drive(recovered, log, inputs, transport, &log_stats).await,
                Err(_never) => Ok(()),
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(router(parts).serve_with_incoming(TcpListenerStream::new(listener)));
        let channel = connect(&url).await;
        Fixture { coordinator, url, channel, start: Some(start), driver }
    }

    pub fn transactions(&self) -> TransactionServiceClient<Channel> {
        TransactionServiceClient::new(self.channel.clone())
    }

    fn inquiries(&self) -> InquiryServiceClient<Channel> {
        InquiryServiceClient::new(self.channel.clone())
    }

    fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone())
    }

    /// On a connection of its own, which nobody's unread answers fill up.
    async fn admin_apart(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(connect(&self.url).await)
    }

    pub async fn begin(&self) -> String {
        self.transactions().begin(pb::BeginRequest::default()).await.unwrap().into_inner().xid
    }

    /// Adds a branch that has voted.
    pub async fn enlist(&self, xid: &str, participant: &str) {
        let vote =
            pb::PhaseOneResult { vote: pb::Vote::Prepared.into(), inquires: true, ..Default::default() };
        let enlistment = pb::Enlistment { branch: Some(spec(participant)), vote: Some(vote) };
        let request = pb::EnlistRequest { xid: xid.to_owned(), enlistment: Some(enlistment) };
        self.transactions().enlist(request).await.unwrap();
    }

    async fn get(&self, xid: &str) -> pb::Transaction {
        let request = pb::GetRequest { key: Some(pb::get_request::Key::Xid(xid.to_owned())) };
        self.transactions().get(request).await.unwrap().into_inner().transaction.unwrap()
    }

    async fn session(&self, participant: &str) -> Participant {
        let (replies, outgoing) = mpsc::channel(16);
        let hello = pb::Hello {
            participant: participant.to_owned(),
            instance_id: "one".to_owned(),
            agent: "test".to_owned(),
        };
        replies.send(pb::SessionRequest { hello: Some(hello), ..Default::default() }).await.unwrap();
        let calls = ParticipantSessionServiceClient::new(self.channel.clone())
            .session(ReceiverStream::new(outgoing))
            .await
            .unwrap()
            .into_inner();
        Participant { replies, calls, waiting: Vec::new() }
    }
}

async fn drive(
    coordinator: Coordinator,
    mut log: MemoryLog,
    inputs: mpsc::Receiver<Input>,
    transport: Transport,
    log_stats: &LogStatsCell,
) -> Result<(), DriverError> {
    let opened = log.open();
    let epoch = opened.epoch;
    coordinator.identify(Identity { cluster: opened.cluster, lives: opened.lives, epoch });
    let mut engine = Engine::new(engine_settings(), epoch, Shard(0), opened.life_tag);
    log.replay(&mut |tx, value| {
        let replayed = engine.replay(coordinator.now(), tx, value);
        replayed.map_err(|error| ReplayError::Rejected { tx, reason: error.to_string() })
    })
    .unwrap();
    let (told, written) = mpsc::unbounded_channel();
    let writer = LogWriter::spawn(Box::new(log), epoch, move |event| drop(told.send(event))).unwrap();
    log_stats.set(writer.stats()).unwrap();
    let parts = DriverParts { coordinator, inputs, engine, writer, written, transport };
    Driver::new(parts).run().await
}

/// A participant that answers as it is told.
struct Participant {
    replies: mpsc::Sender<pb::SessionRequest>,
    calls: Streaming<pb::SessionResponse>,
    waiting: Vec<pb::Call>,
}

impl Participant {
    async fn next(&mut self) -> pb::Call {
        while self.waiting.is_empty() {
            self.waiting = soon(self.calls.message()).await.unwrap().unwrap().calls;
        }
        self.waiting.remove(0)
    }

    async fn answer(&mut self, call: &pb::Call, completion: pb::Completion) {
        let result = pb::PhaseTwoResult { completion: completion.into(), ..Default::default() };
        let reply = pb::CallReply {
            xid: call.xid.clone(),
            branch_id: call.branch_id.clone(),
            operation: call.operation,
            result: Some(pb::call_reply::Result::Completion(result)),
        };
        self.replies.send(pb::SessionRequest { replies: vec![reply], ..Default::default() }).await.unwrap();
    }
}

fn spec(participant: &str) -> pb::BranchSpec {
    pb::BranchSpec { participant: participant.to_owned(), ..Default::default() }
}

fn limits() -> Limits {
    Limits {
        max_payload: 1024 * 1024,
        max_branches: 64,
        default_timeout: Duration::from_secs(30),
        max_timeout: Duration::from_mins(1),
        endpoints: BTreeMap::from([("partner/bank".parse().unwrap(), "http://127.0.0.1:1".parse().unwrap())]),
        allowed_hosts: Vec::new(),
    }
}

fn engine_settings() -> EngineSettings {
    EngineSettings {
        max_active: 10_000,
        max_branches: 64,
        call_timeout: PATIENCE,
        backoff: Backoff { initial: PATIENCE, max: PATIENCE },
        reservation_margin: Duration::from_secs(1),
        retention: Duration::from_hours(1),
        retention_max: 10_000,
    }
}

async fn connect(url: &str) -> Channel {
    Channel::from_shared(url.to_owned()).unwrap().connect().await.unwrap()
}

pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

/// Its code and the reason for programs.
fn why(status: &Status) -> (Code, String) {
    (status.code(), status.get_details_error_info().map(|info| info.reason).unwrap_or_default())
}
