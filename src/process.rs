//! Child processes that are this executable, and cannot outlive whoever started them: for the demo and the benchmark.
//!
//! Each is killed and reaped when its [`Process`] is dropped, so on every way out that still runs code: the end, an
//! error, a signal, a panic. Against a `kill -9` of their parent each child first puts itself on a [`tether`].

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::process::{CommandExt as _, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::ChildStdout;
use tokio::time::timeout;

/// What became of a child.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} was not seen within {} s; {process} last logged:\n{log}", PATIENCE.as_secs())]
    NotSeen { what: String, process: String, log: String },
    #[error("{process} ended unasked; it last logged:\n{log}")]
    Ended { process: String, log: String },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How long any condition is waited for before it is given up. None takes longer than three seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

const LOG_TAIL_LINES: usize = 12;

/// How processes are started.
#[derive(Debug)]
pub(crate) struct Spawner {
    pub(crate) executable: PathBuf,
    /// Where the logs go.
    pub(crate) directory: PathBuf,
}

/// A running child.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Spawner {
    /// Starts this executable with other arguments, waits for its first line on standard output, and answers that too.
    /// Its log, `<name>.log`, is added to.
    ///
    /// Must be called on the thread that lives as long as its work: the tether is tied to it.
    pub(crate) async fn spawn<A: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<(Process, String), Error> {
        let log = self.log(name);
        let mut command = Command::new(&self.executable);
        command.args(["tether", &std::process::id().to_string(), "--"]).args(arguments);
        // They are the same wherever they run: no setting of the person's own daemon finds its way in.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("ASSENT_") {
                command.env_remove(variable);
            }
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&log)?)
            // A Ctrl-C at the terminal is for their parent, which then ends its children itself.
            .process_group(0);
        let mut process = Process { name: name.to_owned(), child: command.spawn()?, log };
        let first_line = process.first_line().await?;
        Ok((process, first_line))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }
}

impl Process {
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // Neither fails for a child that is not reaped; for one that is, there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Stops it in the middle of whatever it does, and waits until it stands.
    pub(crate) fn freeze(&self) -> Result<(), Error> {
        kill_process(self.pid(), Signal::STOP).map_err(io::Error::from)?;
        let change = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let stopped = waitid(WaitId::Pid(self.pid()), change).map_err(io::Error::from)?;
        match stopped {
            Some(status) if status.stopped() => Ok(()),
            Some(_) | None => Err(self.ended()),
        }
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) -> Result<(), Error> {
        Ok(kill_process(self.pid(), Signal::CONT).map_err(io::Error::from)?)
    }

    /// Everything that it has logged.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// What was not there in time, and what this process had to say meanwhile.
    pub(crate) fn not_seen(&self, what: impl Into<String>) -> Error {
        Error::NotSeen { what: what.into(), process: self.name.clone(), log: tail(&self.log()) }
    }

    fn ended(&self) -> Error {
        Error::Ended { process: self.name.clone(), log: tail(&self.log()) }
    }

    async fn first_line(&mut self) -> Result<String, Error> {
        let stdout = self.child.stdout.take().expect("its standard output is piped");
        let mut line = String::new();
        let mut reader = BufReader::new(ChildStdout::from_std(stdout)?);
        match timeout(PATIENCE, reader.read_line(&mut line)).await {
            Ok(read) => match read? {
                0 => Err(self.ended()),
                _ => Ok(line.trim_end().to_owned()),
            },
            Err(_) => Err(self.not_seen("its first line")),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ties this process to its parent, then becomes this executable with other arguments: when the parent dies, however it
/// dies, the kernel kills this process too. `parent` is who it should be, in case it has died already.
///
/// # Errors
/// Comes back only if it failed.
pub fn tether(parent: u32, arguments: &[OsString]) -> Result<Infallible, io::Error> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if parent_id() != parent {
        return Err(io::Error::other(format!("process {parent}, which started this one, is gone")));
    }
    Err(Command::new(std::env::current_exe()?).args(arguments).exec())
}

/// The last lines of a log, for an error message.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
    if last.is_empty() { "(nothing)".to_owned() } else { last.join("\n") }
}

/// The logs in a directory, for whoever wants to know what happened.
pub(crate) fn logs(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut logs: Vec<_> = entries.map(|entry| entry.path()).collect();
    logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.sort();
    logs
}
