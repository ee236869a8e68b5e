//! A database, as it is named on the command line.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use assent_sdk::postgres::sqlx;
use assent_sdk::sql::Held;
use assent_sdk::{Error, mysql, postgres, sqlite};
use sqlx::mysql::MySqlConnectOptions;
use sqlx::postgres::PgConnectOptions;

use crate::cli::{Exit, Failure};
use crate::config::Span;

/// How long a database may take to answer where nothing is said.
pub const WAIT: Duration = Duration::from_secs(30);

const SQLITE_ENDINGS: [&str; 3] = ["db", "sqlite", "sqlite3"];
const FORMS: &str =
    "postgres://…, mysql://…, mariadb://…, sqlite:PATH, or a path that ends in .db, .sqlite or .sqlite3";

/// Where it is. Printed without user and password.
#[derive(Clone)]
pub struct Database {
    at: At,
    shown: String,
}

/// The URLs may have passwords in them.
#[derive(Clone)]
enum At {
    Postgres(String),
    MySql(String),
    Sqlite(PathBuf),
}

impl Database {
    /// All that it holds.
    pub async fn held(&self, wait: Duration) -> Result<Vec<Held>, Failure> {
        let held = async {
            match &self.at {
                At::Postgres(url) => postgres::held(url).await,
                At::MySql(url) => mysql::held(url).await,
                At::Sqlite(path) => sqlite::held(path),
            }
        };
        let Ok(answer) = tokio::time::timeout(wait, held).await else {
            let message = format!("{self} did not answer within {}", Span(wait));
            return Err(Failure::new(Exit::Error, message).with_hint("--timeout waits longer"));
        };
        answer.map_err(|error| Failure::new(Exit::Error, format!("cannot look into {self}: {}", said(error))))
    }
}

impl FromStr for Database {
    type Err = String;

    /// The text is never a part of the error: there may be a password in it.
    fn from_str(text: &str) -> Result<Database, String> {
        let place = |host: &str, port: u16, database: Option<&str>| match database {
            Some(database) => format!("{host}:{port}/{database}"),
            None => format!("{host}:{port}"),
        };
        match text.split_once(':') {
            Some(("postgres" | "postgresql", _)) => {
                let options: PgConnectOptions =
                    text.parse().map_err(|error: sqlx::Error| error.to_string())?;
                let shown = place(options.get_host(), options.get_port(), options.get_database());
                Ok(Database { at: At::Postgres(text.to_owned()), shown })
            }
            Some(("mysql" | "mariadb", _)) => {
                let options: MySqlConnectOptions =
                    text.parse().map_err(|error: sqlx::Error| error.to_string())?;
                let shown = place(options.get_host(), options.get_port(), options.get_database());
                Ok(Database { at: At::MySql(text.to_owned()), shown })
            }
            Some(("sqlite", path)) => Ok(Database::file(path.strip_prefix("//").unwrap_or(path))),
            _ if !text.contains("://") && has_sqlite_ending(text) => Ok(Database::file(text)),
            _ => Err(format!("it is none of {FORMS}")),
        }
    }
}

impl Database {
    fn file(path: &str) -> Database {
        Database { at: At::Sqlite(path.into()), shown: path.to_owned() }
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// What the database said, or the way to it.
fn said(error: Error) -> String {
    match error {
        Error::Resource(source) => source.to_string(),
        other => other.to_string(),
    }
}

fn has_sqlite_ending(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|ending| SQLITE_ENDINGS.iter().any(|known| ending == *known))
}
