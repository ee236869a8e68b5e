//! When a failed call is made again: capped exponential back-off with jitter, for ever.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::id::TxId;

/// The schedule.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// Before the second attempt.
    pub initial: Duration,
    /// At most so long between two.
    pub max: Duration,
}

impl Backoff {
    /// How long to wait after `attempts` attempts have failed: `initial` doubled each time, up to `max`, of which
    /// the last half is spread evenly. The spread follows from transaction and attempt, so the core needs no
    /// randomness and a simulation replays.
    pub fn delay(&self, tx: TxId, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(30);
        let full = self.initial.saturating_mul(1 << doublings).min(self.max);
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        (tx, attempts).hash(&mut hasher);
        let spread = u32::try_from(hasher.finish() >> 40 & 0xffff).expect("16 bits");
        full / 2 + (full / 2).mul_f64(f64::from(spread) / f64::from(0xffff))
    }
}

/// FNV-1a: the same in every build, which the standard library's hashers do not promise.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Epoch, Shard};

    #[test]
    fn delays_double_up_to_the_cap_and_are_spread() {
        let backoff = Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(30) };
        let tx = |n| TxId::new(n, 0, Epoch(1), Shard(0), 0);
        for (attempts, full_ms) in
            [(1, 100), (2, 200), (5, 1_600), (9, 25_600), (10, 30_000), (u32::MAX, 30_000)]
        {
            let delay = backoff.delay(tx(7), attempts);
            let full = Duration::from_millis(full_ms);
            assert!(full / 2 <= delay && delay <= full, "{attempts}: {delay:?}");
        }
        let first_delays: std::collections::BTreeSet<_> = (0..100).map(|n| backoff.delay(tx(n), 1)).collect();
        assert!(first_delays.len() > 90, "{}", first_delays.len());
    }
}
