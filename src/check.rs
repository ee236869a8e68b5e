//! A conformance kit for participants in any language. It plays the coordinator, over gRPC only, and says which of the
//! rules of a participant are kept: those that stand in the comments of the protos, and in the table of the SDK's
//! `barrier`.
//!
//! A [`Kit`] is opened with a [`Plan`], so that it is known where it listens, and [run](Kit::run) then. The rules are in
//! `rules.rs`, each a function over the `Bench` of `bench.rs`; how the participant is reached is in `subject.rs`.
//! Nothing here waits without a bound: a participant that hangs has failed what it was asked.

mod bench;
mod desk;
mod process;
mod report;
mod rules;
mod subject;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use assent_proto::v1::Protocol;
use bytes::Bytes;
use tokio::net::TcpListener;

use crate::config::Endpoint;
use crate::core::ParticipantName;
use bench::{Bench, Effect, Stop};
use desk::{Desk, Identity};
use process::Launch;
pub use report::{Finding, Report, Verdict};
use rules::{NO_RULE, Needs, Rule};
use subject::{Dialled, Subject};

/// What to check, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    pub target: Target,
    /// How the participant takes part: all is checked once for each.
    pub protocols: Vec<Protocol>,
    /// What phase one is asked to do; it must be possible again and again.
    pub payload: Bytes,
    /// What the participant must refuse.
    pub payload_refused: Option<Bytes>,
    /// The shell command that starts the participant.
    pub run: Option<String>,
    /// The shell command that prints numbers which describe the participant's data.
    pub observe: Option<String>,
    /// Where sessions are taken and inquiries answered.
    pub listen: Option<SocketAddr>,
    /// How long the participant may take to come up.
    pub wait: Duration,
    /// How long it may take to ask for a decision.
    pub patience: Duration,
    /// How long it may take to answer a call, repetitions included.
    pub call_timeout: Duration,
    /// The wall clock's time, in milliseconds since 1970. The kit's transactions get it, so that each run has its own.
    pub now_ms: u64,
}

/// How the participant is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// It serves there.
    Dialled(Endpoint),
    /// It opens a session under this name.
    Session(ParticipantName),
}

/// Why nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {at}: {error}")]
    Listen { at: SocketAddr, error: std::io::Error },
    #[error("cannot start {command:?}: {error}")]
    Start { command: String, error: std::io::Error },
    #[error("{command:?} ended ({status}) before the participant was there")]
    Ended { command: String, status: String },
    #[error("cannot reach {endpoint}: {why}")]
    Unreached { endpoint: Endpoint, why: String },
    #[error("{participant} opened no session at http://{at} within {waited:?}{turned_away}")]
    NoSession { participant: ParticipantName, at: SocketAddr, waited: Duration, turned_away: String },
}

/// The kit, ready to run.
#[derive(Debug)]
pub struct Kit {
    plan: Plan,
    desk: Option<(Desk, SocketAddr)>,
    identity: Identity,
}

impl Kit {
    /// Opens the port, where the plan names one.
    pub async fn open(plan: Plan) -> Result<Kit, Error> {
        let identity = Identity::random();
        let desk = match plan.listen {
            None => None,
            Some(at) => {
                let listen = async {
                    let listener = TcpListener::bind(at).await?;
                    Ok((listener.local_addr()?, listener))
                };
                let (bound, listener) = listen.await.map_err(|error| Error::Listen { at, error })?;
                let name = match &plan.target {
                    Target::Dialled(_) => None,
                    Target::Session(name) => Some(name.clone()),
                };
                Some((Desk::serve(listener, name, identity.clone()), bound))
            }
        };
        Ok(Kit { plan, desk, identity })
    }

    /// Where it takes sessions and answers inquiries.
    pub fn listens_at(&self) -> Option<SocketAddr> {
        self.desk.as_ref().map(|(_, at)| *at)
    }

    /// Starts the participant if that is the kit's task, waits for it, and checks rule after rule.
    ///
    /// # Panics
    /// Where a participant with a session is to be checked and the plan names no address to listen on.
    pub async fn run(self) -> Result<Report, Error> {
        let url = self.listens_at().map(|at| format!("http://{at}"));
        let launch = self.plan.run.clone().map(|command| Launch::new(command, url.clone()));
        let desk = self.desk.as_ref().map(|(desk, _)| desk.clone());
        let subject = match &self.plan.target {
            Target::Dialled(endpoint) => {
                Subject::Dialled(Dialled::new(endpoint.clone(), self.identity.cluster.clone()))
            }
            Target::Session(name) => {
                let (desk, at) = self.desk.clone().expect("a session needs an address to listen on");
                Subject::Session { desk, participant: name.clone(), at }
            }
        };
        let bench = Bench::new(self.plan.clone(), &self.identity, subject, desk, launch);
        bench.start().await?;
        let mut report = Report::default();
        for protocol in &self.plan.protocols {
            bench.takes_part_by(*protocol);
            check(&bench, *protocol, &mut report).await;
        }
        bench.tidy_what_was_left().await;
        report.left_open = bench.left_open();
        bench.end().await;
        Ok(report)
    }
}

async fn check(bench: &Bench, protocol: Protocol, report: &mut Report) {
    let mut passed = BTreeSet::from([NO_RULE]);
    for rule in rules::all(protocol) {
        let verdict = match missing(bench, &rule) {
            Some(why) => Verdict::NotRun(why),
            None if !passed.contains(rule.after) => Verdict::NotRun(format!("{} did not pass", rule.after)),
            None => judge(bench, &rule).await,
        };
        bench.tidy().await;
        if verdict == Verdict::Passed {
            passed.insert(rule.name);
        }
        report.findings.push(Finding { name: rule.name, about: rule.about, protocol, verdict });
    }
}

async fn judge(bench: &Bench, rule: &Rule) -> Verdict {
    let verdict = async {
        let before = bench.observe_if_judged().await?;
        match ((rule.check)(bench).await?, before) {
            (Effect::Units(units), Some(before)) => bench.expect_change(&before, units).await,
            (Effect::Units(_) | Effect::NotLookedAt, _) => Ok(()),
        }
    };
    match verdict.await {
        Ok(()) => Verdict::Passed,
        Err(Stop::Failed(why)) => Verdict::Failed(why),
        Err(Stop::NotRun(why)) => Verdict::NotRun(why),
    }
}

/// What the plan lacks for this rule, and how to supply it.
fn missing(bench: &Bench, rule: &Rule) -> Option<String> {
    let plan = bench.plan();
    let (there, why) = match rule.needs {
        Needs::Nothing => return None,
        Needs::Refusal => {
            (plan.payload_refused.is_some(), "--payload-refused TEXT names work that must be refused")
        }
        Needs::Run => {
            (plan.run.is_some(), "--run 'COMMAND' lets the kit start the participant, and so kill -9 it")
        }
        Needs::Observe => (
            plan.observe.is_some(),
            "--observe 'COMMAND' shows the data, and rules are then judged by effects too",
        ),
        Needs::Desk => {
            (plan.listen.is_some(), "--listen ADDRESS answers inquiries; the participant must ask there")
        }
        Needs::OneProtocol => (plan.protocols.len() == 1, "it takes part by both"),
    };
    (!there).then(|| why.to_owned())
}
