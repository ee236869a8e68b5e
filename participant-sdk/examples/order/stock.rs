//! `shop/stock` on MariaDB. By TCC what is ordered is held until it is sold; by two-phase commit its row is locked until it
//! is committed.

use assent_sdk::mysql::MySql;
use assent_sdk::mysql::sqlx::{self, MySqlConnection};
use assent_sdk::{AsyncTcc, Branch, Json, Prepare, Result, Vote, refuse};
use serde::{Deserialize, Serialize};

pub const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS stock (
        item VARCHAR(64) PRIMARY KEY,
        free INT NOT NULL,
        held INT NOT NULL,
        sold INT NOT NULL
    ) ENGINE = InnoDB;
";

pub struct Stock;

#[derive(Serialize, Deserialize)]
pub struct Take {
    pub item: String,
    pub quantity: u32,
}

impl AsyncTcc<MySql> for Stock {
    type Request = Json<Take>;
    type Reply = ();

    async fn reserve(
        &self,
        db: &mut MySqlConnection,
        _: &Branch,
        Json(take): Json<Take>,
    ) -> Result<Vote<()>> {
        let hold = "UPDATE stock SET free = free - ?, held = held + ? WHERE item = ? AND free >= ?";
        take_free(db, take, hold).await
    }

    async fn confirm(&self, db: &mut MySqlConnection, _: &Branch, Json(take): Json<Take>) -> Result<()> {
        end_hold(db, take, "UPDATE stock SET held = held - ?, sold = sold + ? WHERE item = ?").await
    }

    async fn cancel(&self, db: &mut MySqlConnection, _: &Branch, Json(take): Json<Take>) -> Result<()> {
        end_hold(db, take, "UPDATE stock SET held = held - ?, free = free + ? WHERE item = ?").await
    }
}

impl Prepare<MySql> for Stock {
    type Request = Json<Take>;
    type Reply = ();

    async fn prepare(
        &self,
        db: &mut MySqlConnection,
        _: &Branch,
        Json(take): Json<Take>,
    ) -> Result<Vote<()>> {
        let sell = "UPDATE stock SET free = free - ?, sold = sold + ? WHERE item = ? AND free >= ?";
        take_free(db, take, sell).await
    }
}

async fn take_free(db: &mut MySqlConnection, take: Take, statement: &'static str) -> Result<Vote<()>> {
    let Take { item, quantity } = take;
    let update = sqlx::query(statement).bind(quantity).bind(quantity).bind(&item).bind(quantity);
    match update.execute(db).await?.rows_affected() {
        0 => Err(refuse(format!("{item}: {quantity} wanted, and there are not so many"))),
        _ => Ok(Vote::Prepared(())),
    }
}

async fn end_hold(db: &mut MySqlConnection, take: Take, statement: &'static str) -> Result<()> {
    sqlx::query(statement).bind(take.quantity).bind(take.quantity).bind(take.item).execute(db).await?;
    Ok(())
}
