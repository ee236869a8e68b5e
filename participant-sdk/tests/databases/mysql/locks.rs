//! What a prepared branch holds, and for how long others wait for it.

use std::time::Duration;

use assent_sdk::mysql::{MySql, MySqlOptions};
use assent_sdk::resource::Cleaned;
use assent_sdk::{ClusterId, Completion, Failure, Horizon, Resource as _};

use super::{Run, database, number, run, running, server, soon, stranger, until_answered, until_waiting};
use crate::conformance::{CLUSTER, commit, doubts, rollback};
use crate::shop::{branch, tx};

/// Four rows, and connections that wait for a lock for one second.
async fn rows() -> (String, MySql) {
    let url = database(server()).await;
    let rows = "CREATE TABLE rows_ (id INT PRIMARY KEY, value INT NOT NULL) ENGINE = InnoDB;
        INSERT INTO rows_ VALUES (1, 0), (2, 0), (3, 0), (9, 0)";
    let impatient = MySqlOptions::new(&url).lock_timeout(Duration::from_secs(1));
    let db = impatient.connect().await.unwrap().setup(rows).await.unwrap();
    (url, db)
}

fn trouble<T: std::fmt::Debug>(answer: Result<T, Failure>) -> String {
    let failure = answer.unwrap_err();
    assert_eq!(failure.refusal(), None);
    failure.to_string()
}

/// With REPEATABLE READ the range would be locked, and stay so until the decision.
#[tokio::test]
async fn prepared_branch_locks_no_gaps_between_rows() {
    let (_, db) = rows().await;
    let stock = db.two_phase(Run::default()).unwrap();
    let update = ["UPDATE rows_ SET value = 1 WHERE id > 3 AND id < 9"];
    stock.phase_one(running(&branch(1, "a"), &update)).await.unwrap();
    let insert = ["INSERT INTO rows_ VALUES (5, 0)"];
    stock.phase_one(running(&branch(2, "a"), &insert)).await.unwrap();
    assert_eq!(commit(&stock, &branch(2, "a")).await, Completion::Done);
    assert_eq!(commit(&stock, &branch(1, "a")).await, Completion::Done);
}

#[tokio::test]
async fn handler_waits_for_a_lock_no_longer_than_was_set() {
    let (_, db) = rows().await;
    let stock = db.two_phase(Run::default()).unwrap();
    let update = ["UPDATE rows_ SET value = value + 1 WHERE id = 1"];
    stock.phase_one(running(&branch(1, "a"), &update)).await.unwrap();
    let said = trouble(soon(stock.phase_one(running(&branch(2, "a"), &update))).await);
    assert!(said.contains("Lock wait timeout"), "{said}");
    commit(&stock, &branch(1, "a")).await;
    stock.phase_one(running(&branch(2, "a"), &update)).await.unwrap();
}

/// Somebody who changes the table waits for the branch, and all others would wait behind him: a day by default.
#[tokio::test]
async fn handler_does_not_wait_long_behind_a_change_of_its_table() {
    let (url, db) = rows().await;
    let stock = db.two_phase(Run::default()).unwrap();
    stock.phase_one(running(&branch(1, "a"), &["UPDATE rows_ SET value = 1 WHERE id = 1"])).await.unwrap();
    let mut changer = stranger(&url).await;
    let alter = run(&mut changer, "ALTER TABLE rows_ ADD COLUMN more INT");
    let others = async {
        let mut db = stranger(&url).await;
        let waiting = "SELECT count(*) FROM information_schema.processlist
            WHERE db = DATABASE() AND state LIKE 'Waiting for table metadata lock%'";
        soon(async {
            while number(&mut db, waiting).await == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let update = ["UPDATE rows_ SET value = 1 WHERE id = 2"];
        let said = trouble(soon(stock.phase_one(running(&branch(2, "a"), &update))).await);
        assert!(said.contains("Lock wait timeout"), "{said}");
        assert_eq!(commit(&stock, &branch(1, "a")).await, Completion::Done);
    };
    let (altered, ()) = tokio::join!(alter, others);
    altered.unwrap();
}

/// A rollback that comes while the work is being done cannot know yet how it will end.
#[tokio::test]
async fn rollback_waits_for_work_that_is_under_way_on_another_replica() {
    let (url, db) = rows().await;
    let handler = Run::default();
    let worker = db.two_phase(handler.clone()).unwrap();
    let impatient = MySqlOptions::new(&url).lock_timeout(Duration::from_secs(1));
    let other = impatient.connect().await.unwrap().two_phase(Run::default()).unwrap();
    let (branch, cluster) = (branch(1, "a"), ClusterId::from(CLUSTER));
    let statements = ["UPDATE rows_ SET value = 1", "@wait"];
    let roll_back = async {
        handler.reached.notified().await;
        let said = trouble(soon(other.rollback(&branch, &cluster)).await);
        assert!(said.contains("Lock wait timeout"), "{said}");
        let said = trouble(other.phase_one(running(&branch, &statements)).await);
        assert!(said.contains("another call of branch"), "{said}");
        handler.go_on.notify_one();
    };
    let (worked, ()) = tokio::join!(worker.phase_one(running(&branch, &statements)), roll_back);
    worked.unwrap();
    assert_eq!(rollback(&worker, &branch).await, Completion::Done);
    let mut db = stranger(&url).await;
    assert_eq!(number(&mut db, "SELECT count(*) FROM rows_ WHERE value = 0").await, 4);
    assert_eq!(until_answered(async || other.rollback(&branch, &cluster).await).await, Completion::Done);
}

/// The row is written first and the horizon read then. The other way round, a tombstone that is cleared in between would be
/// seen by neither.
#[tokio::test]
async fn late_call_that_waits_for_its_tombstone_finds_the_horizon_when_that_is_cleared() {
    let (url, db) = rows().await;
    let late = branch(1, "a");
    let two_phase = db.clone().two_phase(Run::default()).unwrap();
    rollback(&two_phase, &late).await;
    let mut cleaner = stranger(&url).await;
    run(&mut cleaner, "START TRANSACTION; DELETE FROM assent_barrier").await.unwrap();
    let clear = async {
        let mut db = stranger(&url).await;
        until_waiting(&url, 1).await;
        let horizon = format!("INSERT INTO assent_horizon VALUES ('{CLUSTER}', '{}')", tx(2).order());
        run(&mut db, &horizon).await.unwrap();
        run(&mut cleaner, "COMMIT").await.unwrap();
    };
    let statements = ["UPDATE rows_ SET value = 1"];
    let (answer, ()) = tokio::join!(two_phase.phase_one(running(&late, &statements)), clear);
    assert_eq!(answer.unwrap_err().refusal(), Some("the transaction ended long ago"));
    assert_eq!(doubts(&two_phase).await, []);
}

#[tokio::test]
async fn cleaning_goes_in_portions_and_waits_for_nobody() {
    let (url, db) = rows().await;
    let stock = db.two_phase(Run::default()).unwrap();
    let cluster = ClusterId::from(CLUSTER);
    for n in 0..600 {
        stock.rollback(&branch(n, "b"), &cluster).await.unwrap();
    }
    // Prepared, with its row locked, in the midst of what is cleared.
    stock.phase_one(running(&branch(300, "a"), &["UPDATE rows_ SET value = 1"])).await.unwrap();
    let horizon = Horizon { cluster, before: tx(599).order() };
    let mut reader = stranger(&url).await;
    assert_eq!(stock.forget_before(&horizon).await.unwrap(), Cleaned::Partly);
    assert_eq!(number(&mut reader, "SELECT count(*) FROM assent_barrier").await, 100);
    assert_eq!(stock.forget_before(&horizon).await.unwrap(), Cleaned::Wholly);
    assert_eq!(number(&mut reader, "SELECT count(*) FROM assent_barrier").await, 1);
    assert_eq!(commit(&stock, &branch(300, "a")).await, Completion::Done);
    assert_eq!(stock.forget_before(&horizon).await.unwrap(), Cleaned::Wholly);
    assert_eq!(number(&mut reader, "SELECT count(*) FROM assent_barrier").await, 1);
}
