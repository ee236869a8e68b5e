//! An initiator that reserves stock, and then does nothing more: the demo kills it.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use assent_sdk::Client;
use serde_json::json;

use super::Error;
use super::front_door::{self, Ask};

/// How long the reservation is to hold.
pub(super) const RESERVATION: Duration = Duration::from_secs(2);
pub(super) const QUANTITY: u32 = 3;

/// Begins an order, reserves, prints the xid, and waits for its end.
///
/// # Errors
/// What keeps it from reserving.
pub async fn run(coordinator: &str, stock: SocketAddr) -> Result<(), Error> {
    let client = Client::connect(coordinator)?;
    let waiting = client.transaction("an order that nobody finishes").tcc().run(async |tx| {
        let ask = Ask {
            xid: tx.xid().to_string(),
            branch: "stock".to_owned(),
            ttl_ms: Some(u64::try_from(RESERVATION.as_millis()).expect("a few seconds")),
            request: json!({ "item": "apple", "quantity": QUANTITY }),
        };
        front_door::call(stock, &ask).await?;
        writeln!(io::stdout(), "{}", tx.xid())?;
        std::future::pending().await
    });
    Ok(waiting.await?)
}
