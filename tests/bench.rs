//! `assent bench`, as people and scripts run it. What it measures is not judged here, only that it did and says so.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "daemon/coordinator.rs"]
#[expect(dead_code, reason = "the tests of the daemon do more with it")]
mod coordinator;

use std::fs;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use crate::coordinator::{Coordinator, assent};

/// A run so short that it only shows that all parts work.
const SHORT: [&str; 6] = ["--duration", "300ms", "--warm-up", "50ms", "--in-flight", "8"];

/// Runs it in a directory of its own, in which it must leave nothing.
fn bench(arguments: &[&str]) -> Output {
    let directory = TempDir::new().unwrap();
    let mut command = assent();
    command.current_dir(&directory).args(["--output", "json", "bench"]).args(SHORT).args(arguments);
    let output = command.output().unwrap();
    let left: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
    output
}

fn report(arguments: &[&str]) -> Value {
    let output = bench(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {pointer} in {report}"))
}

#[test]
fn a_calibrated_run_has_every_figure_and_each_commit_is_forced() {
    let report = report(&["--calibrate"]);
    for key in
        ["/transactions_per_second", "/echo_calls_per_second", "/floor_us", "/log_bytes_per_transaction"]
    {
        assert!(number(&report, key) > 0.0, "{key} in {report}");
    }
    for key in ["/ratio_to_echo_bound", "/ratio_to_floor", "/coordinator/cpu_seconds"] {
        assert!(number(&report, key) >= 0.0, "{key} in {report}");
    }
    assert!(number(&report, "/coordinator/peak_rss_bytes") > 1e6, "{report}");
    let latencies =
        ["p50", "p90", "p99", "p999", "max"].map(|p| number(&report, &format!("/latency_us/{p}")));
    assert!(latencies[0] > 0.0 && latencies.is_sorted(), "{report}");
    assert!(number(&report, "/outcomes/committed") > 0.0, "{report}");
    for none in ["aborted", "unknown", "refused"] {
        assert!(number(&report, &format!("/outcomes/{none}")).abs() < 0.5, "{none} in {report}");
    }
    let forced = number(&report, "/forced_writes_per_transaction");
    assert!((forced - 1.0).abs() < 0.2, "{report}");
}

#[test]
fn every_way_to_make_transactions_ends_them_as_it_must() {
    let ways: [&[&str]; 5] = [
        &["--transport", "dial", "--participants", "process"],
        &["--protocol", "tcc", "--participants", "process"],
        &["--protocol", "mixed", "--branches", "3", "--mode", "interactive"],
        &["--rate", "200", "--wait", "decision", "--connections", "2"],
        &["--payload", "0", "--set", "storage.retention=0s"],
    ];
    for way in ways {
        let arguments = [way, &["--abort-percent", "50"]].concat();
        let report = report(&arguments);
        let [committed, aborted, unknown, refused] = ["committed", "aborted", "unknown", "refused"]
            .map(|outcome| number(&report, &format!("/outcomes/{outcome}")));
        assert!(committed > 0.0 && aborted > 0.0, "{way:?}: {report}");
        // Half of them, but for those under way when it ended.
        assert!((committed - aborted).abs() <= 60.0, "{way:?}: {report}");
        assert!(unknown + refused < 0.5, "{way:?}: {report}");
    }
}

#[test]
fn initiators_whose_turn_would_come_after_the_end_do_not_wait_for_it() {
    let report = report(&["--rate", "0.2"]);
    // One begins at once, the next would in five seconds, and the eighth in thirty-five.
    assert!((number(&report, "/outcomes/committed") - 1.0).abs() < 0.5, "{report}");
    assert!(number(&report, "/elapsed_seconds") < 30.0, "{report}");
}

#[test]
fn a_coordinator_that_runs_already_is_measured_where_it_is() {
    let coordinator = Coordinator::start(&[]);
    let report = report(&["--running", "--server", &coordinator.url()]);
    assert!(number(&report, "/outcomes/committed") > 0.0, "{report}");
    assert_eq!(report["coordinator"], Value::Null, "whose processor time it is cannot be known");
}

#[test]
fn what_does_not_go_together_is_refused_with_what_would() {
    let cases: [(&[&str], &str); 7] = [
        (&["--running", "--calibrate"], "cannot be used with"),
        (
            &["--running", "--participants", "a", "--abort-percent", "1"],
            "wants the benchmark's own participants",
        ),
        (&["--participants", "shop/stock"], "wants --running and --server"),
        (&["--mode", "interactive", "--participants", "process"], "wants --participants in-process"),
        (&["--branches", "65"], "65 is not in 1..=64"),
        (&["--rate", "0"], "it must be a number from 0.001 to 10000000"),
        (&["--running", "--set", "a=b"], "cannot be used with"),
    ];
    for (arguments, problem) in cases {
        let output = bench(arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.contains(problem), "{arguments:?}: {told}");
    }
    let output = bench(&["--running", "--server", "http://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(6), "{output:?}");
}
