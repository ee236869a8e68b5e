//! `assent tx run`

use std::time::Duration;

use assent_proto::v1::{Outcome, Protocol, RunRequest};
use clap::Args;
use uuid::Uuid;

use super::ProtocolArg;
use super::begin::millis;
use super::branch_arg::{BranchArg, read_specs};
use super::end::{WaitFlag, tell};
use crate::cli::client::Client;
use crate::cli::output::Output;
use crate::cli::{Exit, Failure};

/// The server's own default for the timeout of a transaction.
const USUAL_TIMEOUT: Duration = Duration::from_secs(30);
/// The server answers when the transaction's timeout is over, at the latest. We wait a little longer for that answer.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub struct Run {
    /// The protocol of the branches
    #[arg(long, value_enum)]
    protocol: ProtocolArg,
    /// A name for people
    #[arg(long, default_value = "", hide_default_value = true)]
    label: String,
    /// Makes it repeatable: the same id is the same transaction [default: a random one]
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    #[command(flatten)]
    wait: WaitFlag,
    /// A participant, with its endpoint if it is dialled, and the payload of Prepare or Try: a text, `@FILE`, or `-` for
    /// standard input; may be repeated
    #[arg(long = "branch", value_name = "PARTICIPANT[@ENDPOINT][=PAYLOAD]")]
    branches: Vec<BranchArg>,
}

impl Run {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        // With an id of our own we can say how to look it up when the answer is lost.
        let request_id = self.request_id.unwrap_or_else(|| Uuid::new_v4().to_string());
        let request = RunRequest {
            protocol: Protocol::from(self.protocol).into(),
            label: self.label,
            timeout_ms: millis(client.timeout()),
            request_id: request_id.clone(),
            branches: read_specs(&self.branches)?,
            wait: self.wait.to_proto(),
        };
        let wait = client.timeout().unwrap_or(USUAL_TIMEOUT).saturating_add(GRACE);
        let answer = client.call_within(wait, client.transactions().run(request)).await;
        let result = answer.map_err(|failure| match failure.exit() {
            Exit::Unreachable => failure.with_hint(format!(
                "the outcome is not known here; see `assent tx show --request-id {request_id}`"
            )),
            _ => failure,
        })?;
        tell(&result.result.unwrap_or_default(), Outcome::Committed, output)
    }
}
