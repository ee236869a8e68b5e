//! What tells one engine from another.

use std::hash::Hash;

use super::Engine;
use crate::core::digest::Digest;
use crate::core::time::Now;

impl Engine {
    /// Maps are seeded at random, so all goes in by order.
    pub(crate) fn digest(&self, now: Now, digest: &mut Digest) {
        let mut open: Vec<_> = self.transactions.values().collect();
        open.sort_by_key(|tx| tx.id);
        for tx in open {
            tx.digest(now.mono, digest);
        }
        let mut ended: Vec<_> = self.ended.iter().collect();
        ended.sort_by_key(|(id, _)| **id);
        for (id, ended) in ended {
            digest.stored(*id, &ended.history.to_vec().into());
            ended.stored.hash(digest);
        }
        for (at, tx) in &self.retained {
            tx.hash(digest);
            digest.time(*at, now.mono);
        }
        self.ids.peek().hash(digest);
        // Requests, queues and timers follow from the transactions: `check` sees to that.
    }
}
