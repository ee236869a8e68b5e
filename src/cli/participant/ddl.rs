//! `assent participant ddl`

use assent_sdk::{mysql, postgres, sqlite};
use clap::{Args, ValueEnum};

use crate::cli::output::Output;
use crate::cli::{Exit, Failure};

#[derive(Debug, Args)]
pub struct Ddl {
    /// Which database
    #[arg(value_enum)]
    database: Kind,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Postgres,
    #[value(alias = "mariadb")]
    Mysql,
    Sqlite,
}

impl Ddl {
    pub fn run(&self, output: &mut Output) -> Result<Exit, Failure> {
        let (name, schema) = match self.database {
            Kind::Postgres => ("PostgreSQL", postgres::SCHEMA),
            Kind::Mysql => ("MariaDB and MySQL", mysql::SCHEMA),
            Kind::Sqlite => ("SQLite", sqlite::SCHEMA),
        };
        let version = env!("CARGO_PKG_VERSION");
        output.text(&format!(
            "-- The tables that participants by the SDK of assent {version} keep in {name}.\n\
             -- To be run in the database of each, by somebody who may create tables; again does no harm.\n{schema}"
        ))?;
        Ok(Exit::Ok)
    }
}
