//! Connections that are kept open, and are given back only when nothing is left under way on them.
//!
//! sqlx has a pool of its own, but that asks the server whether a connection is alive each time it is given back: two
//! more messages for every branch.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, Object, RecycleResult, Timeouts};
use futures_util::future::BoxFuture;
use sqlx::Connection;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::{Error, Failure, Result};

/// How long opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A bounded number of connections. A clone shares them.
pub(crate) struct Pool<C: Connection> {
    inner: managed::Pool<Opener<C>>,
}

/// Opens a connection and sets it up.
pub(crate) type Open<C> = Box<dyn Fn() -> BoxFuture<'static, sqlx::Result<C>> + Send + Sync>;

/// A connection on loan. It is closed when it is dropped, unless it was given [`back`](Lease::back): what was cut short, by
/// an error, a panic or a caller who went away, may have left a transaction open on it.
pub struct Lease<C: Connection> {
    object: Option<Object<Opener<C>>>,
    /// Given back after the connection.
    permit: Option<OwnedSemaphorePermit>,
}

pub(crate) struct Opener<C> {
    open: Open<C>,
}

impl<C: Connection> Pool<C> {
    pub(crate) fn new(connections_max: usize, open: Open<C>) -> Result<Pool<C>, Error> {
        let inner = managed::Pool::builder(Opener { open })
            .max_size(connections_max)
            .timeouts(Timeouts { create: Some(CONNECT_TIMEOUT), ..Timeouts::default() })
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| Error::Resource(error.into()))?;
        Ok(Pool { inner })
    }

    /// Waits for a free connection, or opens one.
    pub(crate) async fn lease(&self) -> Result<Lease<C>> {
        let object = self.inner.get().await.map_err(|error| match error {
            managed::PoolError::Backend(error) => error.into(),
            managed::PoolError::Timeout(_) => not_in_time(),
            other => Failure::again(other.to_string()),
        })?;
        Ok(Lease { object: Some(object), permit: None })
    }

    /// The same for somebody who had to have a permit, which is given back with the connection.
    #[cfg(feature = "mysql")]
    pub(crate) async fn lease_with(&self, permit: OwnedSemaphorePermit) -> Result<Lease<C>> {
        let mut lease = self.lease().await?;
        lease.permit = Some(permit);
        Ok(lease)
    }

    /// A connection that is opened now, and is not one of the pool.
    #[cfg(feature = "postgres")]
    pub(crate) async fn fresh(&self) -> Result<C> {
        match tokio::time::timeout(CONNECT_TIMEOUT, (self.inner.manager().open)()).await {
            Ok(opened) => Ok(opened?),
            Err(_) => Err(not_in_time()),
        }
    }
}

impl<C: Connection> Lease<C> {
    /// Keeps it open for the next one: no transaction is under way on it, and its settings are as they were.
    pub fn back(mut self) {
        drop(self.object.take());
    }
}

impl<C: Connection> Deref for Lease<C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.object.as_ref().expect("it is there until it is given back")
    }
}

impl<C: Connection> DerefMut for Lease<C> {
    fn deref_mut(&mut self) -> &mut C {
        self.object.as_mut().expect("it is there until it is given back")
    }
}

impl<C: Connection> Drop for Lease<C> {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            drop(Object::take(object));
        }
        drop(self.permit.take());
    }
}

impl<C: Connection> managed::Manager for Opener<C> {
    type Type = C;
    type Error = sqlx::Error;

    async fn create(&self) -> sqlx::Result<C> {
        (self.open)().await
    }

    async fn recycle(&self, _: &mut C, _: &Metrics) -> RecycleResult<sqlx::Error> {
        // Whether it still lives is seen at its next statement; if not, the call comes again.
        Ok(())
    }
}

impl<C: Connection> fmt::Debug for Lease<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}

impl<C: Connection> Clone for Pool<C> {
    fn clone(&self) -> Pool<C> {
        Pool { inner: self.inner.clone() }
    }
}

impl<C: Connection> fmt::Debug for Pool<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

fn not_in_time() -> Failure {
    Failure::again(format!("no connection to the database within {} s", CONNECT_TIMEOUT.as_secs()))
}
