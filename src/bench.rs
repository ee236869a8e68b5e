//! `assent bench`: a load on a coordinator, and what it cost.
//!
//! | Module | Part |
//! |---|---|
//! | `participant` | participants that do nothing, so that the coordinator is what is measured |
//! | `stage` | the processes: a coordinator, and where asked for the participants |
//! | `load` | initiators, and how long they waited |
//! | `calibrate` | what this machine does without a coordinator, measured in the same run |
//! | `report` | the figures, and their ratios to that |

mod calibrate;
mod load;
mod participant;
mod report;
mod stage;

use std::path::PathBuf;
use std::time::Duration;

use assent_sdk::{Protocol, Wait};
use clap::ValueEnum;

pub use self::calibrate::echo;
use self::calibrate::{Calibration, Calibrator};
use self::load::Load;
pub use self::load::Outcomes;
pub use self::participant::serve;
pub use self::report::{Coordinator, Latency, Report};
use self::stage::Stage;
use crate::process;

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `assent` binary, which the other processes are.
    pub executable: PathBuf,
    /// Of the branches, by turns.
    pub protocols: Vec<Protocol>,
    /// In each transaction.
    pub branches: u32,
    pub transport: Transport,
    pub mode: Mode,
    /// Transactions under way at most.
    pub in_flight: u32,
    /// Streams of the initiators to the coordinator.
    pub connections: u32,
    /// Transactions that begin in each second, whether or not earlier ones have ended. `None`: as many as end.
    pub rate: Option<f64>,
    /// Before anything is counted.
    pub warm_up: Duration,
    pub duration: Duration,
    /// Bytes that each branch is sent.
    pub payload_bytes: u32,
    /// How many of a hundred transactions are refused by a participant.
    pub abort_percent: u32,
    pub wait: Wait,
    pub participants: Participants,
    pub coordinator: Whose,
    pub calibrate: bool,
}

/// How participants are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// They keep one stream to the coordinator
    Session,
    /// The coordinator makes a unary call for each
    Dial,
}

/// How a transaction is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// In one call; the coordinator calls the participants
    Run,
    /// Begun, then the initiator has the participants work and vote, and takes their votes to the commit
    Interactive,
}

/// Who takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Participants {
    /// In the process of the initiators.
    InProcess,
    /// In one process of their own.
    Process,
    /// These, which are known to the coordinator. They are sent zeroes.
    Given(Vec<String>),
}

/// Whose coordinator is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// One that is started for it, with these settings, `key=value`. Its log is in a directory made below this one.
    Own { below: PathBuf, settings: Vec<String> },
    /// The one that runs at this URL.
    Running(String),
}

/// What happens, for whoever watches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress {
    Preparing(&'static str),
    Running { elapsed: Duration, of: Duration, ended: u64 },
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Process(#[from] process::Error),
    #[error(transparent)]
    Sdk(#[from] assent_sdk::Error),
    #[error("{0} transactions ended and none of them as it should; the last: {1}")]
    NothingDone(u64, String),
    #[error("{0} was not ready within {1:?}")]
    NotReady(&'static str, Duration),
    #[error("no transaction ended within {0:?}")]
    NothingEnded(Duration),
    #[error("the coordinator answered {}: {}", .0.code(), .0.message())]
    Coordinator(Box<tonic::Status>),
    #[error("cannot reach {url}: {source}")]
    Connect { url: String, source: tonic::transport::Error },
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Puts the load on a coordinator, and reports. Drop the future to end it early: all processes are gone then.
///
/// # Errors
/// When something could not be started, or nothing was done.
pub async fn run(options: &Options, progress: &mut dyn FnMut(Progress)) -> Result<Report, Error> {
    progress(Progress::Preparing("starting"));
    let mut stage = Stage::set_up(options).await?;
    // Before and after: what else goes on on this machine troubles both sides of a ratio alike.
    let mut calibrated = Vec::new();
    let calibrator = if options.calibrate { Some(Calibrator::new(options, &stage).await?) } else { None };
    if let Some(calibrator) = &calibrator {
        progress(Progress::Preparing("calibrating"));
        calibrated.push(calibrator.measure().await?);
    }
    let load = Load::new(options, &stage)?;
    progress(Progress::Preparing("warming up"));
    load.play(options.warm_up, &mut |_, _| {}).await?;
    let before = stage.spent().await?;
    let played = load
        .play(options.duration, &mut |elapsed, ended| {
            progress(Progress::Running { elapsed, of: options.duration, ended });
        })
        .await?
        .of_use()?;
    let after = stage.spent().await?;
    if let Some(calibrator) = &calibrator {
        progress(Progress::Preparing("calibrating"));
        calibrated.push(calibrator.measure().await?);
    }
    Ok(Report::new(options, &played, before, after, Calibration::mean(&calibrated)))
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Error {
        Error::Coordinator(Box::new(status))
    }
}
