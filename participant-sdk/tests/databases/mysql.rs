//! MariaDB.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use assent_sdk::mysql::sqlx::{self, Connection as _, MySqlConnection};
use assent_sdk::mysql::{MySql, MySqlTcc, MySqlTwoPhase};
use assent_sdk::throwaway::Server;
use assent_sdk::{AsyncTcc, Branch, Json, Prepare, Result, Vote, refuse};

use crate::conformance::conforms;
use crate::prepares;
use crate::shop::{Shelf, Shop, Stock, Take, Taken};

const SCHEMA: &str = "
    CREATE TABLE shelf (free INT NOT NULL, held INT NOT NULL, sold INT NOT NULL) ENGINE = InnoDB;
    INSERT INTO shelf VALUES (10, 0, 0)";

/// One server for all tests that do not kill it.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::maria_db(&[]).unwrap())
}

/// The URL of a new database.
async fn database(server: &Server) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let mut db = MySqlConnection::connect(&server.url()).await.unwrap();
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::raw_sql(create).execute(&mut db).await.unwrap();
    db.close().await.unwrap();
    server.database_url(&name)
}

async fn shop() -> MySql {
    MySql::connect(&database(server()).await).await.unwrap().setup(SCHEMA).await.unwrap()
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
