//! The daemon: all parts put together.

mod platform;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::server::{Connected, TcpIncoming};
use tracing::{error, info, warn};

pub use self::platform::{Machine, Platform};
use crate::api::{self, ApiParts};
use crate::config::Settings;
use crate::coordinator::{Coordinator, Driver, DriverError, DriverParts, Identity, Phase, Stopped};
use crate::core::{Admission, Backoff, Engine, EngineSettings, ParticipantName, Shard};
use crate::crash_point;
use crate::store::{Ballast, DecisionLog, LogStats, OpenError, ReplayError};
use crate::transport::{DialSettings, Dialer, Sessions, Transport};
use crate::wire::Limits;

/// Completes when the daemon is to drain and end.
pub type Shutdown = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How often the free space of the disk is looked at.
const DISK_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How long no connection is accepted after one could not be.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long connections have to close once the coordinator has stopped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the daemon could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error("cannot serve gRPC: {0}")]
    Server(#[from] tonic::transport::Error),
    #[error("cannot start the log thread: {0}")]
    Thread(#[from] io::Error),
    #[error("participants.endpoints names the participant {name:?}, which {problem}")]
    Endpoint { name: String, problem: String },
    #[error("a part of the daemon panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

/// Serves on `listener` until `shutdown` completes; then takes no new transactions and ends when those at hand have
/// ended, or when `server.drain_timeout` is over. What is not finished by then goes on after the next start.
///
/// # Errors
/// [`ServeError`]; after one of the log ([`DriverError::Log`]) what was asked last may or may not have happened.
pub async fn serve(
    settings: Arc<Settings>,
    listener: TcpListener,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    serve_on(Machine, settings, incoming, shutdown).await
}

/// The same on another machine, with connections from there.
///
/// # Errors
/// As of [`serve`].
pub async fn serve_on<P, I, C>(
    platform: P,
    settings: Arc<Settings>,
    incoming: I,
    shutdown: Shutdown,
) -> Result<(), ServeError>
where
    P: Platform,
    I: Stream<Item = io::Result<C>> + Send + 'static,
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let limits = Arc::new(limits(&settings)?);
    let (coordinator, inputs) = Coordinator::new(platform.wall_clock());
    let sessions = Sessions::new(settings.participants.max_in_flight as usize);
    let dialer = Dialer::new(
        coordinator.clone(),
        limits.clone(),
        DialSettings {
            max_in_flight: settings.participants.max_in_flight as usize,
            call_timeout: settings.participants.call_timeout.0,
            channel: platform.channels(),
        },
    );
    let transport = Transport::new(sessions, dialer, limits.endpoints.clone());
    let log_stats = Arc::new(OnceLock::new());
    let (close, closed) = tokio::sync::oneshot::channel::<()>();
    let router = api::router(ApiParts {
        coordinator: coordinator.clone(),
        transport: transport.clone(),
        limits: limits.clone(),
        data_dir: settings.storage.data_dir.clone(),
        log_stats: log_stats.clone(),
    });
    // It listens from the start, so that whoever asks hears "recovering" and not silence.
    let incoming = incoming.then(pause_after_failure);
    let server = tokio::spawn(router.serve_with_incoming_shutdown(incoming, async {
        let _ = closed.await;
    }));

    let driver = start_driver(&platform, &settings, &coordinator, inputs, transport, &log_stats).await?;
    let disk = tokio::spawn(watch_disk(platform, coordinator.clone(), settings.clone()));
    let result = drive(&coordinator, driver, server, close, shutdown, settings.server.drain_timeout.0).await;
    disk.abort();
    result
}

/// Opens the log, takes back what it holds, and sets the driver going.
async fn start_driver<P: Platform>(
    platform: &P,
    settings: &Arc<Settings>,
    coordinator: &Coordinator,
    inputs: mpsc::Receiver<crate::coordinator::Input>,
    transport: Transport,
    log_stats: &OnceLock<Arc<LogStats>>,
) -> Result<JoinHandle<Result<(), DriverError>>, ServeError> {
    let (opening, recovering, settings) = (platform.clone(), coordinator.clone(), settings.clone());
    let (log, engine, identity) = platform.work(move || recover(&opening, &settings, &recovering)).await??;
    let epoch = identity.epoch;
    coordinator.identify(identity);
    let (events, written) = mpsc::unbounded_channel();
    let writer = platform.write_log(log, epoch, move |event| {
        // The driver reads these until it ends, and then nobody needs them.
        let _ = events.send(event);
    })?;
    log_stats.set(writer.stats()).expect("the log is opened once");
    let parts = DriverParts { coordinator: coordinator.clone(), inputs, engine, writer, written, transport };
    Ok(tokio::spawn(Driver::new(parts).run()))
}

fn recover<P: Platform>(
    platform: &P,
    settings: &Settings,
    coordinator: &Coordinator,
) -> Result<(P::Log, Engine, Identity), ServeError> {
    let dir = &settings.storage.data_dir;
    let (mut log, opened) = platform.open_log(settings)?;
    if let Some(cut_off) = opened.cut_off {
        warn!(%cut_off, "the last run ended in the middle of a write");
    }
    if let Ballast::Lacking { free_bytes } = opened.ballast {
        warn!(free_bytes, dir = %dir.display(), "too little room for the ballast file");
    }
    info!(cluster = %opened.cluster, epoch = opened.epoch.0, dir = %dir.display(), "opened the log");
    let mut engine = Engine::new(engine_settings(settings), opened.epoch, Shard(0), opened.life_tag);
    log.replay(&mut |tx, value| {
        crash_point!("value-to-be-replayed");
        engine
            .replay(coordinator.now(), tx, value)
            .map_err(|error| ReplayError::Rejected { tx, reason: error.to_string() })
    })?;
    Ok((log, engine, Identity { cluster: opened.cluster, epoch: opened.epoch, lives: opened.lives }))
}

/// A process that has no file descriptors left cannot accept, and would be asked to at once again, and again.
async fn pause_after_failure<T>(accepted: io::Result<T>) -> io::Result<T> {
    if let Err(error) = &accepted {
        warn!(%error, "cannot accept a connection; going on in a moment");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
    accepted
}

/// Waits for the end, whoever brings it.
async fn drive(
    coordinator: &Coordinator,
    mut driver: JoinHandle<Result<(), DriverError>>,
    mut server: JoinHandle<Result<(), tonic::transport::Error>>,
    close: tokio::sync::oneshot::Sender<()>,
    shutdown: Shutdown,
    drain_timeout: Duration,
) -> Result<(), ServeError> {
    tokio::select! {
        ended = &mut driver => return Ok(ended??),
        ended = &mut server => return Ok(ended??),
        () = shutdown => {}
    }
    let drained = async {
        if coordinator.drain().await == Err(Stopped) {
            return (&mut driver).await;
        }
        match tokio::time::timeout(drain_timeout, &mut driver).await {
            Ok(ended) => ended,
            Err(_elapsed) => {
                warn!(?drain_timeout, "not everything ended in time; the rest goes on after the next start");
                // If it has stopped meanwhile, that is what we wanted.
                let _ = coordinator.stop().await;
                (&mut driver).await
            }
        }
    }
    .await;
    // Sessions and watches have seen the phase `Stopped` and end by themselves; a client may hold on to its connection.
    let _ = close.send(());
    if tokio::time::timeout(CLOSE_TIMEOUT, &mut server).await.is_err() {
        server.abort();
    }
    drained??;
    info!("stopped");
    Ok(())
}

/// Turns new transactions away while the disk is nearly full: what is begun must be able to end.
async fn watch_disk(platform: impl Platform, coordinator: Coordinator, settings: Arc<Settings>) {
    let (dir, min_free) = (&settings.storage.data_dir, settings.storage.min_free.0);
    let mut was_low = false;
    while coordinator.phase() != Phase::Stopped {
        let low = is_low(&platform, &settings);
        if low != was_low {
            let admission = if low { Admission::DiskNearlyFull } else { Admission::Open };
            if coordinator.admit(admission).await.is_err() {
                return;
            }
            if low {
                error!(dir = %dir.display(), min_free_bytes = min_free, "the disk is nearly full: taking no new transactions");
            } else {
                info!(dir = %dir.display(), "the disk has room again: taking new transactions");
            }
            was_low = low;
        }
        tokio::time::sleep(DISK_CHECK_INTERVAL).await;
    }
}

fn is_low(platform: &impl Platform, settings: &Settings) -> bool {
    match platform.free_bytes(settings) {
        Ok(free) => free < settings.storage.min_free.0,
        Err(error) => {
            let dir = settings.storage.data_dir.display();
            warn!(%dir, %error, "cannot tell how much room the disk has");
            false
        }
    }
}

fn engine_settings(settings: &Settings) -> EngineSettings {
    EngineSettings {
        max_active: usize::try_from(settings.limits.max_active).unwrap_or(usize::MAX),
        max_branches: settings.limits.max_branches as usize,
        call_timeout: settings.participants.call_timeout.0,
        backoff: Backoff {
            initial: settings.participants.retry_initial.0,
            max: settings.participants.retry_max.0,
        },
        reservation_margin: settings.participants.reservation_margin.0,
        retention: settings.storage.retention.0,
        retention_max: usize::try_from(settings.storage.retention_max).unwrap_or(usize::MAX),
    }
}

fn limits(settings: &Settings) -> Result<Limits, ServeError> {
    let endpoints = settings.participants.endpoints.iter().map(|(name, endpoint)| {
        let participant: ParticipantName = name.parse().map_err(|error: crate::core::NameError| {
            ServeError::Endpoint { name: name.clone(), problem: error.to_string() }
        })?;
        Ok((participant, endpoint.clone()))
    });
    Ok(Limits {
        max_payload: usize::try_from(settings.limits.max_payload.0).unwrap_or(usize::MAX),
        max_branches: settings.limits.max_branches as usize,
        default_timeout: settings.limits.default_timeout.0,
        max_timeout: settings.limits.max_timeout.0,
        endpoints: endpoints.collect::<Result<_, ServeError>>()?,
        allowed_hosts: settings.participants.allowed_hosts.clone(),
    })
}
