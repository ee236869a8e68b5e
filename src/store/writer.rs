//! The thread that writes the log.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{AppendError, DecisionLog, Durability, LogWrite};
use crate::core::{Epoch, Map};
use crate::crash_point;

/// How long a lazy write waits for a forced one to take it along; then it is synced for its own sake. Nothing relies on that,
/// but what is on the disk need not be done again after a crash.
pub const LAZY_FOR_MAX: Duration = Duration::from_millis(500);

/// Writes that belong together, with a number to report them by.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Grows from one submission to the next.
    pub ticket: u64,
    pub writes: Vec<LogWrite>,
    /// How many decisions in it have to be durable. 0: it is lazy.
    pub forced: u64,
}

/// What the writer tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriterEvent {
    /// Every submission up to this one is durable. Not told of a group in which nothing was forced.
    Durable { ticket: u64 },
    /// The log takes no more. The process must exit; see [`AppendError`].
    Failed(AppendError),
}

/// Counters since the writer was spawned.
#[derive(Debug, Default)]
pub struct LogStats {
    forced_writes: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    syncs: AtomicU64,
}

/// One plain thread that owns a log and commits in groups.
///
/// The thread takes all that is queued, appends it as one batch, and syncs once if any of it is forced. No timer delays
/// a batch: a group is what arrived while the former one was synced, so a submission that comes alone does not wait. What is
/// lazy waits for the next sync, and half a second at most.
///
/// The queue has no bound of its own. Its owner bounds it by admitting a limited number of open transactions, each
/// with a limited number of writes under way.
#[derive(Debug)]
pub struct LogWriter {
    queue: Sender<Submission>,
    stats: Arc<LogStats>,
    hand: Hand,
}

/// Who writes.
enum Hand {
    Thread(JoinHandle<Result<(), AppendError>>),
    Crank { worker: Arc<Mutex<Worker>>, queued: Box<dyn Fn() + Send + Sync> },
}

/// Writes the log of a [`LogWriter`] that has no thread, one group a turn: for simulations, where everything runs on their own
/// clock.
#[derive(Clone, Debug)]
pub struct Crank(Arc<Mutex<Worker>>);

impl Crank {
    /// Writes all that is queued as one group, as the thread would, and says what the thread would say. `None`: nothing is
    /// queued.
    pub fn turn(&self) -> Option<Turn> {
        let mut worker = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = worker.submissions.try_recv().ok()?;
        let group = Group::gather(first, &worker.submissions);
        Some(worker.turn(&group))
    }

    /// Makes lazy writes durable, as the thread does when they have waited for [`LAZY_FOR_MAX`].
    pub fn sync(&self) -> Turn {
        let mut worker = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        worker.turn(&Group { overdue: true, ..Group::default() })
    }
}

/// What became of a group.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Nothing is told of a group in which nothing was forced.
    pub told: Option<WriterEvent>,
}

impl LogWriter {
    /// Starts the thread. `on_event` runs on it, and must not block.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(
        log: Box<dyn DecisionLog>,
        epoch: Epoch,
        on_event: impl FnMut(WriterEvent) + Send + 'static,
    ) -> io::Result<LogWriter> {
        let (queue, worker) = Worker::new(log, epoch);
        let stats = Arc::clone(&worker.stats);
        let thread = thread::Builder::new().name("log writer".to_owned()).spawn(|| worker.run(on_event))?;
        Ok(LogWriter { queue, stats, hand: Hand::Thread(thread) })
    }

    /// A writer without a thread. `queued` runs whenever there is something to do for the [`Crank`], and must not turn it.
    pub fn by_hand(
        log: Box<dyn DecisionLog>,
        epoch: Epoch,
        queued: impl Fn() + Send + Sync + 'static,
    ) -> (LogWriter, Crank) {
        let (queue, worker) = Worker::new(log, epoch);
        let stats = Arc::clone(&worker.stats);
        let worker = Arc::new(Mutex::new(worker));
        let hand = Hand::Crank { worker: Arc::clone(&worker), queued: Box::new(queued) };
        (LogWriter { queue, stats, hand }, Crank(worker))
    }

    /// Queues writes. Never blocks. After [`WriterEvent::Failed`] it does nothing.
    pub fn submit(&self, submission: Submission) {
        // The thread ends early only when the log failed, and then it has said so.
        let _ = self.queue.send(submission);
        if let Hand::Crank { queued, .. } = &self.hand {
            queued();
        }
    }

    pub fn stats(&self) -> Arc<LogStats> {
        Arc::clone(&self.stats)
    }

    /// Writes all that is queued, closes the log cleanly, and ends the thread. Dropping the writer does the same but
    /// does not wait.
    ///
    /// # Errors
    /// What the log failed with, now or earlier.
    pub fn finish(self) -> Result<(), AppendError> {
        drop(self.queue);
        match self.hand {
            Hand::Thread(thread) => {
                thread.join().unwrap_or_else(|panic| Err(AppendError::Unknown(panic_text(&*panic))))
            }
            Hand::Crank { worker, .. } => worker.lock().unwrap_or_else(PoisonError::into_inner).finish(),
        }
    }
}

impl LogStats {
    /// Decisions that had to be durable.
    pub fn forced_writes(&self) -> u64 {
        self.forced_writes.load(Ordering::Relaxed)
    }

    /// Values put and removed.
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Bytes of the values put.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Groups that were synced because something in them was forced. `forced_writes` ÷ `syncs` is the gain of group commit.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }
}

struct Worker {
    /// Until it is closed.
    log: Option<Box<dyn DecisionLog>>,
    epoch: Epoch,
    submissions: Receiver<Submission>,
    stats: Arc<LogStats>,
}

impl Worker {
    fn new(log: Box<dyn DecisionLog>, epoch: Epoch) -> (Sender<Submission>, Worker) {
        let (queue, submissions) = channel();
        (queue, Worker { log: Some(log), epoch, submissions, stats: Arc::default() })
    }

    fn run(mut self, mut on_event: impl FnMut(WriterEvent)) -> Result<(), AppendError> {
        // When the first of the lazy writes was made that are not synced yet.
        let mut lazy_since: Option<Instant> = None;
        while let Some(mut group) = self.next_group(lazy_since) {
            group.overdue = lazy_since.is_some_and(|since| since.elapsed() >= LAZY_FOR_MAX);
            lazy_since = match group.durability() {
                Durability::Forced => None,
                Durability::Lazy => lazy_since.or_else(|| Some(Instant::now())),
            };
            match self.write(&group) {
                Ok(told) => told.into_iter().for_each(&mut on_event),
                Err(error) => {
                    on_event(WriterEvent::Failed(error.clone()));
                    return Err(error);
                }
            }
        }
        self.finish()
    }

    /// What is to be written next: all that is queued, or nothing when lazy writes have waited long enough. `None`: no more comes.
    fn next_group(&self, lazy_since: Option<Instant>) -> Option<Group> {
        let first = match lazy_since {
            None => self.submissions.recv().ok()?,
            Some(since) => {
                match self.submissions.recv_timeout(LAZY_FOR_MAX.saturating_sub(since.elapsed())) {
                    Ok(first) => first,
                    Err(RecvTimeoutError::Timeout) => return Some(Group::default()),
                    Err(RecvTimeoutError::Disconnected) => return None,
                }
            }
        };
        Some(Group::gather(first, &self.submissions))
    }

    fn turn(&mut self, group: &Group) -> Turn {
        Turn { told: self.write(group).unwrap_or_else(|error| Some(WriterEvent::Failed(error))) }
    }

    /// Writes a group, and gives what is to be told of it.
    fn write(&mut self, group: &Group) -> Result<Option<WriterEvent>, AppendError> {
        guarded(|| self.append(group))?;
        crash_point!("group-durable", if group.forced > 0);
        crash_point!("lazy-group-written", if group.forced == 0);
        Ok((group.forced > 0).then_some(WriterEvent::Durable { ticket: group.ticket }))
    }

    /// Writes what is queued, and closes the log.
    fn finish(&mut self) -> Result<(), AppendError> {
        if let Ok(first) = self.submissions.try_recv() {
            self.write(&Group::gather(first, &self.submissions))?;
        }
        let Some(log) = self.log.take() else { return Ok(()) };
        guarded(|| log.close())
    }

    fn append(&mut self, group: &Group) -> Result<(), AppendError> {
        let closed = || AppendError::Unknown("it is closed".to_owned());
        let log = self.log.as_mut().ok_or_else(closed)?;
        log.append_batch(self.epoch, &group.writes, group.durability())?;
        let bytes: usize = group.writes.iter().map(value_bytes).sum();
        self.stats.forced_writes.fetch_add(group.forced, Ordering::Relaxed);
        self.stats.records.fetch_add(group.writes.len() as u64, Ordering::Relaxed);
        self.stats.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.stats.syncs.fetch_add(u64::from(group.forced > 0), Ordering::Relaxed);
        Ok(())
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl fmt::Debug for Hand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hand::Thread(_) => "Thread",
            Hand::Crank { .. } => "Crank",
        })
    }
}

/// Everything that was queued when the thread looked.
#[derive(Default)]
struct Group {
    /// The last one's.
    ticket: u64,
    writes: Vec<LogWrite>,
    /// How many of its writes are forced.
    forced: u64,
    /// Lazy writes before it have waited long enough.
    overdue: bool,
}

impl Group {
    fn gather(first: Submission, queue: &Receiver<Submission>) -> Group {
        let mut group =
            Group { ticket: first.ticket, writes: first.writes, forced: first.forced, overdue: false };
        for next in queue.try_iter() {
            group.ticket = next.ticket;
            group.forced += next.forced;
            group.writes.extend(next.writes);
        }
        group.writes = without_superseded(group.writes);
        group
    }

    fn durability(&self) -> Durability {
        if self.forced > 0 || self.overdue { Durability::Forced } else { Durability::Lazy }
    }
}

/// Drops every write that a later one of the same transaction makes void. What is left keeps its order.
fn without_superseded(mut writes: Vec<LogWrite>) -> Vec<LogWrite> {
    if writes.len() < 2 {
        return writes;
    }
    let last: Map<_, _> = writes.iter().enumerate().map(|(at, write)| (write.tx(), at)).collect();
    if last.len() < writes.len() {
        let mut at = 0..;
        writes.retain(|write| at.next() == Some(last[&write.tx()]));
    }
    writes
}

/// A panic in the log is a failure of the log: the owner must hear of it, and nothing may be written after it.
fn guarded(append: impl FnOnce() -> Result<(), AppendError>) -> Result<(), AppendError> {
    catch_unwind(AssertUnwindSafe(append))
        .unwrap_or_else(|panic| Err(AppendError::Unknown(panic_text(&*panic))))
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("no message"))
}

fn value_bytes(write: &LogWrite) -> usize {
    match write {
        LogWrite::Put { value, .. } => value.len(),
        LogWrite::Remove { .. } => 0,
    }
}
