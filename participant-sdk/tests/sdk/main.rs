//! The SDK against small coordinators that the tests play themselves.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the message")]

mod client;
mod conformance;
mod context;
mod coordinator;
mod dial;
mod in_flight;
mod session;
mod shop;
mod sqlite;
mod stores;

use std::time::Duration;

/// Far longer than anything here takes: what is not there by then never comes.
pub const BOUND: Duration = Duration::from_secs(20);

/// Awaits what must come.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.expect("it comes within the bound")
}

/// Looks again and again until it holds.
pub async fn until<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    soon(async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
