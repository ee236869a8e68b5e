//! Take part in distributed transactions coordinated by assent, or begin them.
//!
//! A business action that touches several services, each with its own database, ends in all of them or in none. This
//! crate is what a service needs to be one of them, and what the one who begins it all needs. It talks to the coordinator
//! by gRPC only. A short manual:
//!
//! # 1. A service that takes part
//!
//! You write the business statements; a *resource* runs them in a local transaction, together with a row of its own (the
//! *barrier*) that makes each call take effect once, whatever is lost, repeated or reordered on the way. This is a whole
//! stock service, with SQLite, by TCC (try, confirm, cancel):
//!
//! ```
//! use assent_sdk::sqlite::{Sqlite, rusqlite::Transaction};
//! use assent_sdk::{Branch, Error, Json, Participant, Result, Tcc, Vote, refuse};
//!
//! struct Stock;
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Take { sku: String, count: u32 }
//!
//! impl Tcc<Sqlite> for Stock {
//!     type Request = Json<Take>;
//!     type Reply = ();
//!
//!     fn reserve(&self, db: &Transaction<'_>, _: &Branch, Json(take): Json<Take>) -> Result<Vote<()>> {
//!         let sql = "UPDATE stock SET free = free - ?1, held = held + ?1 WHERE sku = ?2 AND free >= ?1";
//!         match db.execute(sql, (take.count, &take.sku))? {
//!             0 => Err(refuse(format!("not {} {} left", take.count, take.sku))),
//!             _ => Ok(Vote::Prepared(())),
//!         }
//!     }
//!
//!     fn confirm(&self, db: &Transaction<'_>, _: &Branch, Json(take): Json<Take>) -> Result<()> {
//!         let sql = "UPDATE stock SET held = held - ?1, sold = sold + ?1 WHERE sku = ?2";
//!         db.execute(sql, (take.count, take.sku))?;
//!         Ok(())
//!     }
//!
//!     fn cancel(&self, db: &Transaction<'_>, _: &Branch, Json(take): Json<Take>) -> Result<()> {
//!         let sql = "UPDATE stock SET held = held - ?1, free = free + ?1 WHERE sku = ?2";
//!         db.execute(sql, (take.count, take.sku))?;
//!         Ok(())
//!     }
//! }
//!
//! async fn serve(file: &str, coordinator: &str, stop: impl Future<Output = ()>) -> Result<(), Error> {
//!     let stock = Sqlite::open(file)?.setup(SCHEMA)?.tcc(Stock);
//!     let participant = Participant::builder("shop/stock").resource(stock).connect(coordinator).await?;
//!     participant.run_until(stop).await;
//!     Ok(())
//! }
//! # const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS stock (sku TEXT PRIMARY KEY, free INT, held INT, sold INT)";
//! # let runtime = tokio::runtime::Runtime::new().unwrap();
//! # runtime.block_on(serve(":memory:", "http://127.0.0.1:1", async {})).unwrap();
//! ```
//!
//! `confirm` and `cancel` get the request again, so a service needs no table of its own for what is reserved, unless it
//! wants one; [`Branch::key`] is a good primary key for it.
//!
//! # 2. Yes, no, and not now
//!
//! * `Ok(Vote::Prepared(reply))` is a promise: whatever is decided will be done.
//! * `Ok(Vote::ReadOnly(reply))`: nothing was changed, so this branch needs no second phase.
//! * `Err(refuse("out of stock"))` is a business no: the whole transaction aborts, and the reason is shown.
//! * Any other error, and so `?`, means *try again*: nothing is known and the coordinator repeats the call.
//!
//! In every case but the first nothing stays that the handler wrote. `confirm` and `cancel` cannot refuse.
//!
//! # 3. Two-phase commit
//!
//! [`TwoPhase`] is the same with `prepare`, `commit` and `rollback`: for work that is staged, locked and then made visible.
//! `Sqlite::open(..)?.two_phase(Ledger)` instead of `.tcc(Stock)`; one transaction can hold branches of both kinds.
//!
//! A database that prepares by itself wants less: a handler for [`postgres`] or [`mysql`] is [`Prepare`], which has only the
//! business statements, and what they wrote is committed or rolled back as it stands, locks and all. By TCC it is
//! [`AsyncTcc`], which is [`Tcc`] for databases that are waited for.
//!
//! # 4. Session or dial
//!
//! [`connect`](participant::Builder::connect) dials the coordinator and keeps one stream open: no port of its own, works
//! behind NAT, reconnects for ever, starts before the coordinator. [`serve`](participant::Builder::serve) opens a port that
//! the coordinator dials. [`Participant::shutdown`] and [`run_until`](Participant::run_until) drain; dropping the
//! participant is a crash, and as safe.
//!
//! # 5. Beginning a transaction
//!
//! See [`client`]: in one call, in which the coordinator calls the participants, or interactively with a closure that
//! commits on `Ok` and aborts on `Err`. Three endings are no commit, and they are different: [`Error::Aborted`] is certain;
//! [`Error::Unknown`] may have committed, ask later with [`Client::get`]; [`Error::Heuristic`] wants a person.
//!
//! # 6. Taking part in what somebody else began
//!
//! An initiator calls a service's own HTTP or gRPC method. The layers in [`context`] carry the transaction along, and the
//! service joins it with a [`Handle`](participant::Handle): work, vote and enlistment in one go, so that the commit needs no
//! first phase.
//!
//! ```no_run
//! use assent_sdk::{Error, Json, context, participant::Handle};
//!
//! async fn take(handle: Handle, count: u32) -> Result<u32, Error> {
//!     let Some(xid) = context::current().and_then(|context| context.xid()) else {
//!         return Err(Error::Invalid("this call wants a transaction".into()));
//!     };
//!     let joined = handle.join(xid, "stock:line-1").with(&Json(count)).await?;
//!     let Json(left) = joined.reply()?;
//!     Ok(left)
//! }
//! ```
//!
//! # 7. Reservations
//!
//! A Try asks for a time to live, the participant grants it up to [`max_reservation`](participant::Builder::max_reservation).
//! When it has passed, a *cooperative* reservation (the default) asks for the decision, which makes an undecided transaction
//! abort; and it holds on as long as nobody answers. So nothing is ever half done, and nothing depends on clocks that agree.
//! An [`autonomous`](participant::Builder::autonomous) one cancels by itself; if it had been decided otherwise the
//! coordinator records a mixed outcome. Times count on the monotonic clock, and from the start again after a restart.
//!
//! # 8. In doubt
//!
//! A branch that is prepared and hears nothing asks: when a session opens, when its reservation expires, and every now and
//! then ([`inquire_after`](participant::Builder::inquire_after)). It never guesses. Rows of finished branches are cleared
//! when the coordinator says that no more calls about them will come; what comes all the same is refused.
//!
//! # 9. Testing a service
//!
//! [`memory`] runs handlers on plain values, without files. A resource can be called directly:
//!
//! ```
//! use assent_sdk::memory::Memory;
//! use assent_sdk::resource::{Completion, PhaseOne, Resource};
//! use assent_sdk::{Branch, ClusterId, Encode, Json, Result, Tcc, Vote, refuse};
//!
//! struct Stock;
//!
//! impl Tcc<Memory<u32>> for Stock {
//!     type Request = Json<u32>;
//!     type Reply = Json<u32>;
//!
//!     fn reserve(&self, free: &mut u32, _: &Branch, Json(count): Json<u32>) -> Result<Vote<Json<u32>>> {
//!         *free = free.checked_sub(count).ok_or_else(|| refuse("out of stock"))?;
//!         Ok(Vote::Prepared(Json(*free)))
//!     }
//!
//!     fn confirm(&self, _: &mut u32, _: &Branch, _: Json<u32>) -> Result<()> {
//!         Ok(())
//!     }
//!
//!     fn cancel(&self, free: &mut u32, _: &Branch, Json(count): Json<u32>) -> Result<()> {
//!         *free += count;
//!         Ok(())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let runtime = tokio::runtime::Runtime::new()?;
//! # runtime.block_on(async {
//! let memory = Memory::new(10);
//! let stock = memory.clone().tcc(Stock);
//! let xid = "00000000-0000-8000-8000-004000000000".parse()?;
//! let branch = Branch::new(xid, "line-1".parse()?, "shop/stock".parse()?);
//! let cluster = ClusterId::from("test");
//! let call = PhaseOne {
//!     branch: branch.clone(),
//!     cluster: cluster.clone(),
//!     request: Json(3).to_bytes()?,
//!     reservation: None,
//! };
//!
//! // However often it is called, it takes effect once.
//! stock.phase_one(call.clone()).await.unwrap();
//! stock.phase_one(call.clone()).await.unwrap();
//! assert_eq!(memory.state(), 7);
//!
//! stock.rollback(&branch, &cluster).await.unwrap();
//! assert_eq!(memory.state(), 10);
//! // What is cancelled stays cancelled.
//! let late = stock.phase_one(call).await.unwrap_err();
//! assert_eq!(late.refusal(), Some("the branch was rolled back already"));
//! assert_eq!(stock.commit(&branch).await.unwrap(), Completion::HeuristicRollback);
//! # Ok(()) })
//! # }
//! ```
//!
//! Against the real thing: [`throwaway`] starts a PostgreSQL or MariaDB of the test's own, kills it and starts it again, and
//! leaves nothing behind.
//!
//! # 10. A store of your own
//!
//! Implement [`Resource`]; [`barrier`] has the rules as functions to build on. `examples/order/payment.rs` does so for a partner
//! that has an HTTP API, and no database of ours. `assent participant check` tells whether all is right.
//!
//! # Examples
//!
//! In `examples/`. All want a coordinator (`assent serve --dev` starts one); what else they want, the larger two say with
//! `--help`.
//!
//! * `stock`: the service of section 1, and an initiator.
//! * `transfer`: two-phase commit between two PostgreSQL databases, in one file to copy from.
//! * `order`: orders on PostgreSQL, stock on MariaDB, a payment partner over HTTP that fails and is late; by TCC, by two-phase
//!   commit, or both in one transaction.
//!
//! # Features
//!
//! `sqlite`: the SQLite resource, with SQLite built in. `postgres`: the PostgreSQL resource. `mysql`: the resource for MariaDB
//! and MySQL. `memory`: the memory resource, for tests. `throwaway`: real database servers that go away, for tests.

mod backoff;
pub mod barrier;
mod batch;
mod branch;
pub mod client;
pub mod context;
#[doc(hidden)]
pub mod crash;
mod error;
#[cfg(any(feature = "memory", feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod handler;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod held;
#[cfg(any(feature = "memory", feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod local;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "mysql")]
pub mod mysql;
#[doc(hidden)]
pub mod network;
pub mod participant;
mod payload;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod resource;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "throwaway")]
pub mod throwaway;

pub use assent_proto as proto;
pub use assent_proto::{TxId, TxOrder};
pub use branch::{Branch, BranchId, ClusterId, Horizon, ParticipantName, Protocol};
pub use client::{Client, Wait};
pub use error::{BoxError, Error, Failure, Heuristic, Result, refuse};
#[cfg(any(feature = "memory", feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub use handler::{Database, Tcc, TwoPhase};
pub use participant::Participant;
pub use payload::{Decode, Encode, Json, PayloadError, Proto};
pub use resource::{Completion, Reservation, ReservationClass, Resource, Vote};
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub use sql::{AsyncTcc, Prepare};
