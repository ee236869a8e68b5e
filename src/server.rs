//! The daemon: all parts put together.

use std::pin::Pin;
use std::sync::Arc;

use crate::config::Settings;

/// Completes when the daemon is to drain and end.
pub type Shutdown = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Why the daemon could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {}

/// Serves on `listener` until `shutdown` completes.
pub async fn serve(
    settings: Arc<Settings>,
    listener: tokio::net::TcpListener,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    drop((settings, listener));
    shutdown.await;
    Ok(())
}
