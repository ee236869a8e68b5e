//! The services of the demo, written with the SDK as anybody would: each is one process with one SQLite file, or with a
//! database on a server (see `databases`).

mod ledger;
mod order;
mod payment;
mod stock;

use std::fmt;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::Path;
use std::str::FromStr;

use assent_sdk::Participant;
use assent_sdk::participant::{Builder, Named};
use assent_sdk::sqlite::Sqlite;
use tokio::net::TcpListener;

pub use self::ledger::Entry;
pub use self::order::Order;
pub use self::payment::Charge;
pub use self::stock::Take;
use super::{Error, Store, databases, front_door};

/// Which service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    Order,
    Stock,
    Payment,
    North,
    South,
    /// The same orders and the same stock, by two-phase commit: on database servers only.
    OrderTwoPhase,
    StockTwoPhase,
}

impl Service {
    pub const ALL: [Service; 7] = [
        Service::Order,
        Service::Stock,
        Service::Payment,
        Service::North,
        Service::South,
        Service::OrderTwoPhase,
        Service::StockTwoPhase,
    ];
    /// Those that play where all keep files.
    pub const ON_FILES: [Service; 5] =
        [Service::Order, Service::Stock, Service::Payment, Service::North, Service::South];

    /// The name that it takes part under.
    pub fn participant(self) -> &'static str {
        match self {
            Service::Order => "shop/order",
            Service::Stock => "shop/stock",
            Service::Payment => "shop/payment",
            Service::North => "bank/north",
            Service::South => "bank/south",
            Service::OrderTwoPhase => "shop/order-2pc",
            Service::StockTwoPhase => "shop/stock-2pc",
        }
    }

    /// The short name.
    pub fn name(self) -> &'static str {
        self.participant().split_once('/').expect("every name has a slash").1
    }

    /// Where it keeps its data, if not on a server.
    pub fn file(self, directory: &Path) -> Store {
        Store::File(directory.join(format!("{}.db", self.name())))
    }

    /// Runs it until the process is killed. The first line on standard output says where its front door is.
    ///
    /// # Errors
    /// What keeps it from starting, and from serving.
    pub async fn run(self, store: &Store, coordinator: &str) -> Result<(), Error> {
        let named = Participant::builder(self.participant());
        let builder = match store {
            Store::File(path) => self.on_sqlite(named, path)?,
            Store::Postgres(url) => databases::on_postgres(self, named, url).await?,
            Store::MySql(url) => databases::on_maria_db(self, named, url).await?,
        };
        let participant = builder.connect(coordinator).await?;
        participant.ready().await;

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        writeln!(io::stdout(), "{}", listener.local_addr()?)?;
        front_door::serve(&listener, &participant.handle()).await?;
        Ok(())
    }

    fn on_sqlite(self, named: Named, path: &Path) -> Result<Builder, Error> {
        let sqlite = |schema| Sqlite::open(path)?.setup(schema);
        Ok(match self {
            Service::Order => named.resource(sqlite(order::SCHEMA)?.tcc(order::Orders)),
            Service::Stock => named.resource(sqlite(stock::SCHEMA)?.tcc(stock::Stock)),
            Service::Payment => named.resource(sqlite(payment::SCHEMA)?.tcc(payment::Payment)),
            Service::North | Service::South => {
                named.resource(sqlite(ledger::SCHEMA)?.two_phase(ledger::Ledger))
            }
            Service::OrderTwoPhase | Service::StockTwoPhase => {
                return Err(Error::misplaced(self, &path.display().to_string()));
            }
        })
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
        found.ok_or_else(|| format!("it must be one of {}", Service::ALL.map(Service::name).join(", ")))
    }
}
