//! Time as the core sees it: always an argument, never read.

use std::time::Duration;

/// The monotonic clock: microseconds since an arbitrary start of this process. Every deadline counts on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(u64);

/// The wall clock: milliseconds since 1970. It is shown to people and decides nothing but how long an ended
/// transaction is kept across a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WallTime(pub u64);

/// Both clocks, read at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub mono: Timestamp,
    pub wall: WallTime,
}

impl Timestamp {
    pub const ZERO: Timestamp = Timestamp(0);
    /// Later than all others: never.
    pub const MAX: Timestamp = Timestamp(u64::MAX);

    /// So long after the start of the clock.
    pub fn after_start(elapsed: Duration) -> Timestamp {
        Timestamp(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX))
    }

    /// How far away it is; zero if it has passed.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, span: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl std::ops::Sub<Duration> for Timestamp {
    type Output = Timestamp;

    fn sub(self, span: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }
}
