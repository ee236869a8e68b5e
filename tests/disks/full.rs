//! A disk with no room left, at a start and meanwhile: what is said helps, and deleting the ballast as it says does, too.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use assent_proto::v1 as pb;
use pb::transaction_service_client::TransactionServiceClient;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::Code;

use crate::coordinator::assent;

/// Nothing here takes anywhere near as long.
const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_a_start_until_the_ballast_is_deleted() {
    let Some(disk) = Disk::mount() else { return };
    let mut daemon = Daemon::start(&disk);
    daemon.ready().await;
    assert_eq!(daemon.end(), Some(0));
    disk.fill();
    for _again in 0..2 {
        let mut daemon = Daemon::start(&disk);
        assert_eq!(daemon.wait(), Some(1), "{}", disk.said());
        let ballast = disk.data().join("ballast");
        let told = format!("free some, or delete {}, which is kept for this case", ballast.display());
        assert!(disk.said().contains(&told), "{}", disk.said());
    }
    fs::remove_file(disk.data().join("ballast")).unwrap();
    let mut daemon = Daemon::start(&disk);
    daemon.ready().await;
    assert!(disk.said().contains("too little room for the ballast file"), "{}", disk.said());
    assert_eq!(daemon.end(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_meanwhile_ends_the_daemon_and_loses_nothing_that_was_said() {
    let Some(disk) = Disk::mount() else { return };
    let mut daemon = Daemon::start(&disk);
    daemon.ready().await;
    let mut committed = Vec::new();
    let mut transactions = TransactionServiceClient::connect(daemon.url.clone()).await.unwrap();
    disk.fill();
    let status = loop {
        match commit_one(&mut transactions).await {
            Ok(xid) => committed.push(xid),
            Err(status) => break status,
        }
        assert!(committed.len() < 100_000, "it goes on for ever");
    };
    // It was turned away, because the room was seen to run out, or it was the last.
    let turned_away = status.code() == Code::ResourceExhausted;
    if turned_away {
        assert_eq!(daemon.end(), Some(0));
    } else {
        assert_eq!(daemon.wait(), Some(1), "{}", disk.said());
        let told = "cannot write the decision log: no space left on the disk of ";
        assert!(disk.said().contains(told) && disk.said().contains("ballast"), "{}", disk.said());
    }
    assert!(!committed.is_empty());
    fs::remove_file(disk.data().join("ballast")).unwrap();
    let mut daemon = Daemon::start(&disk);
    daemon.ready().await;
    let mut transactions = TransactionServiceClient::connect(daemon.url.clone()).await.unwrap();
    for xid in &committed {
        let request = pb::GetRequest { key: Some(pb::get_request::Key::Xid(xid.clone())) };
        let found = transactions.get(request).await.unwrap().into_inner().transaction.unwrap();
        assert_eq!(found.outcome(), pb::Outcome::Committed, "{xid}");
    }
    assert_eq!(daemon.end(), Some(0));
}

/// A transaction whose decision to commit is durable; its participant never comes.
async fn commit_one(
    transactions: &mut TransactionServiceClient<tonic::transport::Channel>,
) -> Result<String, tonic::Status> {
    let xid = transactions.begin(pb::BeginRequest::default()).await?.into_inner().xid;
    let branch = pb::BranchSpec { participant: "shop/stock".to_owned(), ..Default::default() };
    let vote = pb::PhaseOneResult { vote: pb::Vote::Prepared.into(), ..Default::default() };
    let enlistments = vec![pb::Enlistment { branch: Some(branch), vote: Some(vote) }];
    let wait = pb::Wait::Decision.into();
    let request = pb::CommitRequest { xid: xid.clone(), enlistments, wait };
    transactions.commit(request).await?;
    Ok(xid)
}

/// A small disk of its own.
struct Disk {
    directory: TempDir,
}

impl Disk {
    /// `None` where that is not allowed: then there is nothing to test on, and it says so.
    fn mount() -> Option<Disk> {
        let directory = tempfile::Builder::new().prefix("assent-test-full-").tempdir().unwrap();
        let disk = directory.path().join("disk");
        fs::create_dir(&disk).unwrap();
        File::create(directory.path().join("assent.toml")).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m", "none"])
            .arg(&disk)
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Disk { directory });
        }
        // Past the test runner, which shows nothing of tests that pass.
        let _ = writeln!(
            std::io::stderr(),
            "\nSKIPPED: no disk is filled up: a file system cannot be mounted here (it takes root)"
        );
        None
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("disk").join("data")
    }

    /// Leaves no byte.
    fn fill(&self) {
        let mut file = File::create(self.directory.path().join("disk").join("other")).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.directory.path().join("stderr")).unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.directory.path().join("disk")).status();
    }
}

struct Daemon {
    process: Child,
    url: String,
}

impl Daemon {
    fn start(disk: &Disk) -> Daemon {
        let path = |name: &str| Path::join(disk.directory.path(), name);
        let said = File::options().create(true).append(true).open(path("stderr")).unwrap();
        let mut process = assent()
            .arg("--config")
            .arg(path("assent.toml"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(disk.data())
            .args(["--set", "storage.ballast=4MiB", "--set", "storage.min_free=0B"])
            .args(["--set", "server.drain_timeout=100ms"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(said)
            .spawn()
            .unwrap();
        let mut first = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let url = first.trim().strip_prefix("listening on ").unwrap_or_default().to_owned();
        Daemon { process, url }
    }

    async fn ready(&mut self) {
        let started = Instant::now();
        loop {
            let health = assent().args(["--server", &self.url, "health", "--ready"]).output().unwrap();
            if health.status.success() {
                return;
            }
            assert!(self.process.try_wait().unwrap().is_none(), "it ended");
            assert!(started.elapsed() < PATIENCE, "it is not ready");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn end(&mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        self.wait()
    }

    fn wait(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            assert!(started.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
