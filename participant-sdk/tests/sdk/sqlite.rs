//! What only the SQLite resource has: groups, its settings, and other users of the file.

use assent_sdk::resource::{Cleaned, PhaseOne};
use assent_sdk::sqlite::Sqlite;
use assent_sdk::{ClusterId, Encode as _, Failure, Horizon, Resource as _};

use tokio::task::JoinHandle;

use crate::shop::{SCHEMA, Shop as _, Stock, at, branch, shelf, take, tx};

fn call(n: u64, count: i64) -> PhaseOne {
    PhaseOne {
        branch: branch(n, "a"),
        cluster: ClusterId::from("cluster-1"),
        request: take(count).to_bytes().unwrap(),
        reservation: None,
    }
}

/// Calls that come together share one SQLite transaction; one that fails must not take the others with it.
#[tokio::test]
async fn failing_call_spares_the_others_of_its_group() {
    let sqlite = Sqlite::open(":memory:").unwrap().setup(SCHEMA).unwrap();
    let stock = sqlite.clone().tcc(Stock::default());
    let (go, busy) = keep_busy(&sqlite).await;
    let calls = async {
        let calls = (1..=20).map(|n| stock.phase_one(call(n, if n % 2 == 0 { 1 } else { 100 })));
        futures_util::future::join_all(calls).await
    };
    let (outcomes, ()) = tokio::join!(calls, async { go.send(()).unwrap() });
    busy.await.unwrap().unwrap();
    for (n, outcome) in (1..=20).zip(outcomes) {
        assert_eq!(outcome.is_ok(), n % 2 == 0, "call {n}");
    }
    assert_eq!(sqlite.shelf().await, at(0, 10, 0));
}

/// Gives the thread something to do until told to go on. What is called meanwhile gathers behind it, into one group.
async fn keep_busy(sqlite: &Sqlite) -> (std::sync::mpsc::Sender<()>, JoinHandle<Result<(), Failure>>) {
    let (go, gate) = std::sync::mpsc::channel();
    let (begun, working) = tokio::sync::oneshot::channel();
    let sqlite = sqlite.clone();
    let busy = tokio::spawn(async move {
        let work = move |_: &rusqlite::Transaction<'_>| {
            begun.send(()).unwrap();
            Ok(gate.recv()?)
        };
        sqlite.run(work).await
    });
    working.await.unwrap();
    (go, busy)
}

#[tokio::test]
async fn acknowledged_work_is_synced_at_commit() {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::open(dir.path().join("stock.db")).unwrap();
    let (journal, synchronous): (String, i64) = sqlite
        .run(|db| {
            Ok((
                db.query_row("PRAGMA journal_mode", [], |row| row.get(0))?,
                db.query_row("PRAGMA synchronous", [], |row| row.get(0))?,
            ))
        })
        .await
        .unwrap();
    assert_eq!((journal.as_str(), synchronous), ("wal", 2), "2 is FULL");
}

#[tokio::test]
async fn statements_of_the_service_that_fail_leave_nothing() {
    let sqlite = Sqlite::open(":memory:").unwrap().setup(SCHEMA).unwrap();
    let failed: Result<(), Failure> = sqlite
        .run(|db| {
            db.execute("UPDATE shelf SET free = 0", [])?;
            db.execute("UPDATE no_such_table SET free = 0", [])?;
            Ok(())
        })
        .await;
    assert!(failed.unwrap_err().to_string().contains("no such table"));
    assert_eq!(sqlite.shelf().await, shelf());
}

/// Raised by a handler, this ends the whole SQLite transaction, savepoints and all. Nothing may be acknowledged then, and
/// nothing may be written outside of a transaction.
#[tokio::test]
async fn group_whose_transaction_sqlite_ends_is_answered_with_trouble() {
    let sqlite = Sqlite::open(":memory:").unwrap().setup(SCHEMA).unwrap();
    let (go, busy) = keep_busy(&sqlite).await;
    let ending = sqlite.run(|db| {
        db.execute("UPDATE shelf SET free = 1", [])?;
        Ok(db.execute_batch("ROLLBACK")?)
    });
    let following = sqlite.run(|db| Ok(db.execute("UPDATE shelf SET free = 2", [])?));
    let (ended, followed, ()) = tokio::join!(ending, following, async { go.send(()).unwrap() });
    busy.await.unwrap().unwrap();
    assert!(ended.is_err());
    assert!(followed.is_err());
    assert_eq!(sqlite.shelf().await, shelf());
}

#[tokio::test]
async fn cleaning_goes_in_portions() {
    let sqlite = Sqlite::open(":memory:").unwrap().setup(SCHEMA).unwrap();
    let stock = sqlite.clone().tcc(Stock::default());
    let cluster = ClusterId::from("cluster-1");
    for n in 0..600 {
        stock.rollback(&branch(n, "a"), &cluster).await.unwrap();
    }
    let horizon = Horizon { cluster, before: tx(600).order() };
    assert_eq!(stock.forget_before(&horizon).await.unwrap(), Cleaned::Partly);
    assert_eq!(stock.forget_before(&horizon).await.unwrap(), Cleaned::Wholly);
    let rows: i64 = sqlite
        .run(|db| Ok(db.query_row("SELECT count(*) FROM assent_barrier", [], |row| row.get(0))?))
        .await
        .unwrap();
    assert_eq!(rows, 0);
}

#[tokio::test]
async fn file_that_cannot_be_opened_is_an_error_with_its_cause() {
    let error = Sqlite::open("/no/such/directory/stock.db").unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("unable to open"), "{cause}");
}
