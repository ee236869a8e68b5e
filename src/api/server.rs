//! All services behind one port.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use assent_proto::v1 as pb;
use pb::admin_service_server::AdminServiceServer;
use pb::inquiry_service_server::InquiryServiceServer;
use pb::participant_session_service_server::ParticipantSessionServiceServer;
use pb::transaction_service_server::TransactionServiceServer;
use tokio::sync::watch;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, HealthService};

use super::{AdminService, InquiryService, LogStatsCell, TransactionService};
use crate::coordinator::{Coordinator, Phase};
use crate::transport::{SessionService, Transport};
use crate::wire::Limits;

/// How large a request may be, besides one payload of the largest size.
const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The same of a session: no participant needs more, and a message of the smallest things takes a hundred times as much
/// memory as it has bytes.
const SESSION_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How often an idle connection is checked: half-open ones are found within twice that.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How many calls one connection may have under way; more of them wait at the client.
const STREAMS_MAX: u32 = 4_096;

/// What the services stand on.
#[derive(Clone)]
pub struct ApiParts {
    pub coordinator: Coordinator,
    pub transport: Transport,
    pub limits: Arc<Limits>,
    /// For people.
    pub data_dir: PathBuf,
    pub log_stats: LogStatsCell,
}

/// All services, with health and reflection, to be served on an address or a listener. There is no time-out: a commit
/// takes the time that its transaction has.
///
/// When the coordinator has stopped, all streams end by themselves, but for those of reflection. Whoever shuts down
/// gracefully waits for these and for idle clients, and so needs a bound of its own.
///
/// Must be called within a Tokio runtime: a task follows the coordinator's phase until it has stopped.
pub fn router(parts: ApiParts) -> Router {
    Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_MAX)
        .add_routes(routes(parts))
}

/// The same without a connection: for whoever has one of another kind, or calls them in the same process.
pub fn routes(parts: ApiParts) -> Routes {
    let ApiParts { coordinator, transport, limits, data_dir, log_stats } = parts;
    let request_max = limits.max_payload.saturating_add(REQUEST_BYTES_MAX);
    let session_max = limits.max_payload.saturating_add(SESSION_BYTES_MAX);
    let sessions = SessionService::new(coordinator.clone(), transport.sessions().clone(), limits.clone());
    let transactions = TransactionService::new(coordinator.clone(), limits);
    let inquiries = InquiryService::new(coordinator.clone());
    let admin = AdminService::new(coordinator.clone(), transport, data_dir, log_stats);

    let reporter = HealthReporter::new();
    let health = HealthService::from_health_reporter(reporter.clone());
    tokio::spawn(report_health(reporter, coordinator.watch_phase()));

    Routes::new(TransactionServiceServer::new(transactions).max_decoding_message_size(request_max))
        .add_service(ParticipantSessionServiceServer::new(sessions).max_decoding_message_size(session_max))
        .add_service(InquiryServiceServer::new(inquiries))
        .add_service(AdminServiceServer::new(admin))
        .add_service(tonic_health::pb::health_server::HealthServer::new(health))
        .add_service(reflection().build_v1().expect("our own descriptors decode"))
        .add_service(reflection().build_v1alpha().expect("our own descriptors decode"))
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(assent_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// The names under which health is asked for: `""` is alive, these are ready.
const SERVICES: [&str; 4] = [
    TransactionServiceServer::<TransactionService>::NAME,
    ParticipantSessionServiceServer::<SessionService>::NAME,
    InquiryServiceServer::<InquiryService>::NAME,
    AdminServiceServer::<AdminService>::NAME,
];

async fn report_health(mut reporter: HealthReporter, mut phase: watch::Receiver<Phase>) {
    loop {
        let now = *phase.borrow_and_update();
        let status = match now {
            Phase::Serving => ServingStatus::Serving,
            Phase::Recovering | Phase::Draining | Phase::Stopped => ServingStatus::NotServing,
        };
        for service in SERVICES {
            reporter.set_service_status(service, status).await;
        }
        if now == Phase::Stopped || phase.changed().await.is_err() {
            break;
        }
    }
    // Ends the streams of those who watch, which would hold up the shutdown.
    for service in SERVICES.into_iter().chain([""]) {
        reporter.clear_service_status(service).await;
    }
}

impl fmt::Debug for ApiParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiParts").field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}
