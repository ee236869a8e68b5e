//! Kills the coordinator and its participants at random instants, under load, and looks whether they agree. And lets
//! the coordinator's disk fill up.
//!
//! Everything is real: the coordinator's binary, participants in processes of their own, each with a SQLite file,
//! `kill -9`. After each end the load stops, everything must come to its end, and then for every transaction ever begun:
//!
//! * **atomicity**: its effect is in all of its databases or in none, and never twice;
//! * **stability**: what a client was told is so, now and after every later crash;
//! * **termination**: no transaction is open, no branch is prepared.
//!
//! `ASSENT_TEST_KILLS=1000` makes it last.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::coordinator::Coordinator;
use assent_proto::v1 as pb;
use assent_sdk::client::NewBranch;
use assent_sdk::sqlite::Sqlite;
use assent_sdk::{Branch, Client, Error, Json, Participant, Protocol, Result, Tcc, TwoPhase, Vote, refuse};
use pb::transaction_service_client::TransactionServiceClient;
use rusqlite::Transaction;
use serde::{Deserialize, Serialize};

const KILLS: u64 = 30;
const CLIENTS: u64 = 8;
/// How often the disk is full.
const FILLS: u64 = 3;
/// No round takes anywhere near as long.
const PATIENCE: Duration = Duration::from_mins(1);
/// Says to this very test program that it is to be a participant: name, protocol, coordinator, file.
const ROLE: &str = "ASSENT_TEST_PARTICIPANT";

/// The participants: two that prepare, two that reserve.
const PARTICIPANTS: [(&str, Protocol); 4] = [
    ("bank/a", Protocol::TwoPhase),
    ("bank/b", Protocol::TwoPhase),
    ("shop/c", Protocol::Tcc),
    ("shop/d", Protocol::Tcc),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_kill_splits_a_transaction() {
    let kills = std::env::var("ASSENT_TEST_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut coordinator = Coordinator::start(&[
        "--set",
        "participants.retry_initial=20ms",
        "--set",
        "participants.retry_max=500ms",
    ]);
    let mut shop = Shop::open(&coordinator.url());
    let seed = u64::from(std::process::id());
    let mut random = Random(seed);

    for kill in 1..=kills {
        let load = Load::start(&coordinator.url(), &shop.told, &shop.begun);
        // Not a wait for anything: this is the random instant.
        tokio::time::sleep(Duration::from_millis(random.below(250))).await;
        coordinator.kill9();
        if kill % 3 == 0 {
            let victim = usize::try_from(random.below(PARTICIPANTS.len() as u64)).unwrap();
            shop.kill9_and_restart(victim);
        }
        coordinator.restart();
        load.stop().await;
        shop.settle(&coordinator.url()).await;
        shop.check(&format!("after kill {kill} of {kills} (seed {seed})"));
    }
    assert!(coordinator.terminate().success());
    shop.check("at the end");
    shop.check_that_much_happened(kills);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_splits_no_transaction_and_takes_back_no_word() {
    let mut coordinator = Coordinator::start(&["--set", "storage.ballast=0"]);
    let shop = Shop::open(&coordinator.url());
    for fill in 1..=FILLS {
        let load = Load::start(&coordinator.url(), &shop.told, &shop.begun);
        let before = shop.begun.load(Ordering::Relaxed);
        shop.begun_at_least(before + CLIENTS * 4).await;
        let log = std::fs::metadata(coordinator.data_dir().join("sled/db")).unwrap();
        coordinator.limit_file_size(log.len());
        let ended = coordinator.wait();
        assert_eq!(ended.code(), Some(1), "it ends by itself, and says that it failed");
        coordinator.restart();
        load.stop().await;
        shop.settle(&coordinator.url()).await;
        shop.check(&format!("after the disk was full {fill} times"));
    }
    let said = coordinator.log().matches("error: cannot write the decision log").count() as u64;
    assert_eq!(said, FILLS, "each time it says why");
    shop.check_that_much_happened(FILLS);
}

/// Is a participant when told to be one; as a test of its own it has nothing to show.
#[tokio::test(flavor = "multi_thread")]
async fn participant_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let [name, protocol, coordinator, file] = role.split('|').collect::<Vec<_>>().try_into().unwrap();
    let database = Sqlite::open(file)
        .unwrap()
        .setup(
            "create table if not exists staged (branch text primary key, number integer not null);
             create table if not exists effects (branch text not null, number integer not null);",
        )
        .unwrap();
    let resource = if protocol == "tcc" { database.tcc(Ledger) } else { database.two_phase(Ledger) };
    let participant = Participant::builder(name)
        .resource(resource)
        .inquire_after(Duration::from_millis(300))
        .connect(coordinator)
        .await
        .unwrap();
    // It lives as long as whoever started it.
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await.unwrap().unwrap();
    drop(participant);
}

/// What a branch is asked to do.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Work {
    number: u64,
    refuse: bool,
}

struct Ledger;

impl Ledger {
    fn stage(db: &Transaction<'_>, branch: &Branch, work: Work) -> Result<Vote<()>> {
        db.execute("insert into staged values (?1, ?2)", (branch.key(), work.number))?;
        if work.refuse { Err(refuse("it was asked to")) } else { Ok(Vote::Prepared(())) }
    }

    fn apply(db: &Transaction<'_>, branch: &Branch, work: Work) -> Result<()> {
        Ledger::drop_staged(db, branch)?;
        db.execute("insert into effects values (?1, ?2)", (branch.key(), work.number))?;
        Ok(())
    }

    fn drop_staged(db: &Transaction<'_>, branch: &Branch) -> Result<()> {
        assert_eq!(db.execute("delete from staged where branch = ?1", [branch.key()])?, 1, "{branch}");
        Ok(())
    }
}

impl TwoPhase<Sqlite> for Ledger {
    type Request = Json<Work>;
    type Reply = ();

    fn prepare(&self, db: &Transaction<'_>, branch: &Branch, Json(work): Json<Work>) -> Result<Vote<()>> {
        Ledger::stage(db, branch, work)
    }

    fn commit(&self, db: &Transaction<'_>, branch: &Branch, Json(work): Json<Work>) -> Result<()> {
        Ledger::apply(db, branch, work)
    }

    fn rollback(&self, db: &Transaction<'_>, branch: &Branch, _work: Json<Work>) -> Result<()> {
        Ledger::drop_staged(db, branch)
    }
}

impl Tcc<Sqlite> for Ledger {
    type Request = Json<Work>;
    type Reply = ();

    fn reserve(&self, db: &Transaction<'_>, branch: &Branch, Json(work): Json<Work>) -> Result<Vote<()>> {
        Ledger::stage(db, branch, work)
    }

    fn confirm(&self, db: &Transaction<'_>, branch: &Branch, Json(work): Json<Work>) -> Result<()> {
        Ledger::apply(db, branch, work)
    }

    fn cancel(&self, db: &Transaction<'_>, branch: &Branch, _work: Json<Work>) -> Result<()> {
        Ledger::drop_staged(db, branch)
    }
}

/// What a client was told of the transaction with this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Committed,
    Aborted,
    /// Nothing, or that it is not known.
    Unknown,
}

type AllTold = Arc<Mutex<BTreeMap<u64, (Told, BTreeSet<usize>)>>>;

/// All participants and all that clients know.
struct Shop {
    directory: tempfile::TempDir,
    url: String,
    processes: Vec<Child>,
    told: AllTold,
    begun: Arc<AtomicU64>,
}

impl Shop {
    fn open(url: &str) -> Shop {
        let directory = tempfile::Builder::new().prefix("assent-test-shop-").tempdir().unwrap();
        let mut shop = Shop {
            directory,
            url: url.to_owned(),
            processes: Vec::new(),
            told: Arc::default(),
            begun: Arc::default(),
        };
        for participant in 0..PARTICIPANTS.len() {
            let process = shop.start(participant);
            shop.processes.push(process);
        }
        shop
    }

    fn start(&self, participant: usize) -> Child {
        let (name, protocol) = PARTICIPANTS[participant];
        let protocol = if protocol == Protocol::Tcc { "tcc" } else { "2pc" };
        let role = format!("{name}|{protocol}|{}|{}", self.url, self.file(participant).display());
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::participant_process", "--nocapture"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn kill9_and_restart(&mut self, participant: usize) {
        self.processes[participant].kill().unwrap();
        self.processes[participant].wait().unwrap();
        self.processes[participant] = self.start(participant);
    }

    fn file(&self, participant: usize) -> PathBuf {
        self.directory.path().join(PARTICIPANTS[participant].0.replace('/', "-")).with_extension("db")
    }

    /// Waits until everything has come to its end.
    async fn settle(&self, url: &str) {
        let mut coordinator = TransactionServiceClient::connect(url.to_owned()).await.unwrap();
        let open = [
            pb::State::Active,
            pb::State::Preparing,
            pb::State::Delegated,
            pb::State::Committing,
            pb::State::Aborting,
        ];
        let filter = pb::TransactionFilter { states: open.map(i32::from).to_vec(), ..Default::default() };
        let started = Instant::now();
        loop {
            let request = pb::ListRequest { filter: Some(filter.clone()), ..Default::default() };
            let open = coordinator.list(request).await.unwrap().into_inner().transactions;
            let staged: Vec<_> =
                (0..PARTICIPANTS.len()).map(|participant| prepared(&self.file(participant))).collect();
            if open.is_empty() && staged.iter().all(|count| *count == 0) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "open: {open:#?}; prepared: {staged:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until so many transactions have been begun.
    async fn begun_at_least(&self, count: u64) {
        let started = Instant::now();
        while self.begun.load(Ordering::Relaxed) < count {
            assert!(started.elapsed() < PATIENCE, "fewer than {count} transactions were begun");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn check(&self, when: &str) {
        let effects: Vec<_> =
            (0..PARTICIPANTS.len()).map(|participant| effects(&self.file(participant))).collect();
        for (number, (told, branches)) in &*self.told.lock().unwrap() {
            let counts: Vec<_> = branches
                .iter()
                .map(|participant| effects[*participant].get(number).copied().unwrap_or(0))
                .collect();
            let committed = counts.iter().all(|count| *count == 1);
            let aborted = counts.iter().all(|count| *count == 0);
            assert!(committed || aborted, "{when}: transaction {number} is split or doubled: {counts:?}");
            match told {
                Told::Committed => assert!(committed, "{when}: {number} was told committed, and is not"),
                Told::Aborted => assert!(aborted, "{when}: {number} was told aborted, and is not"),
                Told::Unknown => {}
            }
        }
    }

    /// The test would prove nothing if it had been idle.
    fn check_that_much_happened(&self, ends: u64) {
        let told = self.told.lock().unwrap();
        let count = |wanted| told.values().filter(|(told, _)| *told == wanted).count() as u64;
        let (committed, aborted, unknown) =
            (count(Told::Committed), count(Told::Aborted), count(Told::Unknown));
        report(&format!("{ends} ends: told {committed} committed, {aborted} aborted, {unknown} unknown"));
        assert!(committed > ends && aborted > ends, "{committed} committed, {aborted} aborted");
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // It may have ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Clients that begin transactions, one after another.
struct Load {
    stopping: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(url: &str, told: &AllTold, begun: &Arc<AtomicU64>) -> Load {
        let stopping = Arc::new(AtomicBool::new(false));
        let client = Client::connect(url).unwrap();
        let clients = (0..CLIENTS).map(|_| {
            let (client, stopping) = (client.clone(), stopping.clone());
            let (told, begun) = (told.clone(), begun.clone());
            tokio::spawn(async move {
                while !stopping.load(Ordering::Relaxed) {
                    let number = begun.fetch_add(1, Ordering::Relaxed);
                    let branches = branches_of(number);
                    let outcome = transact(&client, number, &branches).await;
                    told.lock().unwrap().insert(number, (outcome, branches));
                }
            })
        });
        let clients = clients.collect();
        Load { stopping, clients }
    }

    async fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
    }
}

/// Two 2PC branches, two TCC ones, one of each, all four, or a single one.
fn branches_of(number: u64) -> BTreeSet<usize> {
    let choices: [&[usize]; 6] = [&[0, 1], &[2, 3], &[1, 2], &[0, 1, 2, 3], &[0], &[3]];
    choices[usize::try_from(number % 6).unwrap()].iter().copied().collect()
}

async fn transact(client: &Client, number: u64, branches: &BTreeSet<usize>) -> Told {
    let mut transaction = client.transaction(format!("number {number}")).timeout(Duration::from_secs(3));
    if number.is_multiple_of(2) {
        transaction = transaction.request_id(format!("request {number}"));
    }
    let last = branches.last().copied();
    let branches = branches.iter().map(|&participant| {
        let (name, protocol) = PARTICIPANTS[participant];
        let refuse = number % 7 == 3 && Some(participant) == last;
        NewBranch::of(name, &Json(Work { number, refuse })).protocol(protocol)
    });
    match transaction.branches(branches).execute().await {
        Ok(_) => Told::Committed,
        Err(Error::Aborted { .. }) => Told::Aborted,
        Err(Error::Heuristic { xid, reason, .. }) => panic!("{xid} ended heuristically: {reason}"),
        Err(_) => Told::Unknown,
    }
}

/// How many branches are prepared or reserved in a participant's file.
fn prepared(file: &Path) -> u64 {
    read(file, "select count(*) from staged", |row| row.get(0)).first().copied().unwrap_or(0)
}

/// How often each transaction had its effect.
fn effects(file: &Path) -> BTreeMap<u64, u64> {
    let all = "select number, count(*) from effects group by number";
    read(file, all, |row| Ok((row.get(0)?, row.get(1)?))).into_iter().collect()
}

fn read<T>(file: &Path, sql: &str, row: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>) -> Vec<T> {
    let database = rusqlite::Connection::open(file).unwrap();
    database.busy_timeout(PATIENCE).unwrap();
    let mut statement = database.prepare(sql).unwrap();
    statement.query_map([], row).unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

/// A small generator (xorshift*): the seed is told when the test fails.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

#[expect(clippy::print_stderr, reason = "the test runner shows it where it is asked to")]
pub fn report(text: &str) {
    eprintln!("{text}");
}
