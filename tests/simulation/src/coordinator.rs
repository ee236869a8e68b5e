//! The coordinator's host: the daemon as it is, on a simulated machine.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use assent::config::{Settings, Span};
use assent::coordinator::ReadWallClock;
use assent::core::Epoch;
use assent::server::{Platform, serve_on};
use assent::store::{LAZY_FOR_MAX, LogWriter, OpenError, Opened, WriterEvent};
use tokio::sync::{Notify, watch};
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::transport::{Channel, Endpoint};

use crate::disk::{Disk, SimulatedLog};
use crate::judge::Flaw;
use crate::network::{Listener, channel};
use crate::rng::Rng;
use crate::world::{note, wall_clock, with};

/// Where it listens.
pub const PORT: u16 = 7420;
/// How everybody calls it.
pub const URL: &str = "http://coordinator:7420";

/// A simulated machine.
#[derive(Clone, Debug)]
struct Machine {
    disk: Disk,
}

impl Platform for Machine {
    type Log = SimulatedLog;

    fn open_log(&self, _settings: &Settings) -> Result<(SimulatedLog, Opened), OpenError> {
        self.disk.open()
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        Ok(work())
    }

    fn write_log(
        &self,
        log: SimulatedLog,
        epoch: Epoch,
        mut on_event: impl FnMut(WriterEvent) + Send + 'static,
    ) -> io::Result<LogWriter> {
        let queued = Arc::new(Notify::new());
        let notify = Arc::clone(&queued);
        let (writer, crank) = LogWriter::by_hand(Box::new(log), epoch, move || notify.notify_one());
        let disk = self.disk.clone();
        tokio::spawn(async move {
            // When lazy writes are to be synced for their own sake.
            let mut sync_at = None;
            loop {
                tokio::select! {
                    biased;
                    () = queued.notified() => {}
                    () = sleep_until(sync_at.unwrap_or_else(Instant::now)), if sync_at.is_some() => {
                        sync_at = None;
                        let told = crank.sync().told;
                        sleep(Duration::from_millis(disk.sync_ms())).await;
                        told.into_iter().for_each(&mut on_event);
                    }
                }
                if with(|world| world.judge.flaw == Flaw::TellsBeforeDurable) {
                    // Whatever its number: everything that waits may go out.
                    on_event(WriterEvent::Durable { ticket: u64::MAX - 1 });
                    sleep(Duration::from_millis(disk.sync_ms())).await;
                }
                while let Some(turn) = crank.turn() {
                    sync_at = match turn.told {
                        Some(_) => None,
                        None => sync_at.or_else(|| Some(Instant::now() + LAZY_FOR_MAX)),
                    };
                    sleep(Duration::from_millis(disk.sync_ms())).await;
                    turn.told.into_iter().for_each(&mut on_event);
                }
            }
        });
        Ok(writer)
    }

    fn free_bytes(&self, settings: &Settings) -> io::Result<u64> {
        Ok(if self.disk.is_full() { 0 } else { 2 * settings.storage.min_free.0 })
    }

    fn wall_clock(&self) -> ReadWallClock {
        wall_clock
    }

    fn channels(&self) -> fn(&Endpoint) -> Channel {
        channel
    }
}

/// The settings of a run.
pub fn settings(rng: &mut Rng) -> Settings {
    let mut settings = Settings::default();
    settings.participants.call_timeout = Span::from_millis(*rng.pick(&[500, 2_000, 10_000]));
    settings.participants.retry_max = Span::from_millis(*rng.pick(&[1_000, 5_000, 30_000]));
    settings.participants.max_in_flight = *rng.pick(&[1, 2, 1_024]);
    settings.server.drain_timeout = Span::from_secs(*rng.pick(&[1, 5]));
    for (name, host) in [("bank/d", "bank-d"), ("bank/e", "bank-e")] {
        let endpoint = format!("http://{host}:7000").parse().expect("it is an endpoint");
        settings.participants.endpoints.insert(name.to_owned(), endpoint);
    }
    settings
}

/// The life of the process. `Err`: it exits with an error.
pub async fn live(
    disk: Disk,
    settings: Arc<Settings>,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let shutdown = Box::pin(async move {
        let _ = stop.wait_for(|stop| *stop).await;
        note("coordinator is told to stop");
    });
    serve_on(Machine { disk }, settings, Listener::open(PORT), shutdown).await?;
    Ok(())
}
