//! Connections that stay with the branches that were prepared on them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use sqlx::MySqlConnection;
use tokio::time::Instant;

use super::Shared;
use crate::branch::Branch;
use crate::sql::pool::Lease;

/// How long a connection waits for its branch's phase two. Then it is closed, and any other connection can end the branch.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a connection is told before it prepares: the server closes it by itself where nothing more is heard. A machine that
/// loses its power closes nothing, and the server would keep the connection, and with it the branch, for hours. A little
/// longer than our own patience.
pub(super) const LEAVE_SOON: &str = "SET SESSION wait_timeout = 10;";
/// And what it is told when it has ended its branch.
pub(super) const STAY: &str = "SET SESSION wait_timeout = DEFAULT";

/// Bounded by the number of connections.
#[derive(Default)]
pub(super) struct Pins {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    pins: HashMap<Branch, Pin>,
    /// Whether a task looks after what is in it.
    swept: bool,
}

struct Pin {
    connection: Lease<MySqlConnection>,
    since: Instant,
}

impl Shared {
    /// Keeps the connection for the branch.
    pub(super) fn pin(shared: &Arc<Shared>, branch: Branch, connection: Lease<MySqlConnection>) {
        let mut table = shared.pins.table();
        table.pins.insert(branch, Pin { connection, since: Instant::now() });
        if !table.swept {
            table.swept = true;
            tokio::spawn(sweep(Arc::downgrade(shared)));
        }
    }
}

impl Pins {
    pub(super) fn has(&self, branch: &Branch) -> bool {
        self.table().pins.contains_key(branch)
    }

    pub(super) fn take(&self, branch: &Branch) -> Option<Lease<MySqlConnection>> {
        Some(self.table().pins.remove(branch)?.connection)
    }

    pub(super) fn close_oldest(&self) {
        let mut table = self.table();
        let oldest = table.pins.iter().min_by_key(|(_, pin)| pin.since).map(|(branch, _)| branch.clone());
        if let Some(branch) = oldest {
            tracing::debug!(%branch, "connection is taken from a prepared branch: they run short");
            table.pins.remove(&branch);
        }
    }

    /// Closes those whose patience is over; says when the next one's will be. At `None` the sweeper may go.
    fn close_expired(&self) -> Option<Instant> {
        let mut table = self.table();
        table.pins.retain(|_, pin| pin.since.elapsed() < PATIENCE);
        let next = table.pins.values().map(|pin| pin.since + PATIENCE).min();
        table.swept = next.is_some();
        next
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pins").finish_non_exhaustive()
    }
}

/// Ends when nothing is pinned any more, or the last resource is gone.
async fn sweep(shared: Weak<Shared>) {
    loop {
        let Some(next) = shared.upgrade().and_then(|shared| shared.pins.close_expired()) else { return };
        tokio::time::sleep_until(next).await;
    }
}
