//! `assent demo`

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::SocketAddr;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::{Colour, Format, Output, Paint, note, one_line};
use super::{Exit, Failure, Global};
use crate::demo::{self, Afterwards, Audience, Cast, Options, Report, Service, Store, Told, Verdict};

pub const ABOUT: &str = "\
Watch it work: a shop and two banks, crashes included, in ten seconds

Starts a coordinator and five small services, each a process of its own with a SQLite file of its own, and lets six \
things happen to them: an order that commits, an order that is refused, a transfer between two banks, a coordinator that \
is killed between its decision and phase two, an initiator that dies and leaves a reservation behind, and a payment \
partner that hangs. After each it shows what the databases say. At the end it checks that no apple and no coin was lost \
or made from nothing, prints `conserved: yes` and exits with 0; or it says what is wrong and exits with 1.

It needs nothing and leaves nothing behind: its ports are free ones of this machine, its files are in a temporary \
directory, and its processes end with it, on Ctrl-C too. The files stay with --keep, when something went wrong, and when \
the demo itself is killed with `kill -9`. With `--output json` it prints one object a scenario on standard output, and what \
it tells on standard error.

With --databases it starts a PostgreSQL and a MariaDB, too: orders and banks are in the one, the stock is in the other, and \
they take part by TCC or by their own two-phase commit. Two more things happen: an order by both protocols at once, and \
both servers killed between vote and decision. This wants the two to be installed, and takes half a minute at most; the \
servers and their data go away whatever --keep says, but for their logs.";

#[derive(Debug, Args)]
pub struct Demo {
    /// Play it on a PostgreSQL and a MariaDB, started for it
    #[arg(long)]
    databases: bool,
    /// Keep the databases and logs, and say where they are
    #[arg(long)]
    keep: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

/// The processes of the demo are this executable, too.
#[derive(Debug, Subcommand)]
enum Part {
    /// One of the services
    #[command(hide = true)]
    Participant { service: Service, store: OsString },
    /// An initiator that reserves and waits
    #[command(hide = true)]
    Initiator { stock: SocketAddr },
}

impl Demo {
    pub fn run(self, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
        match self.part {
            None => {
                let afterwards = if self.keep { Afterwards::Keep } else { Afterwards::Remove };
                let cast = if self.databases { Cast::Databases } else { Cast::Files };
                let options = Options { executable: std::env::current_exe()?, cast, afterwards };
                super::block_on(play(&options, output))
            }
            Some(Part::Participant { service, store }) => {
                log_to_stderr();
                let coordinator = global.server.to_string();
                let store = Store::from(store);
                super::block_on(async { ended(service.run(&store, &coordinator).await) })
            }
            Some(Part::Initiator { stock }) => {
                log_to_stderr();
                let coordinator = global.server.to_string();
                super::block_on(async { ended(demo::abandon_an_order(&coordinator, stock).await) })
            }
        }
    }
}

async fn play(options: &Options, output: &mut Output) -> Result<Exit, Failure> {
    let interrupted = super::interruption()?;
    let mut teller = Teller { output };
    let verdict = tokio::select! {
        verdict = demo::run(options, &mut teller) => verdict?,
        signal = interrupted => {
            return Err(Failure::new(Exit::Error, format!("ended by {signal}; its processes are gone")));
        }
    };
    teller.conclude(&verdict)?;
    Ok(exit(&verdict))
}

/// Tells people, or scripts.
struct Teller<'a> {
    output: &'a mut Output,
}

impl Audience for Teller<'_> {
    fn hear(&mut self, told: Told<'_>) -> io::Result<()> {
        match (self.output.format, told) {
            (Format::Json, Told::Ended(report)) => self.output.json_line(&json_report(report)),
            (Format::Json, told) => {
                let mut stderr = io::stderr().lock();
                // Whoever wants the data alone may have closed it.
                let _ =
                    text(Paint::for_stderr(), told).iter().try_for_each(|line| writeln!(stderr, "{line}"));
                Ok(())
            }
            (Format::Table, told) => {
                text(self.output.paint, told).iter().try_for_each(|line| self.output.line(line))
            }
        }
    }
}

impl Teller<'_> {
    fn conclude(&mut self, verdict: &Verdict) -> io::Result<()> {
        match self.output.format {
            Format::Json => {
                self.output.json_line(&json_verdict(verdict))?;
                if let Some(path) = &verdict.kept {
                    note(&format!("kept in {}", path.display()));
                }
                Ok(())
            }
            Format::Table => {
                let lines = conclusion(self.output.paint, verdict);
                lines.iter().try_for_each(|line| self.output.line(line))
            }
        }
    }
}

/// What is told, for people.
fn text(paint: Paint, told: Told<'_>) -> Vec<String> {
    match told {
        Told::Scenario { number, title } => {
            vec![String::new(), paint.paint(Colour::Cyan, &format!("{number}. {title}"))]
        }
        Told::Step(text) => wrap(&one_line(text)),
        Told::Figures(line) => vec![format!("     {}", paint.paint(Colour::Yellow, &one_line(line)))],
        Told::Ended(report) => {
            let ms = report.duration.as_millis();
            vec![match &report.result {
                Ok(ended) => {
                    let outcome = paint.paint(Colour::Green, ended.outcome.word());
                    format!("   {outcome} as it must, {ms} ms, {}", ended.xid)
                }
                Err(_) => format!("   {} after {ms} ms", paint.paint(Colour::Red, "failed")),
            }]
        }
    }
}

/// What the check found, for people.
fn conclusion(paint: Paint, verdict: &Verdict) -> Vec<String> {
    let mut lines = vec![String::new()];
    for check in &verdict.checks {
        // That nothing hangs is said in one line, unless it is not so.
        if !check.holds() {
            lines.push(format!("   {} {check}", paint.paint(Colour::Red, "wrong:")));
        } else if check.must_be != 0 {
            lines.push(format!("   {check}"));
        }
    }
    if verdict.conserved() {
        lines.push("   nothing is pending, held, staged or in doubt".to_owned());
    }
    let (colour, word) = if verdict.conserved() { (Colour::Green, "yes") } else { (Colour::Red, "no") };
    lines.push(format!("conserved: {}", paint.paint(colour, word)));
    lines.extend(verdict.kept.iter().map(|path| format!("kept in {}", path.display())));
    lines
}

/// Where lines end that are wrapped, in characters.
const TEXT_WIDTH: usize = 80;

/// Indents a text, in lines that are easy to read.
fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec!["  ".to_owned()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is one line at least");
        if line.chars().count() + word.chars().count() < TEXT_WIDTH || line.trim().is_empty() {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(format!("   {word}"));
        }
    }
    lines
}

fn json_report(report: &Report) -> Value {
    let (outcome, xid, error) = match &report.result {
        Ok(ended) => (Some(ended.outcome.word()), Some(ended.xid.to_string()), None),
        Err(error) => (None, None, Some(error)),
    };
    let mut value = json!({
        "name": report.name,
        "ok": report.result.is_ok(),
        "outcome": outcome,
        "xid": xid,
        "duration_ms": u64::try_from(report.duration.as_millis()).unwrap_or(u64::MAX),
        "databases": report.books,
    });
    if let Some(error) = error {
        value["error"] = json!(error);
    }
    value
}

fn json_verdict(verdict: &Verdict) -> Value {
    let mut value = json!({ "conserved": verdict.conserved() });
    if !verdict.conserved() {
        let wrong = verdict.checks.iter().filter(|check| !check.holds());
        value["differences"] = wrong.map(ToString::to_string).collect();
    }
    value
}

fn exit(verdict: &Verdict) -> Exit {
    if verdict.conserved() { Exit::Ok } else { Exit::Error }
}

fn log_to_stderr() {
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).init();
}

fn ended(result: Result<(), demo::Error>) -> Result<Exit, Failure> {
    result.map(|()| Exit::Ok).map_err(|error| Failure::new(Exit::Error, error.to_string()))
}

impl From<demo::Failure> for Failure {
    fn from(failure: demo::Failure) -> Failure {
        let demo::Failure { error, logs } = failure;
        let failure = match error {
            demo::Error::Io(error) => Failure::from(error),
            error => {
                let told = error.to_string();
                // What is not installed brings its own hint.
                match told.split_once("\nhint: ") {
                    Some((message, hint)) => Failure::new(Exit::Error, message).with_hint(hint),
                    None => Failure::new(Exit::Error, told),
                }
            }
        };
        if logs.is_empty() {
            return failure;
        }
        let logs: Vec<String> = logs.iter().map(|path| path.display().to_string()).collect();
        failure.with_hint(format!("everything is kept; the logs are {}", logs.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use assent_sdk::throwaway;

    use super::*;
    use crate::demo::Check;

    fn verdict(sold: i64) -> Verdict {
        let checks = vec![
            Check { what: "apples sold", is: sold, against: "in confirmed orders there are", must_be: 4 },
            Check { what: "apples held", is: 0, against: "there must be", must_be: 0 },
        ];
        Verdict { checks, kept: None }
    }

    #[test]
    fn what_adds_up_is_conserved_and_exits_with_0() {
        let good = verdict(4);
        let lines = conclusion(Paint::Plain, &good);
        assert_eq!(
            lines,
            [
                "",
                "   4 apples sold; in confirmed orders there are 4",
                "   nothing is pending, held, staged or in doubt",
                "conserved: yes"
            ]
        );
        assert_eq!(json_verdict(&good), json!({ "conserved": true }));
        assert_eq!(exit(&good), Exit::Ok);
    }

    #[test]
    fn what_does_not_add_up_is_not_conserved_and_exits_with_1() {
        let bad = verdict(3);
        let lines = conclusion(Paint::Plain, &bad);
        let difference = "3 apples sold; in confirmed orders there are 4";
        assert_eq!(lines, ["", &format!("   wrong: {difference}"), "conserved: no"]);
        assert_eq!(json_verdict(&bad), json!({ "conserved": false, "differences": [difference] }));
        assert_eq!(exit(&bad), Exit::Error);
    }

    #[test]
    fn what_is_not_installed_is_told_with_the_command_that_installs_it() {
        let missing = throwaway::Error::Missing {
            program: "mariadbd",
            places: "/usr/bin:/usr/sbin".to_owned(),
            package: "mariadb-server",
        };
        let failure = demo::Failure { error: missing.into(), logs: Vec::new() };
        let Failure::Told { exit, message, hint } = failure.into() else { panic!("it is told") };
        assert_eq!(exit, Exit::Error);
        assert_eq!(message, "mariadbd is neither on the PATH nor where Debian puts it: /usr/bin:/usr/sbin");
        assert_eq!(hint.as_deref(), Some("apt-get install mariadb-server"));
    }

    #[test]
    fn long_texts_are_wrapped_and_no_word_is_lost() {
        let text = "word ".repeat(100);
        let lines = wrap(text.trim_end());
        assert!(
            lines.iter().all(|line| line.starts_with("   word") && line.len() <= TEXT_WIDTH),
            "{lines:?}"
        );
        assert_eq!(lines.join(" ").split_whitespace().count(), 100);
    }
}
