//! `assent log stat`

use std::collections::BTreeMap;

use clap::Args;
use serde_json::json;

use super::{Place, Reading};
use crate::cli::output::{Format, Output};
use crate::cli::table::Table;
use crate::cli::time::{brief, rfc3339, since, system_time};
use crate::cli::{Exit, Failure, Global};
use crate::core::{Transaction, state_word};
use crate::wire;

pub const ABOUT: &str = "\
Show how much is in the log

How many transactions are in which state, how many bytes are needed and how many are not any more, the lives of the daemon \
that it knows, and what its witness file says. It exits as `assent log verify` does. Of a damaged log it shows what can be \
read.

No daemon may run on it meanwhile. Nothing is changed: what is read is a copy in the temporary directory (TMPDIR).";

#[derive(Debug, Args)]
pub struct Stat {
    #[command(flatten)]
    place: Place,
}

impl Stat {
    pub fn run(self, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
        let reading = self.place.read(global)?;
        match output.format {
            Format::Json => output.json(&as_json(&reading))?,
            Format::Table => output.table(&table(&reading))?,
        }
        if reading.is_sound() { Ok(Exit::Ok) } else { Err(reading.damaged()) }
    }
}

fn as_json(reading: &Reading) -> serde_json::Value {
    let survey = &reading.survey;
    let mut told = reading.place();
    told["sound"] = reading.is_sound().into();
    told["epoch"] = survey.lives.iter().last().map(|(epoch, _)| epoch.0).into();
    let lives = survey.lives.iter().map(|(epoch, tag)| json!({ "epoch": epoch.0, "tag": tag }));
    told["lives"] = lives.collect();
    told["witness"] = survey.claim.map_or(
        json!(null),
        |claim| json!({ "epoch": claim.life.0.0, "begun": claim.begun, "durable": claim.durable }),
    );
    told["groups"] = reading.groups();
    told["cut_off"] = survey.cut_off.map_or(
        json!(null),
        |cut_off| json!({ "last_whole": cut_off.last_whole, "last_begun": cut_off.last_begun }),
    );
    told["bytes"] = survey.bytes.into();
    told["bytes_in_force"] = survey.bytes_in_force.into();
    told["bytes_wasted"] = survey.bytes_in_force.map(|in_force| survey.bytes - in_force).into();
    told["file_bytes"] = survey.file_bytes.into();
    told["transactions"] = survey.values.len().into();
    told["states"] = json!(states(reading));
    told["oldest"] = reading
        .transactions
        .first()
        .map_or(json!(null), |tx| json!({ "xid": tx.id.to_string(), "begin_time": begun(tx).map(rfc3339) }));
    told
}

fn table(reading: &Reading) -> Table {
    let survey = &reading.survey;
    let mut table = Table::of_facts();
    table.fact("log", if reading.is_sound() { "sound" } else { "damaged" });
    table.fact("data", survey.dir().display().to_string());
    table.fact("cluster", survey.cluster.map(|cluster| cluster.to_string()).unwrap_or_default());
    let last = survey
        .lives
        .iter()
        .last()
        .map(|(epoch, _)| format!("{} lives, the last is epoch {}", survey.lives.len(), epoch.0));
    table.fact("lives", last.unwrap_or_default());
    table.fact(
        "witness",
        survey.claim.map_or("none that can be read".to_owned(), |claim| {
            format!(
                "group {} was durable, {} had begun, in epoch {}",
                claim.durable, claim.begun, claim.life.0.0
            )
        }),
    );
    table.fact("groups", survey.groups.map(|(first, last)| format!("{first} to {last}")).unwrap_or_default());
    table.fact("cut off", survey.cut_off.map(|cut_off| cut_off.to_string()).unwrap_or_default());
    table.fact(
        "bytes",
        match survey.bytes_in_force {
            Some(in_force) => format!(
                "{} in groups, of which {} are in force; {} in files",
                survey.bytes, in_force, survey.file_bytes
            ),
            None => format!("{} in groups that can be read; {} in files", survey.bytes, survey.file_bytes),
        },
    );
    table.fact("transactions", survey.values.len().to_string());
    for (state, count) in states(reading) {
        table.fact("", format!("{count} {state}"));
    }
    let oldest = reading.transactions.first().map(|tx| {
        let age = begun(tx)
            .map(|begin| format!(", begun {} ago", brief(since(std::time::SystemTime::now(), begin))));
        format!("{}{}", tx.id, age.unwrap_or_default())
    });
    table.fact("oldest", oldest.unwrap_or_default());
    table
}

/// How many transactions are in each state.
fn states(reading: &Reading) -> BTreeMap<&'static str, usize> {
    let mut states = BTreeMap::new();
    for tx in &reading.transactions {
        *states.entry(state_word(tx.state())).or_default() += 1;
    }
    states
}

fn begun(tx: &Transaction) -> Option<std::time::SystemTime> {
    system_time(Some(&wire::timestamp(tx.begun_at)))
}
