//! The services of the demo, written with the SDK as anybody would: each is one process with one SQLite file.

mod ledger;
mod order;
mod payment;
mod stock;

use std::fmt;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use assent_sdk::Participant;
use assent_sdk::sqlite::Sqlite;
use tokio::net::TcpListener;

pub use self::ledger::Entry;
pub use self::order::Order;
pub use self::payment::Charge;
pub use self::stock::Take;
use super::{Error, front_door};

/// Which service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    Order,
    Stock,
    Payment,
    North,
    South,
}

impl Service {
    pub const ALL: [Service; 5] =
        [Service::Order, Service::Stock, Service::Payment, Service::North, Service::South];

    /// The name that it takes part under.
    pub fn participant(self) -> &'static str {
        match self {
            Service::Order => "shop/order",
            Service::Stock => "shop/stock",
            Service::Payment => "shop/payment",
            Service::North => "bank/north",
            Service::South => "bank/south",
        }
    }

    /// The short name.
    pub fn name(self) -> &'static str {
        self.participant().split_once('/').expect("every name has a slash").1
    }

    pub fn database(self, directory: &Path) -> PathBuf {
        directory.join(format!("{}.db", self.name()))
    }

    fn schema(self) -> &'static str {
        match self {
            Service::Order => order::SCHEMA,
            Service::Stock => stock::SCHEMA,
            Service::Payment => payment::SCHEMA,
            Service::North | Service::South => ledger::SCHEMA,
        }
    }

    /// Runs it until the process is killed. The first line on standard output says where its front door is.
    ///
    /// # Errors
    /// What keeps it from starting, and from serving.
    pub async fn run(self, directory: &Path, coordinator: &str) -> Result<(), Error> {
        let sqlite = Sqlite::open(self.database(directory))?.setup(self.schema())?;
        let resource = match self {
            Service::Order => sqlite.tcc(order::Orders),
            Service::Stock => sqlite.tcc(stock::Stock),
            Service::Payment => sqlite.tcc(payment::Payment),
            Service::North | Service::South => sqlite.two_phase(ledger::Ledger),
        };
        let participant =
            Participant::builder(self.participant()).resource(resource).connect(coordinator).await?;
        participant.ready().await;

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        writeln!(io::stdout(), "{}", listener.local_addr()?)?;
        front_door::serve(&listener, &participant.handle()).await?;
        Ok(())
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Service, String> {
        let found = Service::ALL.into_iter().find(|service| service.name() == text);
        found.ok_or_else(|| "it must be order, stock, payment, north or south".to_owned())
    }
}
