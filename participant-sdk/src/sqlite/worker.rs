//! The thread that owns the connection, and commits in groups.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use crate::crash_point;
use crate::error::{Failure, Result};
use crate::local::Keep;

/// Calls that may wait for the thread; beyond that callers wait to be let in.
const QUEUE_CALLS_MAX: usize = 1024;

/// Calls that share one commit, and so one sync.
const GROUP_CALLS_MAX: usize = 128;

/// Hands work to the thread. The thread ends when the last clone is gone.
#[derive(Clone)]
pub(super) struct Worker {
    jobs: mpsc::Sender<Box<dyn Job>>,
}

impl Worker {
    pub(super) fn start(db: Connection) -> std::io::Result<Worker> {
        let (jobs, queue) = mpsc::channel(QUEUE_CALLS_MAX);
        std::thread::Builder::new().name("assent-sqlite".into()).spawn(move || serve(db, queue))?;
        Ok(Worker { jobs })
    }

    /// Does the work in a transaction and answers when that is durable.
    pub(super) async fn call<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<(T, Keep)> + Send + 'static,
    {
        let (job, answer) = Call::begin(work);
        self.jobs.send(job).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    pub(super) fn call_blocking<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<(T, Keep)> + Send + 'static,
    {
        // The queue is empty before anybody serves, so this never waits for room.
        let (job, answer) = Call::begin(work);
        self.jobs.try_send(job).map_err(|_| gone())?;
        // Waited for on a thread of its own, because blocking is not allowed within a runtime.
        std::thread::scope(|scope| scope.spawn(|| answer.blocking_recv()).join())
            .unwrap_or_else(|_| Ok(Err(gone())))
            .unwrap_or_else(|_| Err(gone()))
    }
}

fn serve(mut db: Connection, mut queue: mpsc::Receiver<Box<dyn Job>>) {
    let mut group = Vec::with_capacity(GROUP_CALLS_MAX);
    while let Some(first) = queue.blocking_recv() {
        group.push(first);
        while group.len() < GROUP_CALLS_MAX {
            let Ok(next) = queue.try_recv() else { break };
            group.push(next);
        }
        let done = run_group(&mut db, &mut group).map_err(|error| error.to_string());
        for job in group.drain(..) {
            job.answer(done.as_ref().map(|&()| ()).map_err(String::as_str));
        }
    }
}

/// Each call in its own savepoint, all in one transaction. An error here is everybody's: nothing was committed.
fn run_group(db: &mut Connection, group: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut wrote = false;
    for job in group {
        tx.execute_batch("SAVEPOINT assent")?;
        let keep = job.run(&tx);
        crash_point!("handler-done", if keep == Keep::Writes);
        // SQLite ends the whole transaction by itself on errors such as a full disk. Going on would write outside it.
        // If so, this statement fails.
        tx.execute_batch(match keep {
            Keep::Writes => "RELEASE assent",
            Keep::Nothing => "ROLLBACK TO assent; RELEASE assent",
        })?;
        wrote |= keep == Keep::Writes;
    }
    if !wrote {
        return tx.rollback();
    }
    tx.commit()?;
    crash_point!("locally-committed");
    Ok(())
}

trait Job: Send {
    fn run(&mut self, db: &Transaction<'_>) -> Keep;
    /// Tells the caller; an error of the group overrides the call's own answer.
    fn answer(self: Box<Self>, group: std::result::Result<(), &str>);
}

struct Call<T, F> {
    work: Option<F>,
    result: Option<Result<T>>,
    caller: oneshot::Sender<Result<T>>,
}

impl<T, F> Call<T, F>
where
    T: Send + 'static,
    F: FnOnce(&Transaction<'_>) -> Result<(T, Keep)> + Send + 'static,
{
    fn begin(work: F) -> (Box<dyn Job>, oneshot::Receiver<Result<T>>) {
        let (caller, answer) = oneshot::channel();
        (Box::new(Call { work: Some(work), result: None, caller }), answer)
    }
}

impl<T, F> Job for Call<T, F>
where
    T: Send,
    F: FnOnce(&Transaction<'_>) -> Result<(T, Keep)> + Send,
{
    fn run(&mut self, db: &Transaction<'_>) -> Keep {
        let Some(work) = self.work.take() else { return Keep::Nothing };
        let worked = catch_unwind(AssertUnwindSafe(|| work(db)))
            .unwrap_or_else(|_| Err(Failure::again("the handler panicked")));
        let (result, keep) = match worked {
            Ok((answer, keep)) => (Ok(answer), keep),
            Err(failure) => (Err(failure), Keep::Nothing),
        };
        self.result = Some(result);
        keep
    }

    fn answer(self: Box<Self>, group: std::result::Result<(), &str>) {
        let result = match (group, self.result) {
            (Err(error), _) => Err(Failure::again(format!("sqlite: {error}"))),
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => Err(gone()),
        };
        // A caller that has gone away will ask again.
        let _ = self.caller.send(result);
    }
}

fn gone() -> Failure {
    Failure::again("the sqlite thread is gone")
}
