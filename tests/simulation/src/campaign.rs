//! Many runs, each in a process of its own in which nothing is random.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::ValueEnum as _;

use crate::Args;
use crate::faults::KINDS;
use crate::run::Outcome;

const NO_PANIC: &str = "nobody panics with it";

/// Where the histories of runs that found something are kept.
const KEPT: &str = "target/simulation";

/// What many runs came to.
#[derive(Debug, Default)]
struct Total {
    runs: u64,
    failed: Vec<u64>,
    transfers: u64,
    told: BTreeMap<String, u64>,
    faults: BTreeMap<String, u64>,
    simulated_ms: u64,
    rest_ms_max: u64,
}

/// Runs what the command line asks for.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a command")]
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let place = tempfile::tempdir()?;
    let cage = Cage::new(place.path())?;
    if let Some(seed) = args.seed {
        let history = place.path().join("history");
        let outcome = cage.run(args, seed, &history)?;
        print!("{}", fs::read_to_string(&history)?);
        return Ok(exit_code(outcome.breaches.is_empty()));
    }
    let started = Instant::now();
    let (next, total) = (AtomicU64::new(args.first), Mutex::new(Total::default()));
    let work = |worker: usize| -> anyhow::Result<()> {
        let history = place.path().join(format!("history-{worker}"));
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let found = args.until_found && !total.lock().expect(NO_PANIC).failed.is_empty();
            let over = match args.duration {
                _ if found => true,
                Some(duration) => started.elapsed() >= duration,
                None => seed >= args.first + args.seeds,
            };
            if over {
                return Ok(());
            }
            let outcome = match cage.run(args, seed, &history) {
                Ok(outcome) => outcome,
                Err(error) => {
                    return Err(
                        error.context(format!("its history is in {}", keep(&history, seed)?.display()))
                    );
                }
            };
            if !outcome.breaches.is_empty() {
                let kept = keep(&history, seed)?;
                for breach in &outcome.breaches {
                    eprintln!("seed {seed}: {breach}");
                }
                eprintln!("seed {seed}: history in {}; again: {}", kept.display(), again(args, seed));
            }
            total.lock().expect(NO_PANIC).add(&outcome);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..args.jobs.max(1)).map(|worker| scope.spawn(move || work(worker))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("it does not panic"))
    })?;
    let total = total.into_inner().expect(NO_PANIC);
    println!("{}", total.text(started.elapsed().as_secs_f64()));
    Ok(exit_code(total.failed.is_empty()))
}

fn exit_code(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn again(args: &Args, seed: u64) -> String {
    let flaw = args.flaw.to_possible_value().expect("no flaw is hidden");
    let safety = if args.safety_only { " --safety-only" } else { "" };
    format!("cargo run -p assent-simulation -- --seed {seed}{safety} --flaw {}", flaw.get_name())
}

fn keep(history: &Path, seed: u64) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(KEPT)?;
    let kept = Path::new(KEPT).join(format!("seed-{seed}.txt"));
    fs::copy(history, &kept)?;
    Ok(kept)
}

/// What the process of a run is kept in, so that nothing random gets in.
struct Cage {
    shim: PathBuf,
    /// Whether the system lets us have all at the same addresses each time. Nothing is known to depend on it.
    fixes_addresses: bool,
}

impl Cage {
    fn new(place: &Path) -> anyhow::Result<Cage> {
        let (source, shim) = (place.join("shim.c"), place.join("shim.so"));
        fs::write(&source, include_str!("../shim/shim.c"))?;
        let status =
            Command::new("cc").args(["-O1", "-fPIC", "-shared", "-o"]).arg(&shim).arg(&source).status();
        if !status.context("cannot run cc, the C compiler")?.success() {
            bail!("cc cannot compile {}", source.display());
        }
        let mut try_it = Command::new("setarch");
        let tried = try_it.args(["-R", "true"]).stdin(Stdio::null()).stderr(Stdio::null()).status();
        Ok(Cage { shim, fixes_addresses: tried.is_ok_and(|status| status.success()) })
    }

    /// One run. Its arguments have the same length for every seed, since even that moves addresses.
    fn run(&self, args: &Args, seed: u64, history: &Path) -> anyhow::Result<Outcome> {
        let program = std::env::current_exe()?;
        let mut command = if self.fixes_addresses {
            let mut command = Command::new("setarch");
            command.arg("-R").arg(program);
            command
        } else {
            Command::new(program)
        };
        let flaw = args.flaw.to_possible_value().expect("no flaw is hidden");
        command.args(["--run", &format!("{seed:020}"), "--flaw", flaw.get_name()]);
        if args.safety_only {
            command.arg("--safety-only");
        }
        let status = command
            .env_clear()
            .env("LD_PRELOAD", &self.shim)
            .env("ASSENT_SIMULATION_SEED", format!("{seed:020}"))
            .stdin(Stdio::null())
            .stdout(File::create(history)?)
            .status()?;
        let last = BufReader::new(File::open(history)?).lines().last().transpose()?.unwrap_or_default();
        match serde_json::from_str(&last) {
            Ok(outcome) => Ok(outcome),
            Err(_) => bail!("the process of seed {seed} came to no end: {status}; its last line: {last}"),
        }
    }
}

impl Total {
    fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        if !outcome.breaches.is_empty() {
            self.failed.push(outcome.seed);
        }
        self.transfers += outcome.transfers;
        for (kind, count) in &outcome.told {
            *self.told.entry(kind.clone()).or_default() += count;
        }
        for (kind, count) in &outcome.faults {
            *self.faults.entry(kind.clone()).or_default() += count;
        }
        self.simulated_ms += outcome.simulated_ms;
        self.rest_ms_max = self.rest_ms_max.max(outcome.rest_ms);
    }

    fn text(&self, seconds: f64) -> String {
        let Total { runs, failed, transfers, told, faults, simulated_ms, rest_ms_max } = self;
        let simulated_s = simulated_ms / 1_000;
        let occurred = |kind: &&&str| faults.get(**kind).is_some_and(|count| *count > 0);
        let missing: Vec<_> = KINDS.iter().filter(|kind| !occurred(kind)).collect();
        let kinds = match missing.len() {
            0 => "every kind of fault occurred".to_owned(),
            _ => format!("these faults never occurred: {missing:?}"),
        };
        format!(
            "{runs} seeds in {seconds:.0} s, {} failed {failed:?}\n\
             {transfers} transfers, told {told:?}\n\
             faults {faults:?}\n\
             {kinds}\n\
             {simulated_s} s simulated; the longest rest took {rest_ms_max} ms",
            failed.len()
        )
    }
}
