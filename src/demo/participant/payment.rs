//! `shop/payment`, by TCC: the partner that holds the customers' accounts. A charge is held on the account, then moves to
//! the till.

use assent_sdk::sqlite::{Sqlite, rusqlite};
use assent_sdk::{Branch, Json, Result, Tcc, Vote, refuse};
use rusqlite::Transaction;
use serde::{Deserialize, Serialize};

pub const SCHEMA: &str = "
    CREATE TABLE accounts (
        customer TEXT PRIMARY KEY,
        balance INTEGER NOT NULL CHECK (balance >= 0),
        held INTEGER NOT NULL CHECK (held >= 0)
    );
    CREATE TABLE till (received INTEGER NOT NULL);
    INSERT INTO accounts VALUES ('alice', 100, 0);
    INSERT INTO till VALUES (0);
";

#[derive(Debug)]
pub struct Payment;

#[derive(Debug, Serialize, Deserialize)]
pub struct Charge {
    pub customer: String,
    /// In whole coins.
    pub amount: u32,
}

impl Tcc<Sqlite> for Payment {
    type Request = Json<Charge>;
    type Reply = ();

    fn reserve(&self, db: &Transaction<'_>, _: &Branch, Json(charge): Json<Charge>) -> Result<Vote<()>> {
        let hold = "UPDATE accounts SET balance = balance - ?2, held = held + ?2
                    WHERE customer = ?1 AND balance >= ?2";
        if db.execute(hold, (&charge.customer, charge.amount))? == 0 {
            return Err(refuse(format!("{} cannot pay {}", charge.customer, charge.amount)));
        }
        Ok(Vote::Prepared(()))
    }

    fn confirm(&self, db: &Transaction<'_>, _: &Branch, Json(charge): Json<Charge>) -> Result<()> {
        let pay = "UPDATE accounts SET held = held - ?2 WHERE customer = ?1";
        db.execute(pay, (charge.customer, charge.amount))?;
        db.execute("UPDATE till SET received = received + ?1", [charge.amount])?;
        Ok(())
    }

    fn cancel(&self, db: &Transaction<'_>, _: &Branch, Json(charge): Json<Charge>) -> Result<()> {
        let give_back = "UPDATE accounts SET held = held - ?2, balance = balance + ?2 WHERE customer = ?1";
        db.execute(give_back, (charge.customer, charge.amount))?;
        Ok(())
    }
}
