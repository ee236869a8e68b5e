//! What every resource must do whose database prepares by itself: until a branch is committed, nobody sees its work.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use assent_sdk::resource::PhaseOne;
use assent_sdk::{Branch, Completion, Resource};
use futures_util::future::join_all;

use crate::conformance::{CLUSTER, call, clear, cluster, commit, doubts, phase_one, rollback, said};
use crate::shop::{Faults, branch, tx};

/// Sells apples: one row for each branch, so that branches do not wait for each other. Its reply is what is left of ten. It
/// has written when it sees that this is less than nothing, or that its faults want it to fail; of no apples it writes
/// a sale, too, and then says that it has changed nothing.
#[derive(Debug, Default)]
pub struct Sell(pub Arc<Faults>);

/// A database that can be looked into.
pub trait Books {
    type Resource: Resource;

    fn sales(&self, sell: Sell) -> Self::Resource;
    /// What is committed, if there is any.
    async fn sold(&self, branch: &Branch) -> Option<i64>;
}

/// `open` gives books with nothing in them yet.
pub async fn conforms<B: Books>(open: impl AsyncFn() -> B) {
    each_call_takes_effect_once(&open().await).await;
    rollback_before_prepare_refuses_the_late_prepare(&open().await).await;
    late_prepare_is_refused_after_cleaning_too(&open().await).await;
    cleaning_spares_other_clusters_and_what_is_prepared(&open().await).await;
    commit_without_prepare_is_unknown(&open().await).await;
    commit_after_rollback_and_rollback_after_commit_are_heuristic(&open().await).await;
    every_interleaving_has_one_effect(&open().await).await;
    refusal_trouble_and_panic_leave_nothing(&open().await).await;
    read_only_vote_leaves_nothing(&open().await).await;
    branches_are_told_apart_by_every_letter(&open().await).await;
    participants_see_only_their_own_doubts(&open().await).await;
    one_phase_commits_once_and_repeats_its_reply(&open().await).await;
    payload_that_cannot_be_read_is_refused(&open().await).await;
    cluster_that_is_no_name_is_refused(&open().await).await;
}

async fn each_call_takes_effect_once(books: &impl Books) {
    let sales = books.sales(Sell::default());
    let (kept, dropped) = (branch(1, "a"), branch(2, "a"));
    for _ in 0..2 {
        assert_eq!(phase_one(&sales, &kept, 3).await, r#"prepared {"left":7}"#);
        assert_eq!(phase_one(&sales, &dropped, 2).await, r#"prepared {"left":8}"#);
        assert_eq!((books.sold(&kept).await, books.sold(&dropped).await), (None, None));
    }
    assert_eq!(doubts(&sales).await, [kept.clone(), dropped.clone()]);
    for _ in 0..2 {
        assert_eq!(commit(&sales, &kept).await, Completion::Done);
        assert_eq!(rollback(&sales, &dropped).await, Completion::Done);
        assert_eq!((books.sold(&kept).await, books.sold(&dropped).await), (Some(3), None));
    }
    // A late repetition has the first answer and no effect.
    assert_eq!(phase_one(&sales, &kept, 3).await, r#"prepared {"left":7}"#);
    assert_eq!(books.sold(&kept).await, Some(3));
    assert_eq!(doubts(&sales).await, []);
}

async fn rollback_before_prepare_refuses_the_late_prepare(books: &impl Books) {
    let sales = books.sales(Sell::default());
    let branch = branch(1, "a");
    assert_eq!(rollback(&sales, &branch).await, Completion::UnknownBranch);
    assert_eq!(rollback(&sales, &branch).await, Completion::Done);
    assert_eq!(phase_one(&sales, &branch, 3).await, "refused: the branch was rolled back already");
    assert_eq!(doubts(&sales).await, []);
}

async fn late_prepare_is_refused_after_cleaning_too(books: &impl Books) {
    let sales = books.sales(Sell::default());
    for n in 1..=3 {
        rollback(&sales, &branch(n, "a")).await;
    }
    clear(&sales, CLUSTER, 3).await;
    let late = "refused: the transaction ended long ago";
    for n in 1..=2 {
        assert_eq!(phase_one(&sales, &branch(n, "a"), 1).await, late);
        assert_eq!(rollback(&sales, &branch(n, "a")).await, Completion::UnknownBranch);
    }
    // The horizon does not cover its own transaction, and it never moves back.
    clear(&sales, CLUSTER, 1).await;
    assert_eq!(phase_one(&sales, &branch(3, "a"), 1).await, "refused: the branch was rolled back already");
    assert_eq!(phase_one(&sales, &branch(2, "b"), 1).await, late);
    assert_eq!(said(&sales.commit_one_phase(call(&branch(2, "b"), 1)).await.unwrap_err()), late);
    assert_eq!(phase_one(&sales, &branch(4, "a"), 1).await, r#"prepared {"left":9}"#);
}

async fn cleaning_spares_other_clusters_and_what_is_prepared(books: &impl Books) {
    let sales = books.sales(Sell::default());
    let (held, done) = (branch(1, "held"), branch(1, "done"));
    phase_one(&sales, &held, 1).await;
    phase_one(&sales, &done, 1).await;
    commit(&sales, &done).await;
    clear(&sales, "another-cluster", 9).await;
    assert_eq!(phase_one(&sales, &done, 1).await, r#"prepared {"left":9}"#, "it belongs to another cluster");
    assert_eq!(commit(&sales, &done).await, Completion::Done);
    clear(&sales, CLUSTER, 9).await;
    assert_eq!(commit(&sales, &done).await, Completion::UnknownBranch);
    assert_eq!(doubts(&sales).await, std::slice::from_ref(&held));
    assert_eq!(phase_one(&sales, &held, 1).await, r#"prepared {"left":9}"#, "with its reply");
    assert_eq!(commit(&sales, &held).await, Completion::Done);
    assert_eq!(books.sold(&held).await, Some(1));
}

async fn commit_without_prepare_is_unknown(books: &impl Books) {
    let sales = books.sales(Sell::default());
    assert_eq!(commit(&sales, &branch(1, "a")).await, Completion::UnknownBranch);
    assert_eq!(phase_one(&sales, &branch(1, "a"), 1).await, r#"prepared {"left":9}"#);
}

async fn commit_after_rollback_and_rollback_after_commit_are_heuristic(books: &impl Books) {
    let sales = books.sales(Sell::default());
    let (rolled_back, committed) = (branch(1, "a"), branch(1, "b"));
    phase_one(&sales, &rolled_back, 1).await;
    phase_one(&sales, &committed, 2).await;
    rollback(&sales, &rolled_back).await;
    commit(&sales, &committed).await;
    assert_eq!(commit(&sales, &rolled_back).await, Completion::HeuristicRollback);
    assert_eq!(rollback(&sales, &committed).await, Completion::HeuristicCommit);
    assert_eq!((books.sold(&rolled_back).await, books.sold(&committed).await), (None, Some(2)));
}

/// All sequences of four calls: whatever comes, nothing is lost or made, and the first end is the end.
async fn every_interleaving_has_one_effect(books: &impl Books) {
    let sales = books.sales(Sell::default());
    let sequence = async |sequence: u32| {
        let branch = branch(u64::from(sequence), "a");
        let mut end = None;
        let mut prepared = false;
        for step in 0..4 {
            match sequence / 3_u32.pow(step) % 3 {
                0 => prepared |= phase_one(&sales, &branch, 3).await.starts_with("prepared") && end.is_none(),
                1 => {
                    commit(&sales, &branch).await;
                    if prepared && end.is_none() {
                        end = Some(Some(3));
                    }
                }
                _ => {
                    rollback(&sales, &branch).await;
                    end = end.or(Some(None));
                }
            }
            let expected = end.unwrap_or_default();
            assert_eq!(books.sold(&branch).await, expected, "sequence {sequence}, step {step}");
        }
    };
    join_all((0..3_u32.pow(4)).map(sequence)).await;
}

async fn refusal_trouble_and_panic_leave_nothing(books: &impl Books) {
    let faults = Arc::new(Faults::default());
    let sales = books.sales(Sell(Arc::clone(&faults)));
    let branch = branch(1, "a");
    assert_eq!(phase_one(&sales, &branch, 11).await, "refused: out of stock");
    faults.after_reserve.store(true, Ordering::SeqCst);
    assert_eq!(phase_one(&sales, &branch, 1).await, "trouble: the disk wobbled");
    faults.panic_in_reserve.store(true, Ordering::SeqCst);
    assert_eq!(phase_one(&sales, &branch, 1).await, "trouble: the handler panicked");
    faults.after_reserve.store(true, Ordering::SeqCst);
    let failed = sales.commit_one_phase(call(&branch, 1)).await.unwrap_err();
    assert_eq!(said(&failed), "trouble: the disk wobbled");
    assert_eq!(books.sold(&branch).await, None);
    assert_eq!(doubts(&sales).await, []);
    // And no row: it may be tried again.
    assert_eq!(phase_one(&sales, &branch, 1).await, r#"prepared {"left":9}"#);
}

async fn read_only_vote_leaves_nothing(books: &impl Books) {
    let sales = books.sales(Sell::default());
    let (two, one) = (branch(1, "two-phase"), branch(1, "one-phase"));
    assert_eq!(phase_one(&sales, &two, 0).await, r#"read-only {"left":10}"#);
    assert_eq!(sales.commit_one_phase(call(&one, 0)).await.unwrap().reply, r#"{"left":10}"#);
    assert_eq!((books.sold(&two).await, books.sold(&one).await), (None, None));
    assert_eq!(doubts(&sales).await, []);
}

async fn branches_are_told_apart_by_every_letter(books: &impl Books) {
    let sales = books.sales(Sell::default());
    let ids = ["order-1", "order-10", "ORDER-1", "order-1/", "order_1"];
    let all = ids.map(|id| branch(1, id));
    for (count, branch) in (1..).zip(&all) {
        let left = 10 - count;
        assert_eq!(phase_one(&sales, branch, count).await, format!(r#"prepared {{"left":{left}}}"#));
    }
    assert_eq!(doubts(&sales).await.len(), all.len());
    rollback(&sales, &all[0]).await;
    for (count, branch) in (2..).zip(&all[1..]) {
        assert_eq!(commit(&sales, branch).await, Completion::Done);
        assert_eq!(books.sold(branch).await, Some(count));
    }
    assert_eq!(books.sold(&all[0]).await, None);
}

async fn participants_see_only_their_own_doubts(books: &impl Books) {
    let sales = books.sales(Sell::default());
    let of = |name: &str| Branch::new(tx(1), "a".parse().unwrap(), name.parse().unwrap());
    // Names that are too long for the database are told apart, too.
    let long = "x".repeat(127);
    let others = [of("shop/stock2"), of("SHOP/stock"), of(&format!("{long}1")), of(&format!("{long}2"))];
    for other in &others {
        phase_one(&sales, other, 1).await;
    }
    assert_eq!(doubts(&sales).await, []);
    for other in &others {
        let theirs = sales.in_doubt(other.participant()).await.unwrap();
        let theirs: Vec<_> = theirs.iter().map(|doubt| &doubt.branch).collect();
        assert_eq!(theirs, [other]);
        assert_eq!(commit(&sales, other).await, Completion::Done);
    }
}

async fn one_phase_commits_once_and_repeats_its_reply(books: &impl Books) {
    let sales = books.sales(Sell::default());
    let one_phase = async |branch: &Branch, count| {
        let done = sales.commit_one_phase(call(branch, count)).await;
        done.map_or_else(|failure| said(&failure), |done| format!("{:?} {:?}", done.completion, done.reply))
    };
    let alone = branch(1, "a");
    for _ in 0..2 {
        assert_eq!(one_phase(&alone, 3).await, r#"Done b"{\"left\":7}""#);
        assert_eq!(books.sold(&alone).await, Some(3));
    }
    assert_eq!(rollback(&sales, &alone).await, Completion::HeuristicCommit);
    assert_eq!(one_phase(&branch(2, "a"), 11).await, "refused: out of stock");

    let prepared = branch(3, "a");
    phase_one(&sales, &prepared, 1).await;
    assert_eq!(one_phase(&prepared, 1).await, r#"Done b"{\"left\":9}""#);
    assert_eq!(books.sold(&prepared).await, Some(1));
    rollback(&sales, &branch(4, "a")).await;
    assert_eq!(one_phase(&branch(4, "a"), 1).await, "refused: the branch was rolled back already");
    assert_eq!(doubts(&sales).await, []);
}

async fn payload_that_cannot_be_read_is_refused(books: &impl Books) {
    let sales = books.sales(Sell::default());
    let garbled = PhaseOne { request: "{".into(), ..call(&branch(1, "a"), 0) };
    let failure = sales.phase_one(garbled).await.unwrap_err();
    assert!(failure.refusal().unwrap().starts_with("the request cannot be read"), "{failure}");
}

/// A cluster's id is the one text that nobody has parsed when it comes to the resource.
async fn cluster_that_is_no_name_is_refused(books: &impl Books) {
    let sales = books.sales(Sell::default());
    let bad = "'); DROP TABLE assent_barrier; --";
    let foreign = PhaseOne { cluster: bad.into(), ..call(&branch(1, "a"), 1) };
    let failure = sales.phase_one(foreign).await.unwrap_err();
    assert!(failure.refusal().unwrap().contains("is not a cluster id"), "{failure}");
    assert!(sales.rollback(&branch(1, "a"), &bad.into()).await.is_err());
    assert!(sales.rollback(&branch(1, "a"), &cluster()).await.is_ok());
}
