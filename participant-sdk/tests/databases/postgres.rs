//! PostgreSQL.

mod cleaning;
mod connecting;
mod crashes;
mod handlers;
mod replicas;
mod script;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use assent_sdk::postgres::sqlx::{self, AssertSqlSafe, Connection as _, PgConnection};
use assent_sdk::postgres::{Postgres, PostgresTcc, PostgresTwoPhase};
use assent_sdk::throwaway::Server;
use assent_sdk::{AsyncTcc, Branch, Json, Prepare, Result, Vote, refuse};

use crate::shop::{LIFE, SCHEMA, Shelf, Shop, Stock, Take, Taken};
use crate::{conformance, prepares};

#[tokio::test]
async fn postgres_keeps_the_barrier() {
    // A schema is made faster than a database, and these are many shops.
    let url = &database(server()).await;
    let shop = async || {
        let name = new_name();
        run(url, &format!("CREATE SCHEMA {name}")).await;
        shop(&format!("{url}?options=-c%20search_path%3D{name}")).await
    };
    conformance::conforms(shop).await;
}

#[tokio::test]
async fn postgres_prepares() {
    prepares::conforms(async || shop(&database(server()).await).await).await;
}

/// One server for all tests that neither kill it nor change its settings.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::postgres(&[("max_connections", "400")]).unwrap())
}

/// The URL of a new database.
async fn database(server: &Server) -> String {
    let name = new_name();
    run(&server.url(), &format!("CREATE DATABASE {name}")).await;
    server.database_url(&name)
}

async fn shop(url: &str) -> Postgres {
    let postgres = Postgres::connect(url).await.unwrap().setup(SCHEMA).await.unwrap();
    begin_life();
    postgres
}

/// Names of what is prepared belong to the whole server, so each shop has transactions of its own.
fn begin_life() {
    static LIVES: AtomicU32 = AtomicU32::new(8);
    LIFE.set(LIVES.fetch_add(1, Ordering::Relaxed));
}

fn new_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Awaits what must come, far longer than it takes.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it comes within the bound")
}

/// Looks again and again until the statement answers true.
async fn until(url: &str, statement: &str) {
    let mut db = PgConnection::connect(url).await.unwrap();
    let look = async {
        while !sqlx::query_scalar::<_, bool>(AssertSqlSafe(statement)).fetch_one(&mut db).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(look).await;
}

/// The one value that a statement answers.
async fn number(url: &str, statement: &str) -> i64 {
    let mut db = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(&mut db).await.unwrap()
}

/// Runs statements on a connection of their own, as anybody would.
async fn run(url: &str, statements: &str) {
    let mut db = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut db).await.unwrap();
    db.close().await.unwrap();
}

impl Shop for Postgres {
    type Tcc = PostgresTcc;
    type TwoPhase = PostgresTwoPhase;

    fn tcc(&self, stock: Stock) -> PostgresTcc {
        self.clone().tcc(stock)
    }

    fn two_phase(&self, stock: Stock) -> PostgresTwoPhase {
        self.clone().two_phase(stock).unwrap()
    }

    async fn shelf(&self) -> Shelf {
        let mut db = self.connection().await.unwrap();
        let sql = "SELECT free::bigint, held::bigint, sold::bigint FROM shelf";
        let (free, held, sold) = sqlx::query_as(sql).fetch_one(&mut *db).await.unwrap();
        db.back();
        Shelf { free, held, sold }
    }
}

impl Stock {
    async fn take_in_postgres(
        &self,
        db: &mut PgConnection,
        count: i64,
        into: &str,
    ) -> Result<Vote<Json<Taken>>> {
        if count == 0 {
            sqlx::query("UPDATE shelf SET sold = 99").execute(db).await?;
            return Ok(Vote::ReadOnly(Json(Taken { left: 10 })));
        }
        // The write comes first, so that a refusal has something to leave behind if it could.
        let sql = AssertSqlSafe(format!("UPDATE shelf SET {into} = {into} + $1"));
        sqlx::query(sql).bind(count).execute(&mut *db).await?;
        Stock::fail(&self.0.after_reserve)?;
        assert!(!self.0.panic_in_reserve.swap(false, Ordering::SeqCst), "a fault was asked for");
        let sql = "UPDATE shelf SET free = free - $1 WHERE free >= $1 RETURNING free::bigint";
        let left = sqlx::query_scalar(sql).bind(count).fetch_optional(db).await?;
        let left = left.ok_or_else(|| refuse("out of stock"))?;
        Ok(Vote::Prepared(Json(Taken { left })))
    }
}

impl AsyncTcc<Postgres> for Stock {
    type Request = Json<Take>;
    type Reply = Json<Taken>;

    async fn reserve(
        &self,
        db: &mut PgConnection,
        _: &Branch,
        Json(take): Json<Take>,
    ) -> Result<Vote<Json<Taken>>> {
        self.take_in_postgres(db, take.count, "held").await
    }

    async fn confirm(&self, db: &mut PgConnection, _: &Branch, Json(take): Json<Take>) -> Result<()> {
        let sql = "UPDATE shelf SET held = held - $1, sold = sold + $1";
        sqlx::query(sql).bind(take.count).execute(db).await?;
        Stock::fail(&self.0.after_confirm)
    }

    async fn cancel(&self, db: &mut PgConnection, _: &Branch, Json(take): Json<Take>) -> Result<()> {
        let sql = "UPDATE shelf SET held = held - $1, free = free + $1";
        sqlx::query(sql).bind(take.count).execute(db).await?;
        Ok(())
    }
}

impl Prepare<Postgres> for Stock {
    type Request = Json<Take>;
    type Reply = Json<Taken>;

    async fn prepare(
        &self,
        db: &mut PgConnection,
        _: &Branch,
        Json(take): Json<Take>,
    ) -> Result<Vote<Json<Taken>>> {
        let vote = self.take_in_postgres(db, take.count, "sold").await?;
        Stock::fail(&self.0.after_confirm)?;
        Ok(vote)
    }
}
