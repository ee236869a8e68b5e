//! What is asked of a server, a database and a user at the start.

use std::fmt::Debug;
use std::time::Duration;

use assent_sdk::mysql::{MySql, MySqlOptions, SCHEMA, Tables};
use assent_sdk::throwaway::Server;
use assent_sdk::{Completion, Error};
use tracing::Level;

use super::{Run, database, execute, sells, server};
use crate::conformance::{commit, phase_one};
use crate::log::Log;
use crate::shop::{self, branch};

/// What went wrong, with the causes.
fn said(outcome: Result<impl Debug, Error>) -> String {
    let error = outcome.unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    format!("{error}: {}", cause.unwrap_or_default())
}

#[tokio::test]
async fn tables_that_are_missing_are_only_reported_where_they_are_to_be_checked() {
    let url = database(server()).await;
    let check = || MySqlOptions::new(&url).tables(Tables::Check).connect();
    let missing = said(check().await);
    assert!(missing.contains("assent_barrier' doesn't exist"), "{missing}");
    assert!(missing.contains("hint: run the output of `assent participant ddl mysql`"), "{missing}");
    execute(&url, SCHEMA).await;
    check().await.unwrap();
    execute(&url, "ALTER TABLE assent_barrier DROP COLUMN ttl_ms").await;
    for outcome in [check().await, MySql::connect(&url).await] {
        let missing = said(outcome);
        assert!(missing.contains("Unknown column 'ttl_ms'") && missing.contains("hint:"), "{missing}");
    }
}

#[tokio::test]
async fn user_without_the_right_to_create_can_work_once_the_tables_are_there() {
    let server = server();
    let url = database(server).await;
    execute(&url, shop::SCHEMA).await;
    let name = url.rsplit('/').next().unwrap();
    let grant = format!(
        "CREATE USER {name}@'%' IDENTIFIED BY 'secret';
         GRANT SELECT, INSERT, UPDATE, DELETE ON {name}.* TO {name}@'%'"
    );
    execute(&url, &grant).await;
    let url_of_user = url.replace("root@", &format!("{name}:secret@"));
    assert_ne!(url_of_user, url);
    let denied = said(MySql::connect(&url_of_user).await);
    assert!(denied.contains("CREATE command denied"), "{denied}");
    execute(&url, SCHEMA).await;
    let shop = MySql::connect(&url_of_user).await.unwrap();
    let stock = sells(&shop);
    assert_eq!(phase_one(&stock, &branch(1, "a"), 3).await, r#"prepared {"left":7}"#);
    assert_eq!(commit(&stock, &branch(1, "a")).await, Completion::Done);
    // A password is not for logs.
    let options = format!("{:?}", MySqlOptions::new(&url_of_user));
    assert!(!options.contains("secret"), "{options}");
}

/// Such a table would keep the row of a branch that was rolled back.
#[tokio::test]
async fn tables_without_transactions_are_refused() {
    let url = database(server()).await;
    execute(&url, &SCHEMA.replacen("InnoDB", "MyISAM", 1)).await;
    let refused = said(MySql::connect(&url).await);
    assert!(refused.contains("assent_barrier is kept by MyISAM"), "{refused}");
}

#[tokio::test]
async fn server_that_logs_statements_is_refused() {
    let settings = [("log_bin", "binlog"), ("sync_binlog", "1"), ("binlog_format", "STATEMENT")];
    let server = Server::maria_db(&settings).unwrap();
    let refused = said(MySql::connect(&server.url()).await);
    assert!(refused.contains("hint: set binlog_format = ROW"), "{refused}");
}

#[tokio::test]
async fn settings_that_lose_promises_when_the_power_fails_are_warned_of() {
    let warnings = async |settings: &[(&str, &str)]| {
        let server = Server::maria_db(settings).unwrap();
        let log = Log::warnings();
        let _guard = log.keep();
        MySql::connect(&server.url()).await.unwrap();
        log.lines()
    };
    assert_eq!(warnings(&[]).await, [""; 0]);
    let lax = warnings(&[("innodb_flush_log_at_trx_commit", "2")]).await;
    assert!(lax.len() == 1 && lax[0].contains("does not sync at commit"), "{lax:?}");
    let lax = warnings(&[("log_bin", "binlog"), ("sync_binlog", "0")]).await;
    assert!(lax.len() == 1 && lax[0].contains("does not sync its binary log"), "{lax:?}");
}

#[tokio::test]
async fn options_out_of_range_are_errors_that_say_the_range() {
    let url = server().url();
    let without = url.rsplit_once('/').unwrap().0;
    assert!(said(MySql::connect(without).await).contains("the URL names no database"));
    assert!(said(assent_sdk::mysql::held(without).await).contains("the URL names no database"));
    let none = said(MySqlOptions::new(&url).connections_max(0).connect().await);
    assert!(none.contains("connections_max is 0; it can be 1 to 10000"), "{none}");
    let short = said(MySqlOptions::new(&url).lock_timeout(Duration::from_millis(500)).connect().await);
    assert!(short.contains("lock_timeout is 500ms; it can be 1 s to a year"), "{short}");
    let nobody = said(MySql::connect("mysql://root@127.0.0.1:1/test").await);
    assert!(nobody.contains("refused"), "{nobody}");
}

/// Statements hold payloads as they were sent, and sqlx logs statements: all of them if it is asked to, and slow ones anyway.
#[tokio::test]
async fn statements_are_not_logged() {
    let url = database(server()).await;
    let log = Log::of(Level::TRACE, "sqlx::query");
    let _guard = log.keep();
    let shop = MySql::connect(&url).await.unwrap().setup("DO SLEEP(1.1)").await.unwrap();
    phase_one(&shop.tcc(Run::default()), &branch(1, "a"), 3).await;
    assert_eq!(log.lines(), [""; 0]);
}
