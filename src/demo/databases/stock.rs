//! `shop/stock` on MariaDB, by TCC and by two-phase commit: what is ordered is held until it is sold, or the row is locked
//! until it is committed.

use assent_sdk::mysql::MySql;
use assent_sdk::mysql::sqlx::{self, MySqlConnection};
use assent_sdk::{AsyncTcc, Branch, Json, Prepare, Result, Vote, refuse};

use crate::demo::participant::Take;

pub const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS stock (
        item VARCHAR(64) PRIMARY KEY,
        free INT NOT NULL CHECK (free >= 0),
        held INT NOT NULL CHECK (held >= 0),
        sold INT NOT NULL
    ) ENGINE = InnoDB;
    INSERT IGNORE INTO stock VALUES ('apple', 10, 0, 0);
";

#[derive(Debug)]
pub struct Stock;

impl AsyncTcc<MySql> for Stock {
    type Request = Json<Take>;
    /// How many are left.
    type Reply = Json<u32>;

    async fn reserve(
        &self,
        db: &mut MySqlConnection,
        _: &Branch,
        Json(take): Json<Take>,
    ) -> Result<Vote<Json<u32>>> {
        let left = left(db, &take).await?;
        update(db, take, "UPDATE stock SET free = free - ?, held = held + ? WHERE item = ?").await?;
        Ok(Vote::Prepared(Json(left)))
    }

    async fn confirm(&self, db: &mut MySqlConnection, _: &Branch, Json(take): Json<Take>) -> Result<()> {
        update(db, take, "UPDATE stock SET held = held - ?, sold = sold + ? WHERE item = ?").await
    }

    async fn cancel(&self, db: &mut MySqlConnection, _: &Branch, Json(take): Json<Take>) -> Result<()> {
        update(db, take, "UPDATE stock SET held = held - ?, free = free + ? WHERE item = ?").await
    }
}

impl Prepare<MySql> for Stock {
    type Request = Json<Take>;
    /// How many are left.
    type Reply = Json<u32>;

    async fn prepare(
        &self,
        db: &mut MySqlConnection,
        _: &Branch,
        Json(take): Json<Take>,
    ) -> Result<Vote<Json<u32>>> {
        let left = left(db, &take).await?;
        update(db, take, "UPDATE stock SET free = free - ?, sold = sold + ? WHERE item = ?").await?;
        Ok(Vote::Prepared(Json(left)))
    }
}

/// How many will be left, if there are enough. It locks the row.
async fn left(db: &mut MySqlConnection, take: &Take) -> Result<u32> {
    let free = sqlx::query_scalar("SELECT free FROM stock WHERE item = ? FOR UPDATE").bind(&take.item);
    let free: Option<i64> = free.fetch_optional(db).await?;
    let free = u32::try_from(free.unwrap_or(0))?;
    free.checked_sub(take.quantity)
        .ok_or_else(|| refuse(format!("{}: {} wanted, {free} in stock", take.item, take.quantity)))
}

async fn update(db: &mut MySqlConnection, take: Take, statement: &'static str) -> Result<()> {
    let update = sqlx::query(statement).bind(take.quantity).bind(take.quantity).bind(take.item);
    update.execute(db).await?;
    Ok(())
}
