//! What the databases say, asked past everything that is tested.

use assent_sdk::{mysql, postgres};
use mysql::sqlx::{AssertSqlSafe, Connection as _, Row as _, raw_sql};

/// A database by its URL.
#[derive(Clone, Debug)]
pub struct Database(String);

impl Database {
    pub fn new(url: String) -> Database {
        Database(url)
    }

    pub fn url(&self) -> &str {
        &self.0
    }

    pub fn is_postgres(&self) -> bool {
        self.0.starts_with("postgres:")
    }

    /// Runs statements, and gives the first column of all rows, which must be a text.
    pub async fn read(&self, statements: &str) -> Vec<String> {
        self.read_column(statements, 0).await
    }

    /// The names of all prepared transactions of its server.
    pub async fn prepared(&self) -> Vec<String> {
        if self.is_postgres() {
            self.read("SELECT gid FROM pg_prepared_xacts").await
        } else {
            self.read_column("XA RECOVER", 3).await
        }
    }

    async fn read_column(&self, statements: &str, column: usize) -> Vec<String> {
        let statements = raw_sql(AssertSqlSafe(statements.to_owned()));
        if self.is_postgres() {
            let mut db = postgres::sqlx::PgConnection::connect(&self.0).await.unwrap();
            let rows = statements.fetch_all(&mut db).await.unwrap();
            rows.iter().map(|row| row.get_unchecked(column)).collect()
        } else {
            let mut db = mysql::sqlx::MySqlConnection::connect(&self.0).await.unwrap();
            let rows = statements.fetch_all(&mut db).await.unwrap();
            rows.iter().map(|row| row.get_unchecked(column)).collect()
        }
    }
}
