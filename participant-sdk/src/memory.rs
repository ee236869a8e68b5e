//! A resource that keeps everything in memory: for tests, and for trying things out.
//!
//! Handlers work on `&mut S`. They get a copy that takes the place of the state when they return `Ok`, so a handler that
//! fails, or panics, leaves nothing.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::branch::{Branch, ClusterId, Horizon, ParticipantName, Protocol};
use crate::error::{Failure, Result};
use crate::handler::{ByTcc, ByTwoPhase, Database, Handler, Tcc, TwoPhase};
use crate::local::{self, Keep, Local, Row, Status, at_once};
use crate::resource::{Cleaned, Completion, Granted, InDoubt, OnePhase, PhaseOne, Resource, Vote};

/// State in memory, with the barrier's rows beside it. A clone is the same memory: keep one to look inside, or to give
/// to the next participant in a test of restarts.
pub struct Memory<S> {
    inner: Arc<Mutex<Inner<S>>>,
}

/// [`Memory`] with its handler.
pub struct MemoryResource<S> {
    memory: Memory<S>,
    handler: Box<dyn Handler<Memory<S>>>,
}

struct Inner<S> {
    state: S,
    rows: HashMap<Branch, Row>,
    horizons: HashMap<ClusterId, Horizon>,
}

impl<S: Clone + Send + 'static> Memory<S> {
    /// With this state to begin with.
    pub fn new(state: S) -> Memory<S> {
        let inner = Inner { state, rows: HashMap::new(), horizons: HashMap::new() };
        Memory { inner: Arc::new(Mutex::new(inner)) }
    }

    /// A copy of the state.
    pub fn state(&self) -> S {
        self.lock().state.clone()
    }

    /// A resource that takes part by TCC.
    pub fn tcc(self, handler: impl Tcc<Memory<S>>) -> MemoryResource<S> {
        MemoryResource { memory: self, handler: Box::new(ByTcc(handler)) }
    }

    /// A resource that takes part by two-phase commit.
    pub fn two_phase(self, handler: impl TwoPhase<Memory<S>>) -> MemoryResource<S> {
        MemoryResource { memory: self, handler: Box::new(ByTwoPhase(handler)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        // A handler's panic is caught before it gets here; what is behind the lock is whole in any case.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: 'static> Database for Memory<S> {
    type Transaction<'a> = &'a mut S;
}

impl<S: Clone + Send + 'static> MemoryResource<S> {
    fn transact<T>(&self, work: impl FnOnce(&mut Open<'_, S>) -> Result<(T, Keep)>) -> Result<T> {
        let mut inner = self.memory.lock();
        let mut open =
            Open { state: inner.state.clone(), written: None, inner: &inner, handler: &*self.handler };
        let (answer, keep) = catch_unwind(AssertUnwindSafe(|| work(&mut open)))
            .unwrap_or_else(|_| Err(Failure::again("the handler panicked")))?;
        let (state, written) = (open.state, open.written);
        if keep == Keep::Writes {
            inner.state = state;
            inner.rows.extend(written);
        }
        Ok(answer)
    }
}

impl<S: Clone + Send + 'static> Resource for MemoryResource<S> {
    fn protocol(&self) -> Protocol {
        self.handler.protocol()
    }

    async fn phase_one(&self, call: PhaseOne) -> Result<Granted> {
        self.transact(|open| at_once(local::phase_one(open, call)))
    }

    async fn commit(&self, branch: &Branch) -> Result<Completion> {
        self.transact(|open| at_once(local::commit(open, branch)))
    }

    async fn rollback(&self, branch: &Branch, cluster: &ClusterId) -> Result<Completion> {
        self.transact(|open| at_once(local::rollback(open, branch, cluster)))
    }

    async fn commit_one_phase(&self, call: PhaseOne) -> Result<OnePhase> {
        self.transact(|open| at_once(local::commit_one_phase(open, call)))
    }

    async fn in_doubt(&self, participant: &ParticipantName) -> Result<Vec<InDoubt>> {
        let inner = self.memory.lock();
        let prepared = inner
            .rows
            .iter()
            .filter(|(branch, row)| branch.participant() == participant && row.status == Status::Prepared);
        Ok(prepared
            .map(|(branch, row)| InDoubt { branch: branch.clone(), reservation: row.reservation })
            .collect())
    }

    async fn forget_before(&self, horizon: &Horizon) -> Result<Cleaned> {
        let mut inner = self.memory.lock();
        let kept = inner.horizons.entry(horizon.cluster.clone()).or_insert_with(|| horizon.clone());
        kept.before = kept.before.max(horizon.before);
        let kept = kept.clone();
        inner.rows.retain(|branch, row| {
            row.status == Status::Prepared || row.cluster != kept.cluster || !kept.covers(branch.xid())
        });
        Ok(Cleaned::Wholly)
    }
}

/// What a call sees and writes until it is known to succeed.
struct Open<'a, S> {
    state: S,
    written: Option<(Branch, Row)>,
    inner: &'a Inner<S>,
    handler: &'a dyn Handler<Memory<S>>,
}

impl<S: 'static> Local for Open<'_, S> {
    async fn row(&mut self, branch: &Branch) -> Result<Option<Row>> {
        let written = self.written.as_ref().filter(|(written, _)| written == branch).map(|(_, row)| row);
        Ok(written.or_else(|| self.inner.rows.get(branch)).cloned())
    }

    async fn insert(&mut self, branch: &Branch, row: Row) -> Result<()> {
        self.written = Some((branch.clone(), row));
        Ok(())
    }

    async fn finish(&mut self, branch: &Branch, status: Status) -> Result<()> {
        let row = self.row(branch).await?.expect("only a branch with a row is finished");
        self.written = Some((branch.clone(), Row { status, request: Bytes::new(), ..row }));
        Ok(())
    }

    async fn horizon(&mut self, cluster: &ClusterId) -> Result<Option<Horizon>> {
        Ok(self.inner.horizons.get(cluster).cloned())
    }

    async fn work(&mut self, branch: &Branch, request: Bytes) -> Result<Vote<Bytes>> {
        self.handler.work(&mut self.state, branch, request)
    }

    async fn commit(&mut self, branch: &Branch, request: Bytes) -> Result<()> {
        self.handler.commit(&mut self.state, branch, request)
    }

    async fn rollback(&mut self, branch: &Branch, request: Bytes) -> Result<()> {
        self.handler.rollback(&mut self.state, branch, request)
    }
}

impl<S> Clone for Memory<S> {
    fn clone(&self) -> Memory<S> {
        Memory { inner: Arc::clone(&self.inner) }
    }
}

impl<S> fmt::Debug for Memory<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for MemoryResource<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryResource").finish_non_exhaustive()
    }
}
