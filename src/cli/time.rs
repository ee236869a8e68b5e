//! Times as people and programs read them.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

/// The last second of the year 9999, the last that RFC 3339 can write.
const RFC3339_MAX_S: i64 = 253_402_300_799;

/// The time a message carries, if it is one that can be written.
pub fn system_time(time: Option<&Timestamp>) -> Option<SystemTime> {
    time.filter(|time| (0..=RFC3339_MAX_S).contains(&time.seconds))
        .and_then(|time| SystemTime::try_from(*time).ok())
}

/// `2026-01-31T12:00:00.000Z`
pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// `later - earlier`, and zero where the clocks disagree.
pub fn since(later: SystemTime, earlier: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap_or_default()
}

/// A length of time in two figures at most: `250ms`, `3.2s`, `2m 03s`, `1h 05m`, `3d 04h`.
pub fn brief(span: Duration) -> String {
    let s = span.as_secs();
    match s {
        0 => format!("{}ms", span.as_millis()),
        1..60 => format!("{s}.{}s", span.subsec_millis() / 100),
        60..3600 => format!("{}m {:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h {:02}m", s / 3600, s % 3600 / 60),
        86_400.. => format!("{}d {:02}h", s / 86_400, s % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_brief() {
        for (ms, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (3_299, "3.2s"),
            (59_999, "59.9s"),
            (123_000, "2m 03s"),
            (3_900_000, "1h 05m"),
            (273_600_000, "3d 04h"),
        ] {
            assert_eq!(brief(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn times_that_cannot_be_written_are_left_out() {
        assert_eq!(system_time(Some(&Timestamp { seconds: i64::MAX, nanos: 0 })), None);
        assert_eq!(system_time(Some(&Timestamp { seconds: -1, nanos: 0 })), None);
        let time = system_time(Some(&Timestamp { seconds: 1_700_000_000, nanos: 123_999_999 })).unwrap();
        assert_eq!(rfc3339(time), "2023-11-14T22:13:20.123Z");
    }
}
