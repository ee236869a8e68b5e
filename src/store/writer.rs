//! The thread that writes the log.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use super::{AppendError, DecisionLog, Durability, LogWrite};
use crate::core::{Epoch, Map};

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
/// a batch: a group is what arrived while the former one was synced, so a submission that comes alone does not wait.
///
/// The queue has no bound of its own. Its owner bounds it by admitting a limited number of open transactions, each
/// with a limited number of writes under way.
#[derive(Debug)]
pub struct LogWriter {
    queue: Sender<Submission>,
    stats: Arc<LogStats>,
    thread: JoinHandle<Result<(), AppendError>>,
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
        let (queue, submissions) = channel();
        let stats = Arc::new(LogStats::default());
        let worker = Worker { log, epoch, submissions, stats: Arc::clone(&stats) };
        let thread = thread::Builder::new().name("log writer".to_owned()).spawn(|| worker.run(on_event))?;
        Ok(LogWriter { queue, stats, thread })
    }

    /// Queues writes. Never blocks. After [`WriterEvent::Failed`] it does nothing.
    pub fn submit(&self, submission: Submission) {
        // The thread ends early only when the log failed, and then it has said so.
        let _ = self.queue.send(submission);
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
        self.thread.join().unwrap_or_else(|panic| Err(AppendError::Unknown(panic_text(&*panic))))
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

    /// Groups that were synced. `forced_writes` ÷ `syncs` is the gain of group commit.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }
}

struct Worker {
    log: Box<dyn DecisionLog>,
    epoch: Epoch,
    submissions: Receiver<Submission>,
    stats: Arc<LogStats>,
}

impl Worker {
    fn run(mut self, mut on_event: impl FnMut(WriterEvent)) -> Result<(), AppendError> {
        while let Ok(first) = self.submissions.recv() {
            let group = Group::gather(first, &self.submissions);
            match guarded(|| self.append(&group)) {
                Ok(()) if group.forced > 0 => on_event(WriterEvent::Durable { ticket: group.ticket }),
                Ok(()) => {}
                Err(error) => {
                    on_event(WriterEvent::Failed(error.clone()));
                    return Err(error);
                }
            }
        }
        let log = self.log;
        guarded(|| log.close())
    }

    fn append(&mut self, group: &Group) -> Result<(), AppendError> {
        let durability = if group.forced > 0 { Durability::Forced } else { Durability::Lazy };
        self.log.append_batch(self.epoch, &group.writes, durability)?;
        let bytes: usize = group.writes.iter().map(value_bytes).sum();
        self.stats.forced_writes.fetch_add(group.forced, Ordering::Relaxed);
        self.stats.records.fetch_add(group.writes.len() as u64, Ordering::Relaxed);
        self.stats.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.stats.syncs.fetch_add(u64::from(group.forced > 0), Ordering::Relaxed);
        Ok(())
    }
}

/// Everything that was queued when the thread looked.
struct Group {
    /// The last one's.
    ticket: u64,
    writes: Vec<LogWrite>,
    /// How many of its writes are forced.
    forced: u64,
}

impl Group {
    fn gather(first: Submission, queue: &Receiver<Submission>) -> Group {
        let mut group = Group { ticket: first.ticket, writes: first.writes, forced: first.forced };
        for next in queue.try_iter() {
            group.ticket = next.ticket;
            group.forced += next.forced;
            group.writes.extend(next.writes);
        }
        group.writes = without_superseded(group.writes);
        group
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
