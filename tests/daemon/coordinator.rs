//! A coordinator as a process of its own: the real binary, on a data directory that goes with it.
//!
//! ```text
//! let mut coordinator = Coordinator::start(&["--set", "limits.default_timeout=1s"]);
//! coordinator.kill9();
//! coordinator.restart();
//! assert!(coordinator.terminate().success());
//! ```
//!
//! What it logs goes to a file, which is shown when the test fails.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tempfile::TempDir;

/// Nothing here takes anywhere near as long.
const PATIENCE: Duration = Duration::from_mins(1);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A running coordinator; it is killed and its data removed when this is dropped.
#[derive(Debug)]
pub struct Coordinator {
    setup: Setup,
    process: Child,
    address: SocketAddr,
}

/// What all lives of a coordinator have in common.
#[derive(Debug)]
struct Setup {
    directory: TempDir,
    data_dir: PathBuf,
    /// Those of the test, for `assent serve`.
    args: Vec<String>,
    /// What the next life finds in its environment.
    environment: Vec<(String, String)>,
}

impl Coordinator {
    /// Starts one on a free port and waits until it is ready. `args` are added to `assent serve`.
    pub fn start(args: &[&str]) -> Coordinator {
        let directory = tempfile::Builder::new().prefix("assent-test-").tempdir().unwrap();
        let data_dir = directory.path().join("data");
        Coordinator::start_in(directory, data_dir, args)
    }

    /// The same with data elsewhere, which stays when this is dropped.
    pub fn start_on(data_dir: PathBuf, args: &[&str]) -> Coordinator {
        let directory = tempfile::Builder::new().prefix("assent-test-").tempdir().unwrap();
        Coordinator::start_in(directory, data_dir, args)
    }

    /// One whose first life listens, and need not become ready.
    pub fn start_dying(data_dir: PathBuf, environment: &[(&str, &str)]) -> Coordinator {
        let directory = tempfile::Builder::new().prefix("assent-test-").tempdir().unwrap();
        Coordinator::launch(Setup::new(directory, data_dir, &[], environment))
    }

    fn start_in(directory: TempDir, data_dir: PathBuf, args: &[&str]) -> Coordinator {
        let mut coordinator = Coordinator::launch(Setup::new(directory, data_dir, args, &[]));
        coordinator.wait_until_ready();
        coordinator
    }

    fn launch(setup: Setup) -> Coordinator {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let (process, address) = setup.launch(any_port).unwrap_or_else(|log| panic!("{log}"));
        Coordinator { setup, process, address }
    }

    /// `http://127.0.0.1:PORT`: the same for all its lives.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.setup.data_dir.clone()
    }

    /// Everything that it has logged, in all its lives.
    pub fn log(&self) -> String {
        self.setup.log()
    }

    /// Kills it as the kernel would: nothing of it runs any more. (It may have ended already.)
    pub fn kill9(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// From now on no file of this life grows beyond so many bytes: what a full disk does, with no disk to fill.
    pub fn limit_file_size(&self, bytes: u64) {
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        prlimit(Some(Pid::from_child(&self.process)), Resource::Fsize, limit).unwrap();
    }

    /// Asks it to end and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        self.wait()
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().unwrap()
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        poll("the coordinator ends", || self.process.try_wait().unwrap())
    }

    /// After its end: starts it again, on the same data and the same port, and waits until it is ready.
    pub fn restart(&mut self) {
        self.relaunch();
        self.wait_until_ready();
    }

    /// The same, with other arguments from now on.
    pub fn restart_with(&mut self, args: &[&str]) {
        self.setup.args = args.iter().map(|&arg| arg.to_owned()).collect();
        self.restart();
    }

    /// What its further lives are to find in their environment; nothing else there is about assent.
    pub fn set_environment(&mut self, variables: &[(&str, &str)]) {
        self.setup.environment = owned(variables);
    }

    /// After its end: starts it again and waits only until it listens. It may still read its log.
    pub fn relaunch(&mut self) {
        // While it was down, its port was free: a client that tried to reconnect may hold it for a moment.
        (self.process, self.address) =
            poll("the coordinator listens again", || match self.setup.launch(self.address) {
                Ok(launched) => Some(launched),
                Err(log) if log.contains("cannot listen on") => None,
                Err(log) => panic!("{log}"),
            });
    }

    /// Waits until it has read its log and takes transactions.
    pub fn wait_until_ready(&mut self) {
        let url = self.url();
        poll("the coordinator is ready", || {
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("the coordinator ended with {status}");
            }
            let health = assent().args(["--server", &url, "health", "--ready"]).output().unwrap();
            health.status.success().then_some(())
        });
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            show(&format!("--- log of the coordinator on {}\n{}", self.address, self.log()));
        }
    }
}

impl Setup {
    fn new(directory: TempDir, data_dir: PathBuf, args: &[&str], environment: &[(&str, &str)]) -> Setup {
        // An empty one, so that a file in the usual place has no say.
        File::create(directory.path().join("assent.toml")).unwrap();
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        Setup { directory, data_dir, args, environment: owned(environment) }
    }

    /// Starts the process and waits until it says where it listens. `Err`: it ended; all that it logged.
    ///
    /// The process dies with this one, however that ends: it is on a tether.
    fn launch(&self, listen: SocketAddr) -> Result<(Child, SocketAddr), String> {
        let logged_before = self.log().len();
        let stderr = OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        // A write beyond a limit on file sizes is then an error, as on a full disk, and no deadly signal.
        let mut command = without_settings("sh");
        command
            .args(["-c", r#"trap '' XFSZ; exec "$0" "$@""#, env!("CARGO_BIN_EXE_assent")])
            .args(["tether", &std::process::id().to_string(), "--", "--config"])
            .arg(self.directory.path().join("assent.toml"))
            .args(["serve", "--listen", &listen.to_string(), "--data-dir"])
            .arg(&self.data_dir)
            .args(&self.args)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let mut process = spawn(command).unwrap();
        let stdout = BufReader::new(process.stdout.take().expect("it was asked for"));
        let (say, said) = mpsc::channel();
        // Reads to the end, so that the process never waits for a reader.
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        let Ok(line) = said.recv_timeout(PATIENCE) else {
            // It has ended, or is stuck and of no use.
            let _ = process.kill();
            let status = process.wait().unwrap();
            return Err(format!("the coordinator ended with {status}:\n{}", &self.log()[logged_before..]));
        };
        let address = line.strip_prefix("listening on http://").and_then(|address| address.parse().ok());
        Ok((process, address.unwrap_or_else(|| panic!("its first line is {line:?}"))))
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("stderr.log")
    }

    fn log(&self) -> String {
        let log = fs::read(self.log_path());
        log.map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }
}

fn owned(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Starts a process from a thread that never ends: a tether is tied to the thread that started what is on it, and a test may
/// start a coordinator again on a thread that does something else, or nothing, later.
fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static STARTER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (orders, queue) = mpsc::channel::<Order>();
        thread::spawn(move || queue.iter().for_each(|(mut command, to)| drop(to.send(command.spawn()))));
        orders
    });
    let (to, started) = mpsc::channel();
    STARTER.send((command, to)).unwrap();
    started.recv().unwrap()
}

/// The binary, in an environment that says nothing of assent.
pub fn assent() -> Command {
    without_settings(env!("CARGO_BIN_EXE_assent"))
}

/// A program in an environment that says nothing of assent.
fn without_settings(program: &str) -> Command {
    let mut command = Command::new(program);
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("ASSENT_") {
            command.env_remove(variable);
        }
    }
    command
}

/// What `look` finds, as soon as it finds something.
fn poll<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(POLL_INTERVAL);
    }
}

#[expect(clippy::print_stderr, reason = "the test runner shows it where a test fails")]
fn show(text: &str) {
    eprintln!("{text}");
}
