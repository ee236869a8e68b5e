//! `assent log`: the decision log of a daemon that does not run.

mod export;
mod reading;
mod repair;
mod stat;
mod verify;

use std::path::{Path, PathBuf};
use std::{fs, io, process, thread};

use clap::{Args, Subcommand};

use self::reading::Reading;
use super::output::Output;
use super::{Exit, Failure, Global};
use crate::config::{self, Flag};
use crate::store::{OpenError, Survey};

/// How often it is tried to remove what may be in use.
const REMOVAL_TRIES: u32 = 100;

#[derive(Debug, Subcommand)]
pub enum Log {
    /// Read all of it, and say whether it is sound
    #[command(long_about = verify::ABOUT)]
    Verify(verify::Verify),
    /// Show how much is in it
    #[command(long_about = stat::ABOUT)]
    Stat(stat::Stat),
    /// Print its transactions, one line of JSON each
    #[command(long_about = export::ABOUT)]
    Export(export::Export),
    /// Keep what can be read of a damaged log, and presume nothing of what is lost
    #[command(long_about = repair::ABOUT)]
    Repair(repair::Repair),
}

impl Log {
    pub fn run(self, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
        match self {
            Log::Verify(verify) => verify.run(global, output),
            Log::Stat(stat) => stat.run(global, output),
            Log::Export(export) => export.run(global, output),
            Log::Repair(repair) => repair.run(global, output),
        }
    }
}

/// Which log.
#[derive(Debug, Args)]
struct Place {
    /// The directory of the log [default: that of the configuration]
    #[arg(long, value_name = "PATH")]
    data_dir: Option<String>,
}

impl Place {
    fn read(self, global: &Global) -> Result<Reading, Failure> {
        read(&self.find(global)?)
    }

    fn find(self, global: &Global) -> Result<PathBuf, Failure> {
        let flags = self.data_dir.map(|value| Flag {
            flag: "--data-dir".to_owned(),
            key: "storage.data_dir".to_owned(),
            value,
        });
        Ok(config::load(&global.sources(flags.into_iter().collect()))?.settings.storage.data_dir)
    }
}

fn read(dir: &Path) -> Result<Reading, Failure> {
    let room = Survey::room()?;
    remove_when_interrupted(room.path().to_owned())?;
    Ok(Reading::of(Survey::take_by_way_of(&room, dir)?))
}

/// Sees to it that a signal that ends this process leaves no copy of the log behind.
fn remove_when_interrupted(room: PathBuf) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let interrupted = runtime.block_on(async { super::interruption() })?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let signal = runtime.block_on(interrupted);
        // It may be gone already, and files may still be put into it.
        for _ in 0..REMOVAL_TRIES {
            match fs::remove_dir_all(&room) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {}
                Ok(()) | Err(_) => break,
            }
        }
        Failure::new(Exit::Error, format!("ended by {signal}")).report();
        process::exit(Exit::Error.code().into())
    })?;
    Ok(())
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        let exit = match error {
            OpenError::NoLog { .. } => Exit::NotFound,
            OpenError::Io { .. }
            | OpenError::InUse { .. }
            | OpenError::DiskFull { .. }
            | OpenError::OtherVersion { .. }
            | OpenError::Refused { .. }
            | OpenError::EpochsUsedUp { .. }
            | OpenError::RepairInterrupted { .. } => Exit::Error,
        };
        let failure = Failure::new(exit, error.to_string());
        match error {
            OpenError::NoLog { .. } => failure.with_hint("--data-dir says where it is"),
            OpenError::Io { action: "copy the log to", .. } => {
                failure.with_hint("the variable TMPDIR names another directory for the copy that is read")
            }
            OpenError::Io { .. }
            | OpenError::InUse { .. }
            | OpenError::DiskFull { .. }
            | OpenError::OtherVersion { .. }
            | OpenError::Refused { .. }
            | OpenError::EpochsUsedUp { .. }
            | OpenError::RepairInterrupted { .. } => failure,
        }
    }
}
