//! The command line: what can be typed, and how each command ends.
//!
//! Manners: data goes to standard output and everything else to standard error; an error is `error: …`, followed where
//! it helps by `hint: …`; the exit code tells what happened (see [`Exit`]).

mod bench;
mod client;
mod completions;
mod config;
mod demo;
mod exit;
mod explain;
mod health;
mod json;
mod log;
mod output;
mod participant;
mod payload;
mod serve;
mod status;
mod table;
mod time;
mod tx;
mod words;

use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{ConfigFile, Endpoint, Flag, Sources, Span};
use client::Client;
pub use exit::{Exit, Failure};
use output::{Format, Output};

const USUAL_CONFIG_FILE: &str = "/etc/assent/assent.toml";
/// Requests say milliseconds, and 0 means "as the server says".
const TIMEOUT_MIN: Span = Span::from_millis(1);
const DEFAULT_SERVER: &str = "http://127.0.0.1:7420";

const EXIT_CODES: &str = "\
Exit codes:
  0  ok; the transaction committed, or aborted as was asked
  1  error
  2  wrong usage
  3  not found
  4  the transaction aborted
  5  the outcome is in doubt, or a branch went against the decision
  6  the server was not reached, or did not answer in time
  7  the server is not ready: recovering or draining";

/// Coordinates distributed transactions: two-phase commit and TCC over gRPC.
#[derive(Debug, Parser)]
#[command(name = "assent", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// The configuration file [default: /etc/assent/assent.toml, if it exists]
    #[arg(long, global = true, value_name = "PATH", env = "ASSENT_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// The server that client commands call
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "ASSENT_SERVER",
        hide_env_values = true,
        default_value = DEFAULT_SERVER
    )]
    server: Endpoint,
    /// The form of what is printed on standard output
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// How long to wait for the server [default: 30s]; with `tx run` and `tx begin`, the transaction's timeout
    #[arg(long, global = true, value_name = "DURATION", value_parser = timeout)]
    timeout: Option<Span>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the coordinator
    ///
    /// The first SIGTERM or SIGINT drains: no new transactions, and those under way may finish within
    /// `server.drain_timeout`; then it exits with 0. A second one exits at once, with 1, because work was left behind.
    /// That is safe: the next start finishes it.
    Serve(serve::Serve),
    /// Watch it work: a shop and two banks, crashes included, in ten seconds
    #[command(long_about = demo::ABOUT)]
    Demo(demo::Demo),
    /// Measure how many transactions a second, how fast, and at what cost
    #[command(long_about = bench::ABOUT)]
    Bench(Box<bench::Bench>),
    /// Look at transactions, run them, and settle those that need it
    #[command(subcommand)]
    Tx(tx::Tx),
    /// Check participants, and see what they hold
    #[command(subcommand)]
    Participant(participant::Participant),
    /// Check, measure, print or repair the decision log of a daemon that does not run
    #[command(subcommand)]
    Log(log::Log),
    /// Ask whether the server is ready, or alive
    Health(health::Health),
    /// Show the server and its participants
    Status(status::Status),
    /// Show, begin or check the configuration
    #[command(subcommand)]
    Config(config::Config),
    /// Print completions for a shell
    Completions(completions::Completions),
    /// Become this executable with other arguments, tied to the life of the parent
    #[command(hide = true)]
    Tether {
        parent: u32,
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
}

/// Settings on the command line, for the commands that load them.
#[derive(Debug, Args)]
struct SettingFlags {
    /// Set one setting, such as `limits.max_branches=128`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = set_flag)]
    set: Vec<Flag>,
}

/// Parses the command line and the environment of this process, and does what they say.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut output = Output::stdout(cli.global.output);
    cli.run(&mut output).unwrap_or_else(|failure| failure.report()).into()
}

impl Cli {
    fn run(self, output: &mut Output) -> Result<Exit, Failure> {
        let global = &self.global;
        match self.command {
            Command::Serve(serve) => serve.run(global),
            Command::Demo(demo) => demo.run(global, output),
            Command::Bench(bench) => bench.run(global, output),
            Command::Tx(tx) => block_on(async { tx.run(&Client::connect(global).await?, output).await }),
            Command::Participant(participant) => participant.run(global, output),
            Command::Log(log) => log.run(global, output),
            Command::Health(health) => {
                block_on(async { health.run(&Client::connect(global).await?, output).await })
            }
            Command::Status(status) => {
                block_on(async { status.run(&Client::connect(global).await?, output).await })
            }
            Command::Config(config) => config.run(global, output),
            Command::Completions(completions) => completions.run(output),
            Command::Tether { parent, arguments } => match crate::process::tether(parent, &arguments)? {},
        }
    }
}

impl Global {
    /// All sources of settings, with these flags.
    fn sources(&self, flags: Vec<Flag>) -> Sources {
        let file = match &self.config {
            Some(path) => ConfigFile::Required(path.clone()),
            None => ConfigFile::Optional(PathBuf::from(USUAL_CONFIG_FILE)),
        };
        Sources { file, environment: std::env::vars_os().collect(), flags }
    }
}

/// Runs a client command: one thread is plenty.
fn block_on(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

/// The name of the first signal that asks for an end.
fn interruption() -> io::Result<impl Future<Output = &'static str>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            _ = hang_up.recv() => "SIGHUP",
        }
    })
}

fn timeout(text: &str) -> Result<Span, String> {
    let span: Span = text.parse().map_err(|error| format!("{error}"))?;
    if span < TIMEOUT_MIN { Err(format!("it must be at least {TIMEOUT_MIN}")) } else { Ok(span) }
}

fn set_flag(text: &str) -> Result<Flag, String> {
    let (key, value) = text.split_once('=').ok_or("it must be KEY=VALUE, such as limits.max_branches=128")?;
    Ok(Flag { flag: format!("--set {key}"), key: key.to_owned(), value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_names_every_exit_code() {
        for exit in Exit::ALL {
            assert!(EXIT_CODES.contains(&format!("\n  {}  ", exit.code())), "{exit:?}");
        }
    }
}
