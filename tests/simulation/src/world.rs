//! What everything in a run shares: the time, the hosts, the network, what happened.
//!
//! A run is one thread, and this is its state. Whatever a host does to the world outside of its own memory is an *effect*: a
//! write to the network, a dial, a write or sync of a disk, a change in a database. A crash is planned for the n-th effect
//! of a host and is exact: that effect and all later ones do not happen, though the host goes on for the rest of its turn.
//! Between two effects nobody could tell when it crashed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Display;

use assent::core::WallTime;
use assent_history::Record;

use crate::judge::Judge;
use crate::network::Network;
use crate::rng::Rng;

/// A machine with one process, by its place in [`World::hosts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(pub usize);

/// How a host went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process: its system lives, keeps what was written, and closes its connections.
    Kill,
    /// The machine: what was not synced may be lost, and nobody is told.
    PowerLoss,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    Up,
    /// The process is gone.
    Down,
    /// The machine is.
    Off,
}

#[derive(Debug)]
pub struct Host {
    pub name: &'static str,
    pub power: Power,
    effects: u64,
    /// Crashes at this effect.
    crash_at: Option<(u64, Crash)>,
    /// Has crashed in this turn.
    pub doomed: Option<Crash>,
    /// How fast its clock runs, in thousandths.
    pub pace: u64,
    /// By how much its wall clock is off.
    pub wall_off_ms: i64,
    /// Something has come for it since its last turn.
    pub touched: bool,
}

#[derive(Debug)]
pub struct World {
    /// True time since the start.
    pub now_ms: u64,
    pub hosts: Vec<Host>,
    pub rng: Rng,
    pub network: Network,
    pub judge: Judge,
    /// Everything that happened, one line each.
    pub trace: Vec<String>,
    /// What initiators and databases said.
    pub history: Vec<Record>,
    /// How often each kind of fault occurred.
    pub faults: BTreeMap<&'static str, u64>,
    /// What must not be.
    pub breaches: Vec<String>,
}

/// 14 November 2023.
const WALL_START_MS: u64 = 1_700_000_000_000;

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
    static RUNNING: Cell<Option<HostId>> = const { Cell::new(None) };
}

/// Sets up the world of this run.
pub fn create(world: World) {
    WORLD.set(Some(world));
}

/// Looks at the world, or changes it. Nothing that is dropped within may look at it again.
pub fn with<T>(look: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(|world| look(world.as_mut().expect("the world is there before its hosts")))
}

/// The host whose turn it is.
pub fn running() -> HostId {
    RUNNING.get().expect("only hosts ask")
}

/// Whose turn it is from now on.
pub fn run(host: Option<HostId>) {
    RUNNING.set(host);
}

/// Whether an effect of the host whose turn it is happens. If not, the host has crashed.
#[must_use]
pub fn effect() -> bool {
    let host = running();
    with(|world| world.effect(host))
}

/// An effect that takes place in a future: one that does not happen never ends.
pub async fn effect_or_end() {
    if !effect() {
        std::future::pending::<()>().await;
    }
}

/// Notes what happens.
pub fn note(what: impl Display) {
    with(|world| world.note(what));
}

/// Notes what happens, unless the world is being looked at.
pub fn try_note(what: impl Display) {
    WORLD.with(|world| {
        if let Ok(mut world) = world.try_borrow_mut()
            && let Some(world) = world.as_mut()
        {
            world.note(what);
        }
    });
}

/// A panic anywhere, also in a task that nobody waits for.
pub fn panicked(what: impl Display) {
    let host = who();
    WORLD.with(|world| {
        if let Ok(mut world) = world.try_borrow_mut()
            && let Some(world) = world.as_mut()
        {
            world.breach(format!("{host} panicked: {what}"));
        }
    });
}

/// The name of the host whose turn it is.
pub fn who() -> &'static str {
    let host = RUNNING.get();
    let name = |world: &World| host.map(|host| world.hosts[host.0].name);
    WORLD.with(|world| world.try_borrow().ok()?.as_ref().and_then(name)).unwrap_or("nobody")
}

/// The wall clock of the host whose turn it is.
pub fn wall_clock() -> WallTime {
    let host = running();
    with(|world| {
        let true_ms = WALL_START_MS + world.now_ms;
        WallTime(true_ms.saturating_add_signed(world.hosts[host.0].wall_off_ms))
    })
}

impl World {
    pub fn new(seed: u64, hosts: Vec<Host>) -> World {
        World {
            now_ms: 0,
            hosts,
            rng: Rng::new(seed),
            network: Network::default(),
            judge: Judge::default(),
            trace: Vec::new(),
            history: Vec::new(),
            faults: BTreeMap::new(),
            breaches: Vec::new(),
        }
    }

    pub fn host(&mut self, id: HostId) -> &mut Host {
        &mut self.hosts[id.0]
    }

    pub fn find(&self, name: &str) -> Option<HostId> {
        self.hosts.iter().position(|host| host.name == name).map(HostId)
    }

    pub fn effect(&mut self, host: HostId) -> bool {
        let it = self.host(host);
        if it.doomed.is_some() || it.power != Power::Up {
            return false;
        }
        it.effects += 1;
        if let Some((at, crash)) = it.crash_at
            && it.effects >= at
        {
            it.crash_at = None;
            it.doomed = Some(crash);
            return false;
        }
        true
    }

    /// Crashes a host at its n-th effect from now, 1 being the next.
    pub fn crash_at_effect(&mut self, host: HostId, nth: u64, crash: Crash) {
        let it = self.host(host);
        it.crash_at = Some((it.effects + nth, crash));
    }

    pub fn forget_crash(&mut self, host: HostId) {
        self.host(host).crash_at = None;
    }

    /// Whether the host can still be heard of.
    pub fn is_alive(&self, host: HostId) -> bool {
        let it = &self.hosts[host.0];
        it.power == Power::Up && it.doomed.is_none()
    }

    pub fn note(&mut self, what: impl Display) {
        let (s, ms) = (self.now_ms / 1000, self.now_ms % 1000);
        self.trace.push(format!("{s:4}.{ms:03} {what}"));
    }

    /// Counts a fault, and notes it in both histories.
    pub fn fault(&mut self, kind: &'static str, what: impl Display, ended: Option<HostId>) {
        *self.faults.entry(kind).or_default() += 1;
        let what = format!("{kind}: {what}");
        self.note(format_args!("FAULT {what}"));
        let ended = ended.map(|host| self.hosts[host.0].name.to_owned());
        self.record(Record::Fault { what, ended });
    }

    /// Writes into the history that is judged.
    pub fn record(&mut self, record: Record) {
        let line = serde_json::to_string(&record).unwrap_or_default();
        self.note(format_args!("HISTORY {line}"));
        self.history.push(record);
    }

    /// Something is that must not be.
    pub fn breach(&mut self, what: String) {
        self.note(format_args!("BREACH {what}"));
        self.breaches.push(what);
    }
}

impl Host {
    pub fn new(name: &'static str, pace: u64) -> Host {
        Host {
            name,
            power: Power::Down,
            effects: 0,
            crash_at: None,
            doomed: None,
            pace,
            wall_off_ms: 0,
            touched: false,
        }
    }
}
