//! A resource over MariaDB or MySQL, by two-phase commit (XA) or by TCC.
//!
//! ```no_run
//! use assent_sdk::mysql::{MySql, sqlx};
//! use assent_sdk::{Branch, Error, Json, Participant, Prepare, Result, Vote, refuse};
//!
//! struct Ledger;
//!
//! #[derive(serde::Deserialize)]
//! struct Debit { account: String, cents: u64 }
//!
//! impl Prepare<MySql> for Ledger {
//!     type Request = Json<Debit>;
//!     type Reply = ();
//!
//!     async fn prepare(
//!         &self,
//!         db: &mut sqlx::MySqlConnection,
//!         _: &Branch,
//!         Json(debit): Json<Debit>,
//!     ) -> Result<Vote<()>> {
//!         let sql = "UPDATE account SET cents = cents - ? WHERE name = ? AND cents >= ?";
//!         let (cents, name) = (debit.cents, &debit.account);
//!         let done = sqlx::query(sql).bind(cents).bind(name).bind(cents).execute(db).await?;
//!         match done.rows_affected() {
//!             0 => Err(refuse(format!("{name} has not {cents} cents"))),
//!             _ => Ok(Vote::Prepared(())),
//!         }
//!     }
//! }
//!
//! async fn serve(coordinator: &str, stop: impl Future<Output = ()>) -> Result<(), Error> {
//!     let ledger = MySql::connect("mysql://ledger@db.example/ledger").await?.two_phase(Ledger)?;
//!     let participant = Participant::builder("bank/ledger").resource(ledger).connect(coordinator).await?;
//!     participant.run_until(stop).await;
//!     Ok(())
//! }
//! ```
//!
//! # What a handler is given
//!
//! A connection of [`sqlx`], with a transaction begun. The handler ends no transaction and begins none (no `begin()` of sqlx
//! either), and runs no DDL, which commits by itself: by two-phase commit the server refuses that, by TCC the call
//! fails in the end. What sqlx calls `rows_affected` counts the rows that were found, whether or not they changed.
//! Statements wait for a lock for [`lock_timeout`](MySqlOptions::lock_timeout), then they fail and the call is repeated. A call
//! that takes more than five minutes, besides a wait for a lock, is given up: the server may never answer.
//!
//! Connections read what is committed (READ COMMITTED). The default of the servers, REPEATABLE READ, locks gaps
//! between rows as well, and a prepared branch would hold those.
//!
//! Encryption, and passwords that want it, come with sqlx's own features: name `sqlx` in your `Cargo.toml` with one
//! of its `tls-` features, or with `mysql-rsa`.
//!
//! # Two-phase commit
//!
//! Each branch is an XA transaction, and the barrier's row its first statement, so that the row is seen exactly when the
//! branch is committed. Phase one costs two messages besides the handler's own, phase two costs one.
//!
//! MariaDB lets nobody but the connection that prepared a branch end it, as long as that connection is open. So the
//! connection stays with the branch until phase two, for 5 s at most, or until connections run short. Then it is closed,
//! and the branch can be ended from any other connection; until that is so, other replicas of the service answer that the
//! call is to come again. Where the service's machine is gone, the server closes the connection after 10 s. MySQL from 8.0.29 on needs none of this (`xa_detach_on_prepare`).
//!
//! XA names belong to a whole server. Ours have the format id 0x61736E74 ("asnt"), the xid, participant and database as
//! `gtrid`, and the branch id as `bqual`.
//!
//! # What it wants from the server
//!
//! * MariaDB 10.5 or MySQL 8.0, or later: before that, servers roll prepared branches back when a connection is lost. This is
//!   tested with MariaDB 10.11; what is said of MySQL here rests on its documentation.
//! * Tables of `InnoDB`; `innodb_flush_log_at_trx_commit = 1`, and `sync_binlog = 1` with a binary log: anything else loses
//!   what was promised when the power fails, and is warned of at the start.
//! * No `binlog_format = STATEMENT` together with a binary log: `InnoDB` refuses that with READ COMMITTED.
//! * On MySQL, the right `XA_RECOVER_ADMIN` for two-phase commit.

mod connect;
mod pins;
mod rows;
mod tcc;
mod two_phase;
mod xa;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// The library that handlers speak to the database with, in the version that this crate is built with.
pub use sqlx;
use sqlx::mysql::{MySqlConnection, MySqlDatabaseError, MySqlRow};
use sqlx::{AssertSqlSafe, Either};
use tokio::sync::Semaphore;
use tokio_stream::StreamExt as _;

pub use self::connect::MySqlOptions;
use self::connect::Server;
use self::pins::Pins;
pub use self::tcc::MySqlTcc;
pub use self::two_phase::MySqlTwoPhase;
pub use self::xa::held;
use crate::error::{Error, Result};
use crate::sql::handler::{AsyncTcc, Prepare, SqlDatabase};
use crate::sql::pool::{Lease, Pool};
pub use crate::sql::{Held, HeldBranch, HeldBy, Tables};

/// The tables that the resource needs, as statements that create them where they are missing.
pub const SCHEMA: &str = include_str!("mysql/schema.sql");

/// How long a handler waits for a connection before the oldest one that stays with a prepared branch is closed for it.
const DRY_PATIENCE: Duration = Duration::from_millis(100);

/// A database on a server of MariaDB or MySQL. A clone shares the connections.
#[derive(Clone)]
pub struct MySql {
    shared: Arc<Shared>,
}

struct Shared {
    /// Holds some connections more than there are permits: those can always be had to end a branch, even when each
    /// handler waits for a lock that this branch holds.
    pool: Pool<MySqlConnection>,
    permits: Arc<Semaphore>,
    pins: Pins,
    server: Server,
    /// What the server calls the database.
    database: String,
    /// How long a call may take.
    patience: Duration,
}

impl MySql {
    /// [`MySqlOptions::connect`] with defaults. The URL is like `mysql://user:password@host:3306/database`.
    ///
    /// # Errors
    /// [`Error::Resource`], and [`Error::Invalid`] for a URL that names no database.
    pub async fn connect(url: &str) -> Result<MySql, Error> {
        MySqlOptions::new(url).connect().await
    }

    /// Runs statements, to create tables before serving.
    ///
    /// # Errors
    /// [`Error::Resource`] with what the server said.
    pub async fn setup(self, statements: &str) -> Result<MySql, Error> {
        let mut lease = self.work().await.map_err(|failure| not_opened(failure.to_string()))?;
        run(&mut lease, statements.to_owned()).await.map_err(not_opened)?;
        lease.back();
        Ok(self)
    }

    /// A connection for statements of the service's own that belong to no branch; reads, mostly. Dropped, it is closed;
    /// give it [`back`](Lease::back) to keep it open for the next one.
    pub async fn connection(&self) -> Result<Lease<MySqlConnection>> {
        self.work().await
    }

    /// A resource that takes part by two-phase commit.
    ///
    /// # Errors
    /// [`Error::Resource`] if this server does not keep prepared branches, or does not let this user see them.
    pub fn two_phase(self, handler: impl Prepare<MySql>) -> Result<MySqlTwoPhase, Error> {
        self.shared.server.check_xa()?;
        Ok(MySqlTwoPhase::new(self, handler))
    }

    /// A resource that takes part by TCC.
    pub fn tcc(self, handler: impl AsyncTcc<MySql>) -> MySqlTcc {
        MySqlTcc::new(self, handler)
    }

    /// A connection for a handler's work.
    async fn work(&self) -> Result<Lease<MySqlConnection>> {
        let mut permit = pin!(Arc::clone(&self.shared.permits).acquire_owned());
        let permit = loop {
            tokio::select! {
                biased;
                permit = &mut permit => break permit.expect("the semaphore is never closed"),
                () = tokio::time::sleep(DRY_PATIENCE) => self.shared.pins.close_oldest(),
            }
        };
        self.shared.pool.lease_with(permit).await
    }

    /// A connection for what is short and must not wait for handlers.
    async fn spare(&self) -> Result<Lease<MySqlConnection>> {
        self.shared.pool.lease().await
    }
}

impl SqlDatabase for MySql {
    type Connection = MySqlConnection;
}

impl fmt::Debug for MySql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySql").field("database", &self.shared.database).finish_non_exhaustive()
    }
}

fn not_opened(error: impl Into<crate::BoxError>) -> Error {
    Error::Resource(error.into())
}

/// Numbers of errors, the same on both servers.
mod code {
    pub(super) const DUPLICATE: u16 = 1062;
    pub(super) const NO_SUCH_TABLE: u16 = 1146;
    pub(super) const NO_SUCH_SAVEPOINT: u16 = 1305;
    /// `XAER_NOTA`: no branch of this name that this connection could end. It never means that the branch was ended.
    pub(super) const XA_UNKNOWN: u16 = 1397;
    /// `XA_RBROLLBACK`: the server has rolled the branch back by itself.
    pub(super) const XA_ROLLED_BACK: u16 = 1402;
    /// `XAER_DUPID`: a branch of this name is under way or prepared.
    pub(super) const XA_DUPLICATE: u16 = 1440;
}

fn number(error: &sqlx::Error) -> Option<u16> {
    Some(error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>()?.number())
}

/// Sends statements in one message of the text protocol, which is the one that XA goes by. The server stops at the first
/// that fails.
async fn run(db: &mut MySqlConnection, statements: String) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(db).await?;
    Ok(())
}

/// The same, with the rows that each statement answers.
async fn results(db: &mut MySqlConnection, statements: String) -> sqlx::Result<Vec<Vec<MySqlRow>>> {
    let mut answers = sqlx::raw_sql(AssertSqlSafe(statements)).fetch_many(db);
    let (mut results, mut rows) = (Vec::new(), Vec::new());
    while let Some(answer) = answers.next().await {
        match answer? {
            Either::Right(row) => rows.push(row),
            Either::Left(_) => results.push(std::mem::take(&mut rows)),
        }
    }
    Ok(results)
}
