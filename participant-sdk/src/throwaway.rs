//! Real database servers that go away: to test handlers against, crashes included.
//!
//! A [`Server`] is a PostgreSQL or a MariaDB of its own, on a free port of the loopback, with its data in a temporary
//! directory. It keeps what it acknowledges (`fsync` is on), so that killing it shows what a crash would. It needs the
//! programs of the database to be installed, and nothing to run or to be configured. For Linux.
//!
//! ```no_run
//! use assent_sdk::throwaway::{Error, Server};
//!
//! let mut database = Server::postgres(&[("max_connections", "50")])?;
//! let url = database.url(); // postgres://postgres@127.0.0.1:28741/postgres
//! // … connect to it, prepare something …
//! database.kill9()?;
//! database.restart()?; // The same data, the same url.
//! # Ok::<(), Error>(())
//! ```
//!
//! Server and directory are gone when the value is dropped, and soon after the process ended that owns it, even by
//! `kill -9`. (Behind each server is a small shell process that notices, and ends it.)
//!
//! All calls block, dropping included: for a fraction of a second, but for the first server of its kind in a process, whose
//! data directory takes some seconds to make; the others copy it. In async code use `spawn_blocking` where that matters.

mod keeper;
mod maria_db;
mod postgres;
mod programs;

use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::net::TcpListener;
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use self::keeper::Keeper;
use self::programs::Places;

/// Longer than a server takes to start and to recover. A start that fails for a reason that passes is repeated as long.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks whether a server is ready.
const POLL: Duration = Duration::from_millis(5);
/// Between two starts.
const PAUSE: Duration = Duration::from_millis(100);
/// Linux takes the ports of outgoing connections from 32768 on, and such a one could sit on a server's port while it is
/// down: a client's own, even, that tries to reach it.
const PORTS: Range<u16> = 20_000..32_000;
const PORTS_TRIED_MAX: usize = 100;
/// What a server that cannot start says when it could a little later, or on another port.
const PASSING: [&str; 2] = ["Address already in use", "pre-existing shared memory block"];
/// How many lines of a log an error shows. `mariadb-install-db` says what went wrong before two dozen lines of advice.
const LOG_LINES_SHOWN: usize = 40;

/// A database server that goes away when it is dropped.
#[derive(Debug)]
pub struct Server {
    kind: &'static dyn Kind,
    keeper: Keeper,
    places: Places,
    settings: Vec<OsString>,
    port: u16,
}

impl Server {
    /// Starts a PostgreSQL and waits until it accepts connections. Its superuser `postgres` needs no password.
    ///
    /// The settings are those of `postgresql.conf`. By default it allows for 200 connections and 256 prepared
    /// transactions.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or the server does not start, for example because it does not know a setting.
    pub fn postgres(settings: &[(&str, &str)]) -> Result<Server, Error> {
        Server::start(&postgres::Postgres, Places::of_this_machine(), settings)
    }

    /// Starts a MariaDB and waits until it accepts connections. It has a database `test`, and its user `root` needs no
    /// password.
    ///
    /// The settings are those of `my.cnf`, such as `("sync_binlog", "1")`. By default it allows for 300 connections, and
    /// has no binary log.
    ///
    /// # Errors
    /// MariaDB is not installed, or the server does not start, for example because it does not know a setting.
    pub fn maria_db(settings: &[(&str, &str)]) -> Result<Server, Error> {
        Server::start(&maria_db::MariaDb, Places::of_this_machine(), settings)
    }

    fn start(kind: &'static dyn Kind, places: Places, settings: &[(&str, &str)]) -> Result<Server, Error> {
        let mut keeper = Keeper::start(kind.users())?;
        fill(kind, &places, &mut keeper)?;
        let settings = settings.iter().flat_map(|(name, value)| kind.setting(name, value)).collect();
        let mut server = Server { kind, keeper, places, settings, port: 0 };
        server.serve(|_| free_port())?;
        Ok(server)
    }

    /// Where to connect: to the database `postgres`, or `test` in a MariaDB. It is the same after a restart.
    pub fn url(&self) -> String {
        self.kind.url(self.port, None)
    }

    /// The same for another database of this server. Creating it is up to the caller.
    pub fn database_url(&self, database: &str) -> String {
        self.kind.url(self.port, Some(database))
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The temporary directory: the data are in `data` below it.
    pub fn directory(&self) -> &Path {
        self.keeper.directory()
    }

    /// All that the server has said so far, in all of its lives; for tests that fail.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.directory().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Kills it, and all of its processes, as a crash would, and waits until they are gone. Does nothing where it
    /// does not run.
    ///
    /// # Errors
    /// Somebody has killed the shell that keeps it, or a process is still there after half a minute.
    pub fn kill9(&mut self) -> Result<(), Error> {
        match self.keeper.order("crash", &[""; 0])?.as_str() {
            "gone" => Ok(()),
            left => Err(io::Error::other(left).into()),
        }
    }

    /// Starts it again on what is on its disk, at the same port, and waits until it accepts connections. Where it still
    /// runs it is killed first.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.serve(Ok)
    }

    /// Starts it, and tries again while it fails for a reason that passes. Each time it is asked for the port to take,
    /// given the last.
    fn serve(&mut self, port: impl Fn(u16) -> io::Result<u16>) -> Result<(), Error> {
        let started = Instant::now();
        loop {
            self.kill9()?;
            self.port = port(self.port)?;
            let passing = |log: &String| PASSING.iter().any(|reason| log.contains(reason));
            match self.serve_once() {
                Err(Error::Ended { log, .. }) if passing(&log) && started.elapsed() < PATIENCE => {
                    sleep(PAUSE);
                }
                result => return result,
            }
        }
    }

    fn serve_once(&mut self) -> Result<(), Error> {
        let logged = self.log().len();
        let mut command = self.kind.serve(&self.places, self.directory(), self.port)?;
        let what = Path::new(&command[0]).display().to_string();
        command.extend_from_slice(&self.settings);
        let pid = self.keeper.order("start", &command)?;
        let started = Instant::now();
        while !self.kind.is_ready(self.directory(), &pid) {
            let log = || tail(self.log().get(logged..).unwrap_or_default());
            if has_ended(&pid) {
                return Err(Error::Ended { what, log: log() });
            }
            if started.elapsed() > PATIENCE {
                return Err(Error::NotReady { what, log: log() });
            }
            sleep(POLL);
        }
        Ok(())
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program is not installed.
    #[error(
        "{program} is neither on the PATH nor where Debian puts it: {places}\nhint: apt-get install {package}"
    )]
    Missing { program: &'static str, places: String, package: &'static str },
    /// A program ended that should not have, or not like this.
    #[error("{what} failed; it said last:\n{log}")]
    Ended { what: String, log: String },
    /// The server runs, but accepts no connections.
    #[error("{what} does not accept connections after {} s; it said last:\n{log}", PATIENCE.as_secs())]
    NotReady { what: String, log: String },
    /// The system did not let us.
    #[error("cannot keep a server: {0}")]
    Io(#[from] io::Error),
}

/// What one database has of its own.
trait Kind: std::fmt::Debug + Sync {
    /// Who it runs as where this process is root's.
    fn users(&self) -> &'static [&'static str];
    /// The directory whose data all servers of this process begin with.
    fn pristine(&self) -> &'static Mutex<Option<Keeper>>;
    /// The command that fills `data` in this directory.
    fn install(&self, places: &Places, directory: &Path) -> Result<Vec<OsString>, Error>;
    /// The command that serves it.
    fn serve(&self, places: &Places, directory: &Path, port: u16) -> Result<Vec<OsString>, Error>;
    /// The arguments that change a setting.
    fn setting(&self, name: &str, value: &str) -> Vec<OsString>;
    /// Does the server that is this process accept connections? Asking at its port could ask somebody else.
    fn is_ready(&self, directory: &Path, pid: &str) -> bool;
    fn url(&self, port: u16, database: Option<&str>) -> String;
}

/// Gives a new server its data. Making them takes a second, copying them a tenth.
fn fill(kind: &dyn Kind, places: &Places, keeper: &mut Keeper) -> Result<(), Error> {
    // Whoever panicked with it left either nothing or all of it.
    let mut pristine = kind.pristine().lock().unwrap_or_else(PoisonError::into_inner);
    if pristine.is_none() {
        let mut maker = Keeper::start(kind.users())?;
        let install = kind.install(places, maker.directory())?;
        run(&mut maker, &install)?;
        *pristine = Some(maker);
    }
    let data = pristine.as_ref().map(|pristine| pristine.directory().join("data"));
    let copy = ["cp".into(), "-a".into(), data.unwrap_or_default().into(), keeper.directory().into()];
    run(keeper, &copy)
}

fn run(keeper: &mut Keeper, command: &[OsString]) -> Result<(), Error> {
    if keeper.order("run", command)? == "0" {
        return Ok(());
    }
    let log = std::fs::read(keeper.directory().join("log")).unwrap_or_default();
    let what = Path::new(&command[0]).display().to_string();
    Err(Error::Ended { what, log: tail(&String::from_utf8_lossy(&log)) })
}

/// A port that nobody listens at now. Somebody may before the server does, and then it wants another.
fn free_port() -> io::Result<u16> {
    let mut tried = 0;
    loop {
        // The standard library has no other randomness.
        let random = RandomState::new().build_hasher().finish() % u64::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(random).expect("it is less than the number of ports");
        tried += 1;
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => return Ok(port),
            Err(error) if tried == PORTS_TRIED_MAX => return Err(error),
            Err(_) => {}
        }
    }
}

/// Whether our keeper's child has ended. It stays a zombie until the keeper waits for it.
fn has_ended(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("X", |(_, state)| state);
    state.starts_with(['X', 'Z'])
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.trim_end().lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_installed_is_an_error_with_one_hint() {
        let nowhere = || Places::at(["/nowhere", "/nowhere/else"]);
        let error = Server::start(&postgres::Postgres, nowhere(), &[]).unwrap_err().to_string();
        let why = "initdb is neither on the PATH nor where Debian puts it: /nowhere:/nowhere/else";
        assert_eq!(error, format!("{why}\nhint: apt-get install postgresql"));

        let error = Server::start(&maria_db::MariaDb, nowhere(), &[]).unwrap_err().to_string();
        assert!(error.starts_with("mariadb-install-db is neither"), "{error}");
        assert!(error.ends_with("\nhint: apt-get install mariadb-server"), "{error}");
    }
}
