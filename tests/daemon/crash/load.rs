//! The initiators: they begin transfers one after another, look at what is there when they were told that it is complete, and
//! write down all of it.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use assent_history::{Answer, Call, Move, Record, Recorder, Told, Transfer};
use assent_proto::v1 as pb;
use assent_sdk::client::{Completed, NewBranch};
use assent_sdk::{Client, Error, Json, Protocol, Wait};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::bank::{ACCOUNTS, AWAY, Reader, SETS, Work, end_with_parent};

/// Says to this very test program that it is to be an initiator: an [`Initiator`] as JSON.
const ROLE: &str = "ASSENT_TEST_INITIATOR";

/// How long a transfer may take, and how long one with a participant that is away.
const TIMEOUT: Duration = Duration::from_millis(1_500);
const TIMEOUT_WHEN_STUCK: Duration = Duration::from_millis(700);
const TTL_WHEN_STUCK: Duration = Duration::from_millis(150);

/// Branches that a wide transfer has besides, each with a reason of a KiB: its value in the log has many frames.
const BALLOTS: usize = 48;

/// Who begins transfers: a task or a process.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Initiator {
    /// Its own, once and for all.
    pub name: String,
    pub coordinator: String,
    /// Where the databases are.
    pub directory: PathBuf,
    pub history: PathBuf,
    /// For each set the last effect of former times.
    pub bases: Vec<u64>,
    /// How many transfers are under way at a time.
    pub clients: u64,
    /// Transfers of a former initiator that never heard how they ended. They are begun again, as the same ones.
    pub resumed: Vec<String>,
}

/// How a transfer goes. It follows from its number.
#[derive(Clone, Debug)]
struct Plan {
    sets: BTreeSet<usize>,
    way: Way,
    wait: Wait,
    refuse: bool,
    /// It has a branch of a participant that is away, and so most likely aborts.
    stuck: bool,
    /// It can be begun again.
    repeatable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    OneCall,
    Interactive,
    /// Interactive, with many read-only branches.
    Wide,
}

/// Initiators in this process.
pub struct Load {
    stopping: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

/// An initiator in a process of its own.
#[derive(Debug)]
pub struct InitiatorProcess {
    pub name: String,
    pub child: Child,
}

impl Plan {
    fn of(number: u64) -> Plan {
        let choices: [&[usize]; 6] = [&[0, 1], &[2, 3], &[1, 2], &[0, 1, 2, 3], &[0], &[3]];
        let sets = choices[usize::try_from(number % 6).unwrap()].iter().copied().collect();
        let way = match number / 6 % 5 {
            0 | 1 => Way::OneCall,
            2 | 3 => Way::Interactive,
            _ => Way::Wide,
        };
        Plan {
            sets,
            way,
            wait: if number % 5 == 4 { Wait::Decision } else { Wait::Completion },
            refuse: number % 7 == 3,
            stuck: number % 23 == 8,
            repeatable: number.is_multiple_of(2),
        }
    }

    fn transfer(&self, id: &str) -> Transfer {
        let amount = 1 + i64::try_from(id.len()).unwrap() % 5;
        let mut moves = Vec::new();
        for (&set, nth) in self.sets.iter().zip(0..) {
            let one =
                |account: &str, amount| Move { set: SETS[set].0.into(), account: account.into(), amount };
            match (nth, i64::try_from(self.sets.len()).unwrap() - 1) {
                (0, 0) => moves.extend([one(ACCOUNTS[0], -amount), one(ACCOUNTS[1], amount)]),
                (0, others) => moves.push(one(ACCOUNTS[0], -amount * others)),
                (_, _) => moves.push(one(ACCOUNTS[1], amount)),
            }
        }
        Transfer { id: id.to_owned(), moves }
    }

    fn branches(&self, transfer: &Transfer) -> Vec<NewBranch> {
        let last = self.sets.last();
        let of_set = |set: &usize| {
            let (name, protocol) = SETS[*set];
            let moves = transfer.moves.iter().filter(|it| it.set == name);
            let moves = moves.map(|it| (it.account.clone(), it.amount)).collect();
            let refuse = self.refuse && Some(set) == last;
            let work = Work { id: transfer.id.clone(), moves, refuse };
            let branch = NewBranch::of(name, &Json(work)).protocol(protocol);
            if self.stuck && protocol == Protocol::Tcc { branch.ttl(TTL_WHEN_STUCK) } else { branch }
        };
        let mut branches: Vec<_> = self.sets.iter().map(of_set).collect();
        if self.stuck {
            let nothing = Work { id: transfer.id.clone(), moves: Vec::new(), refuse: false };
            branches.push(NewBranch::of(AWAY, &Json(nothing)));
        }
        branches
    }

    fn timeout(&self) -> Duration {
        if self.stuck { TIMEOUT_WHEN_STUCK } else { TIMEOUT }
    }
}

impl Initiator {
    /// Sets it going in this process. `begun` counts all transfers.
    pub fn start(self, begun: &Arc<AtomicU64>) -> Load {
        let stopping = Arc::new(AtomicBool::new(false));
        let client = Client::connect(&self.coordinator).unwrap();
        let operations = Arc::new(AtomicU64::new(0));
        let clients = (0..self.clients).map(|nth| {
            let one = One {
                initiator: self.clone(),
                client: client.clone(),
                recorder: Recorder::append_to(&self.history).unwrap(),
                operations: Arc::clone(&operations),
                readers: Vec::new(),
                nth,
            };
            tokio::spawn(one.run(Arc::clone(&stopping), Arc::clone(begun)))
        });
        let clients = clients.collect();
        Load { stopping, clients }
    }

    /// Sets it going in a process of its own.
    pub fn spawn(&self, crash_at: Option<&str>) -> InitiatorProcess {
        let log = self.directory.join(format!("{}.log", self.name));
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::load::initiator_process", "--nocapture"])
            .env(ROLE, serde_json::to_string(self).unwrap())
            .envs(crash_at.map(|at| ("ASSENT_CRASH_AT", at)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        InitiatorProcess { name: self.name.clone(), child }
    }
}

impl Load {
    /// Begins no more, and waits for those that are under way.
    pub async fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
    }
}

impl InitiatorProcess {
    pub fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Has it begin no more.
    pub fn ask_to_stop(&mut self) {
        // If it has died, that is found when it is waited for.
        let _ = self.child.stdin.as_mut().unwrap().write_all(b"stop\n");
    }

    /// Waits for those transfers that are under way, and for its end.
    pub async fn stopped(mut self) {
        let name = self.name.clone();
        let status = tokio::task::spawn_blocking(move || {
            let said = BufReader::new(self.child.stdout.take().unwrap()).lines();
            // Read to the end, so that it never waits for a reader.
            said.map_while(Result::ok).for_each(drop);
            self.child.wait().unwrap()
        });
        assert!(status.await.unwrap().success(), "initiator {name} failed");
    }
}

impl Drop for InitiatorProcess {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Is an initiator when told to be one; as a test of its own it has nothing to show.
#[tokio::test(flavor = "multi_thread")]
async fn initiator_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let initiator: Initiator = serde_json::from_str(&role).unwrap();
    let load = initiator.start(&Arc::default());
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line).unwrap();
        if read == 0 {
            std::process::exit(0);
        }
        end_with_parent();
    });
    line.await.unwrap();
    load.stop().await;
}

/// One of an initiator's clients.
struct One {
    initiator: Initiator,
    client: Client,
    recorder: Recorder,
    operations: Arc<AtomicU64>,
    readers: Vec<Option<Reader>>,
    nth: u64,
}

impl One {
    async fn run(mut self, stopping: Arc<AtomicBool>, begun: Arc<AtomicU64>) {
        let mine = |(_, nth): &(String, u64)| nth % self.initiator.clients == self.nth;
        let resumed = self.initiator.resumed.clone().into_iter().zip(0..).filter(mine);
        let resumed: Vec<_> = resumed.map(|(id, _)| id).collect();
        for id in resumed {
            let number = id.rsplit_once('.').unwrap().1.parse().unwrap();
            if Plan::of(number).repeatable {
                self.transfer(&id, number).await;
            }
        }
        for round in 0.. {
            if stopping.load(Ordering::Relaxed) {
                return;
            }
            begun.fetch_add(1, Ordering::Relaxed);
            let number = round * self.initiator.clients + self.nth;
            let id = format!("{}.{number}", self.initiator.name);
            self.transfer(&id, number).await;
        }
    }

    async fn transfer(&mut self, id: &str, number: u64) {
        let plan = Plan::of(number);
        let transfer = plan.transfer(id);
        let op = self.begin(Call::Transfer(transfer.clone()));
        let told = self.transact(&plan, &transfer).await;
        self.end(op, Answer::Told(told));
        if told == Told::Complete && number % 4 < 2 {
            for set in plan.sets {
                self.look(set, id);
            }
        }
    }

    async fn transact(&mut self, plan: &Plan, transfer: &Transfer) -> Told {
        let mut new = self.client.transaction(&transfer.id).timeout(plan.timeout()).wait(plan.wait);
        if plan.repeatable {
            new = new.request_id(format!("request {}", transfer.id));
        }
        let branches = plan.branches(transfer);
        if plan.way == Way::OneCall {
            let done = new.branches(branches).execute().await;
            // That says that nothing was committed. But another life may begin it again.
            let nothing_done = matches!(done, Err(Error::Unavailable(_))) && !plan.repeatable;
            return if nothing_done { Told::Aborted } else { told(done) };
        }
        let Ok(transaction) = new.begin().await else { return Told::Unknown };
        for branch in branches {
            if transaction.enlist(branch).await.is_err() {
                // Another life of this initiator may have committed it.
                let _ = transaction.abort("a branch could not be enlisted").await;
                return Told::Unknown;
            }
        }
        if plan.way == Way::Wide {
            (0..BALLOTS).for_each(|nth| transaction.carry(&ballot(nth)).unwrap());
        }
        told(transaction.commit().await)
    }

    /// Looks in another transaction, and by another way than the participant's.
    fn look(&mut self, set: usize, id: &str) {
        let read = Call::Read { set: SETS[set].0.to_owned(), of: Some(id.to_owned()) };
        let op = self.begin(read);
        let Initiator { directory, bases, .. } = &self.initiator;
        self.readers.resize_with(SETS.len(), || None);
        let reader = self.readers[set].get_or_insert_with(|| Reader::open(directory, set, bases[set]));
        let saw = reader.look(Some(id));
        self.end(op, Answer::Saw(saw));
    }

    fn begin(&self, call: Call) -> u64 {
        let op = self.operations.fetch_add(1, Ordering::Relaxed);
        let process = self.initiator.name.clone();
        self.recorder.record(&Record::Begin { process, op, call }).unwrap();
        op
    }

    fn end(&self, op: u64, answer: Answer) {
        let process = self.initiator.name.clone();
        self.recorder.record(&Record::End { process, op, answer }).unwrap();
    }
}

fn told(result: Result<Completed, Error>) -> Told {
    match result {
        Ok(Completed { complete: true, .. }) => Told::Complete,
        Ok(Completed { .. }) => Told::Committed,
        Err(Error::Aborted { .. }) => Told::Aborted,
        Err(Error::Heuristic { xid, reason, .. }) => panic!("{xid} ended heuristically: {reason}"),
        Err(_) => Told::Unknown,
    }
}

/// A branch that is there with its vote and wants no phase two.
fn ballot(nth: usize) -> Vec<u8> {
    let branch = pb::BranchSpec {
        branch_id: format!("ballot:{nth}"),
        participant: "shop/window".to_owned(),
        protocol: pb::Protocol::TwoPhase.into(),
        ..Default::default()
    };
    let vote = pb::PhaseOneResult {
        vote: pb::Vote::ReadOnly.into(),
        reason: "r".repeat(1_000),
        inquires: true,
        ..Default::default()
    };
    pb::Enlistment { branch: Some(branch), vote: Some(vote) }.encode_to_vec()
}

/// For whoever wants the transfers that an initiator never heard of.
pub fn unheard(history: &Path, of: &str) -> Vec<String> {
    let history = assent_history::History::load(history).unwrap();
    history.unended(of).into_iter().map(|(_, transfer)| transfer.id).collect()
}
