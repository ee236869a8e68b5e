//! A stock service, and an initiator that takes something out of it.
//!
//! ```text
//! assent serve --dev                                      # prints where it listens
//! cargo run -p assent-sdk --example stock --features sqlite -- http://127.0.0.1:PORT
//! ```

use assent_sdk::sqlite::{Sqlite, rusqlite::Transaction};
use assent_sdk::{Branch, Client, Error, Json, Participant, Result, Tcc, Vote, refuse};
use serde::{Deserialize, Serialize};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS stock (sku TEXT PRIMARY KEY, free INT, held INT, sold INT);
    INSERT OR IGNORE INTO stock VALUES ('apple', 3, 0, 0);";

struct Stock;

#[derive(Serialize, Deserialize)]
struct Take {
    sku: String,
    count: u32,
}

impl Tcc<Sqlite> for Stock {
    type Request = Json<Take>;
    type Reply = ();

    fn reserve(&self, db: &Transaction<'_>, _: &Branch, Json(take): Json<Take>) -> Result<Vote<()>> {
        let sql = "UPDATE stock SET free = free - ?1, held = held + ?1 WHERE sku = ?2 AND free >= ?1";
        match db.execute(sql, (take.count, &take.sku))? {
            0 => Err(refuse(format!("not {} {} left", take.count, take.sku))),
            _ => Ok(Vote::Prepared(())),
        }
    }

    fn confirm(&self, db: &Transaction<'_>, _: &Branch, Json(take): Json<Take>) -> Result<()> {
        let sql = "UPDATE stock SET held = held - ?1, sold = sold + ?1 WHERE sku = ?2";
        db.execute(sql, (take.count, take.sku))?;
        Ok(())
    }

    fn cancel(&self, db: &Transaction<'_>, _: &Branch, Json(take): Json<Take>) -> Result<()> {
        let sql = "UPDATE stock SET held = held - ?1, free = free + ?1 WHERE sku = ?2";
        db.execute(sql, (take.count, take.sku))?;
        Ok(())
    }
}

async fn stock(file: &str, coordinator: &str) -> Result<Participant, Error> {
    let stock = Sqlite::open(file)?.setup(SCHEMA)?.tcc(Stock);
    Participant::builder("shop/stock").resource(stock).connect(coordinator).await
}

async fn checkout(client: &Client, sku: String, count: u32) -> Result<(), Error> {
    client.transaction("checkout").tcc().branch("shop/stock", &Json(Take { sku, count })).execute().await?;
    Ok(())
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example shows what it does")]
async fn main() -> Result<(), Error> {
    let coordinator = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:7420".to_owned());
    let participant = stock(":memory:", &coordinator).await?;
    participant.ready().await;
    let client = Client::connect(coordinator)?;
    for count in [2, 2] {
        match checkout(&client, "apple".to_owned(), count).await {
            Ok(()) => println!("{count} apples: sold"),
            Err(Error::Aborted { reason, .. }) => println!("{count} apples: {reason}"),
            Err(error) => return Err(error),
        }
    }
    participant.shutdown().await;
    Ok(())
}
