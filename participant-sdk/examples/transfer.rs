//! Money goes from one bank to another, each with a PostgreSQL of its own, by two-phase commit.
//!
//! ```text
//! assent serve --dev                                      # prints where it listens
//! cargo run -p assent-sdk --features postgres,throwaway --example transfer -- --coordinator http://127.0.0.1:PORT
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use assent_sdk::postgres::sqlx::{self, PgConnection};
use assent_sdk::throwaway::Server;
use assent_sdk::{
    Branch, Client, Error, Json, Participant, Prepare, Result, Vote, postgres::Postgres, refuse,
};
use clap::Parser;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use tonic::Code;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS accounts (customer TEXT PRIMARY KEY, balance BIGINT NOT NULL);
    INSERT INTO accounts VALUES ('alice', 100), ('bob', 100), ('carol', 100) ON CONFLICT DO NOTHING;";

/// Transfers between two banks, and whether any money was lost.
#[derive(Parser)]
#[command(
    arg_required_else_help = true,
    after_help = "\
It needs a coordinator; `assent serve --dev` starts one, and prints its URL.

A bank whose database is not named gets one in a temporary directory, which goes away at the end. That wants the Debian \
package postgresql. One that is named gets the table accounts, and those of assent."
)]
struct Args {
    /// Where the coordinator listens
    #[arg(long, value_name = "http://HOST:PORT")]
    coordinator: String,
    /// The north bank's database of PostgreSQL, with `max_prepared_transactions` set
    #[arg(long, value_name = "postgres://USER@HOST/DATABASE")]
    north: Option<String>,
    /// The same for the south bank
    #[arg(long, value_name = "postgres://USER@HOST/DATABASE")]
    south: Option<String>,
}

/// A bank's accounts. PostgreSQL itself keeps what is prepared, with its locks, until the decision.
struct Accounts;

#[derive(Serialize, Deserialize)]
struct Entry {
    customer: String,
    amount: i64,
}

impl Prepare<Postgres> for Accounts {
    type Request = Json<Entry>;
    type Reply = ();

    async fn prepare(&self, db: &mut PgConnection, _: &Branch, Json(entry): Json<Entry>) -> Result<Vote<()>> {
        let Entry { customer, amount } = entry;
        let book = "UPDATE accounts SET balance = balance + $2 WHERE customer = $1 AND balance + $2 >= 0";
        match sqlx::query(book).bind(&customer).bind(amount).execute(db).await?.rows_affected() {
            0 => Err(refuse(format!("{customer} has not {} coins", amount.abs()))),
            _ => Ok(Vote::Prepared(())),
        }
    }
}

async fn transfer(client: &Client, customer: &str, amount: i64) -> Result<(), Error> {
    let entry = |amount| Json(Entry { customer: customer.to_owned(), amount });
    let transfer = client.transaction("transfer").two_phase();
    transfer.branch("bank/north", &entry(-amount)).branch("bank/south", &entry(amount)).execute().await?;
    Ok(())
}

#[tokio::main]
#[expect(clippy::print_stderr, reason = "it says why it fails")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
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
    let north = bank(args.north, "north", &mut servers).await?;
    let south = bank(args.south, "south", &mut servers).await?;
    let before = sum(&north).await? + sum(&south).await?;
    let participants = [
        Participant::builder("bank/north").resource(north.clone().two_phase(Accounts)?),
        Participant::builder("bank/south").resource(south.clone().two_phase(Accounts)?),
    ];
    let participants = try_join_all(participants.map(|bank| bank.connect(&coordinator))).await?;

    // The customers do not wait for each other. Each tries three times, and after two has not enough left.
    let customers = ["alice", "bob", "carol"].map(async |customer| {
        for _ in 0..3 {
            match transfer(&client, customer, 40).await {
                Ok(()) => println!("{customer}: 40 coins from north to south"),
                Err(Error::Aborted { reason, .. }) => println!("{customer}: nothing moved: {reason}"),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    });
    try_join_all(customers).await?;

    let (north, south) = (sum(&north).await?, sum(&south).await?);
    for participant in participants {
        participant.shutdown().await;
    }
    let sums = format!("north has {north} coins, south has {south}, and together they had {before}");
    ensure!(north + south == before, "it does not add up: {sums}");
    println!("it adds up: {sums}");
    Ok(())
}

/// The bank's database: the one named, or a server of its own. To start one blocks, but nothing else is under way yet.
async fn bank(url: Option<String>, name: &str, servers: &mut Vec<Server>) -> anyhow::Result<Postgres> {
    let url = if let Some(url) = url {
        url
    } else {
        println!("--{name} is not given: starting a PostgreSQL in a temporary directory");
        let server = Server::postgres(&[])?;
        let url = server.url();
        servers.push(server);
        url
    };
    let postgres = Postgres::connect(&url).await.with_context(|| format!("--{name}"))?;
    Ok(postgres.setup(SCHEMA).await?)
}

async fn sum(bank: &Postgres) -> anyhow::Result<i64> {
    let mut db = bank.connection().await.map_err(anyhow::Error::msg)?;
    let sum = "SELECT sum(balance)::BIGINT FROM accounts";
    Ok(sqlx::query_scalar(sum).fetch_one(&mut *db).await?)
}
