//! The figures.

use assent_sdk::Wait;

use super::calibrate::Calibration;
use super::load::{Outcomes, Played};
use super::stage::Spent;
use super::{Mode, Options};

/// What a benchmark saw. Rates count transactions that committed or aborted.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub elapsed_seconds: f64,
    pub transactions_per_second: f64,
    pub latency_us: Latency,
    pub outcomes: Outcomes,
    pub forced_writes_per_transaction: f64,
    pub log_syncs_per_transaction: f64,
    pub log_bytes_per_transaction: f64,
    /// None where the coordinator is not a process of the benchmark's own.
    pub coordinator: Option<Coordinator>,
    /// None without calibration, and for transactions that take other calls than those it compares with: in one call,
    /// of two branches at least, none refused, answered at completion.
    pub yardstick: Option<Yardstick>,
}

/// How long transactions took, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

/// What the coordinator's process took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coordinator {
    /// While it was measured.
    pub cpu_seconds: f64,
    /// Since it started.
    pub peak_rss_bytes: u64,
}

/// What this machine does without a coordinator, and how the transactions compare.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yardstick {
    pub echo_calls_per_second: f64,
    /// Transactions a second ÷ (calls a second ÷ calls in a transaction): one of the initiator's, two for each branch.
    pub ratio_to_echo_bound: f64,
    /// Three calls alone, one after the other, and one synced write: no durable transaction in two phases takes less.
    pub floor_us: f64,
    /// Half of the transactions took less than this many times the floor.
    pub ratio_to_floor: f64,
}

#[expect(clippy::cast_precision_loss, reason = "all are below 2^53")]
impl Report {
    pub(super) fn new(
        options: &Options,
        played: &Played,
        before: Spent,
        after: Spent,
        calibration: Option<Calibration>,
    ) -> Report {
        let Played { outcomes, latency_us, elapsed, .. } = played;
        let ended = (outcomes.committed + outcomes.aborted) as f64;
        let each = |before: u64, after: u64| after.saturating_sub(before) as f64 / ended;
        let transactions_per_second = ended / elapsed.as_secs_f64();
        let latency = Latency {
            p50: latency_us.value_at_quantile(0.5),
            p90: latency_us.value_at_quantile(0.9),
            p99: latency_us.value_at_quantile(0.99),
            p999: latency_us.value_at_quantile(0.999),
            max: latency_us.max(),
        };
        let coordinator = match (before.cpu, after.cpu, after.peak_rss_bytes) {
            (Some(before), Some(after), Some(peak_rss_bytes)) => {
                Some(Coordinator { cpu_seconds: after.saturating_sub(before).as_secs_f64(), peak_rss_bytes })
            }
            _ => None,
        };
        let comparable = options.mode == Mode::Run
            && options.wait == Wait::Completion
            && options.abort_percent == 0
            && options.branches >= 2;
        let yardstick = calibration.filter(|_| comparable).map(
            |Calibration { echo_calls_per_second, call_us, sync_us }| {
                let calls = f64::from(1 + 2 * options.branches);
                let floor_us = 3.0 * call_us + sync_us;
                Yardstick {
                    echo_calls_per_second,
                    ratio_to_echo_bound: transactions_per_second / (echo_calls_per_second / calls),
                    floor_us,
                    ratio_to_floor: latency.p50 as f64 / floor_us,
                }
            },
        );
        Report {
            elapsed_seconds: elapsed.as_secs_f64(),
            transactions_per_second,
            latency_us: latency,
            outcomes: *outcomes,
            forced_writes_per_transaction: each(before.forced_writes, after.forced_writes),
            log_syncs_per_transaction: each(before.log_syncs, after.log_syncs),
            log_bytes_per_transaction: each(before.log_bytes, after.log_bytes),
            coordinator,
            yardstick,
        }
    }
}
