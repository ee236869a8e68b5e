//! Transactions, shown whenever they change.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use assent_proto::v1 as pb;
use futures_util::stream;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::Status;

use super::list::{Filter, newest};
use crate::api::status;
use crate::coordinator::{Coordinator, Phase, Stopped};
use crate::core::{Rejection, State, Transaction, TxId};
use crate::wire::{self, History, Invalid};

/// How many transactions are shown at once, when it begins and when it has fallen behind: the newest.
const SNAPSHOT_MAX: usize = 1_000;
/// A watcher that fell behind reads again after this while: so one that always does costs a reading now and then.
const REREAD_DELAY: Duration = Duration::from_secs(1);

/// What is watched.
#[derive(Debug)]
pub(super) enum Watched {
    One(TxId),
    Matching(Arc<Filter>),
}

/// One open stream. It needs no task: it goes on when the connection asks for the next message.
pub(super) struct Watcher {
    coordinator: Coordinator,
    watched: Watched,
    changes: broadcast::Receiver<Arc<Transaction>>,
    phase: watch::Receiver<Phase>,
    unsent: VecDeque<pb::Transaction>,
    /// How much history those had that were read: changes that come with less are older, and must not be shown after.
    read: HashMap<TxId, usize>,
    /// It has missed changes.
    reread_at: Option<Instant>,
    /// The one transaction has ended: nothing comes any more.
    ended: bool,
}

impl Watched {
    pub fn parse(request: pb::WatchRequest) -> Result<Watched, Invalid> {
        let filter = request.filter.unwrap_or_default();
        if request.xid.is_empty() {
            return Filter::parse(filter).map(|filter| Watched::Matching(Arc::new(filter)));
        }
        if filter != pb::TransactionFilter::default() {
            return Err(Invalid::new("filter", "is set, and so is xid; give one of them"));
        }
        wire::tx_id("xid", &request.xid).map(Watched::One)
    }
}

impl Watcher {
    /// With the first states read. An unknown transaction is an error.
    pub async fn start(coordinator: Coordinator, watched: Watched) -> Result<Watcher, Status> {
        let mut watcher = Watcher {
            // First, so that nothing can happen between the reading and the first change.
            changes: coordinator.watch(),
            phase: coordinator.watch_phase(),
            coordinator,
            watched,
            unsent: VecDeque::new(),
            read: HashMap::new(),
            reread_at: None,
            ended: false,
        };
        watcher.read().await?;
        Ok(watcher)
    }

    pub fn into_stream(self) -> impl Stream<Item = Result<pb::WatchResponse, Status>> + Send {
        stream::unfold(self, async |mut watcher| {
            let message = watcher.next().await?;
            Some((message, watcher))
        })
    }

    async fn next(&mut self) -> Option<Result<pb::WatchResponse, Status>> {
        loop {
            if let Some(transaction) = self.unsent.pop_front() {
                return Some(Ok(pb::WatchResponse { transaction: Some(transaction) }));
            }
            if self.ended {
                return None;
            }
            let reread_at = self.reread_at;
            tokio::select! {
                biased;
                // A watcher would hold up the shutdown.
                () = ends(&mut self.phase) => return Some(Err(status::stopping())),
                () = tokio::time::sleep_until(reread_at.unwrap_or_else(Instant::now)), if reread_at.is_some() => {
                    self.reread_at = None;
                    if let Err(end) = self.read().await {
                        return Some(Err(end));
                    }
                }
                change = self.changes.recv() => match change {
                    Ok(transaction) => self.changed(&transaction),
                    Err(RecvError::Lagged(_missed)) => {
                        self.reread_at.get_or_insert_with(|| Instant::now() + REREAD_DELAY);
                    }
                    Err(RecvError::Closed) => return Some(Err(status::stopped())),
                }
            }
        }
    }

    async fn read(&mut self) -> Result<(), Status> {
        let found = match &self.watched {
            Watched::One(tx) => {
                let found = self.coordinator.get(*tx).await.map_err(|Stopped| status::stopped())?;
                vec![found.ok_or_else(|| status::rejected(&Rejection::NotFound { tx: *tx }))?]
            }
            Watched::Matching(filter) => newest(&self.coordinator, filter, None, SNAPSHOT_MAX).await?.0,
        };
        self.read = found.iter().map(|transaction| (transaction.id, transaction.history.len())).collect();
        // The newest last, where people look.
        found.iter().rev().for_each(|transaction| self.show(transaction));
        Ok(())
    }

    fn changed(&mut self, transaction: &Transaction) {
        let matches = match &self.watched {
            Watched::One(tx) => transaction.id == *tx,
            Watched::Matching(filter) => filter.matches(transaction, self.coordinator.now().wall),
        };
        if !matches {
            return;
        }
        if let Some(&read) = self.read.get(&transaction.id) {
            if transaction.history.len() < read {
                return;
            }
            // Changes come in order, so all that follow are newer still.
            self.read.remove(&transaction.id);
        }
        self.show(transaction);
    }

    fn show(&mut self, transaction: &Transaction) {
        let shown = wire::transaction_to_pb(transaction, self.coordinator.now(), History::LeftOut);
        self.unsent.push_back(shown);
        self.ended = matches!((&self.watched, transaction.state()), (Watched::One(_), State::Ended(_)));
    }
}

async fn ends(phase: &mut watch::Receiver<Phase>) {
    // No sender means stopped as well.
    drop(phase.wait_for(|phase| matches!(phase, Phase::Draining | Phase::Stopped)).await);
}

#[cfg(test)]
mod tests;
