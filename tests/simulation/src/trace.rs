//! A run in its own process: what happened goes to the standard output, one line each, and what came of it is the last line.

use std::io::{self, Write};
use std::process::ExitCode;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::run::{Orders, run};
use crate::world::{self, with};

/// Runs it, and prints what happened.
pub fn print(orders: Orders) -> anyhow::Result<ExitCode> {
    let targets = Targets::new()
        .with_target("assent", LevelFilter::DEBUG)
        .with_target("assent_sdk", LevelFilter::DEBUG);
    let lines = tracing_subscriber::fmt::layer().without_time().with_ansi(false).with_writer(|| Line);
    tracing_subscriber::registry().with(lines).with(targets).init();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        world::panicked(panic);
        usual(panic);
    }));
    let outcome = run(orders);
    let mut out = io::BufWriter::new(io::stdout().lock());
    for line in with(|world| std::mem::take(&mut world.trace)) {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "{}", serde_json::to_string(&outcome)?)?;
    out.flush()?;
    drop(out);
    // What is left of the run has nothing to say any more.
    std::process::exit(i32::from(!outcome.breaches.is_empty()));
}

/// A line of a host's log, among all that happens.
struct Line;

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let host = world::who();
        world::try_note(format_args!("{host}: {}", text.trim_end()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
