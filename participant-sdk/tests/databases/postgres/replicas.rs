//! Several processes of one service over one database, and others beside them.

use std::time::Duration;

use assent_sdk::postgres::sqlx::{self, Connection as _, PgConnection};
use assent_sdk::postgres::{Held, HeldBy, PostgresOptions, PostgresTwoPhase, held};
use assent_sdk::{Branch, Completion, Resource as _};
use futures_util::future::join_all;

use super::script::{Script, call, phase_one};
use super::{database, number, run, server, shop, soon, until};
use crate::conformance::{commit, doubts, rollback, said};
use crate::log::Log;
use crate::shop::{branch, tx};

/// Short for tests that wait for it, long for those that must not.
const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_hours(1);

async fn replica(url: &str, lock_timeout: Duration) -> PostgresTwoPhase {
    let options = PostgresOptions::new(url).lock_timeout(lock_timeout);
    options.connect().await.unwrap().two_phase(Script).unwrap()
}

#[tokio::test]
async fn another_replica_repeats_the_answer_and_ends_the_branch() {
    let url = database(server()).await;
    drop(shop(&url).await);
    let (one, other) = (replica(&url, SHORT).await, replica(&url, SHORT).await);
    let (kept, dropped) = (branch(1, "a"), branch(2, "a"));
    for branch in [&kept, &dropped] {
        assert_eq!(phase_one(&one, branch, &[], "first").await, "prepared first");
        assert_eq!(phase_one(&other, branch, &[], "second").await, "prepared first");
    }
    assert_eq!(doubts(&other).await, [kept.clone(), dropped.clone()]);
    assert_eq!(commit(&other, &kept).await, Completion::Done);
    assert_eq!(commit(&one, &kept).await, Completion::Done);
    assert_eq!(phase_one(&one, &kept, &[], "third").await, "prepared first");
    assert_eq!(rollback(&other, &dropped).await, Completion::Done);
    assert_eq!(phase_one(&one, &dropped, &[], "third").await, "refused: the branch was rolled back already");
}

#[tokio::test]
async fn replicas_that_race_have_one_effect() {
    let url = database(server()).await;
    run(&url, "CREATE TABLE effect (branch text)").await;
    drop(shop(&url).await);
    let replicas = [replica(&url, SHORT).await, replica(&url, SHORT).await];
    let race = async |n: u64| {
        let branch = branch(n, "a");
        let work = format!("INSERT INTO effect VALUES ('{n}')");
        let works = [&*work];
        let tries = replicas.iter().map(|replica| phase_one(replica, &branch, &works, "it"));
        let answers = join_all(tries).await;
        assert!(answers.iter().any(|answer| answer == "prepared it"), "{answers:?}");
        // Even ones are committed, odd ones rolled back.
        let end = async |replica: &PostgresTwoPhase| match n % 2 {
            0 => replica.commit(&branch).await,
            _ => replica.rollback(&branch, &"cluster-1".into()).await,
        };
        let ends = join_all(replicas.iter().map(end)).await;
        assert!(ends.iter().any(|end| matches!(end, Ok(Completion::Done))), "{ends:?}");
        // To a rollback, finding nothing is as good.
        let good = |end| end == Completion::Done || n % 2 == 1 && end == Completion::UnknownBranch;
        assert!(ends.into_iter().flatten().all(good), "branch {n}");
    };
    join_all((1..=20).map(race)).await;
    assert_eq!(doubts(&replicas[0]).await, []);
    assert_eq!(number(&url, "SELECT count(*) FROM effect").await, 10);
    assert_eq!(number(&url, "SELECT count(DISTINCT branch) FROM effect").await, 10);
}

/// A rollback that overtakes a phase one leaves nothing that could be prepared behind its back.
#[tokio::test]
async fn rollback_comes_again_while_a_phase_one_is_under_way() {
    let url = database(server()).await;
    drop(shop(&url).await);
    let (slow, quick) = (replica(&url, LONG).await, replica(&url, SHORT).await);
    let mut gate = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("SELECT pg_advisory_lock(7)").execute(&mut gate).await.unwrap();
    let branch = branch(1, "a");
    let works = phase_one(&slow, &branch, &["SELECT pg_advisory_xact_lock(7)"], "");
    let overtakes = async {
        let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)";
        until(&url, waits).await;
        let failure = quick.rollback(&branch, &"cluster-1".into()).await.unwrap_err();
        assert!(said(&failure).contains("lock timeout"), "{failure}");
        let repeated = phase_one(&quick, &branch, &[], "").await;
        assert!(repeated.starts_with("trouble: another call"), "{repeated}");
        sqlx::raw_sql("SELECT pg_advisory_unlock(7)").execute(&mut gate).await.unwrap();
    };
    let (worked, ()) = soon(Box::pin(async { tokio::join!(works, overtakes) })).await;
    assert_eq!(worked, "prepared ");
    assert_eq!(rollback(&quick, &branch).await, Completion::Done);
    assert_eq!(phase_one(&slow, &branch, &[], "").await, "refused: the branch was rolled back already");
}

/// A branch that is to be committed and cannot be found is looked for again before it is given up.
#[tokio::test]
async fn commit_looks_again_for_what_it_does_not_find() {
    let url = database(server()).await;
    drop(shop(&url).await);
    let two_phase = replica(&url, SHORT).await;
    // On a machine that is busy the branch may come too late once, not each time.
    for n in 1..=10 {
        let branch = branch(n, "a");
        let prepare = async {
            let looked = format!(
                "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE state = 'idle' AND query LIKE '%pg_prepared_xacts%{}%')",
                branch.xid()
            );
            until(&url, &looked).await;
            phase_one(&two_phase, &branch, &[], "").await
        };
        let (committed, prepared) = tokio::join!(two_phase.commit(&branch), prepare);
        assert_eq!(prepared, "prepared ");
        match committed {
            Ok(completion) => assert_eq!(completion, Completion::UnknownBranch),
            Err(failure) => {
                assert!(said(&failure).contains("prepared only now"), "{failure}");
                assert_eq!(commit(&two_phase, &branch).await, Completion::Done);
                return;
            }
        }
    }
    panic!("it never looked again");
}

/// What others have prepared is theirs, even if it looks like ours.
#[tokio::test]
async fn foreign_prepared_transactions_are_left_alone_and_shown() {
    let url = database(server()).await;
    drop(shop(&url).await);
    let ours = replica(&url, SHORT).await;
    let (own, xid) = (branch(1, "own"), tx(1));
    phase_one(&ours, &own, &[], "").await;
    let elsewhere = branch(1, "elsewhere");
    phase_one(&replica(&database_of_another_service().await, SHORT).await, &elsewhere, &[], "").await;
    let foreign = [
        format!("order-{xid}"),
        format!("assent2,{xid},a,shop/stock"),
        format!("assent1,{xid},a,shop/stock,more"),
        format!("assent1,{xid},a,shop/returns"),
    ];
    for gid in &foreign {
        run(&url, &format!("BEGIN; SELECT 1; PREPARE TRANSACTION '{gid}'")).await;
    }
    let log = Log::warnings();
    let guard = log.keep();
    for _ in 0..2 {
        assert_eq!(doubts(&ours).await, std::slice::from_ref(&own));
    }
    drop(guard);
    // What nobody will end is reported, once. That of another participant of ours is somebody's.
    let logged = log.lines();
    assert!(logged.len() == 1 && logged[0].contains("of no format that it knows"), "{logged:?}");
    // In the other database it is prepared: that is not unknown, but nothing that can be done from here.
    assert!(said(&ours.commit(&elsewhere).await.unwrap_err()).contains("another database"));
    assert!(ours.rollback(&elsewhere, &"".into()).await.is_err());
    // Nor is a phase one here answered by what was prepared there.
    let mut stranger = PgConnection::connect(&url).await.unwrap();
    let row = format!(
        "BEGIN; INSERT INTO assent_barrier (tx_order, xid, branch, participant, cluster, status, request, reply)
         VALUES ('{}', '{xid}', 'elsewhere', 'shop/stock', '', 'rolled_back', '', '')",
        xid.order()
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(row)).execute(&mut stranger).await.unwrap();
    let repeated = phase_one(&ours, &elsewhere, &[], "").await;
    assert!(repeated.starts_with("trouble: another call"), "{repeated}");
    drop(stranger);

    let reserved = shop_tcc(&url).await;
    let mut shown = held(&url).await.unwrap();
    shown.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<_> = shown.iter().map(|held| (held.name.as_str(), held.by)).collect();
    let own_gid = format!("assent1,{xid},own,shop/stock");
    let reserved_row = format!("assent1,{},reserved,shop/stock", reserved.xid());
    let mut expected: Vec<_> = foreign.iter().map(|gid| (gid.as_str(), HeldBy::Prepared)).collect();
    expected.push((&own_gid, HeldBy::Prepared));
    expected.push((&reserved_row, HeldBy::Reserved));
    expected.sort_by_key(|(name, _)| *name);
    assert_eq!(names, expected);
    let known = |held: &&Held| held.branch.is_some();
    assert_eq!(shown.iter().filter(known).count(), 3, "{shown:?}");
}

async fn database_of_another_service() -> String {
    let url = database(server()).await;
    drop(PostgresOptions::new(&url).connect().await.unwrap());
    url
}

async fn shop_tcc(url: &str) -> Branch {
    let tcc = PostgresOptions::new(url).connect().await.unwrap().tcc(Script);
    let branch = branch(9, "reserved");
    tcc.phase_one(call(&branch, &[], "")).await.unwrap();
    branch
}

#[tokio::test]
async fn what_is_held_can_be_seen_without_tables_and_none_are_made() {
    let url = database(server()).await;
    assert_eq!(held(&url).await.unwrap(), []);
    assert_eq!(number(&url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").await, 0);
}
