//! A resource over a PostgreSQL database, by two-phase commit or by TCC.
//!
//! **Two-phase commit** is PostgreSQL's own: the handler's work is prepared (`PREPARE TRANSACTION`), with its locks, and
//! later committed or rolled back as it stands. So a handler writes only the business statements; there is nothing to
//! stage and nothing to undo. The server must allow for it: `max_prepared_transactions` is 0 by default, and should be at
//! least the number of branches that may be in flight.
//!
//! ```no_run
//! use assent_sdk::postgres::sqlx::{self, PgConnection};
//! use assent_sdk::{Branch, Error, Json, Participant, Prepare, Result, Vote, postgres::Postgres, refuse};
//!
//! struct Ledger;
//!
//! #[derive(serde::Deserialize)]
//! struct Debit { account: String, cents: i64 }
//!
//! impl Prepare<Postgres> for Ledger {
//!     type Request = Json<Debit>;
//!     type Reply = ();
//!
//!     async fn prepare(&self, db: &mut PgConnection, _: &Branch, Json(debit): Json<Debit>) -> Result<Vote<()>> {
//!         let sql = "UPDATE account SET cents = cents - $1 WHERE id = $2 AND cents >= $1";
//!         let done = sqlx::query(sql).bind(debit.cents).bind(&debit.account).execute(db).await?;
//!         match done.rows_affected() {
//!             0 => Err(refuse(format!("account {} has less than {} cents", debit.account, debit.cents))),
//!             _ => Ok(Vote::Prepared(())),
//!         }
//!     }
//! }
//!
//! # async fn serve(coordinator: &str, stop: impl Future<Output = ()>) -> Result<(), Error> {
//! let ledger = Postgres::connect("postgres://shop@localhost/shop").await?.two_phase(Ledger)?;
//! let participant = Participant::builder("shop/ledger").resource(ledger).connect(coordinator).await?;
//! participant.run_until(stop).await;
//! # Ok(()) }
//! ```
//!
//! **TCC** is [`AsyncTcc`]: each of its three methods runs in a transaction that ends with the call. Nothing stays locked
//! between the phases, and the server needs no setting.
//!
//! # What handlers may rely on, and what they must leave alone
//!
//! They run in a `READ COMMITTED` transaction with a short `lock_timeout`. They must not end it: `COMMIT`, `ROLLBACK` and
//! sqlx's `begin` (which would not know that a transaction is open) are the resource's own. To undo a part, use `SAVEPOINT`
//! and `ROLLBACK TO`. After a statement has failed, PostgreSQL does nothing more in a transaction: return its error. What
//! is prepared cannot have used temporary tables, `LISTEN` or `NOTIFY`. A call that takes more than five minutes, besides a
//! wait for a lock, is given up: the server may never answer.
//!
//! # The tables
//!
//! Rows of the SDK stand beside the service's own, in three tables ([`SCHEMA`]). They are created where they are missing,
//! unless [`Tables::Check`] says otherwise; then a role without the right to create is enough.
//!
//! # TLS
//!
//! Enable one of sqlx's own features in your `Cargo.toml`, such as `sqlx = { version = "0.9", features =
//! ["tls-rustls-ring"] }`, and say `?sslmode=verify-full` in the URL.

mod connect;
mod rows;
mod tcc;
mod two_phase;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The library that handlers speak to the server by, in the version that this crate is built with.
pub use sqlx;
use sqlx::{AssertSqlSafe, PgConnection};

pub use self::connect::{PostgresOptions, held};
pub use self::tcc::PostgresTcc;
pub use self::two_phase::PostgresTwoPhase;
use crate::error::{Error, Result};
use crate::sql::handler::{AsyncTcc, ByAsyncTcc, ByPrepare, Prepare, SqlDatabase};
use crate::sql::pool::{Lease, Pool};
pub use crate::sql::{Held, HeldBranch, HeldBy, Tables};

/// The tables that the resource needs, as statements that create them where they are missing.
pub const SCHEMA: &str = include_str!("postgres/schema.sql");

/// A database, and connections to it. A clone shares them.
#[derive(Clone)]
pub struct Postgres {
    /// Where handlers work.
    work: Pool<PgConnection>,
    /// Where branches are ended and replies are kept. Work may wait for locks of prepared branches; if those waited for a
    /// connection of the same pool to be ended by, all would wait for each other.
    ends: Pool<PgConnection>,
    /// How many transactions the server lets be prepared at once.
    prepared_max: i32,
    /// How long a call may take.
    patience: Duration,
}

impl Postgres {
    /// Connects, looks for the tables, and creates them where they are missing. [`PostgresOptions`] has more choices.
    ///
    /// # Errors
    /// [`Error::Resource`] with what the server said.
    pub async fn connect(url: &str) -> Result<Postgres, Error> {
        PostgresOptions::new(url).connect().await
    }

    /// Runs statements in one transaction, to create the service's own tables before serving. Several may do so at the
    /// same time: they do it one after the other.
    ///
    /// # Errors
    /// [`Error::Resource`] with what the server said.
    pub async fn setup(self, statements: &str) -> Result<Postgres, Error> {
        let mut lease = self.work.lease().await.map_err(|failure| not_opened(failure.to_string()))?;
        connect::create(&mut lease, statements).await.map_err(not_opened)?;
        lease.back();
        Ok(self)
    }

    /// A connection for statements of the service's own that belong to no branch; reads, mostly. Dropped, it is closed;
    /// give it [`back`](Lease::back) to keep it open for the next one.
    pub async fn connection(&self) -> Result<Lease<PgConnection>> {
        self.work.lease().await
    }

    /// A resource that takes part by TCC.
    pub fn tcc(self, handler: impl AsyncTcc<Postgres>) -> PostgresTcc {
        PostgresTcc::new(self, Arc::new(ByAsyncTcc(handler)))
    }

    /// A resource that takes part by two-phase commit.
    ///
    /// # Errors
    /// [`Error::Resource`] if the server does not allow for prepared transactions.
    pub fn two_phase(self, handler: impl Prepare<Postgres>) -> Result<PostgresTwoPhase, Error> {
        if self.prepared_max == 0 {
            return Err(not_opened(
                "max_prepared_transactions is 0, so nothing can be prepared\nhint: set it in postgresql.conf to the \
                 number of branches that may be in flight, 100 say, and restart the server",
            ));
        }
        Ok(PostgresTwoPhase::new(self, Arc::new(ByPrepare(handler))))
    }
}

impl SqlDatabase for Postgres {
    type Connection = PgConnection;
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").finish_non_exhaustive()
    }
}

fn not_opened(error: impl Into<crate::BoxError>) -> Error {
    Error::Resource(error.into())
}

/// Sends statements in one message, and so in one round trip; answers with the rows of all of them.
async fn send(
    db: &mut PgConnection,
    statements: impl Into<String>,
) -> sqlx::Result<Vec<sqlx::postgres::PgRow>> {
    sqlx::raw_sql(AssertSqlSafe(statements.into())).fetch_all(db).await
}
