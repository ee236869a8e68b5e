//! Kills the coordinator, its participants and initiators under load, wherever it hurts, takes their disk away, and has the
//! history of it judged by somebody who knows nothing of assent.
//!
//! Everything is real: the coordinator's binary, participants and initiators in processes of their own, each participant with a
//! SQLite file, `kill -9`. Each time the load stops, everything must come to its end: no transaction is open, no branch is
//! prepared or reserved. Then `assent-history` says whether what initiators were told and databases show can stand together.
//!
//! * here: `kill -9` at random instants, and a disk that fills up. `ASSENT_TEST_KILLS=2000` makes it last;
//! * `points.rs`: every crash point, in every role;
//! * `power.rs`: power cuts, which take what was written and not synced.

mod bank;
mod disk;
mod load;
#[cfg(feature = "failpoints")]
mod points;
mod power;
#[cfg_attr(not(feature = "failpoints"), expect(dead_code, reason = "crash points want more of it"))]
mod stage;

use std::time::Duration;

use self::load::InitiatorProcess;
use self::stage::Stage;
use crate::coordinator::Coordinator;

const KILLS: u64 = 200;
/// After so many of them everything has to come to rest, and is judged.
const KILLS_PER_CHAPTER: u64 = 20;
const INITIATORS: usize = 2;
/// Of each of them: transfers under way at a time.
const CLIENTS: u64 = 8;
/// How often the disk is full.
const FILLS: u64 = 3;

/// Of the coordinator, for tests that wait for it often.
const HASTE: [&str; 4] =
    ["--set", "participants.retry_initial=20ms", "--set", "participants.retry_max=300ms"];

#[tokio::test(flavor = "multi_thread")]
async fn no_kill_splits_a_transaction() {
    let kills = std::env::var("ASSENT_TEST_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut stage = Stage::open(Coordinator::start(&HASTE)).await;
    let seed = seed();
    let mut random = Random(seed);
    let mut victims = [0; 3];
    for first in (1..=kills).step_by(usize::try_from(KILLS_PER_CHAPTER).unwrap()) {
        let mut initiators: Vec<_> = (0..INITIATORS).map(|_| stage.initiator(CLIENTS).spawn(None)).collect();
        for _ in first..=kills.min(first + KILLS_PER_CHAPTER - 1) {
            // However slow the machine is, some of them hit what is well under way.
            stage.until_recorded(random.below(6_000)).await;
            // Not a wait for anything: this is the random instant.
            tokio::time::sleep(Duration::from_millis(random.below(100))).await;
            victims[kill_one(&mut stage, &mut initiators, &mut random).await] += 1;
        }
        stage.coordinator.wait_until_ready();
        initiators.iter_mut().for_each(InitiatorProcess::ask_to_stop);
        for initiator in initiators {
            initiator.stopped().await;
        }
        stage.settle().await;
        stage.judge(&format!("after kill {first} and those that followed (seed {seed})"));
    }
    assert!(stage.coordinator.terminate().success());
    stage.judge("at the end");
    let [coordinators, participants, initiators] = victims;
    let total = stage.total();
    report(&format!(
        "{coordinators} kills of the coordinator, {participants} of participants, {initiators} of initiators: {total}"
    ));
    // The test would prove nothing if it had been idle.
    let kills = usize::try_from(kills).unwrap();
    assert!(total.committed > kills / 2 && total.aborted > kills / 10, "{total}");
}

/// Kills the coordinator, a participant or an initiator, starts it again, and says which it was.
async fn kill_one(stage: &mut Stage, initiators: &mut [InitiatorProcess], random: &mut Random) -> usize {
    match random.below(10) {
        0..5 => {
            stage.kill9_coordinator();
            stage.coordinator.relaunch();
            // Otherwise the next may find it as it starts.
            if random.below(2) == 0 {
                assert!(stage.is_ready_or_dead().await, "it died by itself");
            }
            0
        }
        5..8 => {
            let set = usize::try_from(random.below(bank::SETS.len() as u64)).unwrap();
            stage.kill9_participant(set);
            stage.start_participant(set, None);
            1
        }
        _ => {
            let initiator = &mut initiators[usize::try_from(random.below(INITIATORS as u64)).unwrap()];
            initiator.kill9();
            stage.fault("kill -9 of an initiator", Some(&initiator.name));
            let mut next = stage.initiator(CLIENTS);
            next.resumed = load::unheard(&stage.history(), &initiator.name);
            *initiator = next.spawn(None);
            2
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_splits_no_transaction_and_takes_back_no_word() {
    let mut stage = Stage::open(Coordinator::start(&["--set", "storage.ballast=0"])).await;
    for fill in 1..=FILLS {
        let load = stage.load(8);
        stage.until_begun(32).await;
        let log = std::fs::metadata(stage.coordinator.data_dir().join("sled/db")).unwrap();
        stage.fault("the disk is full", None);
        stage.coordinator.limit_file_size(log.len());
        let ended = stage.coordinator.wait();
        assert_eq!(ended.code(), Some(1), "it ends by itself, and says that it failed");
        stage.coordinator.restart();
        load.stop().await;
        stage.settle().await;
        stage.judge(&format!("after the disk was full {fill} times"));
    }
    let said = stage.coordinator.log().matches("error: cannot write the decision log").count() as u64;
    assert_eq!(said, FILLS, "each time it says why");
    let total = stage.total();
    report(&format!("the disk was full {FILLS} times: {total}"));
    assert!(total.committed > 8 && total.aborted > 8, "{total}");
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

/// What random instants follow from; `ASSENT_TEST_SEED` asks for others.
pub fn seed() -> u64 {
    std::env::var("ASSENT_TEST_SEED").map_or(1, |seed| seed.parse().unwrap())
}

#[expect(clippy::print_stderr, reason = "the test runner shows it where it is asked to")]
pub fn report(text: &str) {
    eprintln!("{text}");
}
