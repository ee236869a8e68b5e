//! The demo, as people and scripts run it.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use std::{fs, io};

use assent::demo::{self, Afterwards, Audience, Cast, Options, Told};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, timeout};

/// The whole demo takes some seconds.
const PATIENCE: Duration = Duration::from_mins(2);

const SCENARIOS: [(&str, &str); 6] = [
    ("order-committed", "committed"),
    ("order-refused", "aborted"),
    ("transfer", "committed"),
    ("coordinator-killed", "committed"),
    ("initiator-killed", "aborted"),
    ("partner-hangs", "aborted"),
];

const SCENARIOS_ON_DATABASES: [(&str, &str); 8] = [
    ("order-committed", "committed"),
    ("order-refused", "aborted"),
    ("transfer", "committed"),
    ("order-mixed", "committed"),
    ("coordinator-killed", "committed"),
    ("databases-killed", "committed"),
    ("initiator-killed", "aborted"),
    ("partner-hangs", "aborted"),
];

/// Looks for its directory, and panics when the first scenario has ended.
#[derive(Default)]
struct Panicking {
    directory: Option<String>,
}

impl Audience for Panicking {
    fn hear(&mut self, told: Told<'_>) -> io::Result<()> {
        match told {
            Told::Step(text) if self.directory.is_none() => {
                let path = text.split(' ').find(|word| word.contains("assent-demo-")).unwrap();
                self.directory = Some(path.trim_end_matches('.').to_owned());
            }
            Told::Ended(_) => panic!("the audience has seen enough"),
            Told::Scenario { .. } | Told::Step(_) | Told::Figures(_) => {}
        }
        Ok(())
    }
}

/// The variable by which the processes of one demo are told from all others: all that it starts inherit it.
const MARK: &str = "DEMO_UNDER_TEST";

/// The demo with a temporary directory of its own: by that its files are told from all others.
struct Demo {
    temporary: TempDir,
    child: Child,
    /// Until nobody wants to read any more.
    stdout: Option<Lines<BufReader<ChildStdout>>>,
}

impl Demo {
    fn start(arguments: &[&str]) -> Demo {
        let temporary = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_assent"));
        // A setting that would keep a coordinator from starting, if it found its way there.
        command.env("TMPDIR", temporary.path()).env(MARK, temporary.path()).env("ASSENT_NONSENSE", "1");
        command.arg("demo").args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let stdout = Some(BufReader::new(child.stdout.take().unwrap()).lines());
        Demo { temporary, child, stdout }
    }

    async fn line(&mut self) -> Option<String> {
        timeout(PATIENCE, self.stdout.as_mut().unwrap().next_line()).await.unwrap().unwrap()
    }

    async fn json(&mut self) -> Option<Value> {
        self.line().await.map(|line| serde_json::from_str(&line).unwrap())
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// The exit code, or none after a signal, and what was told on standard error.
    async fn end(&mut self) -> (Option<i32>, String) {
        let mut stderr = String::new();
        let mut from = BufReader::new(self.child.stderr.take().unwrap());
        let reading = tokio::io::AsyncReadExt::read_to_string(&mut from, &mut stderr);
        timeout(PATIENCE, reading).await.unwrap().unwrap();
        let status = timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
        (status.code(), stderr)
    }

    fn files(&self) -> Vec<PathBuf> {
        fs::read_dir(self.temporary.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// The data directories of the database servers that run on its behalf.
    fn server_directories(&self) -> Vec<PathBuf> {
        let processes = self.processes();
        let words = processes.iter().flat_map(|(_, command)| command.split([' ', '=']));
        let mut found: Vec<_> = words
            .filter_map(|word| Some(PathBuf::from(word.strip_suffix("/data")?)))
            .filter(|path| path.to_string_lossy().contains("assent-throwaway-"))
            .collect();
        found.sort();
        found.dedup();
        found
    }

    /// All processes that the demo started, and those that they started, but not the demo itself.
    fn processes(&self) -> Vec<(Pid, String)> {
        let marker = format!("{MARK}={}\0", self.temporary.path().display()).into_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap() {
            let path = entry.unwrap().path();
            let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
            // A process may end while it is looked at, and a zombie has nothing to show.
            let environment = fs::read(path.join("environ")).unwrap_or_default();
            if Some(pid) != self.child.id().map(u32::cast_signed)
                && environment.windows(marker.len()).any(|window| window == marker)
            {
                let command = fs::read_to_string(path.join("cmdline")).unwrap_or_default();
                found.push((Pid::from_raw(pid).unwrap(), command.replace('\0', " ")));
            }
        }
        found
    }

    /// What a process left behind that was killed goes soon, though not at once.
    async fn leaves_nothing(&self, servers: &[PathBuf]) {
        self.processes_end().await;
        assert!(self.files().is_empty(), "{:?}", self.files());
        assert!(servers.iter().all(|directory| !directory.exists()), "{servers:?}");
    }

    async fn processes_end(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.processes().is_empty() {
            assert!(Instant::now() < deadline, "still there: {:?}", self.processes());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn every_scenario_ends_as_it_must_and_nothing_is_left_behind() {
    let mut demo = Demo::start(&["--output", "json"]);
    let mut xids = Vec::new();
    for (name, outcome) in SCENARIOS {
        let report = demo.json().await.unwrap();
        assert_eq!(report["name"], name, "{report}");
        assert_eq!(report["ok"], true, "{report}");
        assert_eq!(report["outcome"], outcome, "{report}");
        assert!(report["duration_ms"].is_u64(), "{report}");
        xids.push(report["xid"].as_str().unwrap().parse::<assent_proto::TxId>().unwrap());
        if name == "order-committed" {
            assert_eq!(demo.processes().len(), 6, "{:?}", demo.processes());
        }
        if name == "partner-hangs" {
            // Ten apples and a hundred coins at first; four apples are sold, at three coins each.
            let books = &report["databases"];
            assert_eq!((&books["stock"]["free"], &books["stock"]["sold"]), (&6.into(), &4.into()), "{books}");
            assert_eq!(books["payment"]["received"], 12, "{books}");
            assert_eq!(books["order"]["confirmed"], 2, "{books}");
            assert_eq!((&books["north"]["balance"], &books["south"]["balance"]), (&170.into(), &230.into()));
        }
    }
    assert_eq!(demo.json().await.unwrap(), json!({ "conserved": true }));
    assert_eq!(demo.line().await, None);
    let (code, stderr) = demo.end().await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("1. An order"), "what happens is told beside the data: {stderr}");

    xids.dedup();
    assert_eq!(xids.len(), SCENARIOS.len());
    assert!(demo.files().is_empty(), "{:?}", demo.files());
    assert_eq!(demo.processes(), []);
}

#[tokio::test]
async fn on_database_servers_every_scenario_ends_as_it_must_and_nothing_is_left_behind() {
    let mut demo = Demo::start(&["--databases", "--output", "json"]);
    let (mut servers, mut books) = (Vec::new(), Value::Null);
    for (name, outcome) in SCENARIOS_ON_DATABASES {
        let mut report = demo.json().await.unwrap();
        assert_eq!((&report["name"], &report["ok"]), (&name.into(), &true.into()), "{report}");
        assert_eq!(report["outcome"], outcome, "{report}");
        books = report["databases"].take();
        if servers.is_empty() {
            servers = demo.server_directories();
            assert_eq!(servers.len(), 2, "{servers:?} of {:?}", demo.processes());
        }
    }
    // Ten apples and a hundred coins at first; seven apples are sold, at three coins each.
    assert_eq!(books["stock"], json!({ "free": 3, "held": 0, "sold": 7, "in_doubt": 0 }));
    assert_eq!(books["payment"], json!({ "balance": 79, "held": 0, "received": 21, "in_doubt": 0 }));
    assert_eq!(books["order"]["confirmed"], 4, "{books}");
    assert_eq!((&books["north"]["balance"], &books["south"]["balance"]), (&170.into(), &230.into()));
    assert_eq!(demo.json().await.unwrap(), json!({ "conserved": true }));
    let (code, stderr) = demo.end().await;
    assert_eq!(code, Some(0), "{stderr}");
    for prepared in ["order: pg_prepared_xacts has branch", "stock: XA RECOVER has branch"] {
        assert!(stderr.contains(prepared), "{prepared:?} is not in {stderr}");
    }
    demo.leaves_nothing(&servers).await;
}

#[tokio::test]
async fn however_it_ends_no_database_server_is_left_behind() {
    for (signal, expected) in [(Signal::INT, Some(1)), (Signal::KILL, None)] {
        let mut demo = Demo::start(&["--databases", "--output", "json"]);
        demo.json().await.unwrap();
        let servers = demo.server_directories();
        assert_eq!(servers.len(), 2, "{:?}", demo.processes());
        demo.signal(signal);
        let (code, stderr) = demo.end().await;
        assert_eq!(code, expected, "{stderr}");
        demo.processes_end().await;
        // Its own directory stays only where nobody could remove it.
        let own = usize::from(signal == Signal::KILL);
        assert_eq!(demo.files().len(), own, "{:?}", demo.files());
        assert!(servers.iter().all(|directory| !directory.exists()), "{servers:?}");
    }
}

#[tokio::test]
async fn people_are_told_what_happens_and_can_keep_the_files() {
    let mut demo = Demo::start(&["--keep"]);
    let mut told = Vec::new();
    while let Some(line) = demo.line().await {
        told.push(line);
    }
    let (code, stderr) = demo.end().await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{told:#?}");
    for line in [
        "     stock: free 8, held 0, sold 2",
        "     stock: free 6, held 2, sold 2  (prepared, decision not known)",
        "     stock: free 3, held 3, sold 4  (prepared, decision not known)",
        "conserved: yes",
    ] {
        assert!(told.iter().any(|told| told == line), "{line:?} is not in {told:#?}");
    }
    assert!(!told.concat().contains('\x1b'), "colours are for terminals");

    let kept = demo.files();
    assert_eq!(kept.len(), 1);
    assert_eq!(told.last().unwrap(), &format!("kept in {}", kept[0].display()));
    for file in ["stock.db", "payment.db", "coordinator.log", "coordinator"] {
        assert!(kept[0].join(file).exists(), "{file}");
    }
    assert_eq!(demo.processes(), []);
}

#[tokio::test]
async fn an_interrupted_demo_ends_its_processes_and_removes_its_files() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut demo = Demo::start(&["--output", "json"]);
        demo.json().await.unwrap();
        demo.signal(signal);
        let (code, stderr) = demo.end().await;
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("error: ended by SIG"), "{stderr}");
        assert!(demo.files().is_empty(), "{:?}", demo.files());
        assert_eq!(demo.processes(), []);
    }
}

#[tokio::test]
async fn a_demo_that_is_killed_takes_its_processes_along() {
    let mut demo = Demo::start(&["--output", "json"]);
    demo.json().await.unwrap();
    // One that is stopped must not stay, either.
    let (stopped, _) = demo.processes().pop().unwrap();
    kill_process(stopped, Signal::STOP).unwrap();
    demo.signal(Signal::KILL);
    demo.end().await;
    demo.processes_end().await;
}

#[test]
fn a_panic_leaves_no_process_and_no_file() {
    let executable = env!("CARGO_BIN_EXE_assent").into();
    let options = Options { executable, cast: Cast::Files, afterwards: Afterwards::Remove };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut audience = Panicking::default();
    // The thread goes on, so it is not the tether that ends the processes.
    let played = catch_unwind(AssertUnwindSafe(|| runtime.block_on(demo::run(&options, &mut audience))));
    assert!(played.is_err());
    let directory = audience.directory.unwrap();
    assert!(!Path::new(&directory).exists());
    for entry in fs::read_dir("/proc").unwrap() {
        let command = fs::read_to_string(entry.unwrap().path().join("cmdline")).unwrap_or_default();
        assert!(!command.contains(&directory), "{command}");
    }
}

#[tokio::test]
async fn whoever_stops_reading_ends_it_in_silence() {
    let mut demo = Demo::start(&[]);
    demo.line().await.unwrap();
    demo.stdout = None;
    let (code, stderr) = demo.end().await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(demo.files().is_empty(), "{:?}", demo.files());
    assert_eq!(demo.processes(), []);
}

#[tokio::test]
async fn what_goes_wrong_is_told_with_the_logs_that_are_kept() {
    let mut demo = Demo::start(&["--output", "json"]);
    demo.json().await.unwrap();
    let processes = demo.processes();
    let (stock, _) = processes.iter().find(|(_, command)| command.contains(" stock ")).unwrap();
    kill_process(*stock, Signal::KILL).unwrap();
    let mut last = Value::Null;
    while let Some(report) = demo.json().await {
        last = report;
    }
    let (code, stderr) = demo.end().await;
    assert_eq!(code, Some(1), "{stderr}");
    assert_eq!(last["ok"], false, "{last}");
    assert!(last["error"].is_string(), "{last}");
    let kept = demo.files();
    let log = kept[0].join("stock.log");
    assert!(log.exists());
    assert!(stderr.contains("error: ") && stderr.contains(log.to_str().unwrap()), "{stderr}");
    assert_eq!(demo.processes(), []);
}
