//! Every history of small worlds.

use assent_model::{configurations, report};

#[test]
fn every_history_of_the_small_worlds_keeps_every_promise() {
    let mut table = Vec::new();
    let whole = report::explore_all(&configurations::small(), |line| table.push(line.to_owned()));
    assert!(whole, "\n{}", table.join("\n"));
}
