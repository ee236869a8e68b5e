//! MariaDB: the conformance tests, and what the tests below share.

mod connecting;
mod crashes;
mod handlers;
mod locks;
mod names;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use assent_sdk::mysql::sqlx::{self, Connection as _, MySqlConnection};
use assent_sdk::mysql::{MySql, MySqlTcc, MySqlTwoPhase};
use assent_sdk::resource::PhaseOne;
use assent_sdk::throwaway::Server;
use assent_sdk::{AsyncTcc, Branch, ClusterId, Encode as _, Json, Prepare, Result, Vote, refuse};
use tokio::sync::Notify;

use crate::conformance::{CLUSTER, conforms};
use crate::prepares;
use crate::shop::{SCHEMA, Shelf, Shop, Stock, Take, Taken};

/// One server for all tests that do not kill it.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::maria_db(&[]).unwrap())
}

/// The URL of a new database.
async fn database(server: &Server) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("shop_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    execute(&server.url(), &format!("CREATE DATABASE {name}")).await;
    server.database_url(&name)
}

async fn shop() -> MySql {
    shop_at(&database(server()).await).await
}

async fn shop_at(url: &str) -> MySql {
    MySql::connect(url).await.unwrap().setup(SCHEMA).await.unwrap()
}

/// Sells by two-phase commit.
fn sells(shop: &MySql) -> MySqlTwoPhase {
    shop.clone().two_phase(Stock::default()).unwrap()
}

/// A connection that has nothing to do with the SDK.
async fn stranger(url: &str) -> MySqlConnection {
    MySqlConnection::connect(url).await.unwrap()
}

/// Runs statements on a connection of their own.
async fn execute(url: &str, statements: &str) {
    run(&mut stranger(url).await, statements).await.unwrap();
}

async fn run(db: &mut MySqlConnection, statements: &str) -> sqlx::Result<()> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(db).await?;
    Ok(())
}

/// The one number that a statement answers.
async fn number(db: &mut MySqlConnection, statement: &'static str) -> i64 {
    sqlx::query_scalar(statement).fetch_one(db).await.unwrap()
}

/// Far longer than anything here takes: what is not there by then never comes.
const BOUND: Duration = Duration::from_secs(40);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.expect("it comes within the bound")
}

/// Waits until so many transactions in the database wait for a lock.
async fn until_waiting(url: &str, transactions: i64) {
    let mut db = stranger(url).await;
    let waiting = "SELECT count(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p
        ON p.id = t.trx_mysql_thread_id WHERE t.trx_state = 'LOCK WAIT' AND p.db = DATABASE()";
    soon(async {
        while number(&mut db, waiting).await < transactions {
            // The table is as old as the last look at it where that is less than 100 ms ago.
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    })
    .await;
}

/// Calls again, as the coordinator would, until it has an answer.
async fn until_answered<T>(mut call: impl AsyncFnMut() -> Result<T>) -> T {
    soon(async {
        loop {
            match call().await {
                Ok(answer) => return answer,
                Err(failure) => assert_eq!(failure.refusal(), None, "trouble passes, a refusal does not"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Does what the request says, statement by statement, and votes yes.
///
/// A statement that begins with `!` may fail. At `@wait` it waits to be told to go on.
#[derive(Clone, Debug, Default)]
struct Run {
    reached: Arc<Notify>,
    go_on: Arc<Notify>,
}

impl Run {
    async fn run(&self, db: &mut MySqlConnection, statements: Vec<String>) -> Result<Vote<()>> {
        for statement in statements {
            if statement == "@wait" {
                self.reached.notify_one();
                self.go_on.notified().await;
                continue;
            }
            let (statement, may_fail) = match statement.strip_prefix('!') {
                Some(statement) => (statement, true),
                None => (&*statement, false),
            };
            match run(db, statement).await {
                Err(error) if !may_fail => return Err(error.into()),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(Vote::Prepared(()))
    }
}

impl Prepare<MySql> for Run {
    type Request = Json<Vec<String>>;
    type Reply = ();

    async fn prepare(
        &self,
        db: &mut MySqlConnection,
        _: &Branch,
        Json(statements): Json<Vec<String>>,
    ) -> Result<Vote<()>> {
        self.run(db, statements).await
    }
}

impl AsyncTcc<MySql> for Run {
    type Request = Json<Vec<String>>;
    type Reply = ();

    async fn reserve(
        &self,
        db: &mut MySqlConnection,
        _: &Branch,
        Json(statements): Json<Vec<String>>,
    ) -> Result<Vote<()>> {
        self.run(db, statements).await
    }

    async fn confirm(&self, _: &mut MySqlConnection, _: &Branch, _: Json<Vec<String>>) -> Result<()> {
        Ok(())
    }

    async fn cancel(&self, _: &mut MySqlConnection, _: &Branch, _: Json<Vec<String>>) -> Result<()> {
        Ok(())
    }
}

/// The phase one that makes [`Run`] run these.
fn running(branch: &Branch, statements: &[&str]) -> PhaseOne {
    PhaseOne {
        branch: branch.clone(),
        cluster: ClusterId::from(CLUSTER),
        request: Json(statements).to_bytes().unwrap(),
        reservation: None,
    }
}

impl Stock {
    async fn take(&self, db: &mut MySqlConnection, count: i64, into: &str) -> Result<Vote<Json<Taken>>> {
        if count == 0 {
            sqlx::query("UPDATE shelf SET sold = 99").execute(db).await?;
            return Ok(Vote::ReadOnly(Json(Taken { left: 10 })));
        }
        // The write comes first, so that a refusal has something to leave behind if it could.
        let sql = sqlx::AssertSqlSafe(format!("UPDATE shelf SET {into} = {into} + ?"));
        sqlx::query(sql).bind(count).execute(&mut *db).await?;
        Stock::fail(&self.0.after_reserve)?;
        assert!(!self.0.panic_in_reserve.swap(false, Ordering::SeqCst), "a fault was asked for");
        let sql = "UPDATE shelf SET free = free - ? WHERE free >= ?";
        let changed = sqlx::query(sql).bind(count).bind(count).execute(&mut *db).await?.rows_affected();
        if changed == 0 {
            return Err(refuse("out of stock"));
        }
        let left = sqlx::query_scalar("SELECT free FROM shelf").fetch_one(db).await?;
        Ok(Vote::Prepared(Json(Taken { left })))
    }
}

impl AsyncTcc<MySql> for Stock {
    type Request = Json<Take>;
    type Reply = Json<Taken>;

    async fn reserve(
        &self,
        db: &mut MySqlConnection,
        _: &Branch,
        Json(take): Json<Take>,
    ) -> Result<Vote<Json<Taken>>> {
        self.take(db, take.count, "held").await
    }

    async fn confirm(&self, db: &mut MySqlConnection, _: &Branch, Json(take): Json<Take>) -> Result<()> {
        let sql = "UPDATE shelf SET held = held - ?, sold = sold + ?";
        sqlx::query(sql).bind(take.count).bind(take.count).execute(db).await?;
        Stock::fail(&self.0.after_confirm)
    }

    async fn cancel(&self, db: &mut MySqlConnection, _: &Branch, Json(take): Json<Take>) -> Result<()> {
        let sql = "UPDATE shelf SET held = held - ?, free = free + ?";
        sqlx::query(sql).bind(take.count).bind(take.count).execute(db).await?;
        Ok(())
    }
}

/// What is prepared is sold when it is committed.
impl Prepare<MySql> for Stock {
    type Request = Json<Take>;
    type Reply = Json<Taken>;

    async fn prepare(
        &self,
        db: &mut MySqlConnection,
        _: &Branch,
        Json(take): Json<Take>,
    ) -> Result<Vote<Json<Taken>>> {
        let vote = self.take(db, take.count, "sold").await?;
        Stock::fail(&self.0.after_confirm)?;
        Ok(vote)
    }
}

impl Shop for MySql {
    type Tcc = MySqlTcc;
    type TwoPhase = MySqlTwoPhase;

    fn tcc(&self, stock: Stock) -> MySqlTcc {
        self.clone().tcc(stock)
    }

    fn two_phase(&self, stock: Stock) -> MySqlTwoPhase {
        self.clone().two_phase(stock).unwrap()
    }

    async fn shelf(&self) -> Shelf {
        let mut db = self.connection().await.unwrap();
        let (free, held, sold) =
            sqlx::query_as("SELECT free, held, sold FROM shelf").fetch_one(&mut *db).await.unwrap();
        db.back();
        Shelf { free, held, sold }
    }
}

#[tokio::test]
async fn maria_db_keeps_the_barrier() {
    conforms(shop).await;
}

#[tokio::test]
async fn maria_db_prepares() {
    prepares::conforms(shop).await;
}
