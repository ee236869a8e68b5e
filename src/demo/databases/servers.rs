//! The two database servers of the demo.

use std::fs;
use std::io;
use std::path::Path;

use assent_sdk::postgres::sqlx::{self, Connection as _, PgConnection};
use assent_sdk::throwaway::{self, Server};
use tokio::task::spawn_blocking;

use crate::demo::{Error, Service, Store};

/// They are gone, and their data, when this is dropped; soon after, when the demo is killed.
pub(in crate::demo) struct Servers {
    postgres: Server,
    maria_db: Server,
}

impl Servers {
    /// Starts both, and gives each bank a database of its own.
    pub(in crate::demo) async fn start() -> Result<Servers, Error> {
        let postgres = spawn_blocking(|| Server::postgres(&[]));
        let maria_db = spawn_blocking(|| Server::maria_db(&[]));
        let (postgres, maria_db) = (started(postgres.await)?, started(maria_db.await)?);
        let mut db = PgConnection::connect(&postgres.url()).await?;
        for bank in ["CREATE DATABASE north", "CREATE DATABASE south"] {
            sqlx::raw_sql(bank).execute(&mut db).await?;
        }
        Ok(Servers { postgres, maria_db })
    }

    /// Where a service keeps its data, if it is on one of them.
    pub(in crate::demo) fn store(&self, service: Service) -> Option<Store> {
        match service {
            Service::Order | Service::OrderTwoPhase => Some(Store::Postgres(self.postgres.url())),
            Service::Stock | Service::StockTwoPhase => Some(Store::MySql(self.maria_db.url())),
            Service::North | Service::South => {
                Some(Store::Postgres(self.postgres.database_url(service.name())))
            }
            Service::Payment => None,
        }
    }

    /// `kill -9`, for both and all of their processes.
    pub(in crate::demo) fn crash(&mut self) -> Result<(), Error> {
        self.postgres.kill9()?;
        Ok(self.maria_db.kill9()?)
    }

    /// On the same data and the same ports.
    pub(in crate::demo) fn restart(&mut self) -> Result<(), Error> {
        self.postgres.restart()?;
        Ok(self.maria_db.restart()?)
    }

    pub(in crate::demo) fn write_logs(&self, directory: &Path) -> io::Result<()> {
        fs::write(directory.join("postgres.log"), self.postgres.log())?;
        fs::write(directory.join("mariadb.log"), self.maria_db.log())
    }
}

fn started(
    server: Result<Result<Server, throwaway::Error>, tokio::task::JoinError>,
) -> Result<Server, throwaway::Error> {
    server.unwrap_or_else(|error| Err(io::Error::other(error).into()))
}
