//! What is looked at before anything is served.

use std::error::Error as _;
use std::time::Duration;

use assent_sdk::Error;
use assent_sdk::postgres::{Postgres, PostgresOptions, SCHEMA, Tables};
use assent_sdk::throwaway::Server;
use futures_util::future::try_join_all;

use super::script::{Script, phase_one};
use super::{begin_life, database, number, run, server, shop};
use crate::conformance::{commit, doubts};
use crate::log::Log;
use crate::shop::branch;

const TABLES: &str = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'assent%'";

/// PostgreSQL's own default is 0.
#[tokio::test]
async fn server_that_prepares_nothing_is_found_out_at_once() {
    let server = Server::postgres(&[("max_prepared_transactions", "0")]).unwrap();
    let postgres = Postgres::connect(&server.url()).await.unwrap();
    let error = cause(&postgres.clone().two_phase(Script).unwrap_err());
    assert!(error.contains("max_prepared_transactions is 0") && error.contains("hint: "), "{error}");
    // TCC needs nothing of the kind.
    assert_eq!(phase_one(&postgres.tcc(Script), &branch(1, "a"), &[], "").await, "prepared ");
}

#[tokio::test]
async fn server_that_can_prepare_no_more_says_what_to_do() {
    let server = Server::postgres(&[("max_prepared_transactions", "1")]).unwrap();
    let two_phase = shop(&server.url()).await.two_phase(Script).unwrap();
    assert_eq!(phase_one(&two_phase, &branch(1, "a"), &[], "").await, "prepared ");
    let full = phase_one(&two_phase, &branch(2, "a"), &[], "").await;
    assert!(
        full.starts_with("trouble: ") && full.contains("hint: Increase max_prepared_transactions"),
        "{full}"
    );
    commit(&two_phase, &branch(1, "a")).await;
    assert_eq!(phase_one(&two_phase, &branch(2, "a"), &[], "").await, "prepared ");
}

#[tokio::test]
async fn settings_that_lose_promises_when_the_power_fails_are_warned_of() {
    let warnings = async |settings: &[(&str, &str)]| {
        let server = Server::postgres(settings).unwrap();
        let log = Log::warnings();
        let _guard = log.keep();
        Postgres::connect(&server.url()).await.unwrap();
        log.lines()
    };
    assert_eq!(warnings(&[]).await, [""; 0]);
    for lax in ["fsync", "full_page_writes", "synchronous_commit"] {
        let said = warnings(&[(lax, "off")]).await;
        assert!(said.len() == 1 && said[0].contains(&format!("{lax}=off")), "{said:?}");
    }
}

#[tokio::test]
async fn tables_are_made_by_many_at_once() {
    let url = database(server()).await;
    try_join_all((0..8).map(|_| Postgres::connect(&url))).await.unwrap();
    assert_eq!(number(&url, TABLES).await, 3);
}

#[tokio::test]
async fn tables_that_are_only_checked_must_be_there() {
    let url = database(server()).await;
    let check = || PostgresOptions::new(&url).tables(Tables::Check).connect();
    let hint = "hint: run the output of `assent participant ddl postgres`";
    let error = cause(&check().await.unwrap_err());
    assert!(error.contains(r#"relation "assent_barrier" does not exist"#) && error.contains(hint), "{error}");
    assert_eq!(number(&url, TABLES).await, 0);
    run(&url, SCHEMA).await;
    check().await.unwrap();
    run(&url, "ALTER TABLE assent_reply DROP COLUMN reply").await;
    let error = cause(&check().await.unwrap_err());
    assert!(error.contains(r#"column "reply" does not exist"#) && error.contains(hint), "{error}");
    // Creating what is missing does not mend it either.
    assert!(cause(&Postgres::connect(&url).await.unwrap_err()).contains(hint));
}

#[tokio::test]
async fn role_that_may_create_nothing_can_serve() {
    let url = database(server()).await;
    run(&url, "CREATE ROLE clerk LOGIN").await;
    let clerks = url.replace("postgres@", "clerk@");
    assert!(cause(&Postgres::connect(&clerks).await.unwrap_err()).contains("permission denied"));
    run(
        &url,
        &format!("{SCHEMA}; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO clerk"),
    )
    .await;
    let postgres = Postgres::connect(&clerks).await.unwrap();
    begin_life();
    let (tcc, two_phase) = (postgres.clone().tcc(Script), postgres.two_phase(Script).unwrap());
    for id in ["a", "b"] {
        phase_one(&two_phase, &branch(1, id), &[], "it").await;
        phase_one(&tcc, &branch(2, id), &[], "it").await;
    }
    assert_eq!((doubts(&two_phase).await.len(), doubts(&tcc).await.len()), (2, 2));
    commit(&two_phase, &branch(1, "a")).await;
    commit(&tcc, &branch(2, "a")).await;
    crate::conformance::rollback(&two_phase, &branch(1, "b")).await;
    crate::conformance::rollback(&tcc, &branch(2, "b")).await;
    crate::conformance::clear(&two_phase, crate::conformance::CLUSTER, 9).await;
    assert_eq!(number(&url, "SELECT count(*) FROM assent_barrier").await, 0);
}

#[tokio::test]
async fn options_out_of_range_and_servers_that_are_not_there_are_errors() {
    let none = PostgresOptions::new("postgres://localhost").connections_max(0).connect().await;
    assert!(matches!(none.unwrap_err(), Error::Invalid(_)));
    let ever = PostgresOptions::new("postgres://localhost").lock_timeout(Duration::ZERO).connect().await;
    assert!(matches!(ever.unwrap_err(), Error::Invalid(_)));
    assert!(matches!(Postgres::connect("mysql://localhost").await.unwrap_err(), Error::Resource(_)));
    assert!(matches!(Postgres::connect("postgres://127.0.0.1:1/x").await.unwrap_err(), Error::Resource(_)));
}

/// The price of a branch, in messages to the server.
#[tokio::test]
async fn branch_costs_two_messages_besides_its_work_and_one_to_commit() {
    let server = Server::postgres(&[("log_statement", "all")]).unwrap();
    let postgres = shop(&server.url()).await;
    let (tcc, two_phase) = (postgres.clone().tcc(Script), postgres.two_phase(Script).unwrap());
    let mut before = 0;
    let mut messages = || {
        let log = server.log();
        let all = log.matches("LOG:  statement: ").count() + log.matches("LOG:  execute ").count();
        let new = all - before;
        before = all;
        new
    };
    // The connections are there from the second branch on.
    for (n, warm) in [(1, false), (2, true)] {
        messages();
        let branch = branch(n, "a");
        phase_one(&two_phase, &branch, &["SELECT 1"], "").await;
        let phase_one_by_2pc = messages();
        commit(&two_phase, &branch).await;
        let commit_by_2pc = messages();
        two_phase_reply(&two_phase, n).await;
        let phase_one_with_reply = messages();
        phase_one(&tcc, &crate::shop::branch(n, "tcc"), &["SELECT 1"], "it").await;
        let try_by_tcc = messages();
        commit(&tcc, &crate::shop::branch(n, "tcc")).await;
        let confirm_by_tcc = messages();
        if warm {
            assert_eq!(
                (phase_one_by_2pc, phase_one_with_reply, commit_by_2pc),
                (3, 4, 1),
                "{}",
                server.log()
            );
            assert_eq!((try_by_tcc, confirm_by_tcc), (3, 2), "{}", server.log());
        }
    }
}

async fn two_phase_reply(two_phase: &assent_sdk::postgres::PostgresTwoPhase, n: u64) {
    assert_eq!(phase_one(two_phase, &branch(n, "reply"), &["SELECT 1"], "it").await, "prepared it");
}

fn cause(error: &Error) -> String {
    assert!(matches!(error, Error::Resource(_)), "{error:?}");
    error.source().unwrap().to_string()
}
