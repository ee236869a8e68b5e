//! `assent participant check`

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use assent_proto::v1::Protocol;
use clap::Args;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::check::{Error, Finding, Kit, Plan, Report, Target, Verdict};
use crate::cli::output::{Colour, Format, Output, note};
use crate::cli::payload::Payload;
use crate::cli::table::{Cell, Table};
use crate::cli::tx::ProtocolArg;
use crate::cli::words::{json_word, word};
use crate::cli::{Exit, Failure, Global};
use crate::config::Span;

/// How long a call may take, repetitions included, where nothing is said.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

pub const ABOUT: &str = "\
Check whether a participant, in any language, keeps the rules

The kit plays the coordinator. It calls a participant that serves, given its URL, or waits with --listen for one that \
opens a session, given its name. Then it makes calls as a network and crashes make them: repeated, at once, late, in the \
wrong order, with ids that are alike. For each rule it says whether it was kept, and if not what was expected, what was \
seen, and what that breaks. It exits with 0 if no rule was broken and nothing was left prepared, and else with 1.

It works on the real data: the work of --payload is committed some 30 times, so let nothing else use the participant \
meanwhile. Its transactions are those of a cluster of its own, new in every run. A call that is answered with an error is \
repeated, as a coordinator would, for --timeout [default: 10s].

--run starts the participant with a shell, and finds out what survives kill -9; the variable ASSENT_SERVER tells it where \
--listen listens. --observe is run by a shell, too; it prints numbers that describe the data, such as goods free, held \
and sold, and lets the rules be judged by what was done and not only by what was answered.";

#[derive(Debug, Args)]
pub struct Check {
    /// Where the participant serves, `http://host:port`; or the name with which it opens a session
    #[arg(value_name = "URL|NAME")]
    participant: TargetArg,
    /// What the report calls a participant that is given by its URL
    #[arg(long)]
    name: Option<String>,
    /// How it takes part; with `2pc,tcc` all is checked for both
    #[arg(long, value_enum, required = true, value_delimiter = ',')]
    protocol: Vec<ProtocolArg>,
    /// What it is asked to do, a text or `@FILE`; it must be possible some 30 times
    #[arg(long, value_name = "TEXT|@FILE")]
    payload: String,
    /// What it must refuse, a text or `@FILE`
    #[arg(long, value_name = "TEXT|@FILE")]
    payload_refused: Option<String>,
    /// Take sessions and answer inquiries here; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Start the participant with this shell command, to kill -9 it and start it again
    #[arg(long, value_name = "COMMAND")]
    run: Option<String>,
    /// A shell command that prints numbers which describe the participant's data
    #[arg(long, value_name = "COMMAND")]
    observe: Option<String>,
    /// How long the participant may take to come up, or to open its session
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    wait: Span,
    /// How long it may take to ask about what it holds in doubt
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    patience: Span,
}

/// A URL or a name.
#[derive(Clone, Debug)]
struct TargetArg(Target);

impl FromStr for TargetArg {
    type Err = String;

    fn from_str(text: &str) -> Result<TargetArg, String> {
        if text.contains("://") {
            let endpoint = text.parse().map_err(|error| format!("{error}"))?;
            return Ok(TargetArg(Target::Dialled(endpoint)));
        }
        let name = text.parse().map_err(|error| format!("{error}"))?;
        Ok(TargetArg(Target::Session(name)))
    }
}

impl Check {
    pub fn run(self, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
        let name = self.name()?;
        let plan = self.plan(global)?;
        crate::cli::block_on(async {
            let report = tokio::select! {
                report = carry_out(plan) => report?,
                () = interrupted() => {
                    let message = "interrupted; branches may be left prepared";
                    return Err(Failure::new(Exit::Error, message));
                }
            };
            tell(&name, &report, output)
        })
    }

    /// What the report calls the participant.
    fn name(&self) -> Result<String, Failure> {
        match (&self.participant.0, &self.name) {
            (Target::Dialled(endpoint), None) => Ok(endpoint.to_string()),
            (Target::Dialled(_), Some(name)) => Ok(name.clone()),
            (Target::Session(name), None) => Ok(name.to_string()),
            (Target::Session(_), Some(_)) => {
                Err(usage("--name is for a participant that is given by its URL"))
            }
        }
    }

    fn plan(self, global: &Global) -> Result<Plan, Failure> {
        let target = self.participant.0;
        if matches!(target, Target::Session(_)) && self.listen.is_none() {
            let failure = usage(format!(
                "{} names a participant with a session, and so --listen is needed",
                name_of(&target)
            ));
            return Err(failure
                .with_hint("--listen 127.0.0.1:7420, for one; for a participant that serves give its URL"));
        }
        let mut protocols: Vec<Protocol> = self.protocol.into_iter().map(Protocol::from).collect();
        protocols.dedup();
        let payloads = [Some(&self.payload), self.payload_refused.as_ref()].map(|text| {
            text.map(|text| Payload::from(text.as_str())).map(|payload| match payload {
                Payload::Stdin => Err(usage("a payload is a text or @FILE here, not standard input")),
                Payload::Text(_) | Payload::File(_) => Ok(bytes::Bytes::from(payload.read()?)),
            })
        });
        let [payload, payload_refused] = payloads.map(Option::transpose);
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Plan {
            target,
            protocols,
            payload: payload?.unwrap_or_default(),
            payload_refused: payload_refused?,
            run: self.run,
            observe: self.observe,
            listen: self.listen,
            wait: self.wait.into(),
            patience: self.patience.into(),
            call_timeout: global.timeout.map_or(CALL_TIMEOUT, Duration::from),
            now_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

async fn carry_out(plan: Plan) -> Result<Report, Failure> {
    let target = plan.target.clone();
    let started_by_us = plan.run.is_some();
    let kit = Kit::open(plan).await?;
    if let Some(at) = kit.listens_at() {
        let waiting = match &target {
            Target::Session(name) => format!("; waiting for the session of {name}"),
            Target::Dialled(_) => String::new(),
        };
        note(&format!("listening on http://{at}{waiting}"));
    }
    kit.run().await.map_err(|error| match &error {
        Error::Unreached { .. } if !started_by_us => {
            Failure::from(error).with_hint("is it running there? --run 'COMMAND' lets the kit start it")
        }
        Error::NoSession { at, .. } => {
            let hint = format!("the participant must dial http://{at}; --wait waits longer");
            Failure::from(error).with_hint(hint)
        }
        Error::Listen { .. } | Error::Start { .. } | Error::Ended { .. } | Error::Unreached { .. } => {
            Failure::from(error)
        }
    })
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let exit = match error {
            Error::Listen { .. } | Error::Start { .. } | Error::Ended { .. } => Exit::Error,
            Error::Unreached { .. } | Error::NoSession { .. } => Exit::Unreachable,
        };
        Failure::new(exit, error.to_string())
    }
}

fn tell(name: &str, report: &Report, output: &mut Output) -> Result<Exit, Failure> {
    match output.format {
        Format::Json => output.json(&as_json(name, report))?,
        Format::Table => {
            output.table(&table(report))?;
            for branch in &report.left_open {
                output.line(&format!("left open: {branch}: its rollback was not acknowledged"))?;
            }
            let [passed, failed, not_run] = ["passed", "failed", "not run"].map(|word| report.count(word));
            output.line(&format!("{name}: {passed} passed, {failed} failed, {not_run} not run"))?;
        }
    }
    Ok(if report.is_good() { Exit::Ok } else { Exit::Error })
}

fn table(report: &Report) -> Table {
    let several = report.findings.iter().any(|finding| finding.protocol != report.findings[0].protocol);
    let mut table = Table::new(["PROTOCOL", "RULE", "RESULT", "WHAT"]);
    for Finding { name, about, protocol, verdict } in &report.findings {
        let (colour, what) = match verdict {
            Verdict::Passed => (Colour::Green, *about),
            Verdict::Failed(why) => (Colour::Red, why.as_str()),
            Verdict::NotRun(why) => (Colour::Yellow, why.as_str()),
        };
        let protocol = if several { word::<Protocol>((*protocol).into()) } else { String::new() };
        let result = Cell::from(verdict.word()).coloured(Some(colour));
        table.row([protocol.into(), (*name).into(), result, what.into()]);
    }
    table
}

fn as_json(name: &str, report: &Report) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "name": finding.name,
            "about": finding.about,
            "protocol": json_word::<Protocol>(finding.protocol.into()),
            "result": finding.verdict.word().replace(' ', "_"),
            "reason": if finding.verdict.why().is_empty() { Value::Null } else { finding.verdict.why().into() },
        })
    };
    json!({
        "participant": name,
        "passed": report.count("passed"),
        "failed": report.count("failed"),
        "not_run": report.count("not run"),
        "rules": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "left_open": report.left_open,
    })
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(Exit::Usage, message)
}

fn name_of(target: &Target) -> String {
    match target {
        Target::Dialled(endpoint) => endpoint.to_string(),
        Target::Session(name) => name.to_string(),
    }
}

/// A signal that ends the check. What the kit has started ends with it.
async fn interrupted() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Then a signal simply ends the process.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
