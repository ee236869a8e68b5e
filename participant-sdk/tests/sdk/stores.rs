//! The stores of the SDK itself, asked what every resource with a barrier is asked.

use std::time::Duration;

use assent_sdk::memory::Memory;
use assent_sdk::sqlite::Sqlite;
use assent_sdk::{Completion, Reservation, ReservationClass, Resource as _};

use assent_sdk::resource::PhaseOne;

use crate::conformance::{CLUSTER, call, clear, commit, conforms, phase_one, rollback};
use crate::shop::{SCHEMA, Shelf, Shop as _, Stock, branch, shelf};

#[tokio::test]
async fn memory_keeps_the_barrier() {
    conforms(async || Memory::new(shelf())).await;
}

#[tokio::test]
async fn sqlite_keeps_the_barrier() {
    conforms(async || Sqlite::open(":memory:").unwrap().setup(SCHEMA).unwrap()).await;
}

#[tokio::test]
async fn sqlite_keeps_reservations_and_doubts_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stock.db");
    let reservation = Reservation { ttl: Duration::from_millis(12_345), class: ReservationClass::Autonomous };
    {
        let stock = Sqlite::open(&path).unwrap().setup(SCHEMA).unwrap().tcc(Stock::default());
        let call = PhaseOne { reservation: Some(reservation), ..call(&branch(1, "a"), 3) };
        stock.phase_one(call).await.unwrap();
        phase_one(&stock, &branch(2, "a"), 1).await;
        rollback(&stock, &branch(3, "a")).await;
        clear(&stock, CLUSTER, 1).await;
    }
    let sqlite = Sqlite::open(&path).unwrap();
    let stock = sqlite.clone().tcc(Stock::default());
    let mut doubts = stock.in_doubt(&"shop/stock".parse().unwrap()).await.unwrap();
    doubts.sort_by_key(|doubt| doubt.branch.clone());
    let kept: Vec<_> = doubts.into_iter().map(|doubt| (doubt.branch, doubt.reservation)).collect();
    assert_eq!(kept, [(branch(1, "a"), Some(reservation)), (branch(2, "a"), None)]);
    // A repeated Try is granted what the first was.
    let again = stock.phase_one(call(&branch(1, "a"), 3)).await.unwrap();
    assert_eq!(again.reservation, Some(reservation));
    assert_eq!(phase_one(&stock, &branch(3, "a"), 1).await, "refused: the branch was rolled back already");
    assert_eq!(phase_one(&stock, &branch(0, "a"), 1).await, "refused: the transaction ended long ago");
    assert_eq!(commit(&stock, &branch(1, "a")).await, Completion::Done);
    assert_eq!(sqlite.shelf().await, Shelf { free: 6, held: 1, sold: 3 });
}
