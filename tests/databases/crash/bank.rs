//! The accounts in all databases, what clients were told of the transfers between them, and whether that is so.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use assent_sdk::Protocol;
use futures_util::future::join_all;

use super::{PATIENCE, POLL, report};
use crate::database::Database;

/// In each database.
pub const ACCOUNTS: u64 = 64;
const BALANCE: i64 = 1_000;

/// Both databases understand it. Nothing hinders a transfer from being there twice, so that this would be seen.
const SCHEMA: &str = "
    CREATE TABLE account (
        id INT PRIMARY KEY,
        balance BIGINT NOT NULL CHECK (balance >= 0),
        held BIGINT NOT NULL CHECK (held >= 0)
    );
    CREATE TABLE transfer (number BIGINT NOT NULL, participant VARCHAR(20) NOT NULL, amount BIGINT NOT NULL);
";

/// Who takes part, and in which database.
pub struct Participant {
    pub name: &'static str,
    pub protocol: Protocol,
    database: usize,
}

const PARTICIPANTS: [Participant; 5] = [
    Participant { name: "bank/a", protocol: Protocol::TwoPhase, database: 0 },
    Participant { name: "bank/b", protocol: Protocol::TwoPhase, database: 1 },
    Participant { name: "bank/c", protocol: Protocol::TwoPhase, database: 2 },
    Participant { name: "till/a", protocol: Protocol::Tcc, database: 0 },
    Participant { name: "till/c", protocol: Protocol::Tcc, database: 2 },
];

pub fn participant(name: &str) -> &'static Participant {
    PARTICIPANTS.iter().find(|participant| participant.name == name).unwrap()
}

/// What a client was told of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Committed,
    Aborted,
    /// Nothing, or that it is not known.
    Unknown,
}

/// A transfer that has been begun: what a client was told, and what each participant was to do with it in sum.
#[derive(Clone, Debug)]
pub struct Begun {
    pub told: Told,
    pub amounts: Vec<(&'static str, i64)>,
}

/// The accounts. A clone is the same bank.
#[derive(Clone)]
pub struct Bank {
    databases: Arc<[Database; 3]>,
    begun: Arc<Mutex<BTreeMap<u64, Begun>>>,
    next: Arc<AtomicU64>,
    replied: Arc<AtomicU64>,
}

impl Bank {
    /// Fills empty databases.
    pub async fn open(urls: [String; 3]) -> Bank {
        let databases = Arc::new(urls.map(Database::new));
        let accounts: Vec<_> = (0..ACCOUNTS).map(|id| format!("({id}, {BALANCE}, 0)")).collect();
        for database in &*databases {
            let fill = format!("{SCHEMA} INSERT INTO account VALUES {}", accounts.join(", "));
            database.read(&fill).await;
        }
        Bank { databases, begun: Arc::default(), next: Arc::default(), replied: Arc::default() }
    }

    pub fn database_of(&self, name: &str) -> &Database {
        &self.databases[participant(name).database]
    }

    /// The number of a new transfer.
    pub fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A client was told what the participants replied, and it was right.
    pub fn replied(&self) {
        self.replied.fetch_add(1, Ordering::Relaxed);
    }

    pub fn told(&self, number: u64, begun: Begun) {
        self.begun.lock().unwrap().insert(number, begun);
    }

    /// Waits until clients were told of so many more transfers.
    pub async fn until_told_of(&self, transfers: usize) {
        let started = Instant::now();
        let enough = self.begun.lock().unwrap().len() + transfers;
        while self.begun.lock().unwrap().len() < enough {
            assert!(started.elapsed() < PATIENCE, "clients were told of fewer than {transfers} transfers");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Every branch that is prepared or reserved in any database.
    pub async fn held(&self) -> Vec<String> {
        let held = self.databases.iter().map(async |database| {
            let mut held = database.prepared().await;
            let reserved = "SELECT concat_ws(' ', participant, xid, branch) FROM assent_barrier \
                            WHERE status = 'prepared'";
            held.extend(database.read(reserved).await);
            held
        });
        join_all(held).await.concat()
    }

    /// Every row that participants keep although all is over; a database may remember one horizon.
    pub async fn kept(&self) -> Vec<String> {
        let kept = self.databases.iter().map(async |database| {
            let branches = "participant, xid, branch";
            let barrier = format!("SELECT concat_ws(' ', {branches}, status) FROM assent_barrier");
            let mut kept = database.read(&barrier).await;
            // MariaDB keeps the replies in the barrier.
            if database.is_postgres() {
                let replies = format!("SELECT concat_ws(' ', {branches}, 'reply') FROM assent_reply");
                kept.extend(database.read(&replies).await);
            }
            let horizons =
                database.read("SELECT concat_ws(' ', 'horizon of', cluster) FROM assent_horizon").await;
            kept.extend(horizons.into_iter().skip(1));
            kept
        });
        join_all(kept).await.concat()
    }

    /// Of every transfer ever begun: is it in all of its databases or in none, as the client was told? Is all of the
    /// money there?
    pub async fn check(&self, when: &str) {
        let mut transfers = BTreeMap::<u64, Vec<(String, i64)>>::new();
        let mut sum = 0;
        for database in &*self.databases {
            sum += Bank::check_sums(database, when).await;
            let all = "SELECT concat_ws(' ', number, participant, amount) FROM transfer";
            for transfer in database.read(all).await {
                let [number, participant, amount] = split(&transfer);
                let of_number = transfers.entry(number.parse().unwrap()).or_default();
                of_number.push((participant.to_owned(), amount.parse().unwrap()));
            }
        }
        let all = i64::try_from(ACCOUNTS * self.databases.len() as u64).unwrap() * BALANCE;
        assert_eq!(sum, all, "{when}: money was made or lost");
        for (number, Begun { told, amounts }) in &*self.begun.lock().unwrap() {
            let mut done = transfers.remove(number).unwrap_or_default();
            done.sort();
            let committed =
                done.iter().map(|(name, amount)| (name.as_str(), *amount)).eq(amounts.iter().copied());
            assert!(
                committed || done.is_empty(),
                "{when}: transfer {number} is split, doubled or wrong: {done:?} of {amounts:?}"
            );
            match told {
                Told::Committed => assert!(committed, "{when}: {number} was told committed, and is not"),
                Told::Aborted => assert!(!committed, "{when}: {number} was told aborted, and is not"),
                Told::Unknown => {}
            }
        }
        assert!(transfers.is_empty(), "{when}: nobody began {transfers:?}");
    }

    /// Whether the accounts of a database are what its transfers made of them. Their sum.
    async fn check_sums(database: &Database, when: &str) -> i64 {
        // One statement, and so one snapshot.
        let sums = "SELECT concat_ws(' ', sum(balance), sum(held),
            (SELECT coalesce(sum(amount), 0) FROM transfer)) FROM account";
        let sums = database.read(sums).await;
        let [balance, held, moved] = split(&sums[0]).map(|sum| sum.parse::<i64>().unwrap());
        let began_with = i64::try_from(ACCOUNTS).unwrap() * BALANCE;
        assert_eq!((balance, held), (began_with + moved, 0), "{when}: {database:?}");
        balance
    }

    /// The test would prove nothing if it had been idle.
    pub fn check_that_much_happened(&self, kills: u64) {
        let begun = self.begun.lock().unwrap();
        let count = |wanted| begun.values().filter(|begun| begun.told == wanted).count() as u64;
        let (committed, aborted, unknown) =
            (count(Told::Committed), count(Told::Aborted), count(Told::Unknown));
        let replied = self.replied.load(Ordering::Relaxed);
        let all = format!(
            "{kills} kills each of coordinator, participants, PostgreSQL and MariaDB; told {committed} committed \
             ({replied} with replies), {aborted} aborted, {unknown} unknown"
        );
        report(&all);
        assert!(committed > 10 * kills && aborted > 4 * kills && replied > 2 * kills, "{all}");
    }
}

fn split<const PARTS: usize>(row: &str) -> [&str; PARTS] {
    row.split(' ').collect::<Vec<_>>().try_into().unwrap()
}
