//! What every resource with a barrier must do, said once and asked of each.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use assent_sdk::resource::{Cleaned, PhaseOne};
use assent_sdk::{Branch, ClusterId, Completion, Encode as _, Failure, Horizon, Json, Resource, Vote};

use crate::shop::{Faults, Shop, Stock, Taken, at, branch, shelf, take, tx};

pub const CLUSTER: &str = "cluster-1";

/// `open` gives a shop with nothing sold yet.
pub async fn conforms<S: Shop>(open: impl AsyncFn() -> S) {
    try_confirm_and_cancel_take_effect_once_each(&open().await).await;
    cancel_before_try_refuses_the_late_try(&open().await).await;
    late_try_is_refused_after_cleaning_too(&open().await).await;
    cleaning_spares_other_clusters_and_what_is_prepared(&open().await).await;
    commit_without_prepare_is_unknown(&open().await).await;
    confirm_after_cancel_and_cancel_after_confirm_are_heuristic(&open().await).await;
    every_interleaving_has_one_effect(&open).await;
    refusal_and_trouble_leave_nothing(&open().await).await;
    cancel_after_a_try_that_failed_half_way_ends_the_branch(&open().await).await;
    read_only_vote_leaves_nothing_and_wants_no_phase_two(&open().await).await;
    failing_confirm_leaves_the_reservation_held(&open().await).await;
    branches_of_one_transaction_and_ids_that_are_prefixes_are_kept_apart(&open().await).await;
    participants_over_one_store_see_only_their_own_doubts(&open().await).await;
    one_phase_commits_once_and_repeats_its_reply(&open().await).await;
    unreadable_request_is_refused(&open().await).await;
}

pub fn cluster() -> ClusterId {
    ClusterId::from(CLUSTER)
}

pub fn call(branch: &Branch, count: i64) -> PhaseOne {
    PhaseOne {
        branch: branch.clone(),
        cluster: cluster(),
        request: take(count).to_bytes().unwrap(),
        reservation: None,
    }
}

/// Phase one, in words.
pub async fn phase_one(resource: &impl Resource, branch: &Branch, count: i64) -> String {
    match resource.phase_one(call(branch, count)).await {
        Ok(granted) => match granted.vote {
            Vote::Prepared(reply) => format!("prepared {}", String::from_utf8_lossy(&reply)),
            Vote::ReadOnly(reply) => format!("read-only {}", String::from_utf8_lossy(&reply)),
        },
        Err(failure) => said(&failure),
    }
}

pub fn said(failure: &Failure) -> String {
    match failure.refusal() {
        Some(reason) => format!("refused: {reason}"),
        None => format!("trouble: {failure}"),
    }
}

pub async fn commit(resource: &impl Resource, branch: &Branch) -> Completion {
    resource.commit(branch).await.unwrap()
}

pub async fn rollback(resource: &impl Resource, branch: &Branch) -> Completion {
    resource.rollback(branch, &cluster()).await.unwrap()
}

pub async fn doubts(resource: &impl Resource) -> Vec<Branch> {
    let mut branches: Vec<Branch> = resource
        .in_doubt(&"shop/stock".parse().unwrap())
        .await
        .unwrap()
        .into_iter()
        .map(|doubt| doubt.branch)
        .collect();
    branches.sort();
    branches
}

pub async fn clear(resource: &impl Resource, cluster: &str, n: u64) {
    let horizon = Horizon { cluster: ClusterId::from(cluster), before: tx(n).order() };
    while resource.forget_before(&horizon).await.unwrap() == Cleaned::Partly {}
}

async fn try_confirm_and_cancel_take_effect_once_each(shop: &impl Shop) {
    let stock = shop.tcc(Stock::default());
    let (kept, dropped) = (branch(1, "a"), branch(2, "a"));
    for _ in 0..2 {
        assert_eq!(phase_one(&stock, &kept, 3).await, r#"prepared {"left":7}"#);
        assert_eq!(shop.shelf().await, at(7, 3, 0));
    }
    for _ in 0..2 {
        assert_eq!(phase_one(&stock, &dropped, 2).await, r#"prepared {"left":5}"#);
    }
    assert_eq!(doubts(&stock).await, [kept.clone(), dropped.clone()]);
    for _ in 0..2 {
        assert_eq!(commit(&stock, &kept).await, Completion::Done);
        assert_eq!(rollback(&stock, &dropped).await, Completion::Done);
        assert_eq!(shop.shelf().await, at(7, 0, 3));
    }
    // A late repetition of the Try has the first answer and no effect.
    assert_eq!(phase_one(&stock, &kept, 3).await, r#"prepared {"left":7}"#);
    assert_eq!(shop.shelf().await, at(7, 0, 3));
    assert_eq!(doubts(&stock).await, []);
}

async fn cancel_before_try_refuses_the_late_try(shop: &impl Shop) {
    let stock = shop.tcc(Stock::default());
    let branch = branch(1, "a");
    assert_eq!(rollback(&stock, &branch).await, Completion::UnknownBranch);
    assert_eq!(rollback(&stock, &branch).await, Completion::Done);
    assert_eq!(phase_one(&stock, &branch, 3).await, "refused: the branch was rolled back already");
    assert_eq!(shop.shelf().await, shelf());
}

async fn late_try_is_refused_after_cleaning_too(shop: &impl Shop) {
    let stock = shop.tcc(Stock::default());
    for n in 1..=3 {
        rollback(&stock, &branch(n, "a")).await;
    }
    clear(&stock, CLUSTER, 3).await;
    for n in 1..=2 {
        let late = "refused: the transaction ended long ago";
        assert_eq!(phase_one(&stock, &branch(n, "a"), 1).await, late);
        assert_eq!(rollback(&stock, &branch(n, "a")).await, Completion::UnknownBranch);
    }
    // The horizon does not cover its own transaction, and it never moves back.
    clear(&stock, CLUSTER, 1).await;
    assert_eq!(phase_one(&stock, &branch(3, "a"), 1).await, "refused: the branch was rolled back already");
    assert_eq!(phase_one(&stock, &branch(2, "b"), 1).await, "refused: the transaction ended long ago");
    assert_eq!(phase_one(&stock, &branch(4, "a"), 1).await, r#"prepared {"left":9}"#);
}

async fn cleaning_spares_other_clusters_and_what_is_prepared(shop: &impl Shop) {
    let stock = shop.tcc(Stock::default());
    let (held, done) = (branch(1, "held"), branch(1, "done"));
    phase_one(&stock, &held, 1).await;
    phase_one(&stock, &done, 1).await;
    commit(&stock, &done).await;
    clear(&stock, "another-cluster", 9).await;
    assert_eq!(commit(&stock, &done).await, Completion::Done, "it belongs to another cluster");
    clear(&stock, CLUSTER, 9).await;
    assert_eq!(commit(&stock, &done).await, Completion::UnknownBranch);
    assert_eq!(doubts(&stock).await, std::slice::from_ref(&held));
    assert_eq!(commit(&stock, &held).await, Completion::Done);
}

async fn commit_without_prepare_is_unknown(shop: &impl Shop) {
    let stock = shop.two_phase(Stock::default());
    assert_eq!(commit(&stock, &branch(1, "a")).await, Completion::UnknownBranch);
    assert_eq!(phase_one(&stock, &branch(1, "a"), 1).await, r#"prepared {"left":9}"#);
}

async fn confirm_after_cancel_and_cancel_after_confirm_are_heuristic(shop: &impl Shop) {
    let stock = shop.tcc(Stock::default());
    let (cancelled, confirmed) = (branch(1, "a"), branch(1, "b"));
    phase_one(&stock, &cancelled, 1).await;
    phase_one(&stock, &confirmed, 2).await;
    rollback(&stock, &cancelled).await;
    commit(&stock, &confirmed).await;
    let before = shop.shelf().await;
    assert_eq!(commit(&stock, &cancelled).await, Completion::HeuristicRollback);
    assert_eq!(rollback(&stock, &confirmed).await, Completion::HeuristicCommit);
    assert_eq!(shop.shelf().await, before);
}

/// All sequences of four calls: whatever comes, nothing is lost or made, and the first end is the end.
async fn every_interleaving_has_one_effect<S: Shop>(open: &impl AsyncFn() -> S) {
    for sequence in 0..3_u32.pow(4) {
        let shop = open().await;
        let stock = shop.tcc(Stock::default());
        let branch = branch(1, "a");
        let mut end = None;
        let mut held = false;
        for step in 0..4 {
            match sequence / 3_u32.pow(step) % 3 {
                0 => held |= phase_one(&stock, &branch, 3).await.starts_with("prepared") && end.is_none(),
                1 => {
                    commit(&stock, &branch).await;
                    if held && end.is_none() {
                        end = Some(at(7, 0, 3));
                    }
                }
                _ => {
                    rollback(&stock, &branch).await;
                    if end.is_none() {
                        end = Some(shelf());
                    }
                }
            }
            let expected = end.unwrap_or(if held { at(7, 3, 0) } else { shelf() });
            assert_eq!(shop.shelf().await, expected, "sequence {sequence}, step {step}");
        }
    }
}

async fn refusal_and_trouble_leave_nothing(shop: &impl Shop) {
    let faults = Arc::new(Faults::default());
    let stock = shop.tcc(Stock(Arc::clone(&faults)));
    let branch = branch(1, "a");
    assert_eq!(phase_one(&stock, &branch, 11).await, "refused: out of stock");
    faults.after_reserve.store(true, Ordering::SeqCst);
    assert_eq!(phase_one(&stock, &branch, 1).await, "trouble: the disk wobbled");
    faults.panic_in_reserve.store(true, Ordering::SeqCst);
    assert_eq!(phase_one(&stock, &branch, 1).await, "trouble: the handler panicked");
    assert_eq!(shop.shelf().await, shelf());
    assert_eq!(doubts(&stock).await, []);
    // And no row: it may be tried again.
    assert_eq!(phase_one(&stock, &branch, 1).await, r#"prepared {"left":9}"#);
}

async fn cancel_after_a_try_that_failed_half_way_ends_the_branch(shop: &impl Shop) {
    let faults = Arc::new(Faults::default());
    let stock = shop.tcc(Stock(Arc::clone(&faults)));
    let branch = branch(1, "a");
    faults.after_reserve.store(true, Ordering::SeqCst);
    assert_eq!(phase_one(&stock, &branch, 1).await, "trouble: the disk wobbled");
    assert_eq!(rollback(&stock, &branch).await, Completion::UnknownBranch);
    assert_eq!(rollback(&stock, &branch).await, Completion::Done);
    assert_eq!(phase_one(&stock, &branch, 1).await, "refused: the branch was rolled back already");
    assert_eq!(shop.shelf().await, shelf());
}

async fn read_only_vote_leaves_nothing_and_wants_no_phase_two(shop: &impl Shop) {
    let stock = shop.tcc(Stock::default());
    assert_eq!(phase_one(&stock, &branch(1, "a"), 0).await, r#"read-only {"left":10}"#);
    assert_eq!(shop.shelf().await, shelf(), "what the handler wrote is undone");
    assert_eq!(doubts(&stock).await, []);
}

async fn failing_confirm_leaves_the_reservation_held(shop: &impl Shop) {
    let faults = Arc::new(Faults::default());
    let stock = shop.tcc(Stock(Arc::clone(&faults)));
    let branch = branch(1, "a");
    phase_one(&stock, &branch, 3).await;
    faults.after_confirm.store(true, Ordering::SeqCst);
    assert_eq!(said(&stock.commit(&branch).await.unwrap_err()), "trouble: the disk wobbled");
    assert_eq!(shop.shelf().await, at(7, 3, 0));
    assert_eq!(doubts(&stock).await, std::slice::from_ref(&branch));
    assert_eq!(commit(&stock, &branch).await, Completion::Done);
    assert_eq!(shop.shelf().await, at(7, 0, 3));
}

async fn branches_of_one_transaction_and_ids_that_are_prefixes_are_kept_apart(shop: &impl Shop) {
    let stock = shop.tcc(Stock::default());
    let (one, ten) = (branch(1, "order-1"), branch(1, "order-10"));
    phase_one(&stock, &one, 1).await;
    phase_one(&stock, &ten, 2).await;
    rollback(&stock, &one).await;
    assert_eq!(commit(&stock, &ten).await, Completion::Done);
    assert_eq!(shop.shelf().await, at(8, 0, 2));
}

async fn participants_over_one_store_see_only_their_own_doubts(shop: &impl Shop) {
    let stock = shop.tcc(Stock::default());
    let other = Branch::new(tx(1), "a".parse().unwrap(), "shop/returns".parse().unwrap());
    phase_one(&stock, &other, 1).await;
    assert_eq!(doubts(&stock).await, []);
    let theirs = stock.in_doubt(other.participant()).await.unwrap();
    assert_eq!(theirs.len(), 1);
}

async fn one_phase_commits_once_and_repeats_its_reply(shop: &impl Shop) {
    let faults = Arc::new(Faults::default());
    let stock = shop.two_phase(Stock(Arc::clone(&faults)));
    let alone = branch(1, "a");
    faults.after_confirm.store(true, Ordering::SeqCst);
    assert_eq!(
        said(&stock.commit_one_phase(call(&alone, 3)).await.unwrap_err()),
        "trouble: the disk wobbled"
    );
    assert_eq!(shop.shelf().await, shelf(), "half of it is nothing");
    for _ in 0..2 {
        let done = stock.commit_one_phase(call(&alone, 3)).await.unwrap();
        assert_eq!((done.completion, &done.reply[..]), (Completion::Done, &br#"{"left":7}"#[..]));
        assert_eq!(shop.shelf().await, at(7, 0, 3));
    }
    let refused = stock.commit_one_phase(call(&branch(2, "a"), 11)).await.unwrap_err();
    assert_eq!(refused.refusal(), Some("out of stock"));

    let prepared = branch(3, "a");
    phase_one(&stock, &prepared, 1).await;
    assert_eq!(
        stock.commit_one_phase(call(&prepared, 1)).await.unwrap().reply,
        Json(Taken { left: 6 }).to_bytes().unwrap()
    );
    rollback(&stock, &branch(4, "a")).await;
    let late = stock.commit_one_phase(call(&branch(4, "a"), 1)).await.unwrap_err();
    assert_eq!(late.refusal(), Some("the branch was rolled back already"));
    assert_eq!(shop.shelf().await, at(6, 0, 4));
}

async fn unreadable_request_is_refused(shop: &impl Shop) {
    let stock = shop.tcc(Stock::default());
    let garbled = PhaseOne { request: "{".into(), ..call(&branch(1, "a"), 0) };
    let failure = stock.phase_one(garbled).await.unwrap_err();
    assert!(failure.refusal().unwrap().starts_with("the request cannot be read"), "{failure}");
}
