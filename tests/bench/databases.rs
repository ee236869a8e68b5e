//! What taking part costs a database: transfers between two servers, as two local commits and as one transaction.
//!
//! ```text
//! cargo bench --bench databases
//! cargo bench --bench databases -- --database mariadb --clients 1,32 --seconds 2 --rounds 5
//! ```
//!
//! It starts two throw-away PostgreSQL servers, then two of MariaDB, and a coordinator as a process of its own. A transfer
//! changes an account in each and writes an entry in each. It is done four ways, by turns, in one run:
//!
//! * **in turn**: a local commit on the one server, then one on the other; what a service without a coordinator does;
//! * **at once**: both local commits at the same time: the hardest to compare with;
//! * **prepared by hand**: both servers prepare at once, then commit at once, with no coordinator and no barrier: nothing
//!   decides, and a crash would leave them prepared. What the databases themselves take for it;
//! * **assent**: one 2PC transaction through the coordinator, participants over sessions.
//!
//! The four take turns, round by round, so that a noisy machine troubles them alike; each figure is the median of the rounds.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "it is a program that measures: a panic is its error"
)]

#[path = "../daemon/coordinator.rs"]
#[expect(dead_code, reason = "the tests of the daemon do more with it")]
mod coordinator;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use assent_proto::v1 as pb;
use assent_sdk::mysql::MySql;
use assent_sdk::postgres::Postgres;
use assent_sdk::postgres::sqlx::{self, AssertSqlSafe, Connection as _, raw_sql};
use assent_sdk::throwaway::Server;
use assent_sdk::{Branch, Client, Json, Participant, Prepare, Result, Vote};
use pb::admin_service_client::AdminServiceClient;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::coordinator::Coordinator;

/// Enough that two clients seldom want the same one.
const ACCOUNTS: u64 = 10_000;
const BANKS: [&str; 2] = ["bank/one", "bank/other"];
const WAYS: [Way; 4] = [Way::InTurn, Way::AtOnce, Way::ByHand, Way::Assent];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    InTurn,
    AtOnce,
    ByHand,
    Assent,
}

/// What a server is asked to do for a transfer.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Entry {
    transfer: u64,
    account: u64,
    amount: i64,
}

struct Options {
    databases: Vec<String>,
    clients: Vec<usize>,
    round: Duration,
    rounds: usize,
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    for database in &options.databases {
        match database.as_str() {
            "postgres" => measure::<postgres::Bank>("PostgreSQL", &options).await,
            "mariadb" => measure::<mariadb::Bank>("MariaDB", &options).await,
            other => panic!("--database {other}: it can be postgres or mariadb"),
        }
    }
}

impl Options {
    fn parse() -> Options {
        let mut options = Options {
            databases: vec!["postgres".into(), "mariadb".into()],
            clients: vec![1, 8, 32],
            round: Duration::from_secs(2),
            rounds: 5,
        };
        // cargo adds `--bench`.
        let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(name) = arguments.next() {
            let value = arguments.next().unwrap_or_else(|| panic!("{name} wants a value"));
            match name.as_str() {
                "--database" => options.databases = vec![value],
                "--clients" => options.clients = value.split(',').map(|one| one.parse().unwrap()).collect(),
                "--seconds" => options.round = Duration::from_secs_f64(value.parse().unwrap()),
                "--rounds" => options.rounds = value.parse().unwrap(),
                other => panic!("{other}: there are --database, --clients, --seconds and --rounds"),
            }
        }
        options
    }
}

/// One of the two servers, in either make.
trait Bank: Clone + Send + Sync + 'static {
    type Connection: Send + 'static;

    fn start() -> impl Future<Output = (Self, Server)> + Send;
    fn join(&self, name: &'static str, coordinator: String) -> impl Future<Output = Participant> + Send;
    fn connection(&self) -> impl Future<Output = Self::Connection> + Send;
    fn commit(db: &mut Self::Connection, entry: Entry) -> impl Future<Output = ()> + Send;
    fn prepare(db: &mut Self::Connection, entry: Entry) -> impl Future<Output = ()> + Send;
    fn commit_prepared(db: &mut Self::Connection, entry: Entry) -> impl Future<Output = ()> + Send;
    /// Syncs of its log, and bytes written to it, since it started.
    fn log(db: &mut Self::Connection) -> impl Future<Output = (u64, u64)> + Send;
    /// The sum of all balances, the number of entries, and all rows of the barrier.
    fn books(db: &mut Self::Connection) -> impl Future<Output = (i64, i64)> + Send;
}

async fn measure<B: Bank>(title: &str, options: &Options) {
    let coordinator = Coordinator::start(&[]);
    let ((one, _one_server), (other, _other_server)) = (B::start().await, B::start().await);
    let banks = [one, other];
    let mut participants = Vec::new();
    for (bank, name) in banks.iter().zip(BANKS) {
        let participant = bank.join(name, coordinator.url()).await;
        participant.ready().await;
        participants.push(participant);
    }
    let lab = Lab { banks, client: Client::connect(coordinator.url()).unwrap(), begun: Arc::default() };
    let mut admin = AdminServiceClient::connect(coordinator.url()).await.unwrap();

    println!("{title}: transfers/s, and the cost of one against two local commits in turn / at once");
    println!(
        "{:>7}  {:>9} {:>9} {:>9} {:>9}  {:>15} {:>15}  {:>10}",
        "clients", "in turn", "at once", "by hand", "assent", "by hand costs", "assent costs", "p50 assent"
    );
    let mut last = Vec::new();
    for &clients in &options.clients {
        let mut rates = [const { Vec::new() }; 4];
        let mut latencies = Vec::new();
        last = Vec::new();
        for round in 0..=options.rounds {
            for (way, rates) in WAYS.into_iter().zip(&mut rates) {
                let before = lab.spent(&mut admin).await;
                let played = lab.play(way, clients, options.round).await;
                let after = lab.spent(&mut admin).await;
                // The first round warms up.
                if round > 0 {
                    rates.push(played.rate);
                    if way == Way::Assent {
                        latencies.push(played.median.as_secs_f64() * 1e3);
                    }
                }
                if round == options.rounds {
                    last.push(before.until(after, played.transfers));
                }
            }
        }
        let [in_turn, at_once, by_hand, assent] = rates.map(median);
        println!(
            "{clients:>7}  {in_turn:>9.0} {at_once:>9.0} {by_hand:>9.0} {assent:>9.0}  \
             {:>6.2}x / {:.2}x  {:>6.2}x / {:.2}x  {:>7.2} ms",
            in_turn / by_hand,
            at_once / by_hand,
            in_turn / assent,
            at_once / assent,
            median(latencies)
        );
    }
    println!("for one transfer, at {} clients:", options.clients.last().unwrap());
    for (way, spent) in WAYS.into_iter().zip(last) {
        println!(
            "  {:<17} {:.2} syncs and {:.0} bytes of log in each database, {:.2} syncs of the coordinator",
            format!("{way:?}:"),
            spent[0],
            spent[1],
            spent[2]
        );
    }
    lab.check().await;
    println!();
}

struct Lab<B> {
    banks: [B; 2],
    client: Client,
    begun: Arc<AtomicU64>,
}

struct Played {
    transfers: u64,
    rate: f64,
    median: Duration,
}

/// Syncs and bytes of the databases' logs, syncs of the coordinator's.
#[derive(Clone, Copy)]
struct Spent([u64; 3]);

impl<B: Bank> Lab<B> {
    /// Clients that make transfers one after another for a while.
    async fn play(&self, way: Way, clients: usize, round: Duration) -> Played {
        let mut running = JoinSet::new();
        let started = Instant::now();
        for _ in 0..clients {
            let (mut one, mut other) = (self.banks[0].connection().await, self.banks[1].connection().await);
            let (client, begun) = (self.client.clone(), Arc::clone(&self.begun));
            running.spawn(async move {
                let mut took = Vec::new();
                while started.elapsed() < round {
                    let (give, take) = halves(begun.fetch_add(1, Ordering::Relaxed));
                    let began = Instant::now();
                    match way {
                        Way::InTurn => {
                            B::commit(&mut one, give).await;
                            B::commit(&mut other, take).await;
                        }
                        Way::AtOnce => {
                            tokio::join!(B::commit(&mut one, give), B::commit(&mut other, take));
                        }
                        Way::ByHand => {
                            tokio::join!(B::prepare(&mut one, give), B::prepare(&mut other, take));
                            tokio::join!(
                                B::commit_prepared(&mut one, give),
                                B::commit_prepared(&mut other, take)
                            );
                        }
                        Way::Assent => {
                            let transfer = client.transaction("transfer").two_phase();
                            let transfer =
                                transfer.branch(BANKS[0], &Json(give)).branch(BANKS[1], &Json(take));
                            transfer.execute().await.unwrap();
                        }
                    }
                    took.push(began.elapsed());
                }
                took
            });
        }
        let mut took = running.join_all().await.concat();
        let rate = took.len() as f64 / started.elapsed().as_secs_f64();
        took.sort();
        Played { transfers: took.len() as u64, rate, median: took[took.len() / 2] }
    }

    async fn spent(&self, admin: &mut AdminServiceClient<tonic::transport::Channel>) -> Spent {
        let mut spent = [0; 3];
        for bank in &self.banks {
            let (syncs, bytes) = B::log(&mut bank.connection().await).await;
            (spent[0], spent[1]) = (spent[0] + syncs, spent[1] + bytes);
        }
        let status = admin.get_server_status(pb::GetServerStatusRequest {}).await.unwrap().into_inner();
        spent[2] = status.log_syncs;
        Spent(spent)
    }

    /// A benchmark of work that was not done would be worth nothing.
    async fn check(&self) {
        let mut sum = 0;
        for bank in &self.banks {
            let (balance, entries) = B::books(&mut bank.connection().await).await;
            assert_eq!(entries, i64::try_from(self.begun.load(Ordering::Relaxed)).unwrap());
            sum += balance;
        }
        assert_eq!(sum, 0, "money is conserved");
        println!("books: every transfer is in both databases, and the balances add up");
    }
}

impl Spent {
    /// For one transfer: in each of the two databases, and of the coordinator.
    fn until(self, after: Spent, transfers: u64) -> [f64; 3] {
        let of = |index: usize| (after.0[index] - self.0[index]) as f64 / transfers as f64;
        [of(0) / 2.0, of(1) / 2.0, of(2)]
    }
}

/// What the two servers are asked to do for the transfer with this number.
fn halves(transfer: u64) -> (Entry, Entry) {
    // Spread over all accounts: a prime step through them.
    let account = transfer * 7_919 % ACCOUNTS;
    let amount = i64::try_from(transfer % 100).unwrap() + 1;
    let give = Entry { transfer, account, amount: -amount };
    (give, Entry { account: (account + ACCOUNTS / 2) % ACCOUNTS, amount, ..give })
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

const TABLES: &str = "
    CREATE TABLE accounts (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL);
    CREATE TABLE entries (transfer BIGINT PRIMARY KEY, account BIGINT NOT NULL, amount BIGINT NOT NULL);";

/// The same for both makes, as far as their types allow.
macro_rules! bank {
    ($Database:ident, $Connection:path, $update:literal, $insert:literal) => {
        #[derive(Clone)]
        pub struct Bank {
            url: String,
            database: $Database,
        }

        struct Ledger;

        impl Prepare<$Database> for Ledger {
            type Request = Json<Entry>;
            type Reply = ();

            async fn prepare(
                &self,
                db: &mut $Connection,
                _: &Branch,
                Json(entry): Json<Entry>,
            ) -> Result<Vote<()>> {
                work(db, entry).await?;
                Ok(Vote::Prepared(()))
            }
        }

        async fn work(db: &mut $Connection, entry: Entry) -> sqlx::Result<()> {
            let Entry { transfer, account, amount } = entry;
            let (transfer, account) = (transfer.cast_signed(), account.cast_signed());
            sqlx::query($update).bind(amount).bind(account).execute(&mut *db).await?;
            sqlx::query($insert).bind(transfer).bind(account).bind(amount).execute(&mut *db).await?;
            Ok(())
        }

        async fn run(db: &mut $Connection, sql: String) {
            raw_sql(AssertSqlSafe(sql)).execute(db).await.unwrap();
        }

        async fn opened(server: &Server, database: $Database) -> Bank {
            let bank = Bank { url: server.url(), database };
            let mut db = super::Bank::connection(&bank).await;
            let rows: Vec<_> = (0..ACCOUNTS).map(|id| format!("({id}, 0)")).collect();
            run(&mut db, format!("{TABLES} INSERT INTO accounts VALUES {};", rows.join(", "))).await;
            bank
        }
    };
}

mod postgres {
    use super::*;
    use sqlx::PgConnection;

    bank!(
        Postgres,
        PgConnection,
        "UPDATE accounts SET balance = balance + $1 WHERE id = $2",
        "INSERT INTO entries VALUES ($1, $2, $3)"
    );

    impl super::Bank for Bank {
        type Connection = PgConnection;

        async fn start() -> (Bank, Server) {
            let server = Server::postgres(&[]).unwrap();
            let database = Postgres::connect(&server.url()).await.unwrap();
            (opened(&server, database).await, server)
        }

        async fn join(&self, name: &'static str, coordinator: String) -> Participant {
            let ledger = self.database.clone().two_phase(Ledger).unwrap();
            Participant::builder(name).resource(ledger).connect(coordinator).await.unwrap()
        }

        async fn connection(&self) -> PgConnection {
            PgConnection::connect(&self.url).await.unwrap()
        }

        async fn commit(db: &mut PgConnection, entry: Entry) {
            let mut local = db.begin().await.unwrap();
            work(&mut local, entry).await.unwrap();
            local.commit().await.unwrap();
        }

        async fn prepare(db: &mut PgConnection, entry: Entry) {
            run(db, "BEGIN".into()).await;
            work(db, entry).await.unwrap();
            run(db, format!("PREPARE TRANSACTION 'by-hand-{}'", entry.transfer)).await;
        }

        async fn commit_prepared(db: &mut PgConnection, entry: Entry) {
            run(db, format!("COMMIT PREPARED 'by-hand-{}'", entry.transfer)).await;
        }

        async fn log(db: &mut PgConnection) -> (u64, u64) {
            // The servers' processes report what they did within a second.
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            let (syncs, bytes): (i64, i64) =
                sqlx::query_as("SELECT wal_sync, wal_bytes::bigint FROM pg_stat_wal")
                    .fetch_one(db)
                    .await
                    .unwrap();
            (syncs.cast_unsigned(), bytes.cast_unsigned())
        }

        async fn books(db: &mut PgConnection) -> (i64, i64) {
            let sql = "SELECT (SELECT sum(balance)::bigint FROM accounts), (SELECT count(*) FROM entries)";
            sqlx::query_as(sql).fetch_one(db).await.unwrap()
        }
    }
}

mod mariadb {
    use super::*;
    use sqlx::MySqlConnection;

    bank!(
        MySql,
        MySqlConnection,
        "UPDATE accounts SET balance = balance + ? WHERE id = ?",
        "INSERT INTO entries VALUES (?, ?, ?)"
    );

    impl super::Bank for Bank {
        type Connection = MySqlConnection;

        async fn start() -> (Bank, Server) {
            let server = Server::maria_db(&[]).unwrap();
            let database = MySql::connect(&server.url()).await.unwrap();
            (opened(&server, database).await, server)
        }

        async fn join(&self, name: &'static str, coordinator: String) -> Participant {
            let ledger = self.database.clone().two_phase(Ledger).unwrap();
            Participant::builder(name).resource(ledger).connect(coordinator).await.unwrap()
        }

        async fn connection(&self) -> MySqlConnection {
            MySqlConnection::connect(&self.url).await.unwrap()
        }

        async fn commit(db: &mut MySqlConnection, entry: Entry) {
            let mut local = db.begin().await.unwrap();
            work(&mut local, entry).await.unwrap();
            local.commit().await.unwrap();
        }

        async fn prepare(db: &mut MySqlConnection, entry: Entry) {
            let name = format!("'by-hand-{}'", entry.transfer);
            run(db, format!("XA START {name}")).await;
            work(db, entry).await.unwrap();
            run(db, format!("XA END {name}; XA PREPARE {name}")).await;
        }

        async fn commit_prepared(db: &mut MySqlConnection, entry: Entry) {
            run(db, format!("XA COMMIT 'by-hand-{}'", entry.transfer)).await;
        }

        async fn log(db: &mut MySqlConnection) -> (u64, u64) {
            let sql = "SELECT cast(sum(if(variable_name = 'INNODB_OS_LOG_FSYNCS', variable_value, 0)) as unsigned),
                              cast(sum(if(variable_name = 'INNODB_OS_LOG_WRITTEN', variable_value, 0)) as unsigned)
                       FROM information_schema.global_status";
            sqlx::query_as(sql).fetch_one(db).await.unwrap()
        }

        async fn books(db: &mut MySqlConnection) -> (i64, i64) {
            let sql =
                "SELECT (SELECT cast(sum(balance) as signed) FROM accounts), (SELECT count(*) FROM entries)";
            sqlx::query_as(sql).fetch_one(db).await.unwrap()
        }
    }
}
