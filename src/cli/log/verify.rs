//! `assent log verify`

use clap::Args;
use serde_json::json;

use super::{Place, Reading};
use crate::cli::output::{Colour, Format, Output};
use crate::cli::table::{Cell, Table};
use crate::cli::{Exit, Failure, Global};

pub const ABOUT: &str = "\
Read all of the log, and say whether it is sound

Every checksum is looked at, the chain of groups, what the witness file says the log must at least hold, and whether each \
transaction is understood. It exits with 0 if a daemon would start on it and go on from where it was, with 1 if not, and \
with 3 if there is no log.

No daemon may run on it meanwhile. Nothing is changed: what is read is a copy in the temporary directory (TMPDIR).";

#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    place: Place,
}

impl Verify {
    pub fn run(self, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
        let reading = self.place.read(global)?;
        match output.format {
            Format::Json => {
                let mut told = reading.place();
                told["sound"] = reading.is_sound().into();
                told["damage"] = reading.damage().into();
                told["groups"] = reading.groups();
                told["transactions"] = reading.survey.values.len().into();
                told["records"] = reading.records().into();
                told["cut_off"] = reading.survey.cut_off.map_or(
                    json!(null),
                    |cut_off| json!({ "last_whole": cut_off.last_whole, "last_begun": cut_off.last_begun }),
                );
                output.json(&told)?;
            }
            Format::Table => output.table(&table(&reading))?,
        }
        if reading.is_sound() { Ok(Exit::Ok) } else { Err(reading.damaged()) }
    }
}

fn table(reading: &Reading) -> Table {
    let survey = &reading.survey;
    let mut table = Table::of_facts();
    let (word, colour) = if reading.is_sound() { ("sound", Colour::Green) } else { ("damaged", Colour::Red) };
    table.fact("log", Cell::from(word).coloured(Some(colour)));
    table.fact("data", survey.dir().display().to_string());
    table.fact("cluster", survey.cluster.map(|cluster| cluster.to_string()).unwrap_or_default());
    table.fact("groups", survey.groups.map(|(first, last)| format!("{first} to {last}")).unwrap_or_default());
    table.fact("transactions", survey.values.len().to_string());
    table.fact("records", reading.records().to_string());
    table.fact("cut off", survey.cut_off.map(|cut_off| cut_off.to_string()).unwrap_or_default());
    for damage in reading.damage() {
        table.fact("damage", damage);
    }
    table
}
