//! Everything together: a coordinator, the participants, and the history of what happens.

use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use assent_history::{Answer, Call, History, Record, Recorder, Summary, check};
use assent_proto::v1 as pb;
use pb::transaction_service_client::TransactionServiceClient;
use tempfile::TempDir;

use super::bank::{self, Reader, SETS};
use super::load::{Initiator, Load};
use crate::coordinator::Coordinator;

/// Nothing here takes anywhere near as long.
pub const PATIENCE: Duration = Duration::from_mins(1);
pub const POLL_INTERVAL: Duration = Duration::from_millis(5);

pub struct Stage {
    pub coordinator: Coordinator,
    directory: TempDir,
    participants: Vec<Child>,
    /// Of all that is told and seen since everything was last known to be in order.
    chapter: Chapter,
    chapters: u64,
    /// All transfers begun, but for those of other processes.
    begun: Arc<AtomicU64>,
    initiators: u64,
    total: Summary,
}

/// A history, and where it begins.
struct Chapter {
    file: PathBuf,
    recorder: Recorder,
    bases: Vec<u64>,
    reads: u64,
}

impl Stage {
    pub async fn open(coordinator: Coordinator) -> Stage {
        let directory = tempfile::Builder::new().prefix("assent-test-stage-").tempdir().unwrap();
        let url = coordinator.url();
        let participants =
            (0..SETS.len()).map(|set| bank::start(set, &url, directory.path(), None)).collect();
        for set in 0..SETS.len() {
            // It makes its tables before it connects; until then there is nothing to look at.
            let file = bank::file(directory.path(), set);
            poll("a participant opens its file", || {
                let tables = rusqlite::Connection::open(&file).unwrap();
                tables.table_exists(None, "effects").unwrap_or(false).then_some(())
            })
            .await;
        }
        let chapter = Chapter::begin(&directory, 0);
        Stage {
            coordinator,
            directory,
            participants,
            chapter,
            chapters: 0,
            begun: Arc::default(),
            initiators: 0,
            total: Summary::default(),
        }
    }

    /// A new initiator, to be set going in this process or another.
    pub fn initiator(&mut self, clients: u64) -> Initiator {
        self.initiators += 1;
        Initiator {
            name: format!("i{}", self.initiators),
            coordinator: self.coordinator.url(),
            directory: self.directory.path().to_owned(),
            history: self.chapter.file.clone(),
            bases: self.chapter.bases.clone(),
            clients,
            resumed: Vec::new(),
        }
    }

    pub fn load(&mut self, clients: u64) -> Load {
        let begun = Arc::clone(&self.begun);
        self.initiator(clients).start(&begun)
    }

    /// Waits until so many more transfers have been begun in this process.
    pub async fn until_begun(&self, more: u64) {
        let enough = self.begun.load(Ordering::Relaxed) + more;
        poll("transfers are begun", || (self.begun.load(Ordering::Relaxed) >= enough).then_some(())).await;
    }

    /// Waits until the history is so many bytes longer: a transfer that begins and ends takes some 400.
    pub async fn until_recorded(&self, bytes: u64) {
        let length = || std::fs::metadata(&self.chapter.file).unwrap().len();
        let enough = length() + bytes;
        poll("the history goes on", || (length() >= enough).then_some(())).await;
    }

    /// Writes a fault down: before it is done.
    pub fn fault(&self, what: &str, ended: Option<&str>) {
        let fault = Record::Fault { what: what.to_owned(), ended: ended.map(str::to_owned) };
        self.chapter.recorder.record(&fault).unwrap();
    }

    pub fn kill9_coordinator(&mut self) {
        self.fault("kill -9 of the coordinator", None);
        self.coordinator.kill9();
    }

    pub fn kill9_participant(&mut self, set: usize) {
        self.fault(&format!("kill -9 of {}", SETS[set].0), None);
        self.participants[set].kill().unwrap();
        self.participants[set].wait().unwrap();
    }

    pub fn start_participant(&mut self, set: usize, crash_at: Option<&str>) {
        self.participants[set] = bank::start(set, &self.coordinator.url(), self.directory.path(), crash_at);
    }

    pub fn participant_ended(&mut self, set: usize) -> Option<ExitStatus> {
        self.participants[set].try_wait().unwrap()
    }

    /// What a process has written to its standard error.
    pub fn log_of(&self, name: &str) -> String {
        let file = self.directory.path().join(name.replace('/', "-")).with_extension("log");
        String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).into_owned()
    }

    pub fn history(&self) -> PathBuf {
        self.chapter.file.clone()
    }

    /// Waits until everything has come to its end, with everybody there.
    pub async fn settle(&mut self) {
        let file = self.directory.path().join("shop-away.db");
        let back = bank::participant(bank::AWAY, &self.coordinator.url(), &file).await;
        self.until_settled().await;
        back.shutdown().await;
    }

    /// Waits until the coordinator answers, or is dead: false.
    pub async fn is_ready_or_dead(&mut self) -> bool {
        let url = self.coordinator.url();
        let started = Instant::now();
        loop {
            if self.coordinator.ended().is_some() {
                return false;
            }
            if let Ok(mut coordinator) = TransactionServiceClient::connect(url.clone()).await
                && coordinator.list(pb::ListRequest::default()).await.is_ok()
            {
                return true;
            }
            assert!(started.elapsed() < PATIENCE, "the coordinator is not ready");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn until_settled(&mut self) {
        assert!(self.is_ready_or_dead().await, "the coordinator ended");
        let open = [
            pb::State::Active,
            pb::State::Preparing,
            pb::State::Delegated,
            pb::State::Committing,
            pb::State::Aborting,
        ];
        let filter = pb::TransactionFilter { states: open.map(i32::from).to_vec(), ..Default::default() };
        let mut coordinator = TransactionServiceClient::connect(self.coordinator.url()).await.unwrap();
        let mut readers: Vec<_> =
            (0..SETS.len()).map(|set| Reader::open(self.directory.path(), set, 0)).collect();
        let started = Instant::now();
        loop {
            let request = pb::ListRequest { filter: Some(filter.clone()), ..Default::default() };
            let open = coordinator.list(request).await.unwrap().into_inner().transactions;
            let held: Vec<_> = readers.iter_mut().map(Reader::held).collect();
            if open.is_empty() && held.iter().all(|count| *count == 0) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "open: {open:#?}; held: {held:?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Everything is settled and no load runs: looks at all databases, has the history judged, and begins a new one.
    pub fn judge(&mut self, when: &str) -> Summary {
        self.chapter.recorder.record(&Record::Quiet).unwrap();
        for set in 0..SETS.len() {
            self.chapter.look(&self.directory, set);
        }
        let verdict = check(&History::load(&self.chapter.file).unwrap());
        if !verdict.is_good() {
            let kept = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("history.jsonl");
            std::fs::copy(&self.chapter.file, &kept).unwrap();
            panic!("{when}:\n{verdict}\nthe history is in {}", kept.display());
        }
        add(&mut self.total, verdict.summary);
        self.chapters += 1;
        std::fs::remove_file(&self.chapter.file).unwrap();
        self.chapter = Chapter::begin(&self.directory, self.chapters);
        verdict.summary
    }

    /// Of all that was judged.
    pub fn total(&self) -> Summary {
        self.total
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for process in &mut self.participants {
            // It may have ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Chapter {
    /// Nothing must be under way.
    fn begin(directory: &TempDir, number: u64) -> Chapter {
        let file = directory.path().join(format!("history-{number}.jsonl"));
        let recorder = Recorder::append_to(&file).unwrap();
        let bases = (0..SETS.len()).map(|set| {
            let mut reader = Reader::open(directory.path(), set, 0);
            let base = reader.newest();
            let balances = reader.look(None).balances;
            recorder.record(&Record::Open { set: SETS[set].0.to_owned(), balances }).unwrap();
            base
        });
        let bases = bases.collect();
        Chapter { file, recorder, bases, reads: 0 }
    }

    fn look(&mut self, directory: &TempDir, set: usize) {
        let (process, op) = ("the judge".to_owned(), self.reads);
        self.reads += 1;
        let call = Call::Read { set: SETS[set].0.to_owned(), of: None };
        self.recorder.record(&Record::Begin { process: process.clone(), op, call }).unwrap();
        let saw = Reader::open(directory.path(), set, self.bases[set]).look(None);
        self.recorder.record(&Record::End { process, op, answer: Answer::Saw(saw) }).unwrap();
    }
}

fn add(total: &mut Summary, more: Summary) {
    let Summary { committed, aborted, unknown, unknown_and_done, reads, faults, quiets } = more;
    total.committed += committed;
    total.aborted += aborted;
    total.unknown += unknown;
    total.unknown_and_done += unknown_and_done;
    total.reads += reads;
    total.faults += faults;
    total.quiets += quiets;
}

/// What `look` finds, as soon as it finds something.
pub async fn poll<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
