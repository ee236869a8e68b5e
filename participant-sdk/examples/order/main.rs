//! A shop: the order is kept on PostgreSQL, the stock on MariaDB, and a partner takes the payment over HTTP, with failures
//! and delays. A flag says who takes part how:
//!
//! | `--protocol` | order | stock | payment |
//! |---|---|---|---|
//! | `tcc` | TCC | TCC | TCC, at the partner |
//! | `2pc` | two-phase commit | two-phase commit | two-phase commit, from an account with the shop itself |
//! | `mixed` | two-phase commit | two-phase commit | TCC, at the partner |
//!
//! The partner cannot prepare: what it offers is to hold, capture and void, and that is TCC. So where all is to be two-phase
//! commit, the customer pays from an account that the shop keeps in its own database.
//!
//! ```text
//! assent serve --dev                                      # prints where it listens
//! cargo run -p assent-sdk --features mysql,postgres,throwaway --example order -- \
//!     --coordinator http://127.0.0.1:PORT --protocol mixed
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod books;
mod credit;
mod orders;
mod partner;
mod payment;
mod stock;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use assent_sdk::client::NewBranch;
use assent_sdk::mysql::MySql;
use assent_sdk::postgres::Postgres;
use assent_sdk::proto::v1::Outcome;
use assent_sdk::throwaway::{self, Server};
use assent_sdk::{Client, Error, Json, Participant, Protocol};
use clap::{Parser, ValueEnum};
use tokio::time::{sleep, timeout};
use tonic::Code;

use self::books::Books;
use self::credit::Credit;
use self::orders::{Order, Orders};
use self::partner::{Manners, Partner, WALLET};
use self::payment::{Charge, Payment};
use self::stock::{Stock, Take};

const NEEDS: &str = "\
It needs a coordinator; `assent serve --dev` starts one, and prints its URL.

A database that is not named is started, in a temporary directory, and goes away at the end. That wants the Debian \
packages postgresql and mariadb-server. One that is named gets the tables orders, credit and stock, and those of assent.";

const APPLE: Item = Item { name: "apple", price: 3, in_stock: 1000 };
const PEAR: Item = Item { name: "pear", price: 3, in_stock: 0 };
const CROWN: Item = Item { name: "crown", price: WALLET + 1, in_stock: 1 };

/// Far longer than an order takes with a partner who fails half of all calls.
const PATIENCE: Duration = Duration::from_mins(3);
const POLL: Duration = Duration::from_millis(20);

/// Orders that touch three services, and whether it all adds up in the end.
#[derive(Parser)]
#[command(after_help = NEEDS, arg_required_else_help = true)]
struct Args {
    /// Where the coordinator listens
    #[arg(long, value_name = "http://HOST:PORT")]
    coordinator: String,
    /// How order, stock and payment take part
    #[arg(long)]
    protocol: Mix,
    /// How many orders follow the first three
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1000))]
    orders: u32,
    /// How many apples are in an order; every third is for a pear, and there is none
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    quantity: u32,
    /// A database of PostgreSQL, with `max_prepared_transactions` set if it is to prepare
    #[arg(long, value_name = "postgres://USER@HOST/DATABASE")]
    postgres: Option<String>,
    /// A database of MariaDB
    #[arg(long, value_name = "mysql://USER@HOST/DATABASE")]
    mysql: Option<String>,
    #[command(flatten)]
    manners: Manners,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mix {
    /// All three by TCC
    Tcc,
    /// All three by two-phase commit: alice pays from an account with the shop, as the partner cannot prepare
    #[value(name = "2pc")]
    TwoPhase,
    /// Order and stock by two-phase commit, the payment partner by TCC
    Mixed,
}

struct Item {
    name: &'static str,
    price: u32,
    in_stock: u32,
}

struct Shop {
    mix: Mix,
    /// Part of all names, so that the shop can be opened many times on the same databases.
    run: String,
    client: Client,
    postgres: Postgres,
    mysql: MySql,
    /// Where the partner takes part.
    payment: Option<Payment>,
}

#[tokio::main]
#[expect(clippy::print_stderr, reason = "it says why it fails")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let ended = match arguments.next_if(|first| first == partner::ROLE) {
        Some(role) => partner::serve(Manners::parse_from(std::iter::once(role).chain(arguments))).await,
        None => play(Args::parse()).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn play(args: Args) -> anyhow::Result<()> {
    let coordinator = args.coordinator;
    let client = Client::connect(&coordinator)?;
    match client.get_by_request_id("is anybody there?").await {
        // It does not know that one, of course. But who says so is a coordinator.
        Ok(_) | Err(Error::Rejected { code: Code::NotFound, .. }) => {}
        Err(error) => bail!(
            "no use of the coordinator at {coordinator}: {error}\nhint: `assent serve --dev` starts one"
        ),
    }

    let mut servers = Vec::new();
    let postgres = database(args.postgres, "PostgreSQL", Server::postgres, &mut servers)?;
    let mysql = database(args.mysql, "MariaDB", Server::maria_db, &mut servers)?;
    let partner = match args.protocol.payment() {
        Protocol::Tcc => Some(Partner::start(&args.manners)?),
        Protocol::TwoPhase => None,
    };
    let payment = partner.as_ref().map(|partner| Payment::new(&partner.url));
    let shop = Shop::open(args.protocol, client, &postgres, &mysql, payment).await?;
    let participants = shop.participants(&coordinator).await?;

    let mut committed = 0;
    let asked = [(APPLE, args.quantity), (PEAR, 1), (CROWN, 1)];
    // What is refused has the partner void a hold, and that may fail, too.
    let in_a_row = (1..=args.orders).map(|n| if n % 3 == 0 { (PEAR, 1) } else { (APPLE, args.quantity) });
    for (number, (item, quantity)) in (1..).zip(asked.into_iter().chain(in_a_row)) {
        committed += i64::from(shop.order(number, &item, quantity).await?);
    }

    let books = Books::read(&shop, committed).await.map_err(anyhow::Error::msg)?;
    for participant in participants {
        participant.shutdown().await;
    }
    books.close()
}

impl Mix {
    /// How order and stock take part.
    fn databases(self) -> Protocol {
        match self {
            Mix::Tcc => Protocol::Tcc,
            Mix::TwoPhase | Mix::Mixed => Protocol::TwoPhase,
        }
    }

    fn payment(self) -> Protocol {
        match self {
            Mix::Tcc | Mix::Mixed => Protocol::Tcc,
            Mix::TwoPhase => Protocol::TwoPhase,
        }
    }

    /// The names of order, stock and payment. A participant takes part in one way, so the other way has another name.
    fn names(self) -> [&'static str; 3] {
        match self {
            Mix::Tcc => ["shop/order", "shop/stock", "shop/payment"],
            Mix::TwoPhase => ["shop/order-2pc", "shop/stock-2pc", "shop/credit"],
            Mix::Mixed => ["shop/order-2pc", "shop/stock-2pc", "shop/payment"],
        }
    }
}

impl Shop {
    async fn open(
        mix: Mix,
        client: Client,
        postgres: &str,
        mysql: &str,
        payment: Option<Payment>,
    ) -> anyhow::Result<Shop> {
        let run = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
        let credit = format!("INSERT INTO credit VALUES ('alice-{run}', {WALLET}, 0);");
        let goods =
            [APPLE, PEAR, CROWN].map(|item| format!("('{}-{run}', {}, 0, 0)", item.name, item.in_stock));
        let goods = format!("INSERT INTO stock VALUES {};", goods.join(", "));
        let postgres = Postgres::connect(postgres).await.context("--postgres")?;
        let postgres = postgres.setup(&[orders::SCHEMA, credit::SCHEMA, &credit].concat()).await?;
        let mysql = MySql::connect(mysql).await.context("--mysql")?;
        let mysql = mysql.setup(&[stock::SCHEMA, &goods].concat()).await?;
        Ok(Shop { mix, run, client, postgres, mysql, payment })
    }

    async fn participants(&self, coordinator: &str) -> anyhow::Result<[Participant; 3]> {
        let [order, stock, payment] = self.mix.names().map(Participant::builder);
        let (order, stock) = match self.mix.databases() {
            Protocol::Tcc => (
                order.resource(self.postgres.clone().tcc(Orders)),
                stock.resource(self.mysql.clone().tcc(Stock)),
            ),
            Protocol::TwoPhase => (
                order.resource(self.postgres.clone().two_phase(Orders)?),
                stock.resource(self.mysql.clone().two_phase(Stock)?),
            ),
        };
        let payment = match &self.payment {
            Some(partner) => payment.resource(partner.clone()),
            None => payment.resource(self.postgres.clone().two_phase(Credit)?),
        };
        Ok([
            order.connect(coordinator).await?,
            stock.connect(coordinator).await?,
            payment.connect(coordinator).await?,
        ])
    }

    /// Places an order, says what became of it, and whether it was committed when that is so everywhere.
    async fn order(&self, number: u32, item: &Item, quantity: u32) -> anyhow::Result<bool> {
        let amount = quantity * item.price;
        let [id, customer] = [format!("{}-{number}", self.run), format!("alice-{}", self.run)];
        let goods = format!("{}-{}", item.name, self.run);
        let [order, stock, payment] = self.mix.names();
        let charge = NewBranch::of(payment, &Json(Charge { customer, amount })).protocol(self.mix.payment());
        let placed = self
            .client
            .transaction(format!("order {number}"))
            .request_id(&id)
            .protocol(self.mix.databases())
            .branch(order, &Json(Order { id: id.clone(), item: goods.clone(), quantity, amount }))
            .branch(stock, &Json(Take { item: goods, quantity }))
            .with_branch(charge)
            .execute()
            .await;
        let ended = match placed {
            Ok(_) => "committed".to_owned(),
            Err(Error::Aborted { reason, .. }) => format!("aborted: {reason}"),
            // It may have committed. Under its request id the coordinator tells.
            Err(Error::Unknown { .. }) => "the answer was lost".to_owned(),
            Err(error) => return Err(error.into()),
        };
        println!("order {number}, {quantity} x {} for {amount} coins: {ended}", item.name);
        timeout(PATIENCE, self.committed(&id))
            .await
            .with_context(|| format!("order {number} does not end"))?
    }

    /// Waits until every participant has done what was decided.
    async fn committed(&self, id: &str) -> anyhow::Result<bool> {
        loop {
            match self.client.get_by_request_id(id).await {
                Ok(found) if found.end_time.is_some() => return Ok(found.outcome() == Outcome::Committed),
                // The coordinator may be restarted meanwhile.
                Ok(_) | Err(Error::Unavailable(_)) => sleep(POLL).await,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The URL, or that of a server of our own. To start one blocks for some seconds, but nothing else is under way yet.
fn database(
    url: Option<String>,
    name: &str,
    start: impl FnOnce(&[(&str, &str)]) -> Result<Server, throwaway::Error>,
    servers: &mut Vec<Server>,
) -> anyhow::Result<String> {
    if let Some(url) = url {
        return Ok(url);
    }
    println!("no {name} is named: starting one, in a temporary directory");
    let server = start(&[]).with_context(|| format!("cannot start a {name} of its own"))?;
    let url = server.url();
    servers.push(server);
    Ok(url)
}
