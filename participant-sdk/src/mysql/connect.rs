//! Connecting, and what is asked of the server before anything is promised.

use std::sync::Arc;
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlRow};
use sqlx::{ConnectOptions as _, MySqlConnection, Row as _};
use tokio::sync::Semaphore;

use super::pins::Pins;
use super::{MySql, SCHEMA, Shared, code, not_opened, number, results, rows, run, xa};
use crate::error::{Error, Failure};
use crate::sql::pool::Pool;
use crate::sql::{CALL_MAX, Tables};

/// Connections beyond those that handlers work on, to end branches with.
const SPARE_CONNECTIONS: usize = 4;

const CONNECTIONS_DEFAULT: usize = 32;
const CONNECTIONS_LIMIT: usize = 10_000;
const LOCK_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);

/// The longest that servers take.
const LOCK_TIMEOUT_MAX: Duration = Duration::from_hours(365 * 24);

/// How to connect.
#[derive(Clone, Debug)]
#[must_use]
pub struct MySqlOptions {
    url: Url,
    connections_max: usize,
    lock_timeout: Duration,
    tables: Tables,
}

/// It may hold a password.
#[derive(Clone)]
struct Url(String);

/// What was found out about the server.
pub(super) struct Server {
    pub(super) after_prepare: AfterPrepare,
    /// Why it cannot be used for two-phase commit.
    xa_trouble: Option<String>,
}

/// Who can end a prepared branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterPrepare {
    /// The connection that prepared it; another one when that is closed.
    StaysWithConnection,
    /// Any connection.
    Detached,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Make {
    MariaDb,
    MySql,
}

impl MySqlOptions {
    /// The URL is like `mysql://user:password@host:3306/database`.
    pub fn new(url: &str) -> MySqlOptions {
        MySqlOptions {
            url: Url(url.to_owned()),
            connections_max: CONNECTIONS_DEFAULT,
            lock_timeout: LOCK_TIMEOUT_DEFAULT,
            tables: Tables::default(),
        }
    }

    /// How many connections handlers may work on at once: 1 to 10,000; 32 unless set. Four more may be opened to end branches.
    ///
    /// On MariaDB a prepared branch occupies its connection until it is ended, so allow for as many as may be in flight.
    /// When they run short for 100 ms, the branch that was prepared first gives up its own, and costs a new one.
    pub fn connections_max(mut self, connections: usize) -> MySqlOptions {
        self.connections_max = connections;
        self
    }

    /// How long a statement waits for a lock: whole seconds, 1 s at least; 2 s unless set. Then the call fails, and is
    /// repeated.
    pub fn lock_timeout(mut self, timeout: Duration) -> MySqlOptions {
        self.lock_timeout = timeout;
        self
    }

    /// Whether the barrier's tables are created where they are missing. They are unless set otherwise.
    pub fn tables(mut self, tables: Tables) -> MySqlOptions {
        self.tables = tables;
        self
    }

    /// Connects, and looks at the server and at the tables.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an option out of its range or a URL that names no database; [`Error::Resource`] if there is no
    /// connection, the tables are missing, or the server is not set up for it.
    pub async fn connect(self) -> Result<MySql, Error> {
        let options = parse(&self.url.0)?;
        if !(1..=CONNECTIONS_LIMIT).contains(&self.connections_max) {
            let connections = self.connections_max;
            return Err(Error::Invalid(format!(
                "connections_max is {connections}; it can be 1 to {CONNECTIONS_LIMIT}"
            )));
        }
        if !(Duration::from_secs(1)..=LOCK_TIMEOUT_MAX).contains(&self.lock_timeout) {
            return Err(Error::Invalid(format!(
                "lock_timeout is {:?}; it can be 1 s to a year",
                self.lock_timeout
            )));
        }
        let session = session(self.lock_timeout);
        let pool = Pool::new(
            self.connections_max + SPARE_CONNECTIONS,
            Box::new(move || Box::pin(open(options.clone(), session.clone()))),
        )?;
        let mut lease = pool.lease().await.map_err(into_error)?;
        let (server, database) = look_at_server(&mut lease).await?;
        look_at_tables(&mut lease, self.tables).await?;
        lease.back();
        let permits = Arc::new(Semaphore::new(self.connections_max));
        let patience = self.lock_timeout.saturating_add(CALL_MAX);
        let shared = Shared { pool, permits, pins: Pins::default(), server, database, patience };
        Ok(MySql { shared: Arc::new(shared) })
    }
}

impl std::fmt::Debug for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("..")
    }
}

impl Server {
    pub(super) fn check_xa(&self) -> Result<(), Error> {
        match &self.xa_trouble {
            None => Ok(()),
            Some(trouble) => Err(Error::Resource(trouble.clone().into())),
        }
    }
}

/// The options in a URL that names a database.
pub(super) fn parse(url: &str) -> Result<MySqlConnectOptions, Error> {
    let options: MySqlConnectOptions =
        url.parse().map_err(|error: sqlx::Error| Error::Resource(error.into()))?;
    if options.get_database().is_none_or(str::is_empty) {
        return Err(Error::Invalid(
            "the URL names no database; hint: it is like mysql://user:password@host:3306/database".into(),
        ));
    }
    // They would be logged with the payloads that are in them.
    Ok(options.disable_statement_logging())
}

async fn open(options: MySqlConnectOptions, session: String) -> sqlx::Result<MySqlConnection> {
    let mut db = options.connect().await?;
    run(&mut db, session).await?;
    Ok(db)
}

/// What each connection is told first. The second time-out is for locks on whole tables: while somebody waits to change a
/// table that a prepared branch has written to, everybody else waits behind.
fn session(lock_timeout: Duration) -> String {
    let seconds = lock_timeout.as_secs();
    format!(
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;
         SET SESSION innodb_lock_wait_timeout = {seconds}, SESSION lock_wait_timeout = {seconds}"
    )
}

async fn look_at_server(db: &mut MySqlConnection) -> Result<(Server, String), Error> {
    let sql = "SELECT VERSION(), DATABASE();
        SHOW VARIABLES WHERE Variable_name IN ('innodb_flush_log_at_trx_commit', 'log_bin', 'sync_binlog',
            'binlog_format', 'xa_detach_on_prepare')";
    let answers = results(db, sql.to_owned()).await.map_err(not_opened)?;
    let text = |row: &MySqlRow, column| row.try_get_unchecked::<String, usize>(column).map_err(not_opened);
    let [about, settings] = &answers[..] else { return Err(Error::Resource("no version was told".into())) };
    let [about] = &about[..] else { return Err(Error::Resource("no version was told".into())) };
    let (version, database) = (text(about, 0)?, text(about, 1)?);
    let mut setting = std::collections::HashMap::new();
    for row in settings {
        setting.insert(text(row, 0)?, text(row, 1)?);
    }
    let setting = |name: &str| setting.get(name).map(String::as_str);

    let binlog = setting("log_bin") == Some("ON");
    if binlog && setting("binlog_format") == Some("STATEMENT") {
        return Err(Error::Resource(
            "the server has binlog_format = STATEMENT, which InnoDB refuses together with READ COMMITTED; hint: set \
             binlog_format = ROW"
                .into(),
        ));
    }
    let flush = setting("innodb_flush_log_at_trx_commit");
    if flush != Some("1") {
        tracing::warn!(
            innodb_flush_log_at_trx_commit = flush,
            "the server does not sync at commit: what was promised is lost when the power fails; it should be 1"
        );
    }
    let sync = setting("sync_binlog");
    if binlog && sync != Some("1") {
        tracing::warn!(
            sync_binlog = sync,
            "the server does not sync its binary log: what was promised is lost when the power fails; it should be 1"
        );
    }
    let after_prepare = match setting("xa_detach_on_prepare") {
        Some("ON") => AfterPrepare::Detached,
        Some(_) | None => AfterPrepare::StaysWithConnection,
    };
    let xa_trouble = match too_old_for_xa(&version) {
        Some(trouble) => Some(trouble),
        None => run(db, xa::RECOVER.to_owned()).await.err().map(|error| {
            format!(
                "prepared transactions cannot be listed: {error}; hint: MySQL wants GRANT XA_RECOVER_ADMIN ON *.* TO \
                 the service's user"
            )
        }),
    };
    Ok((Server { after_prepare, xa_trouble }, database))
}

/// Before these versions a server rolls prepared branches back when the connection is lost.
fn too_old_for_xa(version: &str) -> Option<String> {
    let make = if version.contains("MariaDB") { Make::MariaDb } else { Make::MySql };
    let (name, oldest) = match make {
        Make::MariaDb => ("MariaDB", (10, 5)),
        Make::MySql => ("MySQL", (8, 0)),
    };
    let mut numbers = version.split(|letter: char| !letter.is_ascii_digit()).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Some(format!("the server's version {version:?} cannot be read"));
    };
    ((major, minor) < oldest).then(|| {
        format!(
            "the server is {version}, which does not keep prepared branches when a connection is lost; hint: \
             two_phase wants {name} {}.{} or later, tcc works with this one too",
            oldest.0, oldest.1
        )
    })
}

async fn look_at_tables(db: &mut MySqlConnection, tables: Tables) -> Result<(), Error> {
    let missing = |error: &sqlx::Error| number(error) == Some(code::NO_SUCH_TABLE);
    let mut checked = run(db, rows::CHECK.to_owned()).await;
    if tables == Tables::Create && checked.as_ref().is_err_and(missing) {
        run(db, SCHEMA.to_owned()).await.map_err(not_opened)?;
        checked = run(db, rows::CHECK.to_owned()).await;
    }
    checked.map_err(|error| {
        Error::Resource(
            format!(
                "the tables of the barrier are not as they should be: {error}; hint: run the output of \
                 `assent participant ddl mysql`"
            )
            .into(),
        )
    })?;
    let sql = "SELECT TABLE_NAME, ENGINE FROM information_schema.TABLES
        WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN ('assent_barrier', 'assent_horizon') AND ENGINE <> 'InnoDB'";
    let others = results(db, sql.to_owned()).await.map_err(not_opened)?;
    if let Some(row) = others.into_iter().flatten().next() {
        let (table, engine): (String, String) =
            (row.try_get_unchecked(0).map_err(not_opened)?, row.try_get_unchecked(1).map_err(not_opened)?);
        return Err(Error::Resource(
            format!("the table {table} is kept by {engine}, which has no transactions; hint: ALTER TABLE {table} ENGINE = InnoDB")
                .into(),
        ));
    }
    Ok(())
}

fn into_error(failure: Failure) -> Error {
    let cause = failure.into_cause().unwrap_or_else(|| "refused".into());
    Error::Resource(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_do_not_keep_prepared_branches_are_known_by_their_version() {
        for fit in
            ["10.11.6-MariaDB-0+deb12u1", "10.5.0-MariaDB", "11.4.2-MariaDB", "8.0.36", "8.4.0-4-percona"]
        {
            assert_eq!(too_old_for_xa(fit), None);
        }
        for (old, hint) in [
            ("10.4.34-MariaDB", "MariaDB 10.5 or later"),
            ("5.5.68-MariaDB", "MariaDB 10.5 or later"),
            ("5.7.44-log", "MySQL 8.0 or later"),
        ] {
            let trouble = too_old_for_xa(old).unwrap();
            assert!(trouble.contains(hint), "{trouble}");
        }
    }
}
