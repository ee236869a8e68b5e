//! The participants: processes of this very test program, over PostgreSQL and MariaDB, by two-phase commit and by TCC.

use std::fs::{self, OpenOptions};
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use assent_sdk::mysql::MySqlOptions;
use assent_sdk::mysql::sqlx::{AssertSqlSafe, MySqlConnection, raw_sql};
use assent_sdk::postgres::PostgresOptions;
use assent_sdk::postgres::sqlx::PgConnection;
use assent_sdk::resource::Resource;
use assent_sdk::sql::SqlDatabase;
use assent_sdk::{AsyncTcc, Branch, Error, Json, Participant, Prepare, Protocol, Result, Vote, refuse};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::bank::{Bank, participant};

/// One process each. Two of one name are replicas.
pub const PROCESSES: [&str; 7] = ["bank/a", "bank/a", "bank/b", "bank/c", "bank/c", "till/a", "till/c"];
/// Says to this test program that it is to be a participant: name, coordinator, database.
const ROLE: &str = "ASSENT_TEST_PARTICIPANT";
/// Long enough for those who wait for a lock while nobody dies.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECT_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// What a branch is asked to do.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Work {
    pub number: u64,
    /// What each account gets, or gives where it is negative. None: only look.
    pub postings: Vec<Posting>,
    /// Say no.
    pub refuse: bool,
    /// What to reply; may be empty.
    pub reply: String,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Posting {
    pub account: u64,
    pub amount: i64,
}

/// All of the processes. They end with this one.
pub struct Participants {
    logs: tempfile::TempDir,
    /// For each process.
    roles: Vec<String>,
    processes: Vec<Child>,
}

impl Participants {
    pub fn start(coordinator: &str, bank: &Bank) -> Participants {
        let logs = tempfile::Builder::new().prefix("assent-test-participants-").tempdir().unwrap();
        let role = |name: &&str| format!("{name}|{coordinator}|{}", bank.database_of(name).url());
        let mut participants =
            Participants { logs, roles: PROCESSES.iter().map(role).collect(), processes: Vec::new() };
        for process in 0..PROCESSES.len() {
            let started = participants.launch(process);
            participants.processes.push(started);
        }
        participants
    }

    pub fn kill9(&mut self, process: usize) {
        self.processes[process].kill().unwrap();
        let ended = self.processes[process].wait().unwrap();
        assert!(ended.code().is_none(), "{} had ended by itself: {ended}", PROCESSES[process]);
    }

    pub fn restart(&mut self, process: usize) {
        self.processes[process] = self.launch(process);
    }

    /// What each has said, by its name.
    pub fn logs(&self) -> Vec<(String, String)> {
        let log = |process| fs::read(self.log_path(process)).unwrap_or_default();
        let names = PROCESSES.iter().enumerate();
        names.map(|(at, name)| (name.to_string(), String::from_utf8_lossy(&log(at)).into_owned())).collect()
    }

    fn launch(&self, process: usize) -> Child {
        let stderr = OpenOptions::new().create(true).append(true).open(self.log_path(process)).unwrap();
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::participants::participant_process", "--nocapture"])
            .env(ROLE, &self.roles[process])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap()
    }

    fn log_path(&self, process: usize) -> PathBuf {
        self.logs.path().join(process.to_string())
    }
}

impl Drop for Participants {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // It may have ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Is a participant when told to be one; as a test of its own it has nothing to show.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn participant_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let [name, coordinator, url] = role.split('|').collect::<Vec<_>>().try_into().unwrap();
    // It lives as long as whoever started it.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let log = tracing_subscriber::fmt().with_env_filter("assent_sdk=debug").with_ansi(false);
    log.with_writer(std::io::stderr).init();
    if url.starts_with("postgres:") {
        let options = PostgresOptions::new(url).lock_timeout(LOCK_TIMEOUT);
        let db = until_connected(async || options.clone().connect().await).await;
        match participant(name).protocol {
            Protocol::TwoPhase => take_part(name, coordinator, db.two_phase(Ledger).unwrap()).await,
            Protocol::Tcc => take_part(name, coordinator, db.tcc(Ledger)).await,
        }
    } else {
        let options = MySqlOptions::new(url).lock_timeout(LOCK_TIMEOUT);
        let db = until_connected(async || options.clone().connect().await).await;
        match participant(name).protocol {
            Protocol::TwoPhase => take_part(name, coordinator, db.two_phase(Ledger).unwrap()).await,
            Protocol::Tcc => take_part(name, coordinator, db.tcc(Ledger)).await,
        }
    }
}

async fn take_part(name: &str, coordinator: &str, resource: impl Resource) {
    let participant = Participant::builder(name).resource(resource).inquire_after(Duration::from_millis(300));
    let _participant = participant.connect(coordinator).await.unwrap();
    std::future::pending::<()>().await;
}

/// A service manager would start it again, until its database is there.
async fn until_connected<T>(mut connect: impl AsyncFnMut() -> Result<T, Error>) -> T {
    loop {
        match connect().await {
            Ok(db) => return db,
            Err(error) => tracing::info!(%error, "no database yet"),
        }
        tokio::time::sleep(CONNECT_AGAIN_AFTER).await;
    }
}

/// The service: the same statements for both databases, and for both protocols.
struct Ledger;

impl Ledger {
    /// Takes the money, or puts it there.
    async fn post(db: &mut impl Statements, Posting { account, amount }: Posting) -> Result<()> {
        let set = format!("UPDATE account SET balance = balance + {amount}");
        match db.run(format!("{set} WHERE id = {account} AND balance + {amount} >= 0")).await? {
            0 => Err(refuse(format!("account {account} has less than {}", -amount))),
            _ => Ok(()),
        }
    }

    /// Keeps track of what was done, with nothing to hinder it from being there twice.
    async fn record(db: &mut impl Statements, branch: &Branch, work: &Work) -> Result<()> {
        let sum: i64 = work.postings.iter().map(|posting| posting.amount).sum();
        let values = format!("{}, '{}', {sum}", work.number, branch.participant());
        db.run(format!("INSERT INTO transfer (number, participant, amount) VALUES ({values})")).await?;
        Ok(())
    }

    /// Moves what was reserved; it must be there.
    async fn move_reserved(db: &mut impl Statements, account: u64, change: String) -> Result<()> {
        let moved = db.run(format!("UPDATE account SET {change} WHERE id = {account}")).await?;
        assert_eq!(moved, 1, "account {account}: {change}");
        Ok(())
    }

    fn vote(work: Work) -> Result<Vote<Bytes>> {
        match work {
            Work { refuse: true, .. } => Err(refuse("it was asked to")),
            Work { postings, reply, .. } if postings.is_empty() => Ok(Vote::ReadOnly(reply.into())),
            Work { reply, .. } => Ok(Vote::Prepared(reply.into())),
        }
    }
}

impl<D: SqlDatabase> Prepare<D> for Ledger
where
    D::Connection: Statements,
{
    type Request = Json<Work>;
    type Reply = Bytes;

    async fn prepare(
        &self,
        db: &mut D::Connection,
        branch: &Branch,
        Json(work): Json<Work>,
    ) -> Result<Vote<Bytes>> {
        for posting in &work.postings {
            Ledger::post(db, *posting).await?;
        }
        if !work.postings.is_empty() {
            Ledger::record(db, branch, &work).await?;
        }
        Ledger::vote(work)
    }
}

impl<D: SqlDatabase> AsyncTcc<D> for Ledger
where
    D::Connection: Statements,
{
    type Request = Json<Work>;
    type Reply = Bytes;

    async fn reserve(
        &self,
        db: &mut D::Connection,
        _: &Branch,
        Json(work): Json<Work>,
    ) -> Result<Vote<Bytes>> {
        for posting in work.postings.iter().filter(|posting| posting.amount < 0) {
            Ledger::post(db, *posting).await?;
            let change = format!("held = held - {}", posting.amount);
            Ledger::move_reserved(db, posting.account, change).await?;
        }
        Ledger::vote(work)
    }

    async fn confirm(&self, db: &mut D::Connection, branch: &Branch, Json(work): Json<Work>) -> Result<()> {
        for Posting { account, amount } in work.postings.iter().copied() {
            let column = if amount < 0 { "held" } else { "balance" };
            Ledger::move_reserved(db, account, format!("{column} = {column} + {amount}")).await?;
        }
        Ledger::record(db, branch, &work).await
    }

    async fn cancel(&self, db: &mut D::Connection, _: &Branch, Json(work): Json<Work>) -> Result<()> {
        for Posting { account, amount } in work.postings.iter().copied().filter(|posting| posting.amount < 0)
        {
            let change = format!("held = held + {amount}, balance = balance - {amount}");
            Ledger::move_reserved(db, account, change).await?;
        }
        Ok(())
    }
}

/// A connection of either database.
trait Statements: Send {
    /// Runs one; answers how many rows it changed.
    fn run(&mut self, statement: String) -> impl Future<Output = Result<u64>> + Send;
}

impl Statements for PgConnection {
    async fn run(&mut self, statement: String) -> Result<u64> {
        Ok(raw_sql(AssertSqlSafe(statement)).execute(self).await?.rows_affected())
    }
}

impl Statements for MySqlConnection {
    async fn run(&mut self, statement: String) -> Result<u64> {
        Ok(raw_sql(AssertSqlSafe(statement)).execute(self).await?.rows_affected())
    }
}
