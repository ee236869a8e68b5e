//! `shop/order` on PostgreSQL. By TCC an order is pending until it is confirmed; by two-phase commit nobody sees it before
//! it is committed.

use assent_sdk::postgres::Postgres;
use assent_sdk::postgres::sqlx::{self, PgConnection};
use assent_sdk::{AsyncTcc, Branch, Json, Prepare, Result, Vote, refuse};
use serde::{Deserialize, Serialize};

pub const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS orders (
        id TEXT PRIMARY KEY,
        item TEXT NOT NULL,
        quantity INTEGER NOT NULL,
        amount INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('pending', 'confirmed'))
    );
";

pub struct Orders;

#[derive(Serialize, Deserialize)]
pub struct Order {
    pub id: String,
    pub item: String,
    pub quantity: u32,
    /// In whole coins.
    pub amount: u32,
}

impl AsyncTcc<Postgres> for Orders {
    type Request = Json<Order>;
    type Reply = ();

    async fn reserve(&self, db: &mut PgConnection, _: &Branch, Json(order): Json<Order>) -> Result<Vote<()>> {
        insert(db, order, "pending").await
    }

    async fn confirm(&self, db: &mut PgConnection, _: &Branch, Json(order): Json<Order>) -> Result<()> {
        let confirm = "UPDATE orders SET state = 'confirmed' WHERE id = $1";
        sqlx::query(confirm).bind(order.id).execute(db).await?;
        Ok(())
    }

    async fn cancel(&self, db: &mut PgConnection, _: &Branch, Json(order): Json<Order>) -> Result<()> {
        sqlx::query("DELETE FROM orders WHERE id = $1").bind(order.id).execute(db).await?;
        Ok(())
    }
}

impl Prepare<Postgres> for Orders {
    type Request = Json<Order>;
    type Reply = ();

    async fn prepare(&self, db: &mut PgConnection, _: &Branch, Json(order): Json<Order>) -> Result<Vote<()>> {
        insert(db, order, "confirmed").await
    }
}

async fn insert(db: &mut PgConnection, order: Order, state: &str) -> Result<Vote<()>> {
    let new = "INSERT INTO orders VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
    let new = sqlx::query(new).bind(&order.id).bind(order.item);
    let new = new.bind(i64::from(order.quantity)).bind(i64::from(order.amount)).bind(state);
    match new.execute(db).await?.rows_affected() {
        0 => Err(refuse(format!("there is an order {} already", order.id))),
        _ => Ok(Vote::Prepared(())),
    }
}
