//! `assent tx commit` and `assent tx abort`, and how the end of a transaction is told.

use assent_proto::TxId;
use assent_proto::v1::{AbortRequest, BranchState, CommitRequest, Outcome, TransactionResult, Wait};
use clap::{Args, ValueEnum};

use crate::cli::client::Client;
use crate::cli::output::{Colour, Format, Output, note};
use crate::cli::table::{Cell, Table};
use crate::cli::words::word;
use crate::cli::{Exit, Failure, json};

#[derive(Debug, Args)]
pub struct Commit {
    xid: TxId,
    #[command(flatten)]
    wait: WaitFlag,
}

#[derive(Debug, Args)]
pub struct Abort {
    xid: TxId,
    /// Why, for people
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    wait: WaitFlag,
}

#[derive(Clone, Copy, Debug, Args)]
pub struct WaitFlag {
    /// When to answer
    #[arg(long, value_enum, default_value_t = WaitArg::Completion)]
    wait: WaitArg,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WaitArg {
    /// As soon as the decision is durable
    Decision,
    /// When every branch has acknowledged
    Completion,
}

impl Commit {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let xid = self.xid.to_string();
        let request = CommitRequest { xid: xid.clone(), enlistments: Vec::new(), wait: self.wait.to_proto() };
        let answer = client.call(client.transactions().commit(request)).await;
        let result = answer.map_err(|failure| lookup_hint(failure, &xid))?.result;
        tell(&result.unwrap_or_default(), Outcome::Committed, output)
    }
}

impl Abort {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let xid = self.xid.to_string();
        let request = AbortRequest { xid: xid.clone(), reason: self.reason, wait: self.wait.to_proto() };
        let answer = client.call(client.transactions().abort(request)).await;
        let result = answer.map_err(|failure| lookup_hint(failure, &xid))?.result;
        tell(&result.unwrap_or_default(), Outcome::Aborted, output)
    }
}

impl WaitFlag {
    pub fn to_proto(self) -> i32 {
        match self.wait {
            WaitArg::Decision => Wait::Decision.into(),
            WaitArg::Completion => Wait::Completion.into(),
        }
    }

    pub fn to_sdk(self) -> assent_sdk::Wait {
        match self.wait {
            WaitArg::Decision => assent_sdk::Wait::Decision,
            WaitArg::Completion => assent_sdk::Wait::Completion,
        }
    }
}

/// Prints how a transaction ended, and compares it with what was wanted.
pub fn tell(result: &TransactionResult, wanted: Outcome, output: &mut Output) -> Result<Exit, Failure> {
    match output.format {
        Format::Json => output.json(&json::result(result))?,
        Format::Table => {
            output.table(&facts(result))?;
            if !result.branches.is_empty() {
                output.line("")?;
                output.table(&branches(result))?;
            }
        }
    }
    if !result.complete && matches!(result.outcome(), Outcome::Committed | Outcome::Aborted) {
        note("decided; not every branch has acknowledged yet");
    }
    match (wanted, result.outcome()) {
        (Outcome::Aborted, Outcome::Aborted) => Ok(Exit::Ok),
        (Outcome::Aborted, Outcome::Committed) => {
            Err(Failure::new(Exit::Error, format!("transaction {} had committed before", result.xid)))
        }
        (_, outcome) => Ok(Exit::of_outcome(outcome)),
    }
}

/// The call was made and its answer never came: what happened can be looked up.
fn lookup_hint(failure: Failure, xid: &str) -> Failure {
    match failure.exit() {
        Exit::Unreachable => {
            failure.with_hint(format!("the outcome is not known here; see `assent tx show {xid}`"))
        }
        _ => failure,
    }
}

fn facts(result: &TransactionResult) -> Table {
    let colour = match result.outcome() {
        Outcome::Committed => Colour::Green,
        Outcome::Aborted => Colour::Cyan,
        Outcome::Unspecified | Outcome::Mixed | Outcome::Hazard | Outcome::Unknown => Colour::Red,
    };
    let mut table = Table::of_facts();
    table.fact("xid", &result.xid);
    table.fact("outcome", Cell::from(word::<Outcome>(result.outcome)).coloured(Some(colour)));
    table.fact("reason", &result.reason);
    table
}

fn branches(result: &TransactionResult) -> Table {
    let mut table = Table::new(["BRANCH", "PARTICIPANT", "STATE", "REPLY", "REASON"]);
    for branch in &result.branches {
        table.row([
            (&branch.branch_id).into(),
            (&branch.participant).into(),
            word::<BranchState>(branch.state).into(),
            String::from_utf8_lossy(&branch.reply).into(),
            (&branch.reason).into(),
        ]);
    }
    table
}
