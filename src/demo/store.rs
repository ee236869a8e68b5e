//! Where a service keeps its data, and how the demo reads them, past the process that writes them.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use assent_sdk::postgres::sqlx::{
    self, ColumnIndex, Connection as _, Decode, MySqlConnection, PgConnection, Row, Type,
};
use assent_sdk::sql::{Held, HeldBy};
use assent_sdk::sqlite::rusqlite::{Connection as File, OpenFlags};
use assent_sdk::{mysql, postgres};

use super::Error;

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A SQLite file, or a database on a server, by its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    File(PathBuf),
    Postgres(String),
    MySql(String),
}

impl Store {
    /// For the command line of the service's process.
    pub(super) fn as_os_str(&self) -> &OsStr {
        match self {
            Store::File(path) => path.as_os_str(),
            Store::Postgres(url) | Store::MySql(url) => url.as_ref(),
        }
    }

    /// The figures of one row, and behind them the branches in doubt.
    pub(super) async fn figures<const N: usize>(&self, statement: &'static str) -> Result<[i64; N], Error> {
        Ok(match self {
            Store::File(path) => of_file(path, statement)?,
            Store::Postgres(url) => {
                let row = sqlx::query(statement).fetch_one(&mut PgConnection::connect(url).await?).await?;
                of_row(&row, self.held().await?.len())?
            }
            Store::MySql(url) => {
                let row = sqlx::query(statement).fetch_one(&mut MySqlConnection::connect(url).await?).await?;
                of_row(&row, self.held().await?.len())?
            }
        })
    }

    /// The transactions that the server itself holds prepared: where it says so, and which.
    pub(super) async fn prepared(&self) -> Result<(&'static str, Vec<String>), Error> {
        let held = self.held().await?.into_iter().filter(|held| held.by == HeldBy::Prepared);
        let view = match self {
            Store::File(_) => "nowhere",
            Store::Postgres(_) => "pg_prepared_xacts",
            Store::MySql(_) => "XA RECOVER",
        };
        let text = |held: Held| match held.branch {
            Some(branch) => format!("branch {} of {}", branch.id, branch.xid),
            None => held.name,
        };
        Ok((view, held.map(text).collect()))
    }

    async fn held(&self) -> Result<Vec<Held>, Error> {
        Ok(match self {
            Store::File(_) => Vec::new(),
            Store::Postgres(url) => postgres::held(url).await?,
            Store::MySql(url) => mysql::held(url).await?,
        })
    }
}

impl From<OsString> for Store {
    fn from(text: OsString) -> Store {
        match text.to_str() {
            Some(url) if url.starts_with("postgres://") => Store::Postgres(url.to_owned()),
            Some(url) if url.starts_with("mysql://") => Store::MySql(url.to_owned()),
            Some(_) | None => Store::File(text.into()),
        }
    }
}

fn of_file<const N: usize>(path: &Path, statement: &str) -> Result<[i64; N], Error> {
    let db = File::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    // Of one moment.
    let statement = format!(
        "SELECT *, (SELECT count(*) FROM assent_barrier WHERE status = 'prepared') FROM ({statement})"
    );
    Ok(db.query_row(&statement, [], |row| {
        let mut figures = [0; N];
        for (index, figure) in figures.iter_mut().enumerate() {
            *figure = row.get(index)?;
        }
        Ok(figures)
    })?)
}

fn of_row<const N: usize, R: Row>(row: &R, in_doubt: usize) -> Result<[i64; N], Error>
where
    usize: ColumnIndex<R>,
    i64: for<'a> Decode<'a, R::Database> + Type<R::Database>,
{
    let mut figures = [i64::try_from(in_doubt).expect("they fit into memory"); N];
    for (index, figure) in figures.iter_mut().take(N - 1).enumerate() {
        *figure = row.try_get(index)?;
    }
    Ok(figures)
}
