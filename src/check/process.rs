//! The shell commands of a plan: one starts the participant, one looks at its data.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::Error;

/// What tells the participant where the kit listens.
const URL_VARIABLE: &str = "ASSENT_SERVER";
/// How often it is looked whether the process lives.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long a killed process may take to be gone.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// A participant that the kit starts itself, and may kill.
#[derive(Debug)]
pub struct Launch {
    command: String,
    url: Option<String>,
    running: Mutex<Option<Child>>,
}

impl Launch {
    pub fn new(command: String, url: Option<String>) -> Launch {
        Launch { command, url, running: Mutex::default() }
    }

    pub fn start(&self) -> Result<(), Error> {
        let mut command = shell(&self.command);
        command.stdin(Stdio::null());
        // Standard output is for the report.
        command.stdout(io::stderr());
        if let Some(url) = &self.url {
            command.env(URL_VARIABLE, url);
        }
        let child = command.spawn().map_err(|error| Error::Start { command: self.command.clone(), error })?;
        *self.lock() = Some(child);
        Ok(())
    }

    /// `kill -9` to it and all that it started, and waits until it is gone.
    pub async fn kill(&self) {
        self.signal(Signal::KILL);
        let child = self.lock().take();
        if let Some(mut child) = child {
            // Killed it ends; what is not waited for is reaped later.
            let _ = timeout(END_TIMEOUT, child.wait()).await;
        }
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&self) -> Error {
        loop {
            if let Some(status) = self.status() {
                return Error::Ended { command: self.command.clone(), status: status.to_string() };
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    fn status(&self) -> Option<ExitStatus> {
        self.lock().as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = self.lock().as_ref() {
            signal_group(pid(child), signal);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Runs a command, and answers the numbers that it prints.
pub async fn numbers(command: &str, wait: Duration) -> Result<Vec<f64>, String> {
    let mut shell = shell(command);
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = shell.spawn().map_err(|error| error.to_string())?;
    let mut group = Group(pid(&child));
    let ended = timeout(wait, child.wait_with_output()).await;
    if ended.is_ok() {
        // Its id may be somebody else's soon.
        group.0 = None;
    }
    let output = match ended {
        Err(_) => return Err(format!("did not end within {wait:?}")),
        Ok(Err(error)) => return Err(error.to_string()),
        Ok(Ok(output)) if !output.status.success() => {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("ended with {}: {}", output.status, said.trim()));
        }
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stdout).into_owned(),
    };
    let numbers: Result<Vec<f64>, String> = output
        .split_whitespace()
        .map(|word| word.parse().map_err(|_| format!("printed {word:?}, which is no number")))
        .collect();
    match numbers {
        Ok(numbers) if numbers.is_empty() => Err("printed no numbers".to_owned()),
        numbers => numbers,
    }
}

/// In a group of its own, so that whatever it starts can be ended with it.
fn shell(command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).process_group(0);
    shell
}

/// A command and what it has started, killed when this is dropped: it hangs, or nobody waits for it any more.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        signal_group(self.0, Signal::KILL);
    }
}

fn pid(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
}

fn signal_group(group: Option<Pid>, signal: Signal) {
    if let Some(pid) = group {
        // A group that is gone already needs no signal.
        let _ = kill_process_group(pid, signal);
    }
}
