//! `shop/order`, by TCC: an order is pending, then confirmed, or gone.

use assent_sdk::sqlite::{Sqlite, rusqlite};
use assent_sdk::{Branch, Json, Result, Tcc, Vote, refuse};
use rusqlite::Transaction;
use serde::{Deserialize, Serialize};

pub const SCHEMA: &str = "
    CREATE TABLE orders (
        id TEXT PRIMARY KEY,
        item TEXT NOT NULL,
        quantity INTEGER NOT NULL,
        amount INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('pending', 'confirmed'))
    );
";

#[derive(Debug)]
pub struct Orders;

#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    pub id: String,
    pub item: String,
    pub quantity: u32,
    /// In whole coins.
    pub amount: u32,
}

impl Tcc<Sqlite> for Orders {
    type Request = Json<Order>;
    type Reply = ();

    fn reserve(&self, db: &Transaction<'_>, _: &Branch, Json(order): Json<Order>) -> Result<Vote<()>> {
        let new = "INSERT OR IGNORE INTO orders VALUES (?1, ?2, ?3, ?4, 'pending')";
        if db.execute(new, (&order.id, order.item, order.quantity, order.amount))? == 0 {
            return Err(refuse(format!("there is an order {} already", order.id)));
        }
        Ok(Vote::Prepared(()))
    }

    fn confirm(&self, db: &Transaction<'_>, _: &Branch, Json(order): Json<Order>) -> Result<()> {
        db.execute("UPDATE orders SET state = 'confirmed' WHERE id = ?1", [order.id])?;
        Ok(())
    }

    fn cancel(&self, db: &Transaction<'_>, _: &Branch, Json(order): Json<Order>) -> Result<()> {
        db.execute("DELETE FROM orders WHERE id = ?1", [order.id])?;
        Ok(())
    }
}
