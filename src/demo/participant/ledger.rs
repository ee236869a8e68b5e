//! `bank/north` and `bank/south`, by two-phase commit: a bank's ledger each.

use assent_sdk::sqlite::{Sqlite, rusqlite};
use assent_sdk::{Branch, Json, Result, TwoPhase, Vote, refuse};
use rusqlite::{OptionalExtension as _, Transaction};
use serde::{Deserialize, Serialize};

/// A staged entry locks its account: the next prepare breaks its primary key, and that error means *try again*.
pub const SCHEMA: &str = "
    CREATE TABLE accounts (name TEXT PRIMARY KEY, balance INTEGER NOT NULL CHECK (balance >= 0));
    CREATE TABLE staged (account TEXT PRIMARY KEY, amount INTEGER NOT NULL);
    INSERT INTO accounts VALUES ('alice', 100), ('bob', 100);
";

#[derive(Debug)]
pub struct Ledger;

#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    pub account: String,
    /// In whole coins; what leaves the account is negative.
    pub amount: i32,
}

impl TwoPhase<Sqlite> for Ledger {
    type Request = Json<Entry>;
    type Reply = ();

    fn prepare(&self, db: &Transaction<'_>, _: &Branch, Json(entry): Json<Entry>) -> Result<Vote<()>> {
        let Entry { account, amount } = entry;
        db.execute("INSERT INTO staged VALUES (?1, ?2)", (&account, amount))?;
        let balance =
            db.query_row("SELECT balance FROM accounts WHERE name = ?1", [&account], |row| row.get(0));
        let balance: i64 = balance.optional()?.ok_or_else(|| refuse(format!("{account} has no account")))?;
        if balance + i64::from(amount) < 0 {
            return Err(refuse(format!("{account} has {balance} and cannot pay {}", amount.unsigned_abs())));
        }
        Ok(Vote::Prepared(()))
    }

    fn commit(&self, db: &Transaction<'_>, branch: &Branch, Json(entry): Json<Entry>) -> Result<()> {
        let book = "UPDATE accounts SET balance = balance + ?2 WHERE name = ?1";
        db.execute(book, (&entry.account, entry.amount))?;
        self.rollback(db, branch, Json(entry))
    }

    fn rollback(&self, db: &Transaction<'_>, _: &Branch, Json(entry): Json<Entry>) -> Result<()> {
        db.execute("DELETE FROM staged WHERE account = ?1", [entry.account])?;
        Ok(())
    }
}
