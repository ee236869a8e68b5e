//! How long to wait before trying again.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use tokio::time::Instant;

/// Doubles from `first` up to `max`, and takes off up to half at random so that many who failed together do not come
/// back together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) max: Duration,
}

impl Backoff {
    /// `attempt` counts from 0.
    pub(crate) fn delay(self, attempt: u32) -> Duration {
        let whole = self.first.saturating_mul(1 << attempt.min(20)).min(self.max);
        // The standard library keys its hashers at random: enough to spread callers, and no dependency.
        let fraction = f64::from(u32::try_from(RandomState::new().hash_one(attempt) >> 32).expect("32 bits"))
            / f64::from(u32::MAX);
        whole.mul_f64(1.0 - fraction / 2.0)
    }
}

/// A time to come, however far it is: what the clock cannot count is 30 years.
pub(crate) fn later(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or_else(|| now + Duration::from_hours(30 * 365 * 24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_lose_at_most_half() {
        let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1) };
        for (attempt, whole_ms) in [(0, 100), (1, 200), (3, 800), (4, 1000), (u32::MAX, 1000)] {
            let delay = backoff.delay(attempt);
            assert!(delay <= Duration::from_millis(whole_ms), "{attempt}: {delay:?}");
            assert!(delay >= Duration::from_millis(whole_ms / 2), "{attempt}: {delay:?}");
        }
    }
}
