//! `assent tx list`

use std::time::SystemTime;

use assent_proto::v1::{ListRequest, Protocol, State, Transaction, TransactionFilter};
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, value_parser};
use serde_json::json;

use super::ProtocolArg;
use crate::cli::client::Client;
use crate::cli::explain::is_finished;
use crate::cli::output::{Format, Output, note};
use crate::cli::table::{Cell, Table};
use crate::cli::time::{brief, since, system_time};
use crate::cli::words::{STATES, state_colour, state_named, word};
use crate::cli::{Exit, Failure, json};

/// The most that the server puts on a page.
const PAGE_MAX: u32 = 1000;

#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    filter: FilterFlags,
    /// At most so many
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    limit: u32,
}

/// Which transactions.
#[derive(Debug, Args)]
pub struct FilterFlags {
    /// In one of these states; may be repeated
    #[arg(long = "state", value_name = "STATE", value_delimiter = ',', value_parser = state_parser())]
    states: Vec<State>,
    /// Of this protocol
    #[arg(long, value_enum)]
    protocol: Option<ProtocolArg>,
    /// With exactly this label
    #[arg(long, default_value = "", hide_default_value = true)]
    label: String,
    /// With a branch of this participant
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    participant: String,
    /// Only those that an operator should look at
    #[arg(long)]
    attention: bool,
}

impl List {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let (transactions, more) = self.fetch(client).await?;
        match output.format {
            Format::Json => {
                let transactions: Vec<_> = transactions.iter().map(json::transaction).collect();
                output.json(&json!({ "transactions": transactions, "more": more }))?;
            }
            Format::Table if transactions.is_empty() => note("no transaction matches"),
            Format::Table => {
                output.table(&table(&transactions, SystemTime::now()))?;
                if more {
                    note(&format!("there are more than {}; see --limit", self.limit));
                }
            }
        }
        Ok(Exit::Ok)
    }

    /// Page by page, up to the limit; and whether there are more.
    async fn fetch(&self, client: &Client) -> Result<(Vec<Transaction>, bool), Failure> {
        let mut transactions = Vec::new();
        let mut page_token = String::new();
        loop {
            let left = self.limit - u32::try_from(transactions.len()).unwrap_or(self.limit);
            let page_size = left.min(PAGE_MAX);
            let request = ListRequest { filter: Some(self.filter.to_proto()), page_size, page_token };
            let page = client.call(client.transactions().list(request)).await?;
            transactions.extend(page.transactions.into_iter().take(left as usize));
            page_token = page.next_page_token;
            if page_token.is_empty() || transactions.len() >= self.limit as usize {
                return Ok((transactions, !page_token.is_empty()));
            }
        }
    }
}

impl FilterFlags {
    pub fn to_proto(&self) -> TransactionFilter {
        TransactionFilter {
            states: self.states.iter().map(|state| *state as i32).collect(),
            protocol: self.protocol.map(Protocol::from).unwrap_or_default().into(),
            label: self.label.clone(),
            participant: self.participant.clone(),
            needs_attention: self.attention,
        }
    }
}

fn table(transactions: &[Transaction], now: SystemTime) -> Table {
    let mut table = Table::new(["XID", "STATE", "PROTOCOL", "AGE", "FINISHED", "LABEL", "REASON"]);
    for tx in transactions {
        let finished = tx.branches.iter().filter(|branch| is_finished(branch)).count();
        let age = system_time(tx.begin_time.as_ref()).map(|begin| brief(since(now, begin)));
        table.row([
            (&tx.xid).into(),
            Cell::from(word::<State>(tx.state)).coloured(state_colour(tx.state)),
            word::<Protocol>(tx.protocol).into(),
            age.unwrap_or_default().into(),
            format!("{finished}/{}", tx.branches.len()).into(),
            (&tx.label).into(),
            (&tx.reason).into(),
        ]);
    }
    table
}

fn state_parser() -> impl clap::builder::TypedValueParser<Value = State> {
    PossibleValuesParser::new(STATES).map(|word| state_named(&word).expect("each of them names a state"))
}
