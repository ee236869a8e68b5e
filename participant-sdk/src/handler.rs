//! What the author of a service writes: business statements, in a local transaction that the resource opened.

use bytes::Bytes;

use crate::branch::{Branch, Protocol};
use crate::error::Result;
use crate::local::{read_kept, read_new, write_reply};
use crate::payload::{Decode, Encode};
use crate::resource::Vote;

/// A store whose local transactions handlers work in without waiting: `Sqlite` and `Memory`, each in the module of its
/// feature.
pub trait Database: 'static {
    /// What a handler is given.
    type Transaction<'a>;
}

/// A service that reserves, then confirms or cancels.
///
/// Each method runs in one local transaction together with the barrier's row. So each takes effect once, in the right
/// order, whatever the network does; an error undoes all of it. `?` means *try again*, [`refuse`](crate::refuse) means
/// no. `confirm` and `cancel` are handed the request again and have no right to refuse: an error there is repeated
/// until it passes.
pub trait Tcc<D: Database>: Send + Sync + 'static {
    /// What the initiator sends: [`Json`](crate::Json), [`Proto`](crate::Proto), `Bytes` or `()`.
    type Request: Decode;
    /// What it is told.
    type Reply: Encode;

    /// Sets aside what the request asks for.
    fn reserve(
        &self,
        db: D::Transaction<'_>,
        branch: &Branch,
        request: Self::Request,
    ) -> Result<Vote<Self::Reply>>;

    /// Turns the reservation into its effect.
    fn confirm(&self, db: D::Transaction<'_>, branch: &Branch, request: Self::Request) -> Result<()>;

    /// Gives the reservation back. Never called without one.
    fn cancel(&self, db: D::Transaction<'_>, branch: &Branch, request: Self::Request) -> Result<()>;
}

/// A service that prepares, then commits or rolls back.
///
/// The local transaction of `prepare` ends with the vote, so a handler stages its writes where others do not see them
/// and makes them visible in `commit`. All that is said of [`Tcc`] holds here too; there is no expiry.
pub trait TwoPhase<D: Database>: Send + Sync + 'static {
    /// What the initiator sends: [`Json`](crate::Json), [`Proto`](crate::Proto), `Bytes` or `()`.
    type Request: Decode;
    /// What it is told.
    type Reply: Encode;

    /// Checks, locks and stages, so that `commit` cannot fail for a business reason.
    fn prepare(
        &self,
        db: D::Transaction<'_>,
        branch: &Branch,
        request: Self::Request,
    ) -> Result<Vote<Self::Reply>>;

    /// Makes it visible.
    fn commit(&self, db: D::Transaction<'_>, branch: &Branch, request: Self::Request) -> Result<()>;

    /// Undoes it. Never called without a prepare.
    fn rollback(&self, db: D::Transaction<'_>, branch: &Branch, request: Self::Request) -> Result<()>;
}

/// [`Tcc`] or [`TwoPhase`] behind a pointer, with payloads still as bytes.
pub(crate) trait Handler<D: Database>: Send + Sync {
    fn protocol(&self) -> Protocol;
    fn work(&self, db: D::Transaction<'_>, branch: &Branch, request: Bytes) -> Result<Vote<Bytes>>;
    fn commit(&self, db: D::Transaction<'_>, branch: &Branch, request: Bytes) -> Result<()>;
    fn rollback(&self, db: D::Transaction<'_>, branch: &Branch, request: Bytes) -> Result<()>;
}

pub(crate) struct ByTcc<H>(pub(crate) H);
pub(crate) struct ByTwoPhase<H>(pub(crate) H);

impl<D: Database, H: Tcc<D>> Handler<D> for ByTcc<H> {
    fn protocol(&self) -> Protocol {
        Protocol::Tcc
    }

    fn work(&self, db: D::Transaction<'_>, branch: &Branch, request: Bytes) -> Result<Vote<Bytes>> {
        write_reply(&self.0.reserve(db, branch, read_new(request)?)?)
    }

    fn commit(&self, db: D::Transaction<'_>, branch: &Branch, request: Bytes) -> Result<()> {
        self.0.confirm(db, branch, read_kept(request)?)
    }

    fn rollback(&self, db: D::Transaction<'_>, branch: &Branch, request: Bytes) -> Result<()> {
        self.0.cancel(db, branch, read_kept(request)?)
    }
}

impl<D: Database, H: TwoPhase<D>> Handler<D> for ByTwoPhase<H> {
    fn protocol(&self) -> Protocol {
        Protocol::TwoPhase
    }

    fn work(&self, db: D::Transaction<'_>, branch: &Branch, request: Bytes) -> Result<Vote<Bytes>> {
        write_reply(&self.0.prepare(db, branch, read_new(request)?)?)
    }

    fn commit(&self, db: D::Transaction<'_>, branch: &Branch, request: Bytes) -> Result<()> {
        self.0.commit(db, branch, read_kept(request)?)
    }

    fn rollback(&self, db: D::Transaction<'_>, branch: &Branch, request: Bytes) -> Result<()> {
        self.0.rollback(db, branch, read_kept(request)?)
    }
}
