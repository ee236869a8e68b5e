#![expect(clippy::needless_raw_string_hashes, reason = "expect-test writes them")]

use assent_proto::v1::State;
use expect_test::{Expect, expect};

use super::*;
use crate::cli::explain::tests::{at, committing, transaction};

fn check(actual: &str, expected: &Expect) {
    expected.assert_eq(actual);
}

#[test]
fn a_transaction_is_shown_with_branches_and_history() {
    let text = describe(&committing(), at(3_100), Paint::Plain);
    check(
        &text,
        &expect![[r#"
            decided: commit; waits for shop/payment, which was called 4 times without success (connection refused); next attempt in 2.1s

            xid       018bcfe5-6800-8000-8000-004000000000
            label     checkout
            protocol  tcc
            state     committing
            outcome   committed
            timeout   30s
            begun     2023-11-14T22:13:20.000Z, 3.1s ago
            decided   2023-11-14T22:13:20.012Z, 3.0s ago

            BRANCH  PARTICIPANT   ENDPOINT         PROTOCOL  VOTE      STATE       ATTEMPTS  NEXT ATTEMPT  RESERVATION     LAST ERROR
            10      shop/stock                     tcc       prepared  committed   1                       1m cooperative
            12      shop/payment  http://pay:7000  2pc       prepared  committing  4         in 2.1s                       connection refused

            TIME   EVENT         BRANCH  DETAIL
            +0ms   begun
            +2ms   enlisted      10      shop/stock
            +12ms  decided               commit
            +1.5s  acknowledged  10
        "#]],
    );
}

#[test]
fn a_transaction_without_branches_is_shown_without_empty_tables() {
    let text = describe(&transaction(State::Active, vec![]), at(0), Paint::Plain);
    check(
        &text,
        &expect![[r#"
            active: no branch yet; waits for its initiator to commit or abort; aborts in 30.0s unless committed

            xid       018bcfe5-6800-8000-8000-004000000000
            label     checkout
            protocol  tcc
            state     active
            timeout   30s
            begun     2023-11-14T22:13:20.000Z, 0ms ago
        "#]],
    );
}

#[test]
fn json_has_every_key_and_null_for_what_is_absent() {
    check(
        &format!("{:#}", json::transaction(&committing())),
        &expect![[r#"
        {
          "begin_time": "2023-11-14T22:13:20.000Z",
          "branches": [
            {
              "attempts": 1,
              "branch_id": "10",
              "endpoint": null,
              "last_error": null,
              "next_attempt_time": null,
              "participant": "shop/stock",
              "protocol": "tcc",
              "reason": null,
              "reservation_class": "cooperative",
              "reservation_ttl_ms": 60000,
              "state": "committed",
              "vote": "prepared"
            },
            {
              "attempts": 4,
              "branch_id": "12",
              "endpoint": "http://pay:7000",
              "last_error": "connection refused",
              "next_attempt_time": "2023-11-14T22:13:25.200Z",
              "participant": "shop/payment",
              "protocol": "two_phase",
              "reason": null,
              "reservation_class": null,
              "reservation_ttl_ms": 0,
              "state": "committing",
              "vote": "prepared"
            }
          ],
          "decide_time": "2023-11-14T22:13:20.012Z",
          "end_time": null,
          "history": [
            {
              "branch_id": null,
              "detail": null,
              "kind": "begun",
              "time": "2023-11-14T22:13:20.000Z"
            },
            {
              "branch_id": "10",
              "detail": "shop/stock",
              "kind": "enlisted",
              "time": "2023-11-14T22:13:20.002Z"
            },
            {
              "branch_id": null,
              "detail": "commit",
              "kind": "decided",
              "time": "2023-11-14T22:13:20.012Z"
            },
            {
              "branch_id": "10",
              "detail": null,
              "kind": "acknowledged",
              "time": "2023-11-14T22:13:21.500Z"
            }
          ],
          "label": "checkout",
          "outcome": "committed",
          "protocol": "tcc",
          "reason": null,
          "request_id": null,
          "state": "committing",
          "timeout_ms": 30000,
          "xid": "018bcfe5-6800-8000-8000-004000000000"
        }"#]],
    );
}
