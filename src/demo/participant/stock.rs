//! `shop/stock`, by TCC: what is ordered is free, then held, then sold.

use assent_sdk::sqlite::{Sqlite, rusqlite};
use assent_sdk::{Branch, Json, Result, Tcc, Vote, refuse};
use rusqlite::{OptionalExtension as _, Transaction};
use serde::{Deserialize, Serialize};

pub const SCHEMA: &str = "
    CREATE TABLE stock (
        item TEXT PRIMARY KEY,
        free INTEGER NOT NULL CHECK (free >= 0),
        held INTEGER NOT NULL CHECK (held >= 0),
        sold INTEGER NOT NULL
    );
    INSERT INTO stock VALUES ('apple', 10, 0, 0);
";

#[derive(Debug)]
pub struct Stock;

#[derive(Debug, Serialize, Deserialize)]
pub struct Take {
    pub item: String,
    pub quantity: u32,
}

impl Tcc<Sqlite> for Stock {
    type Request = Json<Take>;
    /// How many are left.
    type Reply = Json<u32>;

    fn reserve(&self, db: &Transaction<'_>, _: &Branch, Json(take): Json<Take>) -> Result<Vote<Json<u32>>> {
        let free = db.query_row("SELECT free FROM stock WHERE item = ?1", [&take.item], |row| row.get(0));
        let free: u32 = free.optional()?.unwrap_or(0);
        let Some(left) = free.checked_sub(take.quantity) else {
            return Err(refuse(format!("{}: {} wanted, {free} in stock", take.item, take.quantity)));
        };
        let hold = "UPDATE stock SET free = free - ?2, held = held + ?2 WHERE item = ?1";
        db.execute(hold, (&take.item, take.quantity))?;
        Ok(Vote::Prepared(Json(left)))
    }

    fn confirm(&self, db: &Transaction<'_>, _: &Branch, Json(take): Json<Take>) -> Result<()> {
        let sell = "UPDATE stock SET held = held - ?2, sold = sold + ?2 WHERE item = ?1";
        db.execute(sell, (take.item, take.quantity))?;
        Ok(())
    }

    fn cancel(&self, db: &Transaction<'_>, _: &Branch, Json(take): Json<Take>) -> Result<()> {
        let free = "UPDATE stock SET held = held - ?2, free = free + ?2 WHERE item = ?1";
        db.execute(free, (take.item, take.quantity))?;
        Ok(())
    }
}
