//! `assent tx begin` and `assent tx enlist`

use std::time::Duration;

use assent_proto::TxId;
use assent_proto::v1::{BeginRequest, EnlistRequest, Enlistment, PhaseOneResult, Protocol, Vote};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::ProtocolArg;
use super::branch_arg::{BranchArg, read_specs};
use crate::cli::client::Client;
use crate::cli::output::{Format, Output};
use crate::cli::{Exit, Failure};

#[derive(Debug, Args)]
pub struct Begin {
    /// The protocol of its branches, where they name none
    #[arg(long, value_enum)]
    protocol: ProtocolArg,
    /// A name for people
    #[arg(long, default_value = "", hide_default_value = true)]
    label: String,
    /// Makes it repeatable: the same id is the same transaction
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    request_id: String,
}

#[derive(Debug, Args)]
pub struct Enlist {
    xid: TxId,
    /// A participant, with its endpoint if it is dialled, and the payload of Prepare or Try: a text, `@FILE`, or `-` for
    /// standard input; may be repeated
    #[arg(long = "branch", value_name = "PARTICIPANT[@ENDPOINT][=PAYLOAD]", required = true)]
    branches: Vec<BranchArg>,
    /// The protocol of these branches, where it is not the transaction's
    #[arg(long, value_enum)]
    protocol: Option<ProtocolArg>,
    /// The vote that they have given already. Without it, commit asks for it
    #[arg(long, value_enum)]
    vote: Option<VoteArg>,
    /// Why it was refused
    #[arg(long, default_value = "", hide_default_value = true, requires = "vote")]
    reason: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum VoteArg {
    Prepared,
    ReadOnly,
    Refused,
}

impl Begin {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let request = BeginRequest {
            protocol: Protocol::from(self.protocol).into(),
            label: self.label,
            timeout_ms: millis(client.timeout()),
            request_id: self.request_id,
        };
        let begun = client.call(client.transactions().begin(request)).await?;
        match output.format {
            Format::Table => output.line(&begun.xid)?,
            Format::Json => output.json(&json!({ "xid": begun.xid, "timeout_ms": begun.timeout_ms }))?,
        }
        Ok(Exit::Ok)
    }
}

impl Enlist {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let xid = self.xid.to_string();
        let vote = self.vote.map(|vote| PhaseOneResult {
            vote: Vote::from(vote).into(),
            reason: self.reason.clone(),
            // Nobody here knows whether the participant asks. So the coordinator must be sure to tell it.
            inquires: false,
            ..PhaseOneResult::default()
        });
        let mut branch_ids = Vec::new();
        for mut branch in read_specs(&self.branches)? {
            if let Some(protocol) = self.protocol {
                branch.protocol = Protocol::from(protocol).into();
            }
            let enlistment = Some(Enlistment { branch: Some(branch), vote: vote.clone() });
            let request = EnlistRequest { xid: xid.clone(), enlistment };
            branch_ids.push(client.call(client.transactions().enlist(request)).await?.branch_id);
            if output.format == Format::Table {
                output.line(branch_ids.last().expect("just pushed"))?;
            }
        }
        if output.format == Format::Json {
            output.json(&json!({ "xid": xid, "branch_ids": branch_ids }))?;
        }
        Ok(Exit::Ok)
    }
}

/// For a request: milliseconds, and 0 for "as the server says".
pub fn millis(timeout: Option<Duration>) -> u64 {
    timeout.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX))
}

impl From<VoteArg> for Vote {
    fn from(vote: VoteArg) -> Vote {
        match vote {
            VoteArg::Prepared => Vote::Prepared,
            VoteArg::ReadOnly => Vote::ReadOnly,
            VoteArg::Refused => Vote::Refused,
        }
    }
}
