//! The daemon on a disk that fails: it ends and says why, and after the next start nothing contradicts what it said.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use assent_proto::v1 as pb;
use assent_sdk::client::{Client, NewBranch};
use assent_sdk::memory::Memory;
use assent_sdk::{Branch, Error, Json, Participant, Result, TwoPhase, Vote};
use pb::transaction_service_client::TransactionServiceClient;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::coordinator::assent;
use crate::fault::{FAULTS, Fault, wanted};

/// Nothing here takes anywhere near as long.
const PATIENCE: Duration = Duration::from_mins(1);
const TRANSACTIONS: u64 = 4;
const PARTICIPANTS: [&str; 2] = ["shop/stock", "shop/order"];

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_ends_loudly_when_its_disk_fails_and_its_word_stands_after_the_next_start() {
    let (mut cases, mut failed, mut loud, mut told) = (0, 0, 0, 0);
    for fault in FAULTS {
        for at in wanted(1) {
            let case = Case::new(fault, at);
            let played = case.play().await;
            cases += 1;
            loud += u32::from(played.ended_loudly);
            told += played.told_committed;
            if !played.was_hit {
                break;
            }
            failed += 1;
        }
    }
    assert!(failed >= 30, "{failed} of {cases} met the failure");
    // Some failures do no harm: a short write is gone on with, and sled can do without its snapshot.
    assert!(loud >= failed / 3, "{loud} of {failed} ended the daemon");
    assert!(told > cases, "{told} transactions were told committed in {cases} cases");
}

/// What a case came to.
struct Played {
    /// The call was made that was to fail.
    was_hit: bool,
    ended_loudly: bool,
    told_committed: u32,
}

/// One daemon, two participants, and one call that fails.
struct Case {
    fault: Fault,
    at: u64,
    directory: TempDir,
    port: u16,
    effects: [Memory<Vec<u64>>; 2],
}

impl Case {
    fn new(fault: Fault, at: u64) -> Case {
        let directory = tempfile::Builder::new().prefix("assent-test-disk-").tempdir().unwrap();
        File::create(directory.path().join("assent.toml")).unwrap();
        fs::create_dir(directory.path().join("data")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Case { fault, at, directory, port, effects: [Memory::new(Vec::new()), Memory::new(Vec::new())] }
    }

    /// Plays it to its end.
    async fn play(&self) -> Played {
        let participants: Vec<_> = (0..2).map(|n| tokio::spawn(self.participant(n))).collect();
        let mut daemon = self.start(true);
        let Told { committed, aborted } = self.load(&mut daemon).await;
        // It may have ended already.
        let _ = kill_process(Pid::from_child(&daemon), Signal::TERM);
        let code = self.wait(&mut daemon);
        let said = fs::read_to_string(self.said()).unwrap();
        let was_hit = self.hit().exists();
        match code {
            Some(0) => {}
            Some(1) => {
                let told = said.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
                assert!(told.contains(self.data().to_str().unwrap()), "{self}: {said}");
                assert!(was_hit && !self.fault.is_harmless(), "{self}: {said}");
            }
            other => panic!("{self}: it ended with {other:?}: {said}"),
        }
        let mut daemon = self.start(false);
        self.settle(&mut daemon).await;
        kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
        assert_eq!(self.wait(&mut daemon), Some(0), "{self}");
        for participant in participants {
            participant.abort();
        }
        let [stock, order] = &self.effects.each_ref().map(Memory::state);
        assert_eq!(stock, order, "{self}: a transaction is split");
        let count = |number| stock.iter().filter(|done| **done == number).count();
        for &number in &committed {
            assert_eq!(count(number), 1, "{self}: {number} was told committed");
        }
        for number in aborted {
            assert_eq!(count(number), 0, "{self}: {number} was told aborted");
        }
        let told_committed = u32::try_from(committed.len()).unwrap();
        Played { was_hit, ended_loudly: code == Some(1), told_committed }
    }

    fn participant(&self, n: usize) -> impl Future<Output = ()> + use<> {
        let (url, resource) = (self.url(), self.effects[n].clone().two_phase(Ledger));
        async move {
            let builder = Participant::builder(PARTICIPANTS[n]).resource(resource);
            let _connected = builder.inquire_after(Duration::from_millis(200)).connect(url).await.unwrap();
            std::future::pending::<()>().await;
        }
    }

    fn start(&self, faulty: bool) -> Child {
        let said = File::options().create(true).append(true).open(self.said()).unwrap();
        let mut command = assent();
        command
            .arg("--config")
            .arg(self.directory.path().join("assent.toml"))
            .args(["serve", "--listen", &format!("127.0.0.1:{}", self.port), "--data-dir"])
            .arg(self.data())
            .args(["--set", "storage.ballast=0", "--set", "server.drain_timeout=2s"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(said);
        if faulty {
            command.envs(self.fault.environment(&self.data(), self.at, &self.hit()));
        }
        let mut process = command.spawn().unwrap();
        let mut first = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut first).unwrap();
        process
    }

    /// Some transactions, one after another, as long as the daemon is there.
    async fn load(&self, daemon: &mut Child) -> Told {
        let client = Client::connect(self.url()).unwrap();
        let mut told = Told::default();
        for number in 0..TRANSACTIONS {
            let branches = PARTICIPANTS.map(|name| NewBranch::of(name, &Json(number)));
            let transaction = client.transaction("order").timeout(Duration::from_secs(5)).branches(branches);
            let ended = async {
                while daemon.try_wait().unwrap().is_none() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::select! {
                done = transaction.execute() => match done {
                    Ok(_) => told.committed.push(number),
                    Err(Error::Aborted { .. }) => told.aborted.push(number),
                    Err(_) => {}
                },
                () = ended => break,
            }
        }
        told
    }

    /// Waits until everything has ended.
    async fn settle(&self, daemon: &mut Child) {
        let started = Instant::now();
        loop {
            if let Ok(mut transactions) = TransactionServiceClient::connect(self.url()).await
                && let Ok(list) = transactions.list(pb::ListRequest::default()).await
            {
                let all = list.into_inner().transactions;
                let heuristic =
                    |tx: &pb::Transaction| matches!(tx.state(), pb::State::Mixed | pb::State::Hazard);
                assert!(!all.iter().any(heuristic), "{self}: {all:#?}");
                if all.iter().all(|tx| tx.end_time.is_some()) {
                    return;
                }
            }
            let ended = daemon.try_wait().unwrap();
            assert!(ended.is_none(), "{self}: {}", fs::read_to_string(self.said()).unwrap());
            assert!(started.elapsed() < PATIENCE, "{self}: not everything ends");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn wait(&self, daemon: &mut Child) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = daemon.try_wait().unwrap() {
                return status.code();
            }
            if started.elapsed() > PATIENCE {
                daemon.kill().unwrap();
                panic!("{self}: it hangs: {}", fs::read_to_string(self.said()).unwrap());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn said(&self) -> PathBuf {
        self.directory.path().join("stderr")
    }

    fn hit(&self) -> PathBuf {
        Path::join(self.directory.path(), "hit")
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} at {}", self.fault, self.at)
    }
}

/// What the daemon said of transactions, by number.
#[derive(Default)]
struct Told {
    committed: Vec<u64>,
    aborted: Vec<u64>,
}

/// Writes down what it is told to commit.
struct Ledger;

impl TwoPhase<Memory<Vec<u64>>> for Ledger {
    type Request = Json<u64>;
    type Reply = ();

    fn prepare(&self, _: &mut Vec<u64>, _: &Branch, _: Json<u64>) -> Result<Vote<()>> {
        Ok(Vote::Prepared(()))
    }

    fn commit(&self, done: &mut Vec<u64>, _: &Branch, Json(number): Json<u64>) -> Result<()> {
        done.push(number);
        Ok(())
    }

    fn rollback(&self, _: &mut Vec<u64>, _: &Branch, _: Json<u64>) -> Result<()> {
        Ok(())
    }
}
