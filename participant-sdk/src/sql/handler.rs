//! What the author of a service writes for an SQL server: the same as in `handler`, but it waits.

use std::panic::AssertUnwindSafe;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::branch::Branch;
use crate::error::{Failure, Result};
use crate::local::{read_kept, read_new, write_reply};
use crate::payload::{Decode, Encode};
use crate::resource::Vote;

/// A database that is spoken to asynchronously, in its own transactions: `Postgres` and `MySql`.
pub trait SqlDatabase: 'static {
    /// What a handler is given, with a transaction begun on it.
    type Connection: Send;
}

/// A service whose database prepares by itself: only the business statements are left to write.
///
/// For databases that know two-phase commit: `Postgres` (`PREPARE TRANSACTION`) and `MySql` (XA). The statements run in a
/// transaction that the resource has begun and will prepare, and that is later committed or rolled back as it stands,
/// locks and all; so the handler ends no transaction itself. `?` means *try again*, [`refuse`](crate::refuse) means no.
pub trait Prepare<D: SqlDatabase>: Send + Sync + 'static {
    /// What the initiator sends: [`Json`](crate::Json), [`Proto`](crate::Proto), `Bytes` or `()`.
    type Request: Decode + Send;
    /// What it is told.
    type Reply: Encode + Send;

    /// Does the work. Others see it when it is committed.
    fn prepare(
        &self,
        db: &mut D::Connection,
        branch: &Branch,
        request: Self::Request,
    ) -> impl Future<Output = Result<Vote<Self::Reply>>> + Send;
}

/// [`Tcc`](crate::Tcc) for databases that are spoken to asynchronously: `Postgres` and `MySql`. All that is said there holds here.
pub trait AsyncTcc<D: SqlDatabase>: Send + Sync + 'static {
    /// What the initiator sends: [`Json`](crate::Json), [`Proto`](crate::Proto), `Bytes` or `()`.
    type Request: Decode + Send;
    /// What it is told.
    type Reply: Encode + Send;

    /// Sets aside what the request asks for.
    fn reserve(
        &self,
        db: &mut D::Connection,
        branch: &Branch,
        request: Self::Request,
    ) -> impl Future<Output = Result<Vote<Self::Reply>>> + Send;

    /// Turns the reservation into its effect.
    fn confirm(
        &self,
        db: &mut D::Connection,
        branch: &Branch,
        request: Self::Request,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Gives the reservation back. Never called without one.
    fn cancel(
        &self,
        db: &mut D::Connection,
        branch: &Branch,
        request: Self::Request,
    ) -> impl Future<Output = Result<()>> + Send;
}

/// [`Prepare`] behind a pointer, with payloads still as bytes.
pub(crate) trait PrepareHandler<D: SqlDatabase>: Send + Sync {
    fn work<'a>(
        &'a self,
        db: &'a mut D::Connection,
        branch: &'a Branch,
        request: Bytes,
    ) -> BoxFuture<'a, Result<Vote<Bytes>>>;
}

/// [`AsyncTcc`] behind a pointer, with payloads still as bytes.
pub(crate) trait AsyncTccHandler<D: SqlDatabase>: PrepareHandler<D> {
    fn commit<'a>(
        &'a self,
        db: &'a mut D::Connection,
        branch: &'a Branch,
        request: Bytes,
    ) -> BoxFuture<'a, Result<()>>;
    fn rollback<'a>(
        &'a self,
        db: &'a mut D::Connection,
        branch: &'a Branch,
        request: Bytes,
    ) -> BoxFuture<'a, Result<()>>;
}

pub(crate) struct ByPrepare<H>(pub(crate) H);
pub(crate) struct ByAsyncTcc<H>(pub(crate) H);

impl<D: SqlDatabase, H: Prepare<D>> PrepareHandler<D> for ByPrepare<H> {
    fn work<'a>(
        &'a self,
        db: &'a mut D::Connection,
        branch: &'a Branch,
        request: Bytes,
    ) -> BoxFuture<'a, Result<Vote<Bytes>>> {
        Box::pin(async move { write_reply(&self.0.prepare(db, branch, read_new(request)?).await?) })
    }
}

impl<D: SqlDatabase, H: AsyncTcc<D>> PrepareHandler<D> for ByAsyncTcc<H> {
    fn work<'a>(
        &'a self,
        db: &'a mut D::Connection,
        branch: &'a Branch,
        request: Bytes,
    ) -> BoxFuture<'a, Result<Vote<Bytes>>> {
        Box::pin(async move { write_reply(&self.0.reserve(db, branch, read_new(request)?).await?) })
    }
}

impl<D: SqlDatabase, H: AsyncTcc<D>> AsyncTccHandler<D> for ByAsyncTcc<H> {
    fn commit<'a>(
        &'a self,
        db: &'a mut D::Connection,
        branch: &'a Branch,
        request: Bytes,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.0.confirm(db, branch, read_kept(request)?).await })
    }

    fn rollback<'a>(
        &'a self,
        db: &'a mut D::Connection,
        branch: &'a Branch,
        request: Bytes,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.0.cancel(db, branch, read_kept(request)?).await })
    }
}

/// What a handler answers; a panic is trouble, and the connection that it had must be closed.
pub(crate) async fn caught<T>(handler: BoxFuture<'_, Result<T>>) -> Result<T> {
    let worked = AssertUnwindSafe(handler).catch_unwind().await;
    worked.unwrap_or_else(|_| Err(Failure::again("the handler panicked")))
}
