//! Transfers between accounts in two PostgreSQL databases and a MariaDB, while the coordinator, the participants and the
//! database servers are killed at random instants, several at once.
//!
//! Everything is real: the coordinator's binary, participants in processes of their own, database servers, `kill -9`.
//! Every few rounds the load stops, everything must come to its end, and then:
//!
//! * **atomicity**: each transfer ever begun is in all of its databases or in none, never twice, and no money is made
//!   or lost;
//! * **stability**: what a client was told is so, now and after every later crash;
//! * **termination**: no transaction is open, nothing is prepared in any server, nothing is reserved;
//! * **nothing is left behind**: at the end the barrier's tables become empty by themselves.
//!
//! `ASSENT_TEST_KILLS=1000` makes it last.

mod bank;
mod load;
mod participants;

use std::thread;
use std::time::{Duration, Instant};

use assent_proto::v1 as pb;
use assent_sdk::throwaway::Server;
use pb::transaction_service_client::TransactionServiceClient;

use self::bank::Bank;
use self::load::Load;
use self::participants::{PROCESSES, Participants};
use crate::coordinator::Coordinator;

/// How often each kind of process is killed: coordinator, participant, PostgreSQL, MariaDB.
const KILLS: u64 = 30;
const ROUNDS_BETWEEN_CHECKS: u64 = 3;
const TRANSFERS_BETWEEN_KILLS: usize = 50;
/// The instant of a kill is drawn from as many milliseconds, and so is how long the process stays down.
const KILL_WITHIN_MS: u64 = 600;
const DOWN_WITHIN_MS: u64 = 300;
/// Nothing takes anywhere near as long.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);
/// How much of each log is shown when the test fails.
const LOG_LINES_SHOWN: usize = 200;

const OPEN: [pb::State; 5] = [
    pb::State::Active,
    pb::State::Preparing,
    pb::State::Delegated,
    pb::State::Committing,
    pb::State::Aborting,
];

#[tokio::test(flavor = "multi_thread")]
async fn no_kill_of_any_process_splits_a_transfer() {
    let kills = std::env::var("ASSENT_TEST_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let seed = u64::from(std::process::id());
    let mut random = Random(seed);
    let mut stage = Stage::open().await;
    let mut load = Load::start(&stage.coordinator.url(), &stage.bank);
    for kill in 1..=kills {
        tokio::task::block_in_place(|| stage.kill_one_of_each(&mut random));
        stage.bank.until_told_of(TRANSFERS_BETWEEN_KILLS).await;
        if kill % ROUNDS_BETWEEN_CHECKS == 0 || kill == kills {
            load.stop().await;
            stage.settle().await;
            stage.bank.check(&format!("after {kill} of {kills} kills of each kind (seed {seed})")).await;
            load = Load::start(&stage.coordinator.url(), &stage.bank);
        }
    }
    load.stop().await;
    stage.settle().await;
    stage.until_nothing_is_kept().await;
    stage.bank.check("at the end").await;
    assert!(stage.coordinator.terminate().success());
    stage.bank.check_that_much_happened(kills);
}

/// All that takes part.
struct Stage {
    coordinator: Coordinator,
    participants: Participants,
    /// Two of PostgreSQL, one MariaDB.
    servers: [Server; 3],
    bank: Bank,
}

impl Stage {
    async fn open() -> Stage {
        let servers = tokio::task::block_in_place(|| {
            [Server::postgres(&[]).unwrap(), Server::postgres(&[]).unwrap(), Server::maria_db(&[]).unwrap()]
        });
        let bank = Bank::open(servers.each_ref().map(Server::url)).await;
        let coordinator = Coordinator::start(&[
            "--set",
            "participants.retry_initial=20ms",
            "--set",
            "participants.retry_max=500ms",
        ]);
        let participants = Participants::start(&coordinator.url(), &bank);
        Stage { coordinator, participants, servers, bank }
    }

    /// Kills the coordinator, a participant and two database servers, each at its own instant, and starts them again.
    fn kill_one_of_each(&mut self, random: &mut Random) {
        let Stage { coordinator, participants, servers, .. } = self;
        let [first, second, maria_db] = servers;
        let postgres = if random.below(2) == 0 { first } else { second };
        let process = usize::try_from(random.below(PROCESSES.len() as u64)).unwrap();
        let [one, two, three, four] =
            std::array::from_fn(|_| [random.below(KILL_WITHIN_MS), random.below(DOWN_WITHIN_MS)]);
        thread::scope(|scope| {
            scope.spawn(move || kill(one, coordinator, Coordinator::kill9, Coordinator::restart));
            scope.spawn(move || {
                kill(two, participants, |them| them.kill9(process), |them| them.restart(process));
            });
            for (pauses, server) in [(three, postgres), (four, maria_db)] {
                scope.spawn(move || {
                    kill(pauses, server, |it| it.kill9().unwrap(), |it| it.restart().unwrap());
                });
            }
        });
    }

    /// Waits until everything has come to its end.
    async fn settle(&self) {
        let started = Instant::now();
        loop {
            let open = self.transactions(&OPEN).await;
            let held = self.bank.held().await;
            if open.is_empty() && held.is_empty() {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "open: {open:#?}; held: {held:#?}");
            tokio::time::sleep(POLL).await;
        }
        let heuristic = self.transactions(&[pb::State::Mixed, pb::State::Hazard]).await;
        assert!(heuristic.is_empty(), "ended heuristically: {heuristic:#?}");
    }

    /// Waits until the participants have cleared all that they need no more.
    async fn until_nothing_is_kept(&self) {
        let started = Instant::now();
        loop {
            let kept = self.bank.kept().await;
            if kept.is_empty() {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "kept: {kept:#?}");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn transactions(&self, states: &[pb::State]) -> Vec<pb::Transaction> {
        let states = states.iter().map(|state| i32::from(*state)).collect();
        let filter = pb::TransactionFilter { states, ..Default::default() };
        let request = pb::ListRequest { filter: Some(filter), ..Default::default() };
        let mut coordinator = TransactionServiceClient::connect(self.coordinator.url()).await.unwrap();
        coordinator.list(request).await.unwrap().into_inner().transactions
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let mut logs = self.participants.logs();
        logs.extend(self.servers.iter().map(|server| (server.url(), server.log())));
        for (name, log) in logs {
            let lines: Vec<_> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            report(&format!("--- log of {name}\n{}", tail.join("\n")));
        }
    }
}

/// Kills it after the first pause and starts it again after the second, in milliseconds.
fn kill<T>([before, down]: [u64; 2], victim: &mut T, kill9: impl Fn(&mut T), restart: impl Fn(&mut T)) {
    // Not a wait for anything: these are the random instants.
    thread::sleep(Duration::from_millis(before));
    kill9(victim);
    thread::sleep(Duration::from_millis(down));
    restart(victim);
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
fn report(text: &str) {
    eprintln!("{text}");
}
