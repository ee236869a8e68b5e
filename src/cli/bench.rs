//! `assent bench`

use std::convert::Infallible;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::str::FromStr;

use assent_sdk::Protocol;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::output::{Format, Output};
use super::table::Table;
use super::tx::{ProtocolArg, WaitFlag};
use super::{Exit, Failure, Global};
use crate::bench::{self, Mode, Options, Outcomes, Participants, Progress, Report, Transport, Whose};
use crate::config::Span;

pub const ABOUT: &str = "\
Measure how many transactions a second, how fast, and at what cost

Starts a coordinator of its own on a log of its own, and participants that vote and do nothing; makes transactions for a \
while; and reports how many ended in a second, how long they took, and what the coordinator spent on them. Every commit is \
durable, as in real use. With --calibrate the same run measures what this machine does without a coordinator, plain calls \
and plain synced writes, so that figures of different machines can be compared by their ratios to that.

With --running the coordinator at --server is measured instead. The transactions are real ones; participants are still \
the benchmark's own (`bench/1` and so on) unless --participants names others, who will be sent zeroes.";

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Bench {
    #[command(subcommand)]
    part: Option<Part>,
    /// How branches take part; mixed: by turns
    #[arg(long, value_enum, default_value_t = ProtocolMix::TwoPhase)]
    protocol: ProtocolMix,
    /// Branches of a transaction, each with a participant of its own
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    branches: u32,
    /// Whether participants keep a session or are dialled
    #[arg(long, value_enum, default_value_t = Transport::Session)]
    transport: Transport,
    /// One call a transaction, or begin, votes carried by the initiator, and commit
    #[arg(long, value_enum, default_value_t = Mode::Run)]
    mode: Mode,
    /// Transactions under way at a time
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    in_flight: u32,
    /// Connections of the initiators
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    connections: u32,
    /// Begin so many transactions a second, whether or not earlier ones have ended [default: as many as end]
    #[arg(long, value_name = "R", value_parser = rate)]
    rate: Option<f64>,
    /// How long to measure
    #[arg(long, default_value = "10s")]
    duration: Span,
    /// How long to run before that
    #[arg(long, default_value = "2s")]
    warm_up: Span,
    /// Bytes that each branch is sent
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    payload: u32,
    /// How many of a hundred transactions a participant refuses
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    abort_percent: u32,
    #[command(flatten)]
    wait: WaitFlag,
    /// `in-process` with the initiators, `process` (one of their own), or names that the coordinator knows, with commas
    #[arg(long, value_name = "WHERE|NAMES", default_value = "in-process")]
    participants: ParticipantsArg,
    /// Measure also what this machine does without a coordinator, and give the ratios
    #[arg(long, conflicts_with = "running")]
    calibrate: bool,
    /// Make the directory with the log below this one; it is removed at the end
    #[arg(long, value_name = "PATH", default_value = ".", conflicts_with = "running")]
    data_dir: PathBuf,
    /// A setting of the coordinator, such as `storage.retention=0s`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", conflicts_with = "running")]
    set: Vec<String>,
    /// Measure the coordinator at --server
    #[arg(long)]
    running: bool,
}

/// The processes of the benchmark are this executable, too.
#[derive(Debug, Subcommand)]
enum Part {
    /// The participants
    #[command(hide = true)]
    Participants {
        #[arg(long, value_delimiter = ',')]
        protocol: Vec<ProtocolArg>,
        #[arg(long)]
        branches: u32,
        #[arg(long)]
        transport: Transport,
    },
    /// What calls are compared with
    #[command(hide = true)]
    Echo,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProtocolMix {
    #[value(name = "2pc")]
    TwoPhase,
    Tcc,
    Mixed,
}

#[derive(Clone, Debug)]
struct ParticipantsArg(Participants);

impl FromStr for ParticipantsArg {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<ParticipantsArg, Infallible> {
        Ok(ParticipantsArg(match text {
            "in-process" => Participants::InProcess,
            "process" => Participants::Process,
            names => Participants::Given(names.split(',').map(str::to_owned).collect()),
        }))
    }
}

impl Bench {
    pub fn run(self, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let server = global.server.to_string();
        match &self.part {
            Some(Part::Participants { protocol, branches, transport }) => {
                let protocols: Vec<_> = protocol.iter().map(|one| one.protocol()).collect();
                let serving = bench::serve(&server, &protocols, *branches, *transport);
                return Ok(runtime.block_on(serving).map(|()| Exit::Ok)?);
            }
            Some(Part::Echo) => return Ok(runtime.block_on(bench::echo()).map(|()| Exit::Ok)?),
            None => {}
        }
        let options = self.options(server)?;
        let mut bar = Bar { shown: io::stderr().is_terminal() };
        // On this thread, which lives as long as the processes that are tied to it.
        let report = runtime.block_on(async {
            let interrupted = super::interruption()?;
            let mut show = |progress| bar.show(progress);
            tokio::select! {
                report = bench::run(&options, &mut show) => Ok(report?),
                signal = interrupted => {
                    Err(Failure::new(Exit::Error, format!("ended by {signal}; its processes are gone")))
                }
            }
        });
        bar.clear();
        let report = report?;
        match output.format {
            Format::Json => output.json(&as_json(&report))?,
            Format::Table => output.table(&as_table(&report))?,
        }
        Ok(Exit::Ok)
    }

    fn options(self, server: String) -> Result<Options, Failure> {
        let ParticipantsArg(participants) = self.participants;
        let usage = |text: &str| Err(Failure::new(Exit::Usage, text));
        let mut branches = self.branches;
        if let Participants::Given(names) = &participants {
            if !self.running {
                return usage(
                    "--participants names some that run already, so it wants --running and --server",
                );
            }
            if self.abort_percent > 0 {
                return usage(
                    "--abort-percent wants the benchmark's own participants: others do not know what to refuse",
                );
            }
            branches = u32::try_from(names.len()).unwrap_or(u32::MAX);
        }
        if self.mode == Mode::Interactive && participants != Participants::InProcess {
            return usage("--mode interactive wants --participants in-process: nobody else hands out votes");
        }
        Ok(Options {
            executable: std::env::current_exe()?,
            protocols: match self.protocol {
                ProtocolMix::TwoPhase => vec![Protocol::TwoPhase],
                ProtocolMix::Tcc => vec![Protocol::Tcc],
                ProtocolMix::Mixed => vec![Protocol::TwoPhase, Protocol::Tcc],
            },
            branches,
            transport: self.transport,
            mode: self.mode,
            in_flight: self.in_flight,
            connections: self.connections,
            rate: self.rate,
            warm_up: self.warm_up.0,
            duration: self.duration.0,
            payload_bytes: self.payload,
            abort_percent: self.abort_percent,
            wait: self.wait.to_sdk(),
            participants,
            coordinator: if self.running {
                Whose::Running(server)
            } else {
                Whose::Own { below: self.data_dir, settings: self.set }
            },
            calibrate: self.calibrate,
        })
    }
}

/// A line on a terminal that says how far it is.
struct Bar {
    shown: bool,
}

impl Bar {
    const WIDTH: u32 = 30;

    fn show(&mut self, progress: Progress) {
        let line = match progress {
            Progress::Preparing(what) => what.to_owned(),
            Progress::Running { elapsed, of, ended } => {
                let part = elapsed.as_secs_f64() / of.as_secs_f64().max(f64::MIN_POSITIVE);
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 30")]
                let full = (part.clamp(0.0, 1.0) * f64::from(Bar::WIDTH)) as usize;
                let (done, rest) = ("=".repeat(full), " ".repeat(Bar::WIDTH as usize - full));
                let (seconds, of) = (elapsed.as_secs(), of.as_secs());
                format!("[{done}{rest}] {seconds} of {of} s, {ended} transactions")
            }
        };
        if self.shown {
            // A terminal that is gone is seen when the report is printed.
            let _ = write!(io::stderr(), "\r\x1b[K{line}");
            let _ = io::stderr().flush();
        }
    }

    fn clear(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn as_table(report: &Report) -> Table {
    let mut table = Table::of_facts();
    let Report { outcomes, latency_us, .. } = report;
    table.fact("transactions/s", format!("{:.0}", report.transactions_per_second));
    table.fact(
        "latency",
        format!(
            "p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
            ms(latency_us.p50),
            ms(latency_us.p90),
            ms(latency_us.p99),
            ms(latency_us.p999),
            ms(latency_us.max)
        ),
    );
    let Outcomes { committed, aborted, unknown, refused } = outcomes;
    table.fact(
        "outcomes",
        format!("{committed} committed, {aborted} aborted, {unknown} unknown, {refused} not begun"),
    );
    table.fact(
        "log",
        format!(
            "{:.2} forced writes, {:.3} syncs and {:.0} bytes for each transaction",
            report.forced_writes_per_transaction,
            report.log_syncs_per_transaction,
            report.log_bytes_per_transaction
        ),
    );
    if let Some(coordinator) = &report.coordinator {
        let share = coordinator.cpu_seconds / report.elapsed_seconds;
        let mib = coordinator.peak_rss_bytes >> 20;
        table.fact("coordinator", format!("{share:.2} processors, {mib} MiB of memory at most"));
    }
    if let Some(yardstick) = &report.yardstick {
        table.fact(
            "plain calls/s",
            format!(
                "{:.0}; by as many calls as a transaction has, {:.2} times as fast",
                yardstick.echo_calls_per_second, yardstick.ratio_to_echo_bound
            ),
        );
        table.fact(
            "floor",
            format!(
                "{:.2} ms for three calls and a synced write; p50 is {:.2} times that",
                yardstick.floor_us / 1e3,
                yardstick.ratio_to_floor
            ),
        );
    }
    table
}

#[expect(clippy::cast_precision_loss, reason = "latencies are far below 2^53 µs")]
fn ms(us: u64) -> String {
    format!("{:.2} ms", us as f64 / 1e3)
}

fn as_json(report: &Report) -> Value {
    let Report { outcomes, latency_us, coordinator, yardstick, .. } = report;
    json!({
        "elapsed_seconds": report.elapsed_seconds,
        "transactions_per_second": report.transactions_per_second,
        "latency_us": {
            "p50": latency_us.p50,
            "p90": latency_us.p90,
            "p99": latency_us.p99,
            "p999": latency_us.p999,
            "max": latency_us.max,
        },
        "outcomes": {
            "committed": outcomes.committed,
            "aborted": outcomes.aborted,
            "unknown": outcomes.unknown,
            "refused": outcomes.refused,
        },
        "forced_writes_per_transaction": report.forced_writes_per_transaction,
        "log_syncs_per_transaction": report.log_syncs_per_transaction,
        "log_bytes_per_transaction": report.log_bytes_per_transaction,
        "coordinator": coordinator.map(|coordinator| json!({
            "cpu_seconds": coordinator.cpu_seconds,
            "peak_rss_bytes": coordinator.peak_rss_bytes,
        })),
        "echo_calls_per_second": yardstick.map(|yardstick| yardstick.echo_calls_per_second),
        "ratio_to_echo_bound": yardstick.map(|yardstick| yardstick.ratio_to_echo_bound),
        "floor_us": yardstick.map(|yardstick| yardstick.floor_us),
        "ratio_to_floor": yardstick.map(|yardstick| yardstick.ratio_to_floor),
    })
}

fn rate(text: &str) -> Result<f64, String> {
    let problem = "it must be a number from 0.001 to 10000000";
    let rate: f64 = text.parse().map_err(|_| problem.to_owned())?;
    if (0.001..=1e7).contains(&rate) { Ok(rate) } else { Err(problem.to_owned()) }
}

impl From<bench::Error> for Failure {
    fn from(error: bench::Error) -> Failure {
        match &error {
            bench::Error::Connect { .. } => Failure::new(Exit::Unreachable, error.to_string())
                .with_hint("with --running, --server must be the URL of a coordinator that runs"),
            bench::Error::Process(_)
            | bench::Error::Sdk(_)
            | bench::Error::NothingDone(..)
            | bench::Error::NothingEnded(_)
            | bench::Error::NotReady(..)
            | bench::Error::Coordinator(_)
            | bench::Error::Io(_) => Failure::new(Exit::Error, error.to_string()),
        }
    }
}
