//! A process that writes the log is killed, again and again.

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use assent::core::TxId;
use assent::store::{DecisionLog, Durability, LogWrite};

use crate::support::{contents, open_sled, put, remove};

const KILLS: u64 = 40;
const WRITES_PER_GROUP: u64 = 3;
const GROUPS_PER_FORCED_ONE: u64 = 4;
const DIR: &str = "ASSENT_TEST_KILL_DIR";
const FIRST_GROUP: &str = "ASSENT_TEST_KILL_FIRST_GROUP";

/// Whatever was acknowledged is there, and what is there is what some of the groups leave, from the first on. They are so long
/// that room is made all the time.
#[test]
fn acknowledged_writes_survive_kill_9() {
    if let Some(dir) = env::var_os(DIR) {
        let first_group = env::var(FIRST_GROUP).unwrap().parse().unwrap();
        write_until_killed(Path::new(&dir), first_group);
    }
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    let mut cut_off = 0;
    for kill in 0..KILLS {
        let acknowledged = run_and_kill(dir.path(), model.groups, kill);
        let (mut log, opened) = open_sled(dir.path()).unwrap();
        cut_off += u64::from(opened.cut_off.is_some());
        let found = contents(&mut log);
        while model.groups < acknowledged {
            model.step();
        }
        let mut steps = 0;
        while model.values != found {
            model.step();
            steps += 1;
            let most = GROUPS_PER_FORCED_ONE + 1;
            assert!(steps <= most, "kill {kill}: the log holds nothing that whole groups lead to");
        }
        Box::new(log).close().unwrap();
    }
    assert!(model.groups > 170, "the processes got to write only {} groups", model.groups);
    assert!(cut_off > 0, "no kill hit a write");
}

/// What the log should hold after a number of groups.
#[derive(Default)]
struct Model {
    groups: u64,
    values: BTreeMap<TxId, Vec<u8>>,
}

impl Model {
    fn step(&mut self) {
        for write in writes(self.groups) {
            match write {
                LogWrite::Put { tx, value } => self.values.insert(tx, value.to_vec()),
                LogWrite::Remove { tx } => self.values.remove(&tx),
            };
        }
        self.groups += 1;
    }
}

fn writes(group: u64) -> Vec<LogWrite> {
    let first = group * WRITES_PER_GROUP;
    (first..first + WRITES_PER_GROUP).map(write).collect()
}

/// The `n`th of all writes: values that mostly begin as the former one did, of up to 23 frames.
fn write(n: u64) -> LogWrite {
    let tx = n % 31;
    if n % 11 == 10 {
        return remove(tx);
    }
    let length = usize::try_from(n * 10_009 % 136_000).unwrap();
    let mut value = vec![tx.to_le_bytes()[0]; length];
    value.extend_from_slice(&n.to_le_bytes());
    put(tx, &value)
}

/// Starts the writer, waits for as many acknowledgements as `kill` says, kills it, and returns how many groups
/// were acknowledged by then.
fn run_and_kill(dir: &Path, first_group: u64, kill: u64) -> u64 {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "kill::acknowledged_writes_survive_kill_9", "--nocapture"])
        .envs([(DIR, dir.as_os_str()), (FIRST_GROUP, first_group.to_string().as_ref())])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = first_group;
    let mut read = |child: &mut Child| match lines.next() {
        Some(line) => {
            let line = line.unwrap();
            if let Some(group) = line.strip_prefix("acknowledged ") {
                acknowledged = group.parse::<u64>().unwrap() + 1;
            }
            line.starts_with("opening") || line.starts_with("acknowledged")
        }
        None => panic!("the writer ended by itself: {:?}", child.wait()),
    };
    // The first line is said before the log is opened, so some kills hit that.
    let mut heard = 0;
    while heard <= kill % 8 {
        heard += u64::from(read(&mut child));
    }
    // Lets the kill land anywhere in what follows, not always right after the line.
    for _ in 0..kill * 20_000 {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for line in lines {
        if let Some(group) = line.unwrap().strip_prefix("acknowledged ") {
            acknowledged = group.parse::<u64>().unwrap() + 1;
        }
    }
    acknowledged
}

#[expect(clippy::print_stdout, reason = "the other process listens to it")]
fn write_until_killed(dir: &Path, first_group: u64) -> ! {
    println!("opening");
    let (mut log, opened) = open_sled(dir).unwrap();
    for group in first_group.. {
        let batch = writes(group);
        if group % GROUPS_PER_FORCED_ONE == 0 {
            log.append_batch(opened.epoch, &batch, Durability::Forced).unwrap();
            println!("acknowledged {group}");
        } else {
            log.append_batch(opened.epoch, &batch, Durability::Lazy).unwrap();
        }
    }
    unreachable!("the groups do not run out")
}
