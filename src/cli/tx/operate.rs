//! `assent tx forget`, `assent tx resolve` and `assent tx retry`: what an operator does.

use assent_proto::TxId;
use assent_proto::v1::{ForgetRequest, Resolution, ResolveRequest, RetryRequest, retry_request};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::show;
use crate::cli::client::Client;
use crate::cli::output::{Format, Output};
use crate::cli::{Exit, Failure};

#[derive(Debug, Args)]
pub struct Forget {
    xid: TxId,
    /// Why it may be forgotten, for the log
    #[arg(long)]
    reason: String,
}

#[derive(Debug, Args)]
pub struct Resolve {
    xid: TxId,
    branch: String,
    /// What became of the branch: seen to be so, or made so by hand
    #[arg(value_enum)]
    resolution: ResolutionArg,
    /// How this is known, for the history
    #[arg(long)]
    reason: String,
    /// Makes it repeatable: the same id and content answers as the first time
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    request_id: String,
}

#[derive(Debug, Args)]
pub struct Retry {
    xid: TxId,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ResolutionArg {
    Committed,
    RolledBack,
}

impl Forget {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let xid = self.xid.to_string();
        let request = ForgetRequest { xid: xid.clone(), reason: self.reason };
        client.call(client.admin().forget(request)).await?;
        match output.format {
            Format::Table => output.line(&format!("forgot {xid}"))?,
            Format::Json => output.json(&json!({ "xid": xid, "forgotten": true }))?,
        }
        Ok(Exit::Ok)
    }
}

impl Resolve {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let resolution = match self.resolution {
            ResolutionArg::Committed => Resolution::Committed,
            ResolutionArg::RolledBack => Resolution::RolledBack,
        };
        let request = ResolveRequest {
            xid: self.xid.to_string(),
            branch_id: self.branch,
            resolution: resolution.into(),
            reason: self.reason,
            request_id: self.request_id,
        };
        let answer = client.call(client.admin().resolve(request)).await?;
        show::print(&answer.transaction.unwrap_or_default(), output)?;
        Ok(Exit::Ok)
    }
}

impl Retry {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let xid = self.xid.to_string();
        let request = RetryRequest { target: Some(retry_request::Target::Xid(xid.clone())) };
        let calls = client.call(client.admin().retry(request)).await?.calls;
        match output.format {
            Format::Table => output.line(&format!("{calls} calls due now"))?,
            Format::Json => output.json(&json!({ "xid": xid, "calls": calls }))?,
        }
        Ok(Exit::Ok)
    }
}
