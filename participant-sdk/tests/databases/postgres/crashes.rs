//! Servers that are killed, and come back.

use std::time::Duration;

use assent_sdk::postgres::{Postgres, PostgresOptions};
use assent_sdk::throwaway::Server;
use assent_sdk::{Completion, Resource};

use super::script::{Script, phase_one};
use super::{number, run, shop, soon};
use crate::conformance::{commit, doubts, rollback};
use crate::shop::branch;

/// The reply is synced by nothing but the prepare that follows it.
#[tokio::test]
async fn prepared_branches_and_their_replies_outlive_a_crash_of_the_server() {
    let mut server = Server::postgres(&[]).unwrap();
    let url = server.url();
    run(&url, "CREATE TABLE effect (branch text)").await;
    let (kept, dropped, done) = (branch(1, "a"), branch(2, "a"), branch(3, "a"));
    let two_phase = shop(&url).await.two_phase(Script).unwrap();
    for branch in [&kept, &dropped, &done] {
        let work = format!("INSERT INTO effect VALUES ('{branch}')");
        assert_eq!(phase_one(&two_phase, branch, &[&work], "it").await, "prepared it");
    }
    assert_eq!(commit(&two_phase, &done).await, Completion::Done);
    server.kill9().unwrap();
    assert!(two_phase.commit(&kept).await.is_err(), "nothing is known while nobody answers");
    server.restart().unwrap();

    // A new process, and then the old one, whose connections are dead.
    let options = PostgresOptions::new(&url).lock_timeout(Duration::from_millis(100));
    let new = options.connect().await.unwrap().two_phase(Script).unwrap();
    assert_eq!(doubts(&new).await, [kept.clone(), dropped.clone()]);
    assert_eq!(phase_one(&new, &kept, &[], "").await, "prepared it");
    assert_eq!(phase_one(&new, &done, &[], "").await, "prepared it");
    assert_eq!(commit(&new, &done).await, Completion::Done);
    assert_eq!(commit(&new, &kept).await, Completion::Done);
    assert_eq!(until_answered(async || two_phase.commit(&kept).await).await, Completion::Done);
    assert_eq!(rollback(&two_phase, &dropped).await, Completion::Done);
    assert_eq!(number(&url, "SELECT count(*) FROM effect").await, 2);
    assert_eq!(doubts(&two_phase).await, []);
}

#[tokio::test]
async fn reservations_outlive_a_crash_of_the_server() {
    let mut server = Server::postgres(&[]).unwrap();
    let tcc = shop(&server.url()).await.tcc(Script);
    let (kept, ended) = (branch(1, "a"), branch(2, "a"));
    phase_one(&tcc, &kept, &[], "it").await;
    assert_eq!(rollback(&tcc, &ended).await, Completion::UnknownBranch);
    server.restart().unwrap();
    assert_eq!(until_answered(async || tcc.commit(&kept).await).await, Completion::Done);
    let again = Postgres::connect(&server.url()).await.unwrap().tcc(Script);
    assert_eq!(phase_one(&again, &kept, &[], "").await, "prepared it");
    assert_eq!(phase_one(&again, &ended, &[], "").await, "refused: the branch was rolled back already");
}

/// Each dead connection costs one call, which comes again.
async fn until_answered<T>(mut call: impl AsyncFnMut() -> assent_sdk::Result<T>) -> T {
    soon(async {
        loop {
            if let Ok(answer) = call().await {
                break answer;
            }
        }
    })
    .await
}
