//! `assent tx watch`

use std::time::SystemTime;

use assent_proto::TxId;
use assent_proto::v1::{State, Transaction, WatchRequest};
use clap::Args;

use super::list::FilterFlags;
use crate::cli::client::Client;
use crate::cli::explain::sentence;
use crate::cli::output::{Format, Output, one_line};
use crate::cli::time::rfc3339;
use crate::cli::{Exit, Failure, json};

#[derive(Debug, Args)]
pub struct Watch {
    /// One transaction. Without it: all that match
    #[arg(conflicts_with_all = ["states", "protocol", "label", "participant", "attention"])]
    xid: Option<TxId>,
    #[command(flatten)]
    filter: FilterFlags,
}

impl Watch {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let xid = self.xid.map(|xid| xid.to_string()).unwrap_or_default();
        let request = WatchRequest { xid, filter: Some(self.filter.to_proto()) };
        let mut changes = client.call(client.transactions().watch(request)).await?;
        let mut last = None;
        while let Some(change) = changes.message().await.map_err(|status| client.failure(&status))? {
            let tx = change.transaction.unwrap_or_default();
            print(&tx, output)?;
            last = Some(tx);
        }
        let Some(last) = last.filter(|_| self.xid.is_some()) else {
            return Err(Failure::new(Exit::Unreachable, "the server ended the watch"));
        };
        if is_ended(&last) {
            Ok(Exit::of_outcome(last.outcome()))
        } else {
            Err(Failure::new(Exit::Unreachable, "the server ended the watch before the transaction ended"))
        }
    }
}

fn print(tx: &Transaction, output: &mut Output) -> Result<(), Failure> {
    match output.format {
        Format::Json => output.json_line(&json::transaction(tx))?,
        Format::Table => {
            let now = SystemTime::now();
            let line = format!("{}  {}  {}", rfc3339(now), tx.xid, sentence(tx, now));
            output.line(&one_line(&line))?;
        }
    }
    Ok(())
}

fn is_ended(tx: &Transaction) -> bool {
    match tx.state() {
        State::Committed | State::Aborted | State::Mixed | State::Hazard => true,
        State::Unspecified
        | State::Active
        | State::Preparing
        | State::Delegated
        | State::Committing
        | State::Aborting => false,
    }
}
