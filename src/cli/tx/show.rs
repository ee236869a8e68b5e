//! `assent tx show`

use std::time::SystemTime;

use assent_proto::TxId;
use assent_proto::v1::get_request::Key;
use assent_proto::v1::{
    Branch, BranchState, GetRequest, Outcome, Protocol, ReservationClass, State, Transaction, Vote,
};
use clap::Args;
use prost_types::Timestamp;

use crate::cli::client::Client;
use crate::cli::explain::sentence;
use crate::cli::output::{Format, Output, Paint, one_line};
use crate::cli::table::{Cell, Table};
use crate::cli::time::{brief, rfc3339, since, system_time};
use crate::cli::words::{state_colour, word};
use crate::cli::{Exit, Failure, json};
use crate::config::Span;

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Show {
    xid: Option<TxId>,
    /// The request id that it was begun with, in place of the XID
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

impl Show {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let key = match self.xid {
            Some(xid) => Key::Xid(xid.to_string()),
            None => Key::RequestId(self.request_id.unwrap_or_default()),
        };
        let answer = client.call(client.transactions().get(GetRequest { key: Some(key) })).await?;
        print(&answer.transaction.unwrap_or_default(), output)?;
        Ok(Exit::Ok)
    }
}

/// Prints all that is known of a transaction.
pub fn print(tx: &Transaction, output: &mut Output) -> Result<(), Failure> {
    match output.format {
        Format::Json => output.json(&json::transaction(tx))?,
        Format::Table => output.text(&describe(tx, SystemTime::now(), output.paint))?,
    }
    Ok(())
}

fn describe(tx: &Transaction, now: SystemTime, paint: Paint) -> String {
    let mut text = format!("{}\n\n", one_line(&sentence(tx, now)));
    text.push_str(&facts(tx, now).render(paint));
    for (table, is_empty) in
        [(branches(tx, now), tx.branches.is_empty()), (history(tx), tx.history.is_empty())]
    {
        if !is_empty {
            text.push('\n');
            text.push_str(&table.render(paint));
        }
    }
    text
}

fn facts(tx: &Transaction, now: SystemTime) -> Table {
    let when = |time: Option<&Timestamp>| {
        system_time(time)
            .map_or(String::new(), |at| format!("{}, {} ago", rfc3339(at), brief(since(now, at))))
    };
    let mut table = Table::of_facts();
    table.fact("xid", &tx.xid);
    table.fact("label", &tx.label);
    table.fact("request id", &tx.request_id);
    table.fact("protocol", word::<Protocol>(tx.protocol));
    table.fact("state", Cell::from(word::<State>(tx.state)).coloured(state_colour(tx.state)));
    table.fact("outcome", word::<Outcome>(tx.outcome));
    table.fact("reason", &tx.reason);
    table.fact("timeout", Span::from_millis(tx.timeout_ms).to_string());
    table.fact("begun", when(tx.begin_time.as_ref()));
    table.fact("decided", when(tx.decide_time.as_ref()));
    table.fact("ended", when(tx.end_time.as_ref()));
    table
}

fn branches(tx: &Transaction, now: SystemTime) -> Table {
    let mut table = Table::new([
        "BRANCH",
        "PARTICIPANT",
        "ENDPOINT",
        "PROTOCOL",
        "VOTE",
        "STATE",
        "ATTEMPTS",
        "NEXT ATTEMPT",
        "RESERVATION",
        "LAST ERROR",
        "REASON",
    ]);
    for branch in &tx.branches {
        table.row([
            (&branch.branch_id).into(),
            (&branch.participant).into(),
            (&branch.endpoint).into(),
            word::<Protocol>(branch.protocol).into(),
            word::<Vote>(branch.vote).into(),
            word::<BranchState>(branch.state).into(),
            branch.attempts.to_string().into(),
            next_attempt(branch, now).into(),
            reservation(branch).into(),
            (&branch.last_error).into(),
            (&branch.reason).into(),
        ]);
    }
    table
}

/// The events, by the time since the begin.
fn history(tx: &Transaction) -> Table {
    let first = tx.history.first().and_then(|event| event.time.as_ref());
    let begin = system_time(tx.begin_time.as_ref()).or_else(|| system_time(first));
    let mut table = Table::new(["TIME", "EVENT", "BRANCH", "DETAIL"]);
    for event in &tx.history {
        let time = begin.zip(system_time(event.time.as_ref()));
        table.row([
            time.map_or(String::new(), |(begin, at)| format!("+{}", brief(since(at, begin)))).into(),
            (&event.kind).into(),
            (&event.branch_id).into(),
            (&event.detail).into(),
        ]);
    }
    table
}

fn next_attempt(branch: &Branch, now: SystemTime) -> String {
    match system_time(branch.next_attempt_time.as_ref()) {
        None => String::new(),
        Some(next) if next <= now => "now".to_owned(),
        Some(next) => format!("in {}", brief(since(next, now))),
    }
}

fn reservation(branch: &Branch) -> String {
    if branch.reservation_ttl_ms == 0 {
        return String::new();
    }
    let ttl = Span::from_millis(branch.reservation_ttl_ms);
    format!("{ttl} {}", word::<ReservationClass>(branch.reservation_class)).trim_end().to_owned()
}

#[cfg(test)]
mod tests;
