//! Rows of finished branches are cleared in batches, and nobody waits for that.

use std::time::Duration;

use assent_sdk::postgres::PostgresOptions;
use assent_sdk::postgres::sqlx::{self, Connection as _, PgConnection};
use assent_sdk::resource::Cleaned;
use assent_sdk::{Horizon, Resource as _};
use bytes::Bytes;

use super::script::{Script, phase_one};
use super::{database, number, run, server, shop, soon};
use crate::conformance::{CLUSTER, clear, commit, said};
use crate::shop::{branch, tx};

const ROWS: &str = "
    INSERT INTO assent_barrier
    SELECT '000001000000000000000', n::text, 'a', 'shop/stock', 'cluster-1', 'committed', '', ''
    FROM generate_series(1, 1200) AS n;
    INSERT INTO assent_reply SELECT tx_order, xid, branch, participant, cluster, 'x' FROM assent_barrier";

#[tokio::test]
async fn rows_are_cleared_in_batches_around_what_others_work_on() {
    let url = database(server()).await;
    drop(shop(&url).await);
    run(&url, ROWS).await;
    let options = PostgresOptions::new(&url).lock_timeout(Duration::from_hours(1));
    let two_phase = options.connect().await.unwrap().two_phase(Script).unwrap();
    let mut other = PgConnection::connect(&url).await.unwrap();
    let lock = "BEGIN; SELECT FROM assent_barrier WHERE xid = '7' FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
    let horizon = Horizon { cluster: CLUSTER.into(), before: tx(1).order() };
    for expected in [Cleaned::Partly, Cleaned::Partly, Cleaned::Wholly] {
        assert_eq!(soon(two_phase.forget_before(&horizon)).await.unwrap(), expected);
    }
    assert_eq!(number(&url, "SELECT count(*) FROM assent_barrier").await, 1);
    assert_eq!(number(&url, "SELECT count(*) FROM assent_reply").await, 0);
    // And nobody waits for the lock on a row that is to be cleared.
    assert_eq!(soon(phase_one(&two_phase, &branch(2, "a"), &[], "")).await, "prepared ");
}

/// A person may have settled it for the coordinator, so that the horizon passes by, but not for the database.
#[tokio::test]
async fn prepared_branch_keeps_its_reply_behind_the_horizon() {
    let two_phase = shop(&database(server()).await).await.two_phase(Script).unwrap();
    phase_one(&two_phase, &branch(1, "a"), &[], "it").await;
    clear(&two_phase, CLUSTER, 9).await;
    assert_eq!(phase_one(&two_phase, &branch(1, "a"), &[], "").await, "prepared it");
    commit(&two_phase, &branch(1, "a")).await;
    assert_eq!(phase_one(&two_phase, &branch(1, "a"), &[], "").await, "prepared it");
    clear(&two_phase, CLUSTER, 9).await;
    let late = phase_one(&two_phase, &branch(1, "a"), &[], "").await;
    assert_eq!(late, "refused: the transaction ended long ago");
}

/// Whoever finds no row must find the horizon: it is committed before the rows are deleted.
#[tokio::test]
async fn horizon_outlives_the_rows_that_it_stands_for() {
    let url = database(server()).await;
    let postgres = shop(&url).await;
    let two_phase = postgres.two_phase(Script).unwrap();
    phase_one(&two_phase, &branch(1, "a"), &[], "it").await;
    commit(&two_phase, &branch(1, "a")).await;
    let fail = "
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'the disk wobbled'; END $$;
        CREATE TRIGGER fail BEFORE DELETE ON assent_barrier EXECUTE FUNCTION fail()";
    run(&url, fail).await;
    let horizon = Horizon { cluster: CLUSTER.into(), before: tx(5).order() };
    let failure = two_phase.forget_before(&horizon).await.unwrap_err();
    assert!(said(&failure).contains("the disk wobbled"), "{failure}");
    let late = phase_one(&two_phase, &branch(2, "a"), &[], "").await;
    assert_eq!(late, "refused: the transaction ended long ago");
    // What has its row is answered by it.
    assert_eq!(phase_one(&two_phase, &branch(1, "a"), &[], "").await, "prepared it");
}

/// As many bytes as a message may have, and each of them.
#[tokio::test]
async fn payloads_come_back_byte_by_byte() {
    use assent_sdk::postgres::Postgres;
    use assent_sdk::postgres::sqlx::PgConnection;
    use assent_sdk::resource::PhaseOne;
    use assent_sdk::{AsyncTcc, Branch, Prepare, Result, Vote};

    struct Echo;

    impl Prepare<Postgres> for Echo {
        type Request = Bytes;
        type Reply = Bytes;

        async fn prepare(&self, _: &mut PgConnection, _: &Branch, request: Bytes) -> Result<Vote<Bytes>> {
            Ok(Vote::Prepared(request))
        }
    }

    impl AsyncTcc<Postgres> for Echo {
        type Request = Bytes;
        type Reply = Bytes;

        async fn reserve(&self, _: &mut PgConnection, _: &Branch, request: Bytes) -> Result<Vote<Bytes>> {
            Ok(Vote::Prepared(request))
        }

        async fn confirm(&self, db: &mut PgConnection, _: &Branch, request: Bytes) -> Result<()> {
            sqlx::query("INSERT INTO echo VALUES ($1)").bind(request.to_vec()).execute(db).await?;
            Ok(())
        }

        async fn cancel(&self, _: &mut PgConnection, _: &Branch, _: Bytes) -> Result<()> {
            Ok(())
        }
    }

    let url = database(server()).await;
    // What a backslash means in a literal is a setting.
    let old =
        format!("ALTER DATABASE {} SET standard_conforming_strings = off", url.rsplit('/').next().unwrap());
    run(&url, &format!("CREATE TABLE echo (bytes bytea); {old}")).await;
    let postgres = shop(&url).await;
    let (tcc, two_phase) = (postgres.clone().tcc(Echo), postgres.clone().two_phase(Echo).unwrap());
    let payload: Bytes = (0..=255).cycle().take(1 << 20).collect();
    let call = |id| PhaseOne { request: payload.clone(), ..crate::conformance::call(&branch(1, id), 0) };
    for _ in 0..2 {
        assert!(*two_phase.phase_one(call("two-phase")).await.unwrap().vote.reply() == payload);
        assert!(*tcc.phase_one(call("tcc")).await.unwrap().vote.reply() == payload);
    }
    commit(&tcc, &branch(1, "tcc")).await;
    let mut db = PgConnection::connect(&url).await.unwrap();
    let echoed: Vec<u8> = sqlx::query_scalar("SELECT bytes FROM echo").fetch_one(&mut db).await.unwrap();
    assert!(echoed == payload);
}
