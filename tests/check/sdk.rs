//! Participants with the SDK keep every rule, whichever way they are reached.

use std::path::PathBuf;
use std::time::Duration;

use assent_sdk::sqlite::{Sqlite, rusqlite};
use assent_sdk::{Branch, Json, Participant, Result, Tcc, TwoPhase, Vote, refuse};
use rusqlite::{Connection, Transaction};
use serde::{Deserialize, Serialize};

use crate::kit::{Said, check};
use crate::{command, free_port};

/// Soon enough for a test, and late enough that most branches have ended by then.
const INQUIRE_AFTER: Duration = Duration::from_millis(500);
const SCHEMA: &str = "
    create table if not exists goods (id integer primary key, free integer, held integer, sold integer);
    insert or ignore into goods values (1, 1000, 0, 0);";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    tcc: bool,
    /// None: it opens a session.
    port: Option<u16>,
    file: PathBuf,
    /// Where to ask, if it is dialled and asks.
    asks_at: Option<u16>,
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_by_2pc_over_a_session_keeps_every_rule() {
    checked("2pc", Way::Session).await.assert_passed_but_for(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_by_tcc_over_a_session_keeps_every_rule() {
    checked("tcc", Way::Session).await.assert_passed_but_for(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_by_2pc_dialled_keeps_every_rule() {
    checked("2pc", Way::Dialled).await.assert_passed_but_for(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_by_tcc_dialled_keeps_every_rule() {
    checked("tcc", Way::Dialled).await.assert_passed_but_for(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_says_it_never_asks_is_not_expected_to() {
    let said = checked("2pc", Way::DialledAndMute).await;
    said.assert_passed_but_for(&[
        "in-doubt-asks",
        "in-doubt-commit",
        "in-doubt-abort",
        "in-doubt-pending",
        "in-doubt-foreign",
    ]);
    assert!(said.rules("not_run")[0].1.contains("never inquires"), "{said:?}");
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Session,
    Dialled,
    /// It has nobody to ask.
    DialledAndMute,
}

/// Starts it by the kit, and checks all that there is.
async fn checked(protocol: &str, way: Way) -> Said {
    let directory = tempfile::Builder::new().prefix("assent-test-check-").tempdir().unwrap();
    let file = directory.path().join("goods.db");
    let (port, asked_at) = (free_port(), free_port());
    let settings = Settings {
        tcc: protocol == "tcc",
        port: (way != Way::Session).then_some(port),
        file: file.clone(),
        asks_at: (way == Way::Dialled).then_some(asked_at),
    };
    let run = command(&format!("sdk {}", serde_json::to_string(&settings).unwrap()));
    // The test program says more than the numbers.
    let look = command(&format!("goods {}", file.display())).replacen(" exec ", " ", 1);
    let observe = format!("{look} | sed -n 's/^goods: //p'");
    let url = format!("http://127.0.0.1:{port}");
    let listen = format!("127.0.0.1:{asked_at}");
    let mut arguments = vec![if way == Way::Session { "shop/stock" } else { &url }];
    arguments.extend(["--protocol", protocol, "--payload", "1", "--payload-refused", "100000"]);
    arguments.extend(["--listen", &listen, "--run", &run, "--observe", &observe, "--output", "json"]);
    check(&arguments).await
}

/// A participant under this name, with goods that go with it.
pub fn with_goods(name: &str) -> assent_sdk::participant::Builder {
    let database = Sqlite::open(":memory:").unwrap().setup(SCHEMA).unwrap();
    Participant::builder(name).resource(database.two_phase(Goods))
}

pub async fn serve(settings: Settings) {
    let database = Sqlite::open(&settings.file).unwrap().setup(SCHEMA).unwrap();
    let resource = if settings.tcc { database.tcc(Goods) } else { database.two_phase(Goods) };
    let builder = Participant::builder("shop/stock").resource(resource).inquire_after(INQUIRE_AFTER);
    let _participant = match (settings.port, settings.asks_at) {
        (None, _) => builder.connect(std::env::var("ASSENT_SERVER").unwrap()).await.unwrap(),
        (Some(port), asks_at) => {
            let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
            let builder = match asks_at {
                Some(port) => builder.inquire_at(format!("http://127.0.0.1:{port}")),
                None => builder,
            };
            builder.serve(listener).await.unwrap()
        }
    };
    // Until it is killed.
    std::future::pending::<()>().await;
}

#[expect(clippy::print_stdout, reason = "it is asked to")]
pub fn print_goods(file: &str) {
    let database = Connection::open(file).unwrap();
    let numbers = database.query_row("select free, held, sold from goods", [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
    });
    let (free, held, sold) = numbers.unwrap();
    println!("\ngoods: {free} {held} {sold}");
}

/// A payload is the number of goods to take.
struct Goods;

impl Goods {
    fn take(db: &Transaction<'_>, count: i64) -> Result<Vote<Json<String>>> {
        let sql = "update goods set free = free - ?1, held = held + ?1 where free >= ?1";
        match db.execute(sql, [count])? {
            0 => Err(refuse(format!("there are not {count}"))),
            _ => Ok(Vote::Prepared(Json(format!("took {count}")))),
        }
    }

    fn sell(db: &Transaction<'_>, count: i64) -> Result<()> {
        db.execute("update goods set held = held - ?1, sold = sold + ?1", [count])?;
        Ok(())
    }

    fn give_back(db: &Transaction<'_>, count: i64) -> Result<()> {
        db.execute("update goods set held = held - ?1, free = free + ?1", [count])?;
        Ok(())
    }
}

impl TwoPhase<Sqlite> for Goods {
    type Request = Json<i64>;
    type Reply = Json<String>;

    fn prepare(
        &self,
        db: &Transaction<'_>,
        _: &Branch,
        Json(count): Json<i64>,
    ) -> Result<Vote<Json<String>>> {
        Goods::take(db, count)
    }

    fn commit(&self, db: &Transaction<'_>, _: &Branch, Json(count): Json<i64>) -> Result<()> {
        Goods::sell(db, count)
    }

    fn rollback(&self, db: &Transaction<'_>, _: &Branch, Json(count): Json<i64>) -> Result<()> {
        Goods::give_back(db, count)
    }
}

impl Tcc<Sqlite> for Goods {
    type Request = Json<i64>;
    type Reply = Json<String>;

    fn reserve(
        &self,
        db: &Transaction<'_>,
        _: &Branch,
        Json(count): Json<i64>,
    ) -> Result<Vote<Json<String>>> {
        Goods::take(db, count)
    }

    fn confirm(&self, db: &Transaction<'_>, _: &Branch, Json(count): Json<i64>) -> Result<()> {
        Goods::sell(db, count)
    }

    fn cancel(&self, db: &Transaction<'_>, _: &Branch, Json(count): Json<i64>) -> Result<()> {
        Goods::give_back(db, count)
    }
}
