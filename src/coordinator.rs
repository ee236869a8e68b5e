//! The coordinator of this process: the handle that the API and the transports hold, and the driver behind it.
//!
//! **Architecture invariant:** here are the only tasks, timers and channels around the core. One task owns the
//! [`Engine`]; everybody else sends it an [`Input`].

mod driver;
mod gate;

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;
use uuid::Uuid;

pub use self::driver::{Driver, DriverError, DriverParts};
use crate::core::{
    Admission, Answer, Engine, Event, Now, ParticipantName, RequestId, Timestamp, Transaction, TxId, TxOrder,
    Waiter, WallTime,
};
use crate::store::Lives;

/// How many inputs may wait for the driver before those who send them wait too.
const INBOX_CAPACITY: usize = 16_384;
/// How many changes a watcher may fall behind before it misses intermediate ones.
const WATCH_CAPACITY: usize = 1_024;

/// A handle to the coordinator of this process; cheap to clone.
#[derive(Clone, Debug)]
pub struct Coordinator {
    inbox: mpsc::Sender<Input>,
    shared: Arc<Shared>,
}

/// What all handles see without asking the driver.
#[derive(Debug)]
struct Shared {
    clock: Clock,
    /// Known once the log is open, which is before the phase is `Serving`.
    identity: OnceLock<Identity>,
    waiters: AtomicU64,
    phase: watch::Sender<Phase>,
    horizon: watch::Sender<TxOrder>,
    changes: broadcast::Sender<Arc<Transaction>>,
}

/// Who this coordinator is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Random, kept in the log.
    pub cluster: Uuid,
    /// Every boot that the log lived through, this one included.
    pub lives: Lives,
    pub epoch: crate::core::Epoch,
}

/// What it is doing as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It reads its log: nothing is answered yet.
    Recovering,
    Serving,
    /// It takes no new transactions and finishes those it has.
    Draining,
    Stopped,
}

/// What the driver is sent.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are of the large kind; a box for each would cost more"
)]
pub enum Input {
    /// Something happened; nobody waits for an answer to it.
    Events(Vec<Event>),
    /// The same, with who is to be answered.
    Ask {
        waiter: Waiter,
        reply: ReplyTo,
        event: Event,
    },
    /// A look at the engine.
    Read(Read),
    /// Sessions of this participant were opened: what waits for it is due.
    ParticipantUp(ParticipantName),
    /// Whether new transactions are taken (ignored while draining).
    Admission(Admission),
    /// Take no new transactions; stop when those at hand have ended, or at once when `Stop` comes.
    Drain,
    Stop,
}

/// A look at the engine: what it finds is handed over once it is durable.
pub struct Read {
    /// `None`: it looks at many.
    subject: Option<TxId>,
    look: Box<dyn FnOnce(&mut Engine) -> Deliver + Send>,
}

type Deliver = Box<dyn FnOnce() + Send>;

/// Where an answer goes.
#[derive(Debug)]
pub enum ReplyTo {
    One(oneshot::Sender<Answer>),
    /// One of many answers on a stream, which bounds how many it asks for at a time.
    Stream {
        call_id: u64,
        to: mpsc::UnboundedSender<(u64, Answer)>,
    },
}

/// The coordinator has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator has stopped")]
pub struct Stopped;

/// The only place that reads clocks.
#[derive(Clone, Copy, Debug)]
struct Clock {
    /// On tokio's clock, which a simulation turns; otherwise it is the system's monotonic one.
    start: Instant,
    wall: ReadWallClock,
}

/// Reads a wall clock.
pub type ReadWallClock = fn() -> WallTime;

/// The system's wall clock.
pub fn system_wall_clock() -> WallTime {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX))
}

impl Coordinator {
    /// A handle and what its driver needs.
    pub fn new(wall: ReadWallClock) -> (Coordinator, mpsc::Receiver<Input>) {
        let (inbox, inputs) = mpsc::channel(INBOX_CAPACITY);
        let shared = Shared {
            clock: Clock { start: Instant::now(), wall },
            identity: OnceLock::new(),
            waiters: AtomicU64::new(0),
            phase: watch::Sender::new(Phase::Recovering),
            horizon: watch::Sender::new("000000000000000000000".parse().expect("it is a horizon")),
            changes: broadcast::Sender::new(WATCH_CAPACITY),
        };
        (Coordinator { inbox, shared: Arc::new(shared) }, inputs)
    }

    /// Hands in an event and waits for its answer. The event takes its course even if the caller goes away.
    pub async fn ask(&self, event: impl FnOnce(Waiter) -> Event) -> Result<Answer, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.ask_for(ReplyTo::One(reply), event).await?;
        answer.await.map_err(|_| Stopped)
    }

    /// Hands in an event whose answer goes where `reply` says.
    pub async fn ask_for(&self, reply: ReplyTo, event: impl FnOnce(Waiter) -> Event) -> Result<(), Stopped> {
        let waiter = Waiter(self.shared.waiters.fetch_add(1, Ordering::Relaxed));
        self.send(Input::Ask { waiter, reply, event: event(waiter) }).await
    }

    /// Tells what happened at participants.
    pub async fn report(&self, events: Vec<Event>) -> Result<(), Stopped> {
        self.send(Input::Events(events)).await
    }

    /// A participant can be called (again).
    pub async fn participant_up(&self, name: ParticipantName) -> Result<(), Stopped> {
        self.send(Input::ParticipantUp(name)).await
    }

    pub async fn get(&self, tx: TxId) -> Result<Option<Transaction>, Stopped> {
        self.read(Some(tx), move |engine| engine.get(tx).map(Cow::into_owned)).await
    }

    pub async fn get_by_request(&self, request: RequestId) -> Result<Option<Transaction>, Stopped> {
        self.read(None, move |engine| engine.get_by_request(&request).map(Cow::into_owned)).await
    }

    /// Looks at the engine; what is found is handed over once it is durable. `subject`: the transaction looked at, or
    /// `None` for many.
    pub async fn read<T: Send + 'static>(
        &self,
        subject: Option<TxId>,
        look: impl FnOnce(&mut Engine) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        let look = Box::new(move |engine: &mut Engine| -> Deliver {
            let found = look(engine);
            Box::new(move || drop(reply.send(found)))
        });
        self.send(Input::Read(Read { subject, look })).await?;
        answer.await.map_err(|_| Stopped)
    }

    /// All changes from now on: each with the whole transaction. Those who fall behind miss some. To be sure of the
    /// first state, subscribe first and [`get`](Coordinator::get) then.
    pub fn watch(&self) -> broadcast::Receiver<Arc<Transaction>> {
        self.shared.changes.subscribe()
    }

    pub fn phase(&self) -> Phase {
        *self.shared.phase.borrow()
    }

    pub fn watch_phase(&self) -> watch::Receiver<Phase> {
        self.shared.phase.subscribe()
    }

    /// Every transaction before it has ended, durably.
    pub fn horizon(&self) -> TxOrder {
        *self.shared.horizon.borrow()
    }

    pub fn watch_horizon(&self) -> watch::Receiver<TxOrder> {
        self.shared.horizon.subscribe()
    }

    /// Who it is; known in every phase but `Recovering`.
    pub fn identity(&self) -> &Identity {
        self.shared.identity.get().expect("nothing is served before the log is open")
    }

    /// Says who it is, once, as soon as the log is open.
    pub fn identify(&self, identity: Identity) {
        self.shared.identity.set(identity).expect("a coordinator opens its log once");
    }

    pub fn now(&self) -> Now {
        self.shared.clock.now()
    }

    /// Says whether there is room for new transactions.
    pub async fn admit(&self, admission: Admission) -> Result<(), Stopped> {
        self.send(Input::Admission(admission)).await
    }

    /// Takes no new transactions from now on, and stops once those at hand have ended.
    pub async fn drain(&self) -> Result<(), Stopped> {
        self.send(Input::Drain).await
    }

    /// Stops now. What is not finished goes on after the next start.
    pub async fn stop(&self) -> Result<(), Stopped> {
        self.send(Input::Stop).await
    }

    async fn send(&self, input: Input) -> Result<(), Stopped> {
        self.inbox.send(input).await.map_err(|_| Stopped)
    }
}

impl ReplyTo {
    fn send(self, answer: Answer) {
        // Whoever asked may be gone: that is their right, and changes nothing.
        match self {
            ReplyTo::One(to) => drop(to.send(answer)),
            ReplyTo::Stream { call_id, to } => drop(to.send((call_id, answer))),
        }
    }
}

impl Clock {
    fn now(self) -> Now {
        Now { mono: Timestamp::after_start(self.start.elapsed()), wall: (self.wall)() }
    }

    fn instant(self, at: Timestamp) -> Instant {
        self.start + at.since(Timestamp::ZERO)
    }
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Input::Events(events) => f.debug_tuple("Events").field(events).finish(),
            Input::Ask { event, .. } => f.debug_tuple("Ask").field(event).finish(),
            Input::Read(read) => f.debug_tuple("Read").field(&read.subject).finish(),
            Input::ParticipantUp(name) => f.debug_tuple("ParticipantUp").field(name).finish(),
            Input::Admission(admission) => f.debug_tuple("Admission").field(admission).finish(),
            Input::Drain => f.write_str("Drain"),
            Input::Stop => f.write_str("Stop"),
        }
    }
}

impl std::fmt::Debug for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Read").field("subject", &self.subject).finish_non_exhaustive()
    }
}
