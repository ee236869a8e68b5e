//! A participant: a resource with a name, and a way to the coordinator.

mod dial;
mod doubts;
mod engine;
mod handle;
mod inquirer;
mod link;
mod session;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use assent_proto::v1::tcc_participant_service_server::TccParticipantServiceServer;
use assent_proto::v1::transaction_service_client::TransactionServiceClient;
use assent_proto::v1::two_phase_participant_service_server::TwoPhaseParticipantServiceServer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::Stream;
use tonic::transport::server::{Connected, TcpIncoming};
use tonic::transport::{Endpoint, Server};

use self::dial::Dialled;
use self::doubts::Doubts;
use self::engine::{Asking, Engine, Rules};
use self::handle::Way;
pub use self::handle::{Handle, Join, Joined};
use self::inquirer::Asker;
use self::link::Link;
use self::session::Session;
use crate::backoff::Backoff;
use crate::branch::ParticipantName;
use crate::context::ExtractLayer;
use crate::error::{Error, Result};
use crate::network::{Address, Network};
use crate::resource::{AnyResource, ReservationClass, Resource};

/// The largest gRPC message that is taken. The coordinator's own limit on payloads is well below it.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;

const MAX_IN_FLIGHT_DEFAULT: u32 = 1024;
const MAX_IN_FLIGHT_LIMIT: u32 = 1 << 16;
const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
const INQUIRE_AFTER_DEFAULT: Duration = Duration::from_secs(10);
const INQUIRE_AGAIN: Backoff = Backoff { first: Duration::from_millis(200), max: Duration::from_secs(30) };

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a server that has drained leaves its connections to carry the last replies out.
const LAST_REPLIES: Duration = Duration::from_millis(200);

/// A running participant. Dropping it stops it as a crash would; [`shutdown`](Participant::shutdown) is the polite way.
pub struct Participant {
    handle: Handle,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    serving: JoinHandle<()>,
    local_addr: Option<SocketAddr>,
}

/// A participant that has a name and wants a [`resource`](Named::resource).
#[derive(Debug)]
pub struct Named {
    name: String,
}

/// A participant to be started: [`connect`](Builder::connect) or [`serve`](Builder::serve).
pub struct Builder {
    name: String,
    resource: Box<dyn AnyResource>,
    rules: Rules,
    drain_timeout: Duration,
    inquire_after: Duration,
    inquire_at: Option<String>,
    advertise: String,
    instance_id: Option<String>,
    network: Network,
}

impl Participant {
    /// Begins with the name under which branches are enlisted, such as `shop/stock`: 1 to 128 bytes of letters, digits
    /// and `-_.:/`. Several processes over one database may bear one name.
    pub fn builder(name: impl Into<String>) -> Named {
        Named { name: name.into() }
    }

    /// For work on behalf of a transaction that another service's call brings.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Where it listens, if it serves.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// Waits until the coordinator has welcomed the session. At once, where it serves.
    pub async fn ready(&self) {
        if let Way::Session(link) = &self.handle.way {
            link.until_open().await;
        }
    }

    /// Takes no more calls, finishes those in flight within the drain time, and closes.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        // It bounds itself by the drain time.
        let _ = (&mut self.serving).await;
    }

    /// Runs until the future is ready, then [`shutdown`](Participant::shutdown)s.
    pub async fn run_until<T>(self, until: impl Future<Output = T>) -> T {
        let output = until.await;
        self.shutdown().await;
        output
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        self.serving.abort();
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Named {
    /// What it works on.
    pub fn resource(self, resource: impl Resource) -> Builder {
        Builder {
            name: self.name,
            resource: Box::new(resource),
            rules: Rules {
                max_in_flight: MAX_IN_FLIGHT_DEFAULT,
                max_reservation: None,
                class: ReservationClass::Cooperative,
                asking: Asking::Coordinator,
            },
            drain_timeout: DRAIN_TIMEOUT_DEFAULT,
            inquire_after: INQUIRE_AFTER_DEFAULT,
            inquire_at: None,
            advertise: String::new(),
            instance_id: None,
            network: Network::SYSTEM,
        }
    }
}

impl Builder {
    /// The longest time to live that a reservation is granted, whatever is asked for. Default: no limit.
    #[must_use]
    pub fn max_reservation(mut self, longest: Duration) -> Builder {
        self.rules.max_reservation = Some(longest);
        self
    }

    /// Reservations made from now on cancel themselves when they expire, without asking. The coordinator then confirms
    /// only well before the expiry, and a mixed outcome is possible. Default: cooperative, they ask.
    #[must_use]
    pub fn autonomous(mut self) -> Builder {
        self.rules.class = ReservationClass::Autonomous;
        self
    }

    /// Calls carried out at once, 1 to 65,536; further ones wait. Default 1024.
    #[must_use]
    pub fn max_in_flight(mut self, calls: u32) -> Builder {
        self.rules.max_in_flight = calls;
        self
    }

    /// How long a shutdown waits for calls in flight. Default 30 s.
    #[must_use]
    pub fn drain_timeout(self, longest: Duration) -> Builder {
        Builder { drain_timeout: longest, ..self }
    }

    /// How long a branch stays prepared before the coordinator is asked about it unprompted; expired reservations and
    /// new sessions ask at once. As often, but at most twice a second, the resource is looked at for branches of which
    /// nothing was heard. Default 10 s.
    #[must_use]
    pub fn inquire_after(self, patience: Duration) -> Builder {
        Builder { inquire_after: patience, ..self }
    }

    /// For [`serve`](Builder::serve): the coordinator's address, `http://host:port`, to ask for decisions and to enlist
    /// at. Without it the coordinator must remember on this participant's behalf, expired reservations are held until
    /// it calls, and rows of finished branches are never cleared.
    #[must_use]
    pub fn inquire_at(self, coordinator: impl Into<String>) -> Builder {
        Builder { inquire_at: Some(coordinator.into()), ..self }
    }

    /// For [`serve`](Builder::serve): the endpoint to enlist with, `http://host:port`, where the coordinator's
    /// configuration does not name one for this participant.
    #[must_use]
    pub fn advertise(self, endpoint: impl Into<String>) -> Builder {
        Builder { advertise: endpoint.into(), ..self }
    }

    /// Tells replicas apart, for people: at most 64 bytes. Default: drawn at random.
    #[must_use]
    pub fn instance_id(self, id: impl Into<String>) -> Builder {
        Builder { instance_id: Some(id.into()), ..self }
    }

    /// Dials on another network: for simulations.
    #[doc(hidden)]
    #[must_use]
    pub fn network(self, network: Network) -> Builder {
        Builder { network, ..self }
    }

    /// Takes part over a session: dials the coordinator, `http://host:port`, and needs no port of its own. It returns
    /// although the coordinator may be down, and dials again whenever the session breaks.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a name or the address is none, and where the resource cannot tell what is in doubt:
    /// a coordinator keeps no branch in mind for a participant that has a session.
    #[expect(
        clippy::unused_async,
        reason = "it spawns, so it must be called within a runtime; await shows that"
    )]
    pub async fn connect(self, coordinator: impl Into<String>) -> Result<Participant, Error> {
        if !self.resource.inquires() {
            let name = self.name;
            return Err(Error::Invalid(format!(
                "the resource of {name} cannot tell what is in doubt (`inquires` is false), so a crash could leave a \
                 branch prepared for ever over a session; use `serve`"
            )));
        }
        let address = Address::new(endpoint(&coordinator.into())?, self.network);
        let engine = engine(&self.name, self.resource, self.rules, self.inquire_after)?;
        let link = Arc::new(Link::default());
        let (stop, stopped) = watch::channel(false);
        let session = Session {
            engine: Arc::clone(&engine),
            link: Arc::clone(&link),
            address,
            instance_id: self.instance_id.unwrap_or_else(random_id),
            drain_timeout: self.drain_timeout,
            stop: stopped,
        };
        let inquirer = inquirer::run(Arc::clone(&engine), Asker::Session(Arc::clone(&link)));
        let looking = inquirer::look_for_doubts(Arc::clone(&engine), self.inquire_after);
        Ok(Participant {
            handle: Handle { engine, way: Way::Session(link), advertise: self.advertise.into() },
            stop,
            tasks: vec![tokio::spawn(inquirer), tokio::spawn(looking)],
            serving: tokio::spawn(session.run()),
            local_addr: None,
        })
    }

    /// Takes part by being dialled: serves the two participant services on a port that the caller has opened.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a name or an address is none; [`Error::Resource`] where the resource cannot list what
    /// is in doubt.
    pub async fn serve(self, listener: TcpListener) -> Result<Participant, Error> {
        let local_addr = listener.local_addr().map_err(|error| Error::Resource(error.into()))?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let mut participant = self.serve_incoming(incoming).await?;
        participant.local_addr = Some(local_addr);
        Ok(participant)
    }

    /// The same on connections from elsewhere: for simulations.
    #[doc(hidden)]
    pub async fn serve_incoming<I, C>(self, incoming: I) -> Result<Participant, Error>
    where
        I: Stream<Item = std::io::Result<C>> + Send + 'static,
        C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let (asking, asker, way) = match &self.inquire_at {
            None => (Asking::Nobody, Asker::Nobody, Way::Nobody),
            Some(coordinator) => {
                let channel = Address::new(endpoint(coordinator)?, self.network).connect_lazy();
                let enlisting = TransactionServiceClient::new(channel.clone());
                (Asking::Coordinator, Asker::unary(channel), Way::Unary(enlisting))
            }
        };
        let rules = Rules { asking, ..self.rules };
        let engine = engine(&self.name, self.resource, rules, self.inquire_after)?;
        engine.load_doubts().await.map_err(|failure| Error::Resource(failure.to_string().into()))?;
        engine.ask_about_all();
        let (stop, stopped) = watch::channel(false);
        let serving = serve(Arc::clone(&engine), incoming, stopped, self.drain_timeout);
        let looking = inquirer::look_for_doubts(Arc::clone(&engine), self.inquire_after);
        Ok(Participant {
            handle: Handle { engine: Arc::clone(&engine), way, advertise: self.advertise.into() },
            stop,
            tasks: vec![tokio::spawn(inquirer::run(engine, asker)), tokio::spawn(looking)],
            serving: tokio::spawn(serving),
            local_addr: None,
        })
    }
}

impl fmt::Debug for Participant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Participant").field("name", self.handle.engine.name()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("name", &self.name).finish_non_exhaustive()
    }
}

fn engine(
    name: &str,
    resource: Box<dyn AnyResource>,
    rules: Rules,
    inquire_after: Duration,
) -> Result<Arc<Engine>, Error> {
    let name: ParticipantName = name.parse()?;
    if !(1..=MAX_IN_FLIGHT_LIMIT).contains(&rules.max_in_flight) {
        return Err(Error::Invalid(format!(
            "max_in_flight is {}; it can be 1 to {MAX_IN_FLIGHT_LIMIT}",
            rules.max_in_flight
        )));
    }
    Ok(Arc::new(Engine::new(name, resource, rules, Doubts::new(inquire_after, INQUIRE_AGAIN))))
}

/// Serves until told to stop, then waits for what is in flight, within the drain time: tonic itself would wait for its
/// connections without bound.
async fn serve<I, C>(
    engine: Arc<Engine>,
    incoming: I,
    mut stop: watch::Receiver<bool>,
    drain_timeout: Duration,
) where
    I: Stream<Item = std::io::Result<C>> + Send + 'static,
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let dialled = Dialled(Arc::clone(&engine));
    let mut stop_server = stop.clone();
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .layer(ExtractLayer)
        .add_service(
            TwoPhaseParticipantServiceServer::new(dialled.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(TccParticipantServiceServer::new(dialled).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .serve_with_incoming_shutdown(incoming, async move {
            stopped(&mut stop_server).await;
        });
    let bound = async {
        stopped(&mut stop).await;
        let _ = timeout(drain_timeout, engine.idle()).await;
        tokio::time::sleep(LAST_REPLIES).await;
    };
    tokio::select! {
        served = server => if let Err(error) = served {
            tracing::error!(%error, "the participant's server ended");
        },
        () = bound => {}
    }
}

/// Waits until told to stop. A sender that is gone means that, too.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A coordinator's address with what every channel must have: without keep-alive a half-open connection hangs for ever.
pub(crate) fn endpoint(url: &str) -> Result<Endpoint, Error> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .ok()
        .filter(|endpoint| endpoint.uri().scheme_str() == Some("http") && endpoint.uri().host().is_some());
    let endpoint = endpoint.ok_or_else(|| {
        Error::Invalid(format!(
            "{url:?} is not a coordinator's address; one looks like http://127.0.0.1:7420"
        ))
    })?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

pub(crate) fn random_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
