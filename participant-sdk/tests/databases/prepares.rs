//! What every resource must do whose database prepares by itself. What is prepared is sold, and seen when it is committed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use assent_sdk::resource::PhaseOne;
use assent_sdk::{Branch, Completion, Resource as _};
use futures_util::future::join_all;

use crate::conformance::{CLUSTER, call, clear, commit, doubts, phase_one, rollback};
use crate::log::Log;
use crate::shop::{Faults, Shop, Stock, at, branch, shelf, tx};

/// `open` gives a shop with nothing sold yet, in a database of its own.
pub async fn conforms<S: Shop>(open: impl AsyncFn() -> S) {
    prepare_commit_and_rollback_take_effect_once_each(&open().await).await;
    rollback_before_prepare_refuses_the_late_prepare(&open().await).await;
    late_prepare_is_refused_after_cleaning_too(&open().await).await;
    cleaning_spares_other_clusters_and_what_is_prepared(&open().await).await;
    commit_after_rollback_and_rollback_after_commit_are_heuristic(&open().await).await;
    commit_of_what_is_lost_raises_an_alarm(&open().await).await;
    every_interleaving_has_one_effect(&open).await;
    refusal_and_trouble_leave_nothing(&open().await).await;
    read_only_vote_leaves_nothing_and_wants_no_phase_two(&open().await).await;
    ids_that_are_prefixes_or_differ_in_case_are_kept_apart(&open().await).await;
    participants_over_one_database_see_only_their_own_doubts(&open().await).await;
    longest_names_are_prepared_and_ended(&open().await).await;
    unreadable_request_is_refused(&open().await).await;
    cluster_that_is_no_name_is_refused(&open().await).await;
    calls_are_given_up_some_time(&open().await);
}

async fn prepare_commit_and_rollback_take_effect_once_each(shop: &impl Shop) {
    let stock = shop.two_phase(Stock::default());
    let (kept, dropped) = (branch(1, "a"), branch(2, "a"));
    for _ in 0..2 {
        assert_eq!(phase_one(&stock, &kept, 3).await, r#"prepared {"left":7}"#);
        assert_eq!(shop.shelf().await, shelf(), "nobody sees it yet");
        assert_eq!(doubts(&stock).await, std::slice::from_ref(&kept));
    }
    for _ in 0..2 {
        assert_eq!(commit(&stock, &kept).await, Completion::Done);
        assert_eq!(shop.shelf().await, at(7, 0, 3));
    }
    for _ in 0..2 {
        assert_eq!(phase_one(&stock, &dropped, 2).await, r#"prepared {"left":5}"#);
    }
    for _ in 0..2 {
        assert_eq!(rollback(&stock, &dropped).await, Completion::Done);
        assert_eq!(shop.shelf().await, at(7, 0, 3));
    }
    // A late repetition has the first answer and no effect.
    assert_eq!(phase_one(&stock, &kept, 3).await, r#"prepared {"left":7}"#);
    assert_eq!(shop.shelf().await, at(7, 0, 3));
    assert_eq!(doubts(&stock).await, []);
}

async fn rollback_before_prepare_refuses_the_late_prepare(shop: &impl Shop) {
    let stock = shop.two_phase(Stock::default());
    let branch = branch(1, "a");
    assert_eq!(rollback(&stock, &branch).await, Completion::UnknownBranch);
    assert_eq!(rollback(&stock, &branch).await, Completion::Done);
    assert_eq!(phase_one(&stock, &branch, 3).await, "refused: the branch was rolled back already");
    let late = stock.commit_one_phase(call(&branch, 3)).await.unwrap_err();
    assert_eq!(late.refusal(), Some("the branch was rolled back already"));
    assert_eq!(shop.shelf().await, shelf());
    // The refusals left no transaction open: the connections serve others.
    assert_eq!(phase_one(&stock, &crate::shop::branch(2, "a"), 3).await, r#"prepared {"left":7}"#);
}

async fn late_prepare_is_refused_after_cleaning_too(shop: &impl Shop) {
    let stock = shop.two_phase(Stock::default());
    for n in 1..=3 {
        rollback(&stock, &branch(n, "a")).await;
    }
    clear(&stock, CLUSTER, 3).await;
    let late = "refused: the transaction ended long ago";
    for n in 1..=2 {
        assert_eq!(phase_one(&stock, &branch(n, "a"), 1).await, late);
        assert_eq!(rollback(&stock, &branch(n, "a")).await, Completion::UnknownBranch);
        // No tombstone was written either: it would never be cleared.
        assert_eq!(rollback(&stock, &branch(n, "a")).await, Completion::UnknownBranch);
    }
    // The horizon does not cover its own transaction, and it never moves back.
    clear(&stock, CLUSTER, 1).await;
    assert_eq!(phase_one(&stock, &branch(3, "a"), 1).await, "refused: the branch was rolled back already");
    assert_eq!(phase_one(&stock, &branch(2, "b"), 1).await, late);
    let one_phase = stock.commit_one_phase(call(&branch(2, "c"), 1)).await.unwrap_err();
    assert_eq!(one_phase.refusal(), Some("the transaction ended long ago"));
    assert_eq!(shop.shelf().await, shelf());
    assert_eq!(phase_one(&stock, &branch(4, "a"), 1).await, r#"prepared {"left":9}"#);
}

async fn cleaning_spares_other_clusters_and_what_is_prepared(shop: &impl Shop) {
    let stock = shop.two_phase(Stock::default());
    let (held, done) = (branch(1, "held"), branch(1, "done"));
    phase_one(&stock, &done, 1).await;
    commit(&stock, &done).await;
    phase_one(&stock, &held, 1).await;
    clear(&stock, "another-cluster", 9).await;
    assert_eq!(commit(&stock, &done).await, Completion::Done, "it belongs to another cluster");
    clear(&stock, CLUSTER, 9).await;
    assert_eq!(commit(&stock, &done).await, Completion::UnknownBranch);
    assert_eq!(doubts(&stock).await, std::slice::from_ref(&held));
    assert_eq!(commit(&stock, &held).await, Completion::Done);
    assert_eq!(shop.shelf().await, at(8, 0, 2));
}

async fn commit_after_rollback_and_rollback_after_commit_are_heuristic(shop: &impl Shop) {
    let stock = shop.two_phase(Stock::default());
    let (undone, done) = (branch(1, "a"), branch(1, "b"));
    phase_one(&stock, &undone, 1).await;
    rollback(&stock, &undone).await;
    phase_one(&stock, &done, 2).await;
    commit(&stock, &done).await;
    assert_eq!(commit(&stock, &undone).await, Completion::HeuristicRollback);
    assert_eq!(rollback(&stock, &done).await, Completion::HeuristicCommit);
    assert_eq!(shop.shelf().await, at(8, 0, 2));
}

/// To the server, what is unknown looks like what is committed.
async fn commit_of_what_is_lost_raises_an_alarm(shop: &impl Shop) {
    let stock = shop.two_phase(Stock::default());
    let log = Log::warnings();
    let _guard = log.keep();
    assert_eq!(commit(&stock, &branch(1, "a")).await, Completion::UnknownBranch);
    let said = log.lines();
    assert!(said.len() == 1 && said[0].contains("by hand"), "{said:?}");
}

/// All sequences of four calls: whatever comes, nothing is lost or made, and the first end is the end. A commit of nothing
/// is looked for a while, so they run side by side.
async fn every_interleaving_has_one_effect<S: Shop>(open: &impl AsyncFn() -> S) {
    join_all((0..3_u32.pow(4)).map(|sequence| async move { one_sequence(&open().await, sequence).await }))
        .await;
}

async fn one_sequence(shop: &impl Shop, sequence: u32) {
    let stock = shop.two_phase(Stock::default());
    let branch = branch(1, "a");
    let (mut prepared, mut end) = (false, None);
    for step in 0..4 {
        match sequence / 3_u32.pow(step) % 3 {
            0 => prepared |= phase_one(&stock, &branch, 3).await.starts_with("prepared"),
            1 => {
                let completion = commit(&stock, &branch).await;
                let expected = match end {
                    None if prepared => Completion::Done,
                    None => Completion::UnknownBranch,
                    Some(end) if end == at(7, 0, 3) => Completion::Done,
                    Some(_) => Completion::HeuristicRollback,
                };
                assert_eq!(completion, expected, "sequence {sequence}, step {step}");
                if prepared && end.is_none() {
                    end = Some(at(7, 0, 3));
                }
            }
            _ => {
                let completion = rollback(&stock, &branch).await;
                let expected = match end {
                    None if prepared => Completion::Done,
                    None => Completion::UnknownBranch,
                    Some(end) if end == at(7, 0, 3) => Completion::HeuristicCommit,
                    Some(_) => Completion::Done,
                };
                assert_eq!(completion, expected, "sequence {sequence}, step {step}");
                end = end.or(Some(shelf()));
            }
        }
        let expected = end.unwrap_or(shelf());
        assert_eq!(shop.shelf().await, expected, "sequence {sequence}, step {step}");
    }
}

async fn refusal_and_trouble_leave_nothing(shop: &impl Shop) {
    let faults = Arc::new(Faults::default());
    let stock = shop.two_phase(Stock(Arc::clone(&faults)));
    let branch = branch(1, "a");
    assert_eq!(phase_one(&stock, &branch, 11).await, "refused: out of stock");
    faults.after_reserve.store(true, Ordering::SeqCst);
    assert_eq!(phase_one(&stock, &branch, 1).await, "trouble: the disk wobbled");
    faults.panic_in_reserve.store(true, Ordering::SeqCst);
    assert_eq!(phase_one(&stock, &branch, 1).await, "trouble: the handler panicked");
    assert_eq!(shop.shelf().await, shelf());
    assert_eq!(doubts(&stock).await, []);
    // And no row and no lock: it may be tried again.
    assert_eq!(phase_one(&stock, &branch, 1).await, r#"prepared {"left":9}"#);
}

async fn read_only_vote_leaves_nothing_and_wants_no_phase_two(shop: &impl Shop) {
    let stock = shop.two_phase(Stock::default());
    assert_eq!(phase_one(&stock, &branch(1, "a"), 0).await, r#"read-only {"left":10}"#);
    let alone = stock.commit_one_phase(call(&branch(2, "a"), 0)).await.unwrap();
    assert_eq!((alone.completion, &alone.reply[..]), (Completion::Done, &br#"{"left":10}"#[..]));
    assert_eq!(shop.shelf().await, shelf(), "what the handler wrote is undone");
    assert_eq!(doubts(&stock).await, []);
}

async fn ids_that_are_prefixes_or_differ_in_case_are_kept_apart(shop: &impl Shop) {
    let stock = shop.two_phase(Stock::default());
    for (n, id) in ["order-1", "order-10", "ORDER-1"].into_iter().enumerate() {
        let left = 9 - n;
        assert_eq!(phase_one(&stock, &branch(1, id), 1).await, format!("prepared {{\"left\":{left}}}"));
        assert_eq!(commit(&stock, &branch(1, id)).await, Completion::Done);
    }
    assert_eq!(shop.shelf().await, at(7, 0, 3));
}

async fn participants_over_one_database_see_only_their_own_doubts(shop: &impl Shop) {
    let stock = shop.two_phase(Stock::default());
    // One name is the beginning of the other, and they are longer than what a name has room for.
    let long = format!("shop/{}", "x".repeat(122));
    for (n, name) in (0..).zip(["shop/stock-2", "SHOP/STOCK", &long, &format!("{long}y")]) {
        let other = Branch::new(tx(n), "a".parse().unwrap(), name.parse().unwrap());
        phase_one(&stock, &other, 1).await;
        assert_eq!(doubts(&stock).await, []);
        let theirs = stock.in_doubt(other.participant()).await.unwrap();
        let theirs: Vec<_> = theirs.into_iter().map(|doubt| doubt.branch).collect();
        assert_eq!(theirs, std::slice::from_ref(&other));
        rollback(&stock, &other).await;
    }
}

/// Names of prepared transactions are short in all databases, and ours have to hold three others.
async fn longest_names_are_prepared_and_ended(shop: &impl Shop) {
    let stock = shop.two_phase(Stock::default());
    let participant = "p".repeat(128);
    for last in ["x", "y"] {
        let id = format!("{}{last}", "b".repeat(63));
        let branch = Branch::new(tx(1), id.parse().unwrap(), participant.parse().unwrap());
        assert!(phase_one(&stock, &branch, 1).await.starts_with("prepared"));
        let in_doubt = stock.in_doubt(branch.participant()).await.unwrap();
        let in_doubt: Vec<_> = in_doubt.into_iter().map(|doubt| doubt.branch).collect();
        assert_eq!(in_doubt, std::slice::from_ref(&branch));
        assert_eq!(commit(&stock, &branch).await, Completion::Done);
    }
    assert_eq!(shop.shelf().await, at(8, 0, 2));
}

async fn unreadable_request_is_refused(shop: &impl Shop) {
    let stock = shop.two_phase(Stock::default());
    let garbled = PhaseOne { request: "{".into(), ..call(&branch(1, "a"), 0) };
    let failure = stock.phase_one(garbled).await.unwrap_err();
    assert!(failure.refusal().unwrap().starts_with("the request cannot be read"), "{failure}");
}

/// A server whose machine has lost its power may never answer.
fn calls_are_given_up_some_time(shop: &impl Shop) {
    for patience in [shop.two_phase(Stock::default()).patience(), shop.tcc(Stock::default()).patience()] {
        assert_eq!(patience, Some(Duration::from_secs(5 * 60 + 2)), "and 2 s for a lock");
    }
}

/// It stands in statements as it was sent.
async fn cluster_that_is_no_name_is_refused(shop: &impl Shop) {
    let stock = shop.two_phase(Stock::default());
    let cluster = "'; UPDATE shelf SET sold = 5; -- ".into();
    let failure = stock.rollback(&branch(1, "a"), &cluster).await.unwrap_err();
    assert!(failure.refusal().is_some_and(|reason| reason.contains("is not a cluster id")), "{failure}");
    let failure = stock.phase_one(PhaseOne { cluster, ..call(&branch(1, "a"), 1) }).await.unwrap_err();
    assert!(failure.refusal().is_some_and(|reason| reason.contains("is not a cluster id")), "{failure}");
    assert_eq!(shop.shelf().await, shelf());
}
