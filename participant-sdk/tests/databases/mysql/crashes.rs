//! Servers, services and calls that end in the middle, and replicas that take over.

use std::time::Duration;

use assent_sdk::mysql::{MySql, MySqlOptions};
use assent_sdk::throwaway::Server;
use assent_sdk::{ClusterId, Completion, Failure, Resource};

use super::{
    Run, database, number, running, sells, server, shop_at, soon, stranger, until_answered, until_waiting,
};
use crate::conformance::{CLUSTER, call, commit, doubts, phase_one, rollback, said};
use crate::shop::{Shop as _, Stock, at, branch, shelf};

#[tokio::test]
async fn server_that_is_killed_keeps_what_is_prepared() {
    prepared_survives(&[]).await;
}

/// A binary log has a part in it, and takes only format ids of four bytes.
#[tokio::test]
async fn server_with_a_binary_log_that_is_killed_keeps_what_is_prepared() {
    prepared_survives(&[("log_bin", "binlog"), ("sync_binlog", "1"), ("binlog_format", "ROW")]).await;
}

async fn prepared_survives(settings: &[(&str, &str)]) {
    let mut server = Server::maria_db(settings).unwrap();
    let url = database(&server).await;
    let shop = shop_at(&url).await;
    let stock = sells(&shop);
    let (kept, dropped) = (branch(1, "kept"), branch(2, "dropped"));
    assert_eq!(phase_one(&stock, &kept, 3).await, r#"prepared {"left":7}"#);
    server.kill9().unwrap();
    server.restart().unwrap();
    until_answered(async || stock.in_doubt(kept.participant()).await).await;
    assert_eq!(doubts(&stock).await, std::slice::from_ref(&kept));
    assert_eq!(until_answered(async || stock.commit(&kept).await).await, Completion::Done);

    // The other replica comes up later, and is asked again.
    assert_eq!(phase_one(&stock, &dropped, 2).await, r#"prepared {"left":5}"#);
    server.kill9().unwrap();
    server.restart().unwrap();
    let stock = sells(&MySql::connect(&url).await.unwrap());
    assert_eq!(phase_one(&stock, &dropped, 2).await, r#"prepared {"left":5}"#, "the first reply again");
    assert_eq!(rollback(&stock, &dropped).await, Completion::Done);
    assert_eq!(doubts(&stock).await, []);
    let shop = MySql::connect(&url).await.unwrap();
    assert_eq!(shop.shelf().await, at(7, 0, 3));
}

/// Dropped is as good as crashed: the next life ends what this one prepared.
#[tokio::test]
async fn service_that_goes_away_leaves_its_branches_to_the_next() {
    let url = database(server()).await;
    let shop = shop_at(&url).await;
    let stock = sells(&shop);
    phase_one(&stock, &branch(1, "a"), 3).await;
    drop((shop, stock));

    let shop = MySql::connect(&url).await.unwrap();
    let stock = sells(&shop);
    assert_eq!(doubts(&stock).await, [branch(1, "a")]);
    assert_eq!(until_answered(async || stock.commit(&branch(1, "a")).await).await, Completion::Done);
    assert_eq!(shop.shelf().await, at(7, 0, 3));
}

/// Without the barrier's row the server would forget a branch that changes nothing when its connection is closed, and say
/// `XA_RBROLLBACK` to whoever ends it.
#[tokio::test]
async fn branch_that_only_reads_is_prepared_all_the_same() {
    let url = database(server()).await;
    let open = async || shop_at(&url).await.two_phase(Run::default()).unwrap();
    let branch = branch(1, "a");
    open().await.phase_one(running(&branch, &["SELECT * FROM shelf"])).await.unwrap();
    let next = open().await;
    assert_eq!(until_answered(async || next.commit(&branch).await).await, Completion::Done);
    assert_eq!(commit(&next, &branch).await, Completion::Done);
}

/// One that has no row was not prepared by this library, but has its name.
#[tokio::test]
async fn branch_that_the_server_rolled_back_itself_can_be_rolled_back() {
    let url = database(server()).await;
    let shop = shop_at(&url).await;
    let stock = sells(&shop);
    let branch = branch(1, "a");
    let name = format!("'{},shop/stock@{}','a',1634954868", branch.xid(), url.rsplit('/').next().unwrap());
    let mut db = stranger(&url).await;
    let sql = format!("XA START {name}; SELECT * FROM shelf; XA END {name}; XA PREPARE {name}");
    super::run(&mut db, &sql).await.unwrap();
    assert_eq!(doubts(&stock).await, std::slice::from_ref(&branch));
    let roll_back = async || {
        let answer = rollback_once(&stock, 1).await;
        if let Err(trouble) = &answer {
            assert!(said(trouble).contains("is still with the connection that prepared it"), "{trouble}");
        }
        answer
    };
    roll_back().await.unwrap_err();
    drop(db);
    assert_eq!(until_answered(roll_back).await, Completion::UnknownBranch);
    assert_eq!(phase_one(&stock, &branch, 3).await, "refused: the branch was rolled back already");
    assert_eq!(doubts(&stock).await, []);
}

#[tokio::test]
async fn call_that_is_cut_short_leaves_nothing_open() {
    let url = database(server()).await;
    let shop = shop_at(&url).await;
    let run = Run::default();
    let (two_phase, tcc) = (shop.clone().two_phase(run.clone()).unwrap(), shop.clone().tcc(run.clone()));
    let statements = ["UPDATE shelf SET sold = 1", "@wait"];
    for n in 1..=2 {
        let call = running(&branch(n, "a"), &statements);
        tokio::select! {
            _ = two_phase.phase_one(call.clone()) => unreachable!("it waits"),
            () = run.reached.notified() => {}
        }
        tokio::select! {
            // It needs the row that the first had locked.
            _ = until_answered(async || tcc.phase_one(call.clone()).await) => unreachable!("it waits"),
            () = run.reached.notified() => {}
        }
    }
    let mut db = stranger(&url).await;
    // Where a lock was left this would fail, and where anything was left it would be seen.
    soon(super::run(&mut db, "UPDATE shelf SET free = free")).await.unwrap();
    assert_eq!(shop.shelf().await, shelf());
    assert_eq!(doubts(&two_phase).await, []);
    assert_eq!(number(&mut db, "SELECT count(*) FROM assent_barrier").await, 0);
}

/// MariaDB lets nobody but the connection that prepared a branch end it, and says that there is none of that name. That is
/// never taken for done; and the connection is given up after a while.
#[tokio::test]
async fn replica_ends_a_branch_that_another_one_still_holds() {
    let url = database(server()).await;
    let shop = shop_at(&url).await;
    let (holder, other) = (sells(&shop), MySql::connect(&url).await.unwrap());
    let other = sells(&other);
    for (n, count) in [(1, 1), (2, 2)] {
        assert!(phase_one(&holder, &branch(n, "a"), count).await.starts_with("prepared"));
        // A repeated Prepare may come to the other one, too.
        assert!(phase_one(&other, &branch(n, "a"), count).await.starts_with("prepared"));
        if n == 1 {
            let trouble = said(&other.commit(&branch(1, "a")).await.unwrap_err());
            assert!(trouble.contains("is still with the connection that prepared it"), "{trouble}");
            assert_eq!(until_answered(async || other.commit(&branch(1, "a")).await).await, Completion::Done);
            assert_eq!(commit(&holder, &branch(1, "a")).await, Completion::Done);
        } else {
            let trouble = said(&rollback_once(&other, n).await.unwrap_err());
            assert!(trouble.contains("is still with the connection that prepared it"), "{trouble}");
            assert_eq!(until_answered(async || rollback_once(&other, n).await).await, Completion::Done);
            assert_eq!(rollback(&holder, &branch(2, "a")).await, Completion::Done);
        }
    }
    assert_eq!(shop.shelf().await, at(9, 0, 1));
}

async fn rollback_once(stock: &impl Resource, n: u64) -> Result<Completion, Failure> {
    stock.rollback(&branch(n, "a"), &ClusterId::from(CLUSTER)).await
}

/// A machine that loses its power closes no connection.
#[tokio::test]
async fn branch_of_a_replica_that_fell_silent_is_given_up_by_the_server() {
    let url = database(server()).await;
    let shop = shop_at(&url).await;
    let prepare = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let stock = runtime.block_on(async {
            let stock = sells(&MySql::connect(&url).await.unwrap());
            assert_eq!(phase_one(&stock, &branch(1, "a"), 3).await, r#"prepared {"left":7}"#);
            stock
        });
        // Nobody drives it from now on, but its connections are open.
        (runtime, stock)
    };
    let silent = tokio::task::spawn_blocking(prepare).await.unwrap();
    let other = sells(&shop);
    assert_eq!(until_answered(async || other.commit(&branch(1, "a")).await).await, Completion::Done);
    assert_eq!(shop.shelf().await, at(7, 0, 3));
    tokio::task::spawn_blocking(move || drop(silent)).await.unwrap();
}

/// The branch is ended by the one message that this takes, and the connection is there for the next call, whenever that comes.
#[tokio::test]
async fn connection_stays_with_its_branch_and_is_kept_when_that_has_ended() {
    let url = database(server()).await;
    let shop = MySqlOptions::new(&url).connections_max(1).connect().await.unwrap();
    let stock = shop.clone().two_phase(Run::default()).unwrap();
    let mut db = shop.connection().await.unwrap();
    let (id, timeout) =
        ("SELECT CAST(CONNECTION_ID() AS SIGNED)", "SELECT CAST(@@SESSION.wait_timeout AS SIGNED)");
    let before = (number(&mut db, id).await, number(&mut db, timeout).await);
    db.back();
    for n in 1..=2 {
        stock.phase_one(running(&branch(n, "a"), &[])).await.unwrap();
        match n {
            1 => assert_eq!(commit(&stock, &branch(n, "a")).await, Completion::Done),
            _ => assert_eq!(rollback(&stock, &branch(n, "a")).await, Completion::Done),
        }
        let mut db = shop.connection().await.unwrap();
        assert_eq!((number(&mut db, id).await, number(&mut db, timeout).await), before);
        db.back();
    }
}

#[tokio::test]
async fn replicas_that_race_for_a_branch_have_one_effect() {
    let url = database(server()).await;
    let shop = shop_at(&url).await;
    let other = MySql::connect(&url).await.unwrap();
    replicas_race(&shop, &sells(&shop), &sells(&other)).await;
    assert_eq!(shop.shelf().await, at(4, 0, 6));
}

#[tokio::test]
async fn replicas_that_race_for_a_reservation_have_one_effect() {
    let url = database(server()).await;
    let shop = shop_at(&url).await;
    let other = MySql::connect(&url).await.unwrap();
    replicas_race(&shop, &shop.clone().tcc(Stock::default()), &other.clone().tcc(Stock::default())).await;
    assert_eq!(shop.shelf().await, at(4, 0, 6));
}

/// Sells six, one by one, while all that is rolled back comes in between.
async fn replicas_race<R: Resource>(shop: &MySql, one: &R, other: &R) {
    for n in 1..=6 {
        let (sold, kept) = (branch(n, "sold"), branch(n, "kept"));
        let prepare = async |stock: &R| until_answered(async || stock.phase_one(call(&sold, 1)).await).await;
        let (first, second) = tokio::join!(prepare(one), prepare(other));
        assert_eq!(first, second, "both have the one answer");
        let end = async |stock: &R| until_answered(async || stock.commit(&sold).await).await;
        assert_eq!(tokio::join!(end(one), end(other)), (Completion::Done, Completion::Done));

        let cluster = ClusterId::from(CLUSTER);
        let undo = async |stock: &R| until_answered(async || stock.rollback(&kept, &cluster).await).await;
        let (late, _) = tokio::join!(one.phase_one(call(&kept, 1)), other.rollback(&kept, &cluster));
        undo(one).await;
        assert_eq!(undo(other).await, Completion::Done, "{late:?}");
        let after = one.phase_one(call(&kept, 1)).await.unwrap_err();
        assert_eq!(after.refusal(), Some("the branch was rolled back already"));
    }
    assert_eq!(shop.shelf().await.held, 0);
    assert_eq!(doubts(one).await, []);
}

/// Each branch that is prepared has a connection of MariaDB's to itself, until others want one.
#[tokio::test]
async fn prepared_branches_make_room_when_connections_run_short() {
    let url = database(server()).await;
    let shop = MySqlOptions::new(&url).connections_max(1).connect().await.unwrap();
    let shop = shop.setup("CREATE TABLE sold (id INT PRIMARY KEY) ENGINE = InnoDB").await.unwrap();
    let stock = shop.two_phase(Run::default()).unwrap();
    // Their patience alone would make room too, but in a minute.
    soon(async {
        for n in 1..=12 {
            let insert = format!("INSERT INTO sold VALUES ({n})");
            stock.phase_one(running(&branch(n, "a"), &[&insert])).await.unwrap();
        }
    })
    .await;
    assert_eq!(doubts(&stock).await.len(), 12);
    for n in 1..=12 {
        let done = until_answered(async || stock.commit(&branch(n, "a")).await).await;
        assert_eq!(done, Completion::Done);
    }
    assert_eq!(number(&mut stranger(&url).await, "SELECT count(*) FROM sold").await, 12);
}

/// Handlers on all connections wait for the lock of a prepared branch. It can be ended all the same, or nobody would get on
/// before the time-out.
#[tokio::test]
async fn branch_can_be_ended_while_all_handlers_wait_for_its_lock() {
    let url = database(server()).await;
    let patient = MySqlOptions::new(&url).connections_max(2).lock_timeout(Duration::from_hours(1));
    let shop = patient.connect().await.unwrap().setup(crate::shop::SCHEMA).await.unwrap();
    let stock = sells(&shop);
    phase_one(&stock, &branch(1, "a"), 3).await;
    let (second, third) = (branch(2, "a"), branch(3, "a"));
    let sell = async |branch| {
        assert!(soon(phase_one(&stock, branch, 2)).await.starts_with("prepared"));
        assert_eq!(until_answered(async || stock.commit(branch).await).await, Completion::Done);
    };
    let end = async {
        until_waiting(&url, 2).await;
        assert_eq!(until_answered(async || stock.commit(&branch(1, "a")).await).await, Completion::Done);
    };
    tokio::join!(sell(&second), sell(&third), end);
    assert_eq!(doubts(&stock).await, []);
}
