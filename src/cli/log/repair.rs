//! `assent log repair`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use serde_json::{Value, json};

use super::reading::now;
use super::{Place, Reading, read};
use crate::cli::output::{Format, Output, note};
use crate::cli::table::Table;
use crate::cli::time::rfc3339;
use crate::cli::{Exit, Failure, Global};
use crate::core::{DecodeError, TxId, doubt};
use crate::store::{Rebuilt, Survey};
use crate::wire::given_reason;

pub const ABOUT: &str = "\
Keep what can be read of a damaged log, and presume nothing of what is lost

Restoring the whole directory from a backup is better where there is a recent one. A repair is for when there is none.

Every part of the log whose checksums are right is kept. What it says is true: who is to commit is told to commit, who is to \
roll back to roll back. But a decision may be in what is lost. So

  * a transaction that is undecided in what is left is not aborted. It becomes a hazard; its participants are told to \
wait, until somebody finds out what became of it and says `assent tx resolve XID BRANCH committed|rolled-back`. From then on \
those who ask are told that: the first branch that is settled decides for all of them. See `assent tx list --attention`.
  * of a transaction that is not found nothing is presumed, if it was begun before the repair: its participants are told \
FOREIGN, and hold on to what they prepared until somebody settles it there. `assent participant indoubt` lists what a \
database holds.
  * a request with a request id is not known any more if its transaction is lost. Repeated, it begins a new one.

First the whole directory is copied to --backup, which must not exist, and the copy is compared. What was done is added to \
repairs.log in the data directory, a line of JSON with the ids of all transactions that were dropped or need somebody; it is \
printed as well. If it is interrupted, no daemon starts on the directory until `assent log repair` was run again, which then \
finishes. The next daemon takes an epoch that is higher by 1024, for those that may be lost. \
Before it is started, look at the tables of the participants for what they hold and what they did.

--dry-run shows what would be done, and changes nothing. No daemon may run on the log meanwhile. What is read is a copy in the \
temporary directory (TMPDIR).";

#[derive(Debug, Args)]
pub struct Repair {
    #[command(flatten)]
    place: Place,
    /// Where the damaged log is copied first; must not exist yet
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    backup: Option<PathBuf>,
    /// Why it is repaired, for repairs.log and for the history of the transactions concerned
    #[arg(long, value_name = "TEXT", required_unless_present = "dry_run")]
    reason: Option<String>,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
}

/// What is to be done.
struct Plan {
    rebuilt: Rebuilt,
    values: BTreeMap<TxId, Vec<u8>>,
    /// Those that somebody has to settle.
    doubted: Vec<TxId>,
    dropped: Vec<(TxId, String)>,
}

impl Repair {
    pub fn run(self, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
        let Repair { place, backup, reason, dry_run } = self;
        let reason = reason
            .map(|reason| given_reason(&reason))
            .transpose()
            .map_err(|wrong| Failure::new(Exit::Usage, format!("--{} {}", wrong.field, wrong.problem)))?;
        let reason = reason.unwrap_or_default();
        let dir = place.find(global)?;
        if !dry_run && Survey::finish_repair(&dir)? {
            note(
                "an earlier repair, which had been interrupted, is finished; nothing else was done, and no backup made",
            );
            return Ok(Exit::Ok);
        }
        let reading = read(&dir)?;
        let plan = Plan::of(&reading, &reason)?;
        let backup = backup.filter(|_| !dry_run);
        let mut told = plan.as_json(&reading, &reason);
        told["backup"] = backup.as_ref().map(|path| path.display().to_string()).into();
        let Reading { survey, .. } = reading;
        let repaired = if let Some(backup) = backup {
            survey.back_up(&backup)?;
            let line = told.to_string();
            Some(survey.rebuild(plan.rebuilt, &plan.values, &line).map_err(|error| {
                Failure::from(error).with_hint(format!("the log as it was is in {}", backup.display()))
            })?)
        } else {
            None
        };
        match output.format {
            Format::Json => output.json(&told)?,
            Format::Table => output.table(&plan.table(&told))?,
        }
        match repaired {
            Some(notes) => note(&format!("repaired; this is written down in {}", notes.display())),
            None => note("nothing was changed"),
        }
        if !plan.doubted.is_empty() {
            note("`assent tx list --attention` shows what needs somebody, once the daemon runs");
        }
        Ok(Exit::Ok)
    }
}

impl Plan {
    fn of(reading: &Reading, reason: &str) -> Result<Plan, Failure> {
        let survey = &reading.survey;
        if reading.is_sound() {
            let message =
                format!("the log in {} is sound; there is nothing to repair", survey.dir().display());
            return Err(Failure::new(Exit::Error, message));
        }
        if let Some((tx, error)) =
            reading.misunderstood.iter().find(|(_, error)| matches!(error, DecodeError::Kind { .. }))
        {
            let message = format!("transaction {tx}: {error}");
            return Err(Failure::new(Exit::Error, message)
                .with_hint("use the assent that wrote it; this one would drop what it does not understand"));
        }
        let mut plan = Plan {
            rebuilt: survey.rebuilt()?,
            values: BTreeMap::new(),
            doubted: Vec::new(),
            dropped: Vec::new(),
        };
        let lost = format!("the log was damaged and what came after may be lost; it was repaired: {reason}");
        for (tx, value) in &survey.values {
            // The request could begin another only when this one was ended and removed.
            if let Some(later) = reading.succeeded.get(tx) {
                plan.dropped.push((*tx, format!("it had been removed: its request began {later} later")));
                continue;
            }
            match doubt(*tx, value.clone(), now().wall, &lost) {
                Ok(None) => drop(plan.values.insert(*tx, value.clone())),
                Ok(Some(history)) => {
                    plan.values.insert(*tx, history);
                    plan.doubted.push(*tx);
                }
                Err(error) => plan.dropped.push((*tx, error.to_string())),
            }
        }
        for tx in survey.passed_over.iter().filter(|tx| !survey.values.contains_key(tx)) {
            plan.dropped.push((*tx, "it is in a part of the log that is of another history".to_owned()));
        }
        Ok(plan)
    }

    fn as_json(&self, reading: &Reading, reason: &str) -> Value {
        let survey = &reading.survey;
        let xids = |xids: &[TxId]| xids.iter().map(ToString::to_string).collect::<Vec<_>>();
        let dropped = self.dropped.iter().map(|(tx, why)| json!({ "xid": tx.to_string(), "reason": why }));
        json!({
            "time": rfc3339(SystemTime::now()),
            "version": env!("CARGO_PKG_VERSION"),
            "reason": reason,
            "data_dir": survey.dir().display().to_string(),
            "damage": reading.damage(),
            "cluster_id": self.rebuilt.cluster.to_string(),
            "epoch": self.rebuilt.epoch.0,
            "lives_not_presumed_of":
                survey.lives.iter().map(|(epoch, tag)| json!({ "epoch": epoch.0, "tag": tag })).collect::<Vec<_>>(),
            "groups": reading.groups(),
            "kept": self.values.len(),
            "in_doubt": xids(&self.doubted),
            "dropped": dropped.collect::<Vec<_>>(),
        })
    }

    fn table(&self, told: &Value) -> Table {
        let mut table = Table::of_facts();
        table.fact("data", told["data_dir"].as_str().unwrap_or_default());
        table.fact("backup", told["backup"].as_str().unwrap_or_default());
        table.fact("epoch", self.rebuilt.epoch.0.to_string());
        table.fact("kept", format!("{} transactions", self.values.len()));
        for tx in &self.doubted {
            table.fact("in doubt", tx.to_string());
        }
        for (tx, why) in &self.dropped {
            table.fact("dropped", format!("{tx}: {why}"));
        }
        for damage in told["damage"].as_array().into_iter().flatten() {
            table.fact("damage", damage.as_str().unwrap_or_default());
        }
        table
    }
}
