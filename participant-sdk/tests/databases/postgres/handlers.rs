//! What handlers do wrong, and what may go wrong with them.

use assent_sdk::postgres::sqlx;
use assent_sdk::postgres::{Postgres, PostgresOptions};
use assent_sdk::{Completion, Resource};
use std::time::Duration;

use super::script::{Script, call, phase_one};
use super::{database, number, run, server, shop, soon, until};
use crate::conformance::{commit, doubts, rollback, said};
use crate::shop::{Shop as _, at, branch, shelf};

const WORK: &str = "UPDATE shelf SET free = free - 1, sold = sold + 1";

/// In a failed transaction PREPARE TRANSACTION and COMMIT answer like a success, and have done nothing.
#[tokio::test]
async fn handler_that_swallowed_an_error_does_not_vote_yes() {
    async fn check(resource: &impl Resource, n: u64) {
        let steps = [WORK, "?SELECT 1 / 0"];
        let swallowed = "trouble: a statement of the handler had failed";
        let said = phase_one(resource, &branch(n, "a"), &steps, "").await;
        assert!(said.starts_with(swallowed), "{said}");
        let said = resource.commit_one_phase(call(&branch(n, "b"), &steps, "")).await.unwrap_err();
        assert!(crate::conformance::said(&said).starts_with(swallowed), "{said}");
        assert_eq!(doubts(resource).await, []);
    }
    let postgres = shop(&database(server()).await).await;
    check(&postgres.clone().two_phase(Script).unwrap(), 1).await;
    check(&postgres.clone().tcc(Script), 2).await;
    assert_eq!(postgres.shelf().await, shelf());
    let two_phase = postgres.two_phase(Script).unwrap();
    // A part that is undone on purpose is no failure.
    let steps = ["SAVEPOINT s", "?SELECT 1 / 0", "ROLLBACK TO s", WORK];
    assert_eq!(phase_one(&two_phase, &branch(1, "a"), &steps, "").await, "prepared ");
}

/// Outside a transaction PREPARE TRANSACTION and COMMIT answer like a success, too.
#[tokio::test]
async fn handler_that_ended_its_transaction_is_told() {
    async fn check(resource: &impl Resource, n: u64) {
        for (id, end) in [("a", "COMMIT"), ("b", "ROLLBACK"), ("c", "begin()")] {
            let said = phase_one(resource, &branch(n, id), &[end], "").await;
            assert!(said.starts_with("trouble: the handler has ended the transaction"), "{end}: {said}");
        }
        assert_eq!(doubts(resource).await, []);
    }
    let postgres = shop(&database(server()).await).await;
    check(&postgres.clone().two_phase(Script).unwrap(), 1).await;
    check(&postgres.tcc(Script), 2).await;
}

#[tokio::test]
async fn panic_and_lost_connection_leave_nothing_and_pass() {
    async fn check(postgres: &Postgres, resource: &impl Resource, n: u64) {
        let branch = branch(n, "a");
        let panicked = phase_one(resource, &branch, &[WORK, "panic!"], "").await;
        assert_eq!(panicked, "trouble: the handler panicked");
        let lose = "SELECT pg_terminate_backend(pg_backend_pid())";
        let lost = phase_one(resource, &branch, &[WORK, lose], "").await;
        assert!(lost.starts_with("trouble: "), "{lost}");
        assert_eq!(postgres.shelf().await, shelf());
        assert_eq!(phase_one(resource, &branch, &[], "").await, "prepared ");
    }
    let postgres = shop(&database(server()).await).await;
    check(&postgres, &postgres.clone().two_phase(Script).unwrap(), 1).await;
    check(&postgres, &postgres.clone().tcc(Script), 2).await;
}

/// A server that is shut down, or fails over, ends connections with 57P01. What became of a call is then not known.
#[tokio::test]
async fn connection_that_the_server_has_ended_is_trouble_that_passes() {
    let url = database(server()).await;
    let postgres = shop(&url).await;
    let two_phase = postgres.clone().two_phase(Script).unwrap();
    let end_all = async || {
        let end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'assent-sdk'";
        run(&url, end).await;
    };
    let (kept, dropped, alone) = (branch(1, "a"), branch(2, "a"), branch(3, "a"));
    // With a reply, so that connections of both kinds are open.
    for branch in [&kept, &dropped] {
        assert_eq!(phase_one(&two_phase, branch, &["SELECT 1"], "it").await, "prepared it");
    }
    end_all().await;
    assert!(said(&two_phase.commit(&kept).await.unwrap_err()).starts_with("trouble: "));
    assert_eq!(commit(&two_phase, &kept).await, Completion::Done);
    end_all().await;
    let failure = two_phase.rollback(&dropped, &"cluster-1".into()).await.unwrap_err();
    assert!(said(&failure).starts_with("trouble: "), "{failure}");
    assert_eq!(rollback(&two_phase, &dropped).await, Completion::Done);
    assert!(phase_one(&two_phase, &alone, &[WORK], "").await.starts_with("trouble: "));
    let once = two_phase.commit_one_phase(call(&alone, &[WORK], "")).await.unwrap();
    assert_eq!(once.completion, Completion::Done);
    assert_eq!(postgres.shelf().await, at(9, 0, 1));
}

/// The server itself has to notice, because it is at work for a client that has gone.
#[tokio::test]
async fn call_that_is_given_up_keeps_no_lock() {
    async fn check(url: &str, resource: impl Resource, n: u64) {
        let sleep = "SELECT pg_sleep(3600)";
        let hangs = async move { resource.phase_one(call(&branch(n, "a"), &[WORK, sleep], "")).await };
        let mut hangs = Box::pin(hangs);
        let sleeps = format!("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query = '{sleep}')");
        tokio::select! {
            _ = &mut hangs => panic!("it sleeps for an hour"),
            () = until(url, &sleeps) => {}
        }
        drop(hangs);
        soon(run(url, "UPDATE shelf SET held = 0")).await;
        assert_eq!(
            number(url, "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()").await,
            0
        );
    }
    let url = database(server()).await;
    let postgres = shop(&url).await;
    check(&url, postgres.clone().two_phase(Script).unwrap(), 1).await;
    check(&url, postgres.clone().tcc(Script), 2).await;
    assert_eq!(postgres.shelf().await, shelf());
}

/// A machine that loses its power closes no connection. That the server does then cannot be shown on one machine.
#[tokio::test]
async fn server_is_told_to_look_whether_its_client_lives() {
    let postgres = shop(&database(server()).await).await;
    let check = "DO $$ BEGIN ASSERT current_setting('tcp_keepalives_idle') = '10'
        AND current_setting('client_connection_check_interval') = '1s'; END $$";
    let mut db = postgres.connection().await.unwrap();
    sqlx::raw_sql(check).execute(&mut *db).await.unwrap();
}

/// Whatever is the default of the database or the role.
#[tokio::test]
async fn handlers_see_what_is_committed_meanwhile() {
    let url = database(server()).await;
    run(&url, &format!("ALTER DATABASE {} SET default_transaction_isolation = serializable", name(&url)))
        .await;
    let postgres = shop(&url).await;
    let check = "DO $$ BEGIN ASSERT current_setting('transaction_isolation') = 'read committed'; END $$";
    let two_phase = postgres.clone().two_phase(Script).unwrap();
    assert_eq!(phase_one(&two_phase, &branch(1, "a"), &[check], "").await, "prepared ");
    assert_eq!(phase_one(&postgres.clone().tcc(Script), &branch(1, "b"), &[check], "").await, "prepared ");
    let mut db = postgres.connection().await.unwrap();
    sqlx::raw_sql(check).execute(&mut *db).await.unwrap();
}

/// Work that waits for the locks of prepared branches may have all connections: the branches are ended all the same.
#[tokio::test]
async fn branches_are_ended_while_work_waits_for_their_locks() {
    let url = database(server()).await;
    drop(shop(&url).await);
    let options = PostgresOptions::new(&url).connections_max(1).lock_timeout(Duration::from_hours(1));
    let two_phase = options.connect().await.unwrap().two_phase(Script).unwrap();
    let (first, second) = (branch(1, "a"), branch(2, "a"));
    assert_eq!(phase_one(&two_phase, &first, &[WORK], "a reply").await, "prepared a reply");
    let waits = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query = '{WORK}' AND wait_event_type = 'Lock')"
    );
    let ended = async {
        until(&url, &waits).await;
        commit(&two_phase, &first).await
    };
    let (waited, ended) =
        soon(async { tokio::join!(phase_one(&two_phase, &second, &[WORK], ""), ended) }).await;
    assert_eq!((waited.as_str(), ended), ("prepared ", Completion::Done));
    assert_eq!(rollback(&two_phase, &second).await, Completion::Done);
}

/// Those of others wait for the time-out, so that nobody waits for ever; this one knows.
#[tokio::test]
async fn repeated_prepare_does_not_wait_for_its_own_locks() {
    let url = database(server()).await;
    drop(shop(&url).await);
    let options = PostgresOptions::new(&url).lock_timeout(Duration::from_hours(1));
    let two_phase = options.connect().await.unwrap().two_phase(Script).unwrap();
    for _ in 0..2 {
        let again = soon(phase_one(&two_phase, &branch(1, "a"), &[WORK], "first")).await;
        assert_eq!(again, "prepared first");
    }
    let once = soon(two_phase.commit_one_phase(call(&branch(1, "a"), &[WORK], "second"))).await.unwrap();
    assert_eq!((once.completion, &once.reply[..]), (Completion::Done, &b"first"[..]));
    assert_eq!(number(&url, "SELECT sold::bigint FROM shelf").await, 1);
}

/// The reply is written before the branch is prepared, and that may fail.
#[tokio::test]
async fn reply_of_an_attempt_that_failed_is_not_given_later() {
    let postgres = shop(&database(server()).await).await;
    let two_phase = postgres.clone().two_phase(Script).unwrap();
    for (id, second) in [("a", "second"), ("b", "")] {
        let branch = branch(1, id);
        let failed = phase_one(&two_phase, &branch, &["CREATE TEMP TABLE t ()"], "first").await;
        assert!(failed.contains("temporary objects"), "{failed}");
        for _ in 0..2 {
            assert_eq!(phase_one(&two_phase, &branch, &[], second).await, format!("prepared {second}"));
        }
        commit(&two_phase, &branch).await;
        assert_eq!(phase_one(&two_phase, &branch, &[], "third").await, format!("prepared {second}"));
    }
}

/// A participant keeps to one protocol: what it reserved, the database has not prepared.
#[tokio::test]
async fn reservation_is_not_taken_for_a_prepared_branch() {
    let postgres = shop(&database(server()).await).await;
    let (tcc, two_phase) = (postgres.clone().tcc(Script), postgres.clone().two_phase(Script).unwrap());
    let branch = branch(1, "a");
    assert_eq!(phase_one(&tcc, &branch, &[WORK], "").await, "prepared ");
    let reserved = phase_one(&two_phase, &branch, &[WORK], "").await;
    assert!(reserved.contains("has reserved"), "{reserved}");
    assert!(said(&two_phase.commit(&branch).await.unwrap_err()).contains("has reserved"));
    assert!(said(&two_phase.rollback(&branch, &"".into()).await.unwrap_err()).contains("has reserved"));
    assert_eq!(commit(&tcc, &branch).await, Completion::Done);
    assert_eq!(postgres.shelf().await, at(9, 0, 1));
}

/// The name of the database that a URL ends with.
fn name(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}
