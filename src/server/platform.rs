//! What the daemon asks of the machine that it runs on, in one place: so a simulation can run all the rest as it is.

use std::io;

use tokio::task::JoinError;
use tonic::transport::{Channel, Endpoint};

use crate::config::Settings;
use crate::coordinator::{ReadWallClock, system_wall_clock};
use crate::core::Epoch;
use crate::store::{
    DecisionLog, LogWriter, OpenError, Opened, SledLog, SledOptions, WriterEvent, free_bytes,
};

/// A machine. Time, but for the wall clock, is tokio's on all of them.
pub trait Platform: Clone + Send + Sync + 'static {
    type Log: DecisionLog;

    /// Opens the decision log. It may take long.
    fn open_log(&self, settings: &Settings) -> Result<(Self::Log, Opened), OpenError>;

    /// Carries out what takes long, out of the way of others.
    fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, JoinError>> + Send;

    /// Sets going what writes the log, and tells `on_event` of it.
    fn write_log(
        &self,
        log: Self::Log,
        epoch: Epoch,
        on_event: impl FnMut(WriterEvent) + Send + 'static,
    ) -> io::Result<LogWriter>;

    /// The space left on the disk of the log.
    fn free_bytes(&self, settings: &Settings) -> io::Result<u64>;

    fn wall_clock(&self) -> ReadWallClock;

    /// Opens channels to participants that are dialled; each connects with its first call.
    fn channels(&self) -> fn(&Endpoint) -> Channel;
}

/// The machine of this process.
#[derive(Clone, Copy, Debug)]
pub struct Machine;

impl Platform for Machine {
    type Log = SledLog;

    fn open_log(&self, settings: &Settings) -> Result<(SledLog, Opened), OpenError> {
        let options = SledOptions { ballast_bytes: settings.storage.ballast.0, ..SledOptions::default() };
        SledLog::open(&settings.storage.data_dir, &options)
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        tokio::task::spawn_blocking(work).await
    }

    fn write_log(
        &self,
        log: SledLog,
        epoch: Epoch,
        on_event: impl FnMut(WriterEvent) + Send + 'static,
    ) -> io::Result<LogWriter> {
        LogWriter::spawn(Box::new(log), epoch, on_event)
    }

    fn free_bytes(&self, settings: &Settings) -> io::Result<u64> {
        free_bytes(&settings.storage.data_dir)
    }

    fn wall_clock(&self) -> ReadWallClock {
        system_wall_clock
    }

    fn channels(&self) -> fn(&Endpoint) -> Channel {
        Endpoint::connect_lazy
    }
}
