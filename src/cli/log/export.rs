//! `assent log export`

use assent_proto::TxId;
use clap::Args;

use super::Place;
use super::reading::now;
use crate::cli::output::{Output, note};
use crate::cli::{Exit, Failure, Global, json};
use crate::core::Transaction;
use crate::wire::{self, History};

pub const ABOUT: &str = "\
Print the transactions of the log, one line of JSON each, oldest first

A line has the fields of `assent tx show --output json`, with all that happened to the transaction under \"history\". It \
exits with 0, or with 3 where there is no log or no such transaction.

Of a damaged log nothing is printed, and it exits with 1, unless --salvage says that what can be read is wanted all the same. \
Then the damage is told on standard error, and it exits with 1. A transaction may have gone on after what is printed of it.

No daemon may run on it meanwhile. Nothing is changed: what is read is a copy in the temporary directory (TMPDIR).";

#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    place: Place,
    /// Only this transaction
    #[arg(long)]
    xid: Option<TxId>,
    /// Of a damaged log, what can be read
    #[arg(long)]
    salvage: bool,
}

impl Export {
    pub fn run(self, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
        let Export { place, xid, salvage } = self;
        let reading = place.read(global)?;
        if !reading.is_sound() && !salvage {
            return Err(reading.damaged());
        }
        let wanted = |tx: &&Transaction| xid.is_none_or(|xid| xid == tx.id);
        let mut found = false;
        for tx in reading.transactions.iter().filter(wanted) {
            found = true;
            let shown = wire::transaction_to_pb(tx, now(), History::Shown);
            output.json_line(&json::transaction(&shown))?;
        }
        if !reading.is_sound() {
            for damage in reading.damage() {
                note(&format!("damage: {damage}"));
            }
            return Err(reading.damaged());
        }
        match xid {
            Some(xid) if !found => {
                Err(Failure::new(Exit::NotFound, format!("transaction {xid} is not in the log")))
            }
            Some(_) | None => Ok(Exit::Ok),
        }
    }
}
