//! What the settings may be, beyond their types.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::layers::ENDPOINTS;
use super::{Settings, Size, Span};

const DAY_S: u64 = 24 * 3600;
const MILLISECOND: Span = Span::from_millis(1);
const HOUR: Span = Span::from_secs(3600);
const TIMEOUT_MAX: Span = Span::from_secs(7 * DAY_S);
const RETENTION_MAX: Span = Span::from_secs(365 * DAY_S);
const GIB_MIB: u64 = 1 << 10;
const TIB_MIB: u64 = 1 << 20;
const PARTICIPANT_NAME_MAX_BYTES: usize = 128;

/// A setting outside its limits.
pub(super) struct Breach {
    pub key: String,
    pub limit: String,
}

impl Settings {
    /// Finds the first setting outside its limits.
    pub(super) fn check(&self) -> Result<(), Breach> {
        let Settings { server, storage, limits, participants, log: _ } = self;
        within("server.drain_timeout", server.drain_timeout, Span::ZERO..=HOUR)?;

        ensure("storage.data_dir", !storage.data_dir.as_os_str().is_empty(), "it must name a directory")?;
        within("storage.retention", storage.retention, Span::ZERO..=RETENTION_MAX)?;
        within("storage.retention_max", storage.retention_max, 0..=10_000_000)?;
        within("storage.ballast", storage.ballast, Size(0)..=Size::from_mib(GIB_MIB))?;
        within("storage.min_free", storage.min_free, Size(0)..=Size::from_mib(TIB_MIB))?;

        within("limits.max_payload", limits.max_payload, Size::from_kib(1)..=Size::from_mib(16))?;
        within("limits.max_branches", limits.max_branches, 1..=1024)?;
        within("limits.max_active", limits.max_active, 1..=100_000_000)?;
        within("limits.max_timeout", limits.max_timeout, MILLISECOND..=TIMEOUT_MAX)?;
        within("limits.default_timeout", limits.default_timeout, MILLISECOND..=TIMEOUT_MAX)?;
        at_most("limits.default_timeout", limits.default_timeout, "limits.max_timeout", limits.max_timeout)?;

        within("participants.call_timeout", participants.call_timeout, MILLISECOND..=HOUR)?;
        within("participants.retry_max", participants.retry_max, MILLISECOND..=HOUR)?;
        within("participants.retry_initial", participants.retry_initial, MILLISECOND..=HOUR)?;
        at_most(
            "participants.retry_initial",
            participants.retry_initial,
            "participants.retry_max",
            participants.retry_max,
        )?;
        within("participants.max_in_flight", participants.max_in_flight, 1..=65_536)?;
        within("participants.reservation_margin", participants.reservation_margin, Span::ZERO..=HOUR)?;
        participants.endpoints.keys().try_for_each(|name| {
            let limit = "the participant's name must be 1 to 128 letters, digits and -_.:/";
            ensure(&format!("{ENDPOINTS}.{name}"), is_participant_name(name), limit)
        })
    }
}

fn within<T: Copy + PartialOrd + Display>(
    key: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), Breach> {
    let limit = format!("it must be from {} to {}", range.start(), range.end());
    ensure(key, range.contains(&value), &limit)
}

fn at_most(key: &str, value: Span, other_key: &str, other: Span) -> Result<(), Breach> {
    ensure(key, value <= other, &format!("it must be at most {other_key}, which is {other}"))
}

fn ensure(key: &str, holds: bool, limit: &str) -> Result<(), Breach> {
    if holds { Ok(()) } else { Err(Breach { key: key.to_owned(), limit: limit.to_owned() }) }
}

fn is_participant_name(name: &str) -> bool {
    (1..=PARTICIPANT_NAME_MAX_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte))
}
