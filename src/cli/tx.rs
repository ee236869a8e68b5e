//! `assent tx`

mod begin;
mod branch_arg;
mod end;
mod list;
mod operate;
mod run;
mod show;
mod watch;

use assent_proto::v1::Protocol;
use clap::{Subcommand, ValueEnum};

pub use self::end::WaitFlag;
use super::client::Client;
use super::output::Output;
use super::{Exit, Failure};

#[derive(Debug, Subcommand)]
pub enum Tx {
    /// List transactions, newest first
    List(list::List),
    /// Explain one transaction: where it stands, its branches, its history
    Show(show::Show),
    /// Print a transaction, or all that match, whenever they change
    ///
    /// With an XID it ends when the transaction has ended, and exits by the outcome.
    Watch(watch::Watch),
    /// Run a transaction from begin to end, in one call
    Run(run::Run),
    /// Begin a transaction and print its XID
    Begin(begin::Begin),
    /// Add branches to a transaction and print their ids
    Enlist(begin::Enlist),
    /// Commit a transaction, and exit by the outcome
    Commit(end::Commit),
    /// Abort a transaction
    ///
    /// Exits with 0 once it is aborted, with 1 if it had committed before, and with 5 if a branch went against the
    /// decision.
    Abort(end::Abort),
    /// Clear a transaction with a heuristic outcome, or an ended one before its time
    Forget(operate::Forget),
    /// Record what became of a branch that cannot settle itself
    Resolve(operate::Resolve),
    /// Make every waiting call of a transaction due now
    Retry(operate::Retry),
}

/// How a transaction or a branch takes part.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ProtocolArg {
    /// Prepare, then commit or roll back
    #[value(name = "2pc")]
    TwoPhase,
    /// Try, then confirm or cancel
    Tcc,
}

impl ProtocolArg {
    pub fn protocol(self) -> assent_sdk::Protocol {
        match self {
            ProtocolArg::TwoPhase => assent_sdk::Protocol::TwoPhase,
            ProtocolArg::Tcc => assent_sdk::Protocol::Tcc,
        }
    }
}

impl Tx {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        match self {
            Tx::List(list) => list.run(client, output).await,
            Tx::Show(show) => show.run(client, output).await,
            Tx::Watch(watch) => watch.run(client, output).await,
            Tx::Run(run) => run.run(client, output).await,
            Tx::Begin(begin) => begin.run(client, output).await,
            Tx::Enlist(enlist) => enlist.run(client, output).await,
            Tx::Commit(commit) => commit.run(client, output).await,
            Tx::Abort(abort) => abort.run(client, output).await,
            Tx::Forget(forget) => forget.run(client, output).await,
            Tx::Resolve(resolve) => resolve.run(client, output).await,
            Tx::Retry(retry) => retry.run(client, output).await,
        }
    }
}

impl From<ProtocolArg> for Protocol {
    fn from(protocol: ProtocolArg) -> Protocol {
        match protocol {
            ProtocolArg::TwoPhase => Protocol::TwoPhase,
            ProtocolArg::Tcc => Protocol::Tcc,
        }
    }
}
