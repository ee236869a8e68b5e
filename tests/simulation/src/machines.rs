//! The hosts' processes: each has a runtime of its own, whose clock this turns. To crash a process is to drop its runtime.

use std::sync::Arc;
use std::time::Duration;

use assent::config::Settings;
use assent_sdk::memory::Memory;
use futures_util::future::BoxFuture;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::bank::Bank;
use crate::coordinator;
use crate::disk::Disk;
use crate::initiator::{self, Diary};
use crate::participant::{self, Role};
use crate::world::{self, Crash, HostId, Power, with};

/// What a host is for, with what of it survives a crash.
#[derive(Clone, Debug)]
pub enum Purpose {
    Coordinator { disk: Disk, settings: Arc<Settings> },
    Participant { role: Role, database: Memory<Bank> },
    Initiator { diary: Diary },
}

/// How often a host has its turn though nothing came for it. Its own timers are exact on its own clock; what they send is
/// late by up to this.
pub const TURN_EVERY_MS: u64 = 5;

#[derive(Debug)]
pub struct Machine {
    pub host: HostId,
    pub purpose: Purpose,
    process: Option<Process>,
    /// True time in thousandths of a millisecond, as far as its clock has not been turned.
    owed: u64,
    /// When it had its last turn.
    turned_ms: u64,
    /// When it is started again.
    pub restart_ms: Option<u64>,
    /// It crashes again while it starts: at this effect.
    pub crash_at_start: Option<(u64, Crash)>,
}

#[derive(Debug)]
struct Process {
    runtime: Runtime,
    main: JoinHandle<anyhow::Result<()>>,
    stop: watch::Sender<bool>,
    started: Instant,
    /// What its clock shows.
    age_ms: u64,
}

/// How a process came to its end.
#[derive(Debug)]
pub enum End {
    Exited(Result<(), String>),
    Crashed(Crash),
}

impl Machine {
    pub fn new(host: HostId, purpose: Purpose) -> Machine {
        Machine {
            host,
            purpose,
            process: None,
            owed: 0,
            turned_ms: 0,
            restart_ms: Some(0),
            crash_at_start: None,
        }
    }

    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Starts the process.
    pub fn start(&mut self) {
        with(|world| {
            let host = world.host(self.host);
            (host.power, host.doomed) = (Power::Up, None);
            let name = host.name;
            world.forget_crash(self.host);
            world.note(format_args!("{name} starts"));
            if let Some((nth, crash)) = self.crash_at_start.take() {
                world.crash_at_effect(self.host, nth, crash);
            }
            self.turned_ms = world.now_ms;
        });
        world::run(Some(self.host));
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without I/O needs nothing");
        let (stop, stopped) = watch::channel(false);
        let main = runtime.spawn(self.life(stopped));
        let started = runtime.block_on(async { Instant::now() });
        world::run(None);
        self.restart_ms = None;
        self.process = Some(Process { runtime, main, stop, started, age_ms: 0 });
    }

    fn life(&self, stop: watch::Receiver<bool>) -> BoxFuture<'static, anyhow::Result<()>> {
        match self.purpose.clone() {
            Purpose::Coordinator { disk, settings } => Box::pin(coordinator::live(disk, settings, stop)),
            Purpose::Participant { role, database } => Box::pin(participant::live(role, database, stop)),
            Purpose::Initiator { diary } => Box::pin(initiator::live(diary, stop)),
        }
    }

    /// Turns the clock to what it shows by now, at the host's own pace, and runs what is due. Says if the process ended.
    pub fn turn(&mut self, now_ms: u64) -> Option<End> {
        let process = self.process.as_mut()?;
        let host = self.host;
        let (touched, pace) = with(|world| (world.host(host).touched, world.host(host).pace));
        let ms = now_ms - self.turned_ms;
        if !touched && ms < TURN_EVERY_MS {
            return None;
        }
        self.turned_ms = now_ms;
        self.owed += ms * pace;
        let own_ms = self.owed / 1_000;
        self.owed %= 1_000;
        if own_ms == 0 {
            return None;
        }
        with(|world| world.host(host).touched = false);
        process.age_ms += own_ms;
        let until = process.started + Duration::from_millis(process.age_ms);
        world::run(Some(self.host));
        process.runtime.block_on(async move { sleep_until(until).await });
        let ended = process.main.is_finished();
        world::run(None);
        if let Some(crash) = with(|world| world.host(self.host).doomed) {
            return Some(End::Crashed(crash));
        }
        if !ended {
            return None;
        }
        let result = process.runtime.block_on(&mut process.main);
        Some(End::Exited(match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(panic) => Err(format!("panic: {panic}")),
        }))
    }

    /// Asks the process to end by itself.
    pub fn stop(&self) {
        if let Some(process) = &self.process {
            process.stop.send_replace(true);
        }
    }

    /// The process is gone: by a crash, or because it has ended.
    pub fn down(&mut self, crash: Crash) {
        let Some(process) = self.process.take() else { return };
        with(|world| {
            let host = world.host(self.host);
            host.power = match crash {
                Crash::Kill => Power::Down,
                Crash::PowerLoss => Power::Off,
            };
            host.doomed = Some(crash);
        });
        world::run(Some(self.host));
        drop(process);
        world::run(None);
        with(|world| {
            world.close_sockets(self.host, crash == Crash::Kill);
            world.host(self.host).doomed = None;
            world.judge.under_way.retain(|(host, _)| *host != self.host);
        });
        if let Purpose::Coordinator { disk, .. } = &self.purpose {
            let loss = disk.crash(crash);
            with(|world| {
                world.note(format_args!("disk: {} changes and {} slots lost", loss.changes, loss.torn_slots));
                if loss.changes > 0 {
                    *world.faults.entry("unsynced writes lost").or_default() += 1;
                }
                if loss.torn_slots > 0 {
                    *world.faults.entry("witness torn").or_default() += 1;
                }
            });
        }
    }
}
