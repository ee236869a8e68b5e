//! Connecting: settings of the connections, a look at those of the server, and the tables.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, Row as _};

use super::{Postgres, SCHEMA, not_opened, rows, send};
use crate::error::{Error, Result};
use crate::sql::pool::Pool;
use crate::sql::{CALL_MAX, Held, Tables};

const CONNECTIONS_MAX: usize = 16;
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// While tables are created nobody else creates any: `IF NOT EXISTS` alone fails when two do so at once.
const CREATE_LOCK: i64 = 0x6173_7365_6e74;

/// Since then a server can notice that its client has gone while it works for it.
const CHECKS_CLIENTS_SINCE: u32 = 140_000;

/// What the resource reads and writes; a table of an older version would lack some of it.
const TABLES: [(&str, &str); 3] = [
    ("assent_barrier", "tx_order, xid, branch, participant, cluster, status, request, reply, ttl_ms, class"),
    ("assent_horizon", "cluster, before"),
    ("assent_reply", "tx_order, xid, branch, participant, cluster, reply"),
];

/// How to connect to a database.
#[derive(Clone)]
pub struct PostgresOptions {
    url: String,
    connections_max: usize,
    lock_timeout: Duration,
    tables: Tables,
}

impl PostgresOptions {
    /// For a URL such as `postgres://user:password@host:5432/database`; what it leaves out comes from `PGHOST`, `PGUSER`
    /// and so on.
    pub fn new(url: impl Into<String>) -> PostgresOptions {
        PostgresOptions {
            url: url.into(),
            connections_max: CONNECTIONS_MAX,
            lock_timeout: LOCK_TIMEOUT,
            tables: Tables::default(),
        }
    }

    /// How many connections handlers may use at once: 1 or more, 16 if not set. Up to as many again are opened to end
    /// prepared branches, which must not wait behind work that waits for their locks.
    #[must_use]
    pub fn connections_max(mut self, connections_max: usize) -> PostgresOptions {
        self.connections_max = connections_max;
        self
    }

    /// How long a statement waits for a lock, handlers' statements included: 1 ms or more, 2 s if not set. After that the
    /// call fails, and is repeated by the coordinator.
    #[must_use]
    pub fn lock_timeout(mut self, lock_timeout: Duration) -> PostgresOptions {
        self.lock_timeout = lock_timeout;
        self
    }

    /// Whether the tables are created where they are missing.
    #[must_use]
    pub fn tables(mut self, tables: Tables) -> PostgresOptions {
        self.tables = tables;
        self
    }

    /// Connects, and looks for the tables.
    ///
    /// # Errors
    /// [`Error::Invalid`] where an option is out of its range, [`Error::Resource`] with what the server said.
    pub async fn connect(self) -> Result<Postgres, Error> {
        if self.connections_max == 0 {
            return Err(Error::Invalid("connections_max is 0; 1 is the least".into()));
        }
        // To the server 0 would mean no limit.
        if self.lock_timeout < Duration::from_millis(1) {
            return Err(Error::Invalid(format!(
                "lock_timeout is {:?}; 1 ms is the least",
                self.lock_timeout
            )));
        }
        let options = self.for_connections()?;
        let pool = || {
            let options = options.clone();
            Pool::new(self.connections_max, Box::new(move || Box::pin(open(options.clone()))))
        };
        let patience = self.lock_timeout.saturating_add(CALL_MAX);
        let mut postgres = Postgres { work: pool()?, ends: pool()?, prepared_max: 0, patience };
        let mut lease = postgres.work.lease().await.map_err(|failure| not_opened(failure.to_string()))?;
        postgres.prepared_max = look_at_settings(&mut lease).await.map_err(not_opened)?;
        check_tables(&mut lease, self.tables).await?;
        lease.back();
        Ok(postgres)
    }

    fn for_connections(&self) -> Result<PgConnectOptions, Error> {
        let mut options: PgConnectOptions = self.url.parse().map_err(not_opened)?;
        if options.get_application_name().is_none() {
            options = options.application_name("assent-sdk");
        }
        Ok(options
            .options([
                ("lock_timeout", format!("{}ms", self.lock_timeout.as_millis())),
                // Single statements, too, have to see what was committed meanwhile.
                ("default_transaction_isolation", "read committed".into()),
                // A machine that loses its power closes no connection; by default the server would keep the locks of what
                // was under way on it for two hours.
                ("tcp_keepalives_idle", "10".into()),
                ("tcp_keepalives_interval", "5".into()),
                ("tcp_keepalives_count", "3".into()),
            ])
            // The texts have payloads in them, which belong in no log.
            .disable_statement_logging())
    }
}

impl std::fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may have a password in it.
        f.debug_struct("PostgresOptions")
            .field("connections_max", &self.connections_max)
            .field("lock_timeout", &self.lock_timeout)
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}

/// What this database holds for branches: all that is prepared in it, by whomever, and all reservations of the SDK. For
/// operators: it needs no tables, and creates nothing.
///
/// # Errors
/// [`Error::Resource`] with what the server said.
pub async fn held(url: &str) -> Result<Vec<Held>, Error> {
    let options = PostgresOptions::new(url).for_connections()?;
    let held = async {
        let mut db = open(options).await?;
        let held = rows::held(&mut db).await?;
        db.close().await?;
        Ok(held)
    };
    held.await.map_err(|error: sqlx::Error| not_opened(error))
}

async fn open(options: PgConnectOptions) -> sqlx::Result<PgConnection> {
    let mut db = PgConnection::connect_with(&options).await?;
    // A call that was given up must not keep its locks until its last statement has ended by itself.
    if db.server_version_num().is_some_and(|version| version >= CHECKS_CLIENTS_SINCE) {
        let checks = send(&mut db, "SET client_connection_check_interval = '1s'").await;
        // Not on every system can a server do it, and then it says so.
        checks.or_else(|error| error.as_database_error().map(|_| Vec::new()).ok_or(error))?;
    }
    Ok(db)
}

/// Warns of settings that lose what was acknowledged, and answers how many transactions may be prepared at once.
async fn look_at_settings(db: &mut PgConnection) -> sqlx::Result<i32> {
    let rows = send(
        db,
        "SELECT current_setting('max_prepared_transactions')::int, current_setting('fsync'),
                current_setting('full_page_writes'), current_setting('synchronous_commit')",
    )
    .await?;
    let row: &PgRow = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    if row.try_get::<&str, _>(1)? == "off" {
        tracing::warn!(
            "the server runs with fsync=off: a crash of its machine can destroy the database, and lose branches that \
             were acknowledged"
        );
    }
    if row.try_get::<&str, _>(2)? == "off" {
        tracing::warn!(
            "the server runs with full_page_writes=off: a power cut can damage the database, and lose branches that \
             were acknowledged"
        );
    }
    if row.try_get::<&str, _>(3)? == "off" {
        tracing::warn!(
            "the server runs with synchronous_commit=off: a crash can lose reservations, confirmations, rollbacks and \
             commits in one phase that were acknowledged in the last moments"
        );
    }
    row.try_get(0)
}

async fn check_tables(db: &mut PgConnection, tables: Tables) -> Result<(), Error> {
    let mut lack = missing(db).await.map_err(not_opened)?;
    if lack.is_some() && tables == Tables::Create {
        create(db, SCHEMA).await.map_err(not_opened)?;
        lack = missing(db).await.map_err(not_opened)?;
    }
    let Some(lack) = lack else { return Ok(()) };
    Err(not_opened(format!(
        "the tables are not complete: {lack}\nhint: run the output of `assent participant ddl postgres`"
    )))
}

/// What the server says is not there.
async fn missing(db: &mut PgConnection) -> sqlx::Result<Option<String>> {
    for (table, columns) in TABLES {
        match send(db, format!("SELECT {columns} FROM {table} WHERE false")).await {
            Ok(_) => {}
            Err(error) => match rows::code(&error) {
                Some(rows::UNDEFINED_TABLE | rows::UNDEFINED_COLUMN) => {
                    return Ok(error.as_database_error().map(|error| error.message().to_owned()));
                }
                Some(_) | None => return Err(error),
            },
        }
    }
    Ok(None)
}

/// Runs statements in one transaction, while nobody else does by this function.
pub(super) async fn create(db: &mut PgConnection, statements: &str) -> sqlx::Result<()> {
    let wait = "SET LOCAL lock_timeout = '1min'";
    send(db, format!("BEGIN; {wait}; SELECT pg_advisory_xact_lock({CREATE_LOCK}); {statements}\n; COMMIT"))
        .await?;
    Ok(())
}
