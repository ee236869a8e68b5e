//! What an operator is shown of the databases: `assent participant indoubt`, and the tables of `assent participant ddl`.

use std::process::Output;
use std::time::Duration;

use assent_sdk::mysql::{MySql, MySqlOptions};
use assent_sdk::postgres::{Postgres, PostgresOptions};
use assent_sdk::resource::{PhaseOne, Resource};
use assent_sdk::sql::{SqlDatabase, Tables};
use assent_sdk::sqlite::Sqlite;
use assent_sdk::throwaway::Server;
use assent_sdk::{
    AsyncTcc, Branch, Client, ClusterId, Error, Participant, Prepare, Result, TwoPhase, TxId, Vote, Wait,
};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::coordinator::{Coordinator, assent};
use crate::database::Database as Asked;

const PATIENCE: Duration = Duration::from_secs(60);
/// A password that must never be shown.
const SECRET: &str = "s3cr3t";
/// What somebody else has prepared.
const FOREIGN: &str = "somebody-elses";

#[tokio::test(flavor = "multi_thread")]
async fn what_databases_hold_is_listed_with_what_the_coordinator_says() {
    let mut coordinator = Coordinator::start(&[]);
    let stage = Stage::open(&coordinator.url()).await;
    let urls = stage.urls();
    let databases: Vec<&str> = urls.iter().map(String::as_str).collect();

    let listed = indoubt(&coordinator.url(), &databases);
    let shown = text(&listed.stdout);
    assert_eq!(listed.status.code(), Some(0), "{listed:?}");
    stage.expect(&shown, ["commit", "pending", "abort", "foreign"]);
    assert!(!format!("{listed:?}").contains(SECRET), "{listed:?}");
    // Asking has ended nothing.
    assert_eq!(text(&indoubt(&coordinator.url(), &databases).stdout).lines().count(), shown.lines().count());

    let json = indoubt(&coordinator.url(), &[&["--output", "json"], &databases[..]].concat());
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let held = json["held"].as_array().unwrap();
    let of = |name: &str| held.iter().find(|held| held["participant"] == json!(name)).unwrap();
    assert_eq!(of("bank/a")["xid"], json!(stage.committed.to_string()));
    assert_eq!((&of("bank/a")["held"], &of("bank/a")["coordinator"]), (&json!("prepared"), &json!("commit")));
    assert_eq!((&of("till/a")["held"], &of("till/a")["coordinator"]), (&json!("reserved"), &json!("abort")));
    assert!(of("bank/a")["age_ms"].as_u64().unwrap() < 60_000, "{json:#}");
    let foreign = held.iter().find(|held| held["name"] == json!(FOREIGN)).unwrap();
    assert_eq!((&foreign["xid"], &foreign["coordinator"]), (&Value::Null, &Value::Null));

    coordinator.kill9();
    let listed = indoubt(&coordinator.url(), &databases);
    assert_eq!(listed.status.code(), Some(0), "{listed:?}");
    stage.expect(&text(&listed.stdout), ["unreachable"; 4]);
    assert!(text(&listed.stderr).contains("cannot reach"), "{listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_reached_hides_no_other_and_shows_no_password() {
    let postgres = tokio::task::block_in_place(|| Server::postgres(&[]).unwrap());
    Asked::new(postgres.url()).read(&format!("BEGIN; PREPARE TRANSACTION '{FOREIGN}'")).await;
    let gone = [
        format!("postgres://me:{SECRET}@127.0.0.1:1/shop"),
        format!("mariadb://me:{SECRET}@127.0.0.1:1/shop"),
    ];
    let url = postgres.url();
    let listed = indoubt("http://127.0.0.1:1", &[&gone[0], &url, &gone[1], "sqlite:/nowhere/shop.db"]);
    assert_eq!(listed.status.code(), Some(1), "{listed:?}");
    assert!(text(&listed.stdout).contains(FOREIGN), "{listed:?}");
    assert_eq!(text(&listed.stderr).matches("cannot look into 127.0.0.1:1/shop").count(), 2, "{listed:?}");
    assert!(text(&listed.stderr).contains("cannot look into /nowhere/shop.db"), "{listed:?}");
    assert!(!format!("{listed:?}").contains(SECRET), "{listed:?}");

    for wrong in ["oracle://me:s3cr3t@127.0.0.1/shop", "postgres://me:s3cr3t/@127.0.0.1/shop", "me:s3cr3t"] {
        let refused = indoubt("http://127.0.0.1:1", &[&url, wrong]);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(text(&refused.stderr).contains("DATABASE_URL 2"), "{refused:?}");
        assert!(!format!("{refused:?}").contains(SECRET), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn printed_tables_are_all_that_a_participant_wants() {
    let (postgres, maria_db) = servers();
    let options = PostgresOptions::new(postgres.url()).tables(Tables::Check);
    let missing = options.clone().connect().await.unwrap_err();
    assert!(causes(&missing).contains("assent participant ddl postgres"), "{missing:?}");
    Asked::new(postgres.url()).read(&ddl("postgres")).await;
    options.connect().await.unwrap();

    let options = MySqlOptions::new(&maria_db.url()).tables(Tables::Check);
    let missing = options.clone().connect().await.unwrap_err();
    assert!(causes(&missing).contains("assent participant ddl mysql"), "{missing:?}");
    Asked::new(maria_db.url()).read(&ddl("mariadb")).await;
    options.connect().await.unwrap();

    let file = rusqlite::Connection::open_in_memory().unwrap();
    file.execute_batch(&ddl("sqlite")).unwrap();
    let rows = file.query_row("SELECT count(*) FROM assent_barrier, assent_horizon", [], |row| row.get(0));
    assert_eq!(rows, Ok(0));
}

/// Databases that hold something, and nobody there to end it.
struct Stage {
    postgres: Server,
    maria_db: Server,
    files: tempfile::TempDir,
    committed: TxId,
    pending: TxId,
    aborted: TxId,
    foreign: TxId,
}

impl Stage {
    async fn open(coordinator: &str) -> Stage {
        let (postgres, maria_db) = servers();
        let files = tempfile::tempdir().unwrap();
        let client = Client::connect(coordinator).unwrap();
        let begin = async || {
            let new = client.transaction("indoubt").wait(Wait::Decision).timeout(PATIENCE);
            new.begin().await.unwrap()
        };

        let (committed, pending, aborted) = (begin().await, begin().await, begin().await);
        let xids = [committed.xid(), pending.xid(), aborted.xid()];
        let bank = Postgres::connect(&postgres.url()).await.unwrap();
        join(coordinator, "bank/a", xids[0], bank.clone().two_phase(Anything).unwrap()).await;
        committed.commit().await.unwrap();
        let maria = MySql::connect(&maria_db.url()).await.unwrap();
        join(coordinator, "bank/c", xids[1], maria.two_phase(Anything).unwrap()).await;
        // Dropped, it would be aborted.
        std::mem::forget(pending);
        join(coordinator, "till/a", xids[2], bank.tcc(Anything)).await;
        aborted.abort("for the test").await.unwrap();

        let foreign: TxId = "01900000-0000-8000-8000-0c4000000007".parse().unwrap();
        let file = Sqlite::open(files.path().join("file.db")).unwrap().two_phase(Anything);
        let branch = Branch::new(foreign, "line-1".parse().unwrap(), "shop/old".parse().unwrap());
        let (cluster, request) = (ClusterId::from("another"), Bytes::new());
        file.phase_one(PhaseOne { branch, cluster, request, reservation: None }).await.unwrap();

        Asked::new(postgres.url()).read(&format!("BEGIN; PREPARE TRANSACTION '{FOREIGN}'")).await;
        let clerk = format!("CREATE USER clerk IDENTIFIED BY '{SECRET}'; GRANT SELECT ON test.* TO clerk");
        Asked::new(maria_db.url()).read(&clerk).await;
        let [committed, pending, aborted] = xids;
        Stage { postgres, maria_db, files, committed, pending, aborted, foreign }
    }

    /// With passwords.
    fn urls(&self) -> [String; 3] {
        let postgres = self.postgres.url().replace("postgres@", &format!("postgres:{SECRET}@"));
        let maria_db = self.maria_db.url().replace("root@", &format!("clerk:{SECRET}@"));
        [postgres, maria_db, self.files.path().join("file.db").display().to_string()]
    }

    /// Each has its line, with these answers of the coordinator.
    fn expect(&self, shown: &str, [committed, pending, aborted, foreign]: [&str; 4]) {
        let (postgres, maria_db) = (self.postgres.port(), self.maria_db.port());
        let file = self.files.path().join("file.db").display().to_string();
        let (postgres, maria_db) =
            (format!("127.0.0.1:{postgres}/postgres"), format!("127.0.0.1:{maria_db}/test"));
        for (database, xid, branch, held, answer) in [
            (&postgres, self.committed.to_string(), "line-1  bank/a", "prepared", committed),
            (&maria_db, self.pending.to_string(), "line-1  bank/c", "prepared", pending),
            (&postgres, self.aborted.to_string(), "line-1  till/a", "reserved", aborted),
            (&file, self.foreign.to_string(), "line-1  shop/old", "prepared", foreign),
            (&postgres, FOREIGN.to_owned(), "-       -", "prepared", "-"),
        ] {
            let line =
                shown.lines().find(|line| line.contains(&xid)).unwrap_or_else(|| panic!("{xid}: {shown}"));
            assert!(line.starts_with(database.as_str()) && line.ends_with(&format!(" {answer}")), "{shown}");
            assert!(line.contains(branch) && line.contains(held), "{shown}");
        }
        assert_eq!(shown.lines().count(), 6, "{shown}");
    }
}

/// Does a branch's first phase and enlists it; then the participant is gone as by a crash.
async fn join(coordinator: &str, name: &str, xid: TxId, resource: impl Resource) {
    let participant = Participant::builder(name).resource(resource).connect(coordinator).await.unwrap();
    tokio::time::timeout(PATIENCE, participant.ready()).await.unwrap();
    participant.handle().join(xid, "line-1").ttl(PATIENCE).with(&()).await.unwrap();
}

fn servers() -> (Server, Server) {
    tokio::task::block_in_place(|| (Server::postgres(&[]).unwrap(), Server::maria_db(&[]).unwrap()))
}

fn indoubt(coordinator: &str, arguments: &[&str]) -> Output {
    let arguments = [&["--server", coordinator, "participant", "indoubt"], arguments].concat();
    assent().args(arguments).env_remove("DATABASE_URL").output().unwrap()
}

fn ddl(database: &str) -> String {
    let output = assent().args(["participant", "ddl", database]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn causes(error: &Error) -> String {
    std::error::Error::source(error).unwrap().to_string()
}

/// Says yes, and does nothing.
struct Anything;

impl<D: SqlDatabase> Prepare<D> for Anything {
    type Request = ();
    type Reply = ();

    async fn prepare(&self, _: &mut D::Connection, _: &Branch, (): ()) -> Result<Vote<()>> {
        Ok(Vote::Prepared(()))
    }
}

impl<D: SqlDatabase> AsyncTcc<D> for Anything {
    type Request = ();
    type Reply = ();

    async fn reserve(&self, _: &mut D::Connection, _: &Branch, (): ()) -> Result<Vote<()>> {
        Ok(Vote::Prepared(()))
    }

    async fn confirm(&self, _: &mut D::Connection, _: &Branch, (): ()) -> Result<()> {
        Ok(())
    }

    async fn cancel(&self, _: &mut D::Connection, _: &Branch, (): ()) -> Result<()> {
        Ok(())
    }
}

impl TwoPhase<Sqlite> for Anything {
    type Request = ();
    type Reply = ();

    fn prepare(&self, _: &rusqlite::Transaction<'_>, _: &Branch, (): ()) -> Result<Vote<()>> {
        Ok(Vote::Prepared(()))
    }

    fn commit(&self, _: &rusqlite::Transaction<'_>, _: &Branch, (): ()) -> Result<()> {
        Ok(())
    }

    fn rollback(&self, _: &rusqlite::Transaction<'_>, _: &Branch, (): ()) -> Result<()> {
        Ok(())
    }
}
