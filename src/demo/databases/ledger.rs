//! `bank/north` and `bank/south` on PostgreSQL, by two-phase commit. The database holds the new balance, and the lock on
//! it, until the decision: nothing needs to be staged.

use assent_sdk::postgres::Postgres;
use assent_sdk::postgres::sqlx::{self, PgConnection};
use assent_sdk::{Branch, Json, Prepare, Result, Vote, refuse};

use crate::demo::participant::Entry;

pub const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, balance BIGINT NOT NULL CHECK (balance >= 0));
    INSERT INTO accounts VALUES ('alice', 100), ('bob', 100) ON CONFLICT DO NOTHING;
";

#[derive(Debug)]
pub struct Ledger;

impl Prepare<Postgres> for Ledger {
    type Request = Json<Entry>;
    type Reply = ();

    async fn prepare(&self, db: &mut PgConnection, _: &Branch, Json(entry): Json<Entry>) -> Result<Vote<()>> {
        let Entry { account, amount } = entry;
        let book = "UPDATE accounts SET balance = balance + $2 WHERE name = $1 AND balance + $2 >= 0";
        match sqlx::query(book).bind(&account).bind(i64::from(amount)).execute(db).await?.rows_affected() {
            0 => Err(refuse(format!("{account} cannot pay {}, or has no account", amount.unsigned_abs()))),
            _ => Ok(Vote::Prepared(())),
        }
    }
}
