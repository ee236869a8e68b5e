//! The binary, as people and scripts meet it.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "cli/fake.rs"]
mod fake;

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use assent::cli::Cli;
use assent_proto::v1::{
    Branch, BranchResult, BranchState, HistoryEvent, Outcome, Protocol, State, Transaction,
    TransactionResult, Vote,
};
use clap::CommandFactory as _;
use fake::Fake;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;
use tonic::{Code, Status};

/// No command here takes anywhere near as long.
const PATIENCE: Duration = Duration::from_mins(1);
const XID: &str = "018bcfe5-6800-8000-8000-004000000000";

/// How a command ended, and what it said.
#[derive(Debug)]
struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// The binary, with an environment that says nothing of assent.
fn assent(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_assent"));
    for (variable, _) in std::env::vars().filter(|(variable, _)| variable.starts_with("ASSENT_")) {
        command.env_remove(variable);
    }
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(arguments: &[&str]) -> Said {
    finish(&mut assent(arguments)).await
}

async fn finish(command: &mut Command) -> Said {
    let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    Said {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs a client command against a server that answers as `fake` says.
async fn run_against(fake: &Fake, arguments: &[&str]) -> Said {
    let server = fake.start().await;
    run(&[&["--server", &server], arguments].concat()).await
}

fn result(outcome: Outcome) -> TransactionResult {
    let branch = BranchResult {
        branch_id: "1".to_owned(),
        participant: "shop/stock".to_owned(),
        state: BranchState::Committed.into(),
        reply: b"42".as_slice().into(),
        ..BranchResult::default()
    };
    TransactionResult {
        xid: XID.to_owned(),
        outcome: outcome.into(),
        complete: true,
        branches: vec![branch],
        ..TransactionResult::default()
    }
}

fn transaction() -> Transaction {
    let branch = Branch {
        branch_id: "1".to_owned(),
        participant: "shop/payment".to_owned(),
        protocol: Protocol::Tcc.into(),
        vote: Vote::Prepared.into(),
        state: BranchState::Committing.into(),
        attempts: 4,
        last_error: "\x1b[31mrefused".to_owned(),
        ..Branch::default()
    };
    Transaction {
        xid: XID.to_owned(),
        label: "checkout".to_owned(),
        protocol: Protocol::TwoPhase.into(),
        state: State::Committing.into(),
        outcome: Outcome::Committed.into(),
        branches: vec![branch],
        history: vec![HistoryEvent { kind: "begun".to_owned(), ..HistoryEvent::default() }],
        ..Transaction::default()
    }
}

#[tokio::test]
async fn every_command_explains_itself() {
    fn collect(command: &clap::Command, path: &[String], paths: &mut Vec<Vec<String>>) {
        paths.push(path.to_vec());
        for child in command.get_subcommands() {
            collect(child, &[path, &[child.get_name().to_owned()]].concat(), paths);
        }
    }
    let mut paths = Vec::new();
    collect(&Cli::command(), &[], &mut paths);
    assert!(paths.len() > 15, "{paths:?}");
    for path in paths {
        let mut arguments: Vec<&str> = path.iter().map(String::as_str).collect();
        arguments.push("--help");
        let said = run(&arguments).await;
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{path:?}");
        assert!(said.stdout.contains("Usage: assent"), "{path:?}");
    }
}

#[tokio::test]
async fn wrong_usage_exits_with_2_and_says_so_on_stderr() {
    for arguments in [
        &["--nonsense"][..],
        &["nonsense"],
        &[],
        &["tx"],
        &["tx", "show"],
        &["tx", "show", "not-an-xid"],
        &["tx", "run"],
        &["tx", "run", "--protocol", "3pc"],
        &["tx", "run", "--protocol", "tcc", "--branch", "=x"],
        &["tx", "list", "--state", "nonsense"],
        &["tx", "list", "--limit", "0"],
        &["tx", "watch", XID, "--attention"],
        &["tx", "forget", XID],
        &["tx", "resolve", XID, "1", "maybe", "--reason", "x"],
        &["health", "--ready", "--live"],
        &["--server", "localhost", "status"],
        &["--timeout", "5", "status"],
        &["--timeout", "1us", "status"],
        &["serve", "--dev", "--data-dir", "/x"],
        &["serve", "--listen", "nowhere"],
        &["serve", "--set", "nonsense"],
        &["completions", "powershell"],
    ] {
        let said = run(arguments).await;
        assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{arguments:?}: {said:?}");
        assert!(!said.stderr.is_empty(), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_exits_with_6_and_a_hint() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for arguments in [&["health"][..], &["status"], &["tx", "list"], &["tx", "run", "--protocol", "tcc"]] {
        let said = finish(assent(arguments).env("ASSENT_SERVER", format!("http://{free}"))).await;
        assert_eq!((said.code, said.stdout.as_str()), (6, ""), "{said:?}");
        assert!(said.stderr.starts_with(&format!("error: cannot reach http://{free}: ")), "{said:?}");
        assert!(said.stderr.contains("\nhint: ") && said.stderr.contains("assent serve"), "{said:?}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_exits_with_6_within_the_timeout() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", silent.local_addr().unwrap());
    let said = run(&["--server", &server, "--timeout", "50ms", "tx", "commit", XID]).await;
    assert_eq!(said.code, 6, "{said:?}");
    assert!(said.stderr.contains("50ms"), "{said:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_exits_with_6_and_a_hint() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            // As long as the greeting is: what comes next is the call.
            let _ = connection.read_exact(&mut [0; 24]).await;
        }
    });
    let said = run(&["--server", &server, "status"]).await;
    assert_eq!(said.code, 6, "{said:?}");
    assert!(said.stderr.starts_with(&format!("error: cannot reach {server}: ")), "{said:?}");
    assert!(said.stderr.contains("\nhint: "), "{said:?}");
}

#[tokio::test]
async fn a_lost_answer_is_called_unknown_and_says_how_to_look_it_up() {
    let lost = Fake { error: Some(Status::deadline_exceeded("too late")), ..Fake::default() };
    let said = run_against(&lost, &["tx", "commit", XID]).await;
    assert_eq!(said.code, 6);
    assert!(
        said.stderr.contains(&format!("hint: the outcome is not known here; see `assent tx show {XID}`"))
    );
    let said = run_against(&lost, &["tx", "run", "--protocol", "tcc", "--request-id", "r1"]).await;
    assert_eq!(said.code, 6);
    assert!(said.stderr.contains("`assent tx show --request-id r1`"), "{said:?}");
}

#[tokio::test]
async fn errors_of_the_server_have_their_exit_codes() {
    use tonic_types::{ErrorDetails, StatusExt as _};
    let unavailable = |reason: &str| {
        let details = ErrorDetails::with_error_info(reason, "assent", []);
        Status::with_error_details(Code::Unavailable, "not now", details)
    };
    for (status, code) in [
        (Status::not_found("no such transaction"), 3),
        (Status::unavailable("gone"), 6),
        (Status::deadline_exceeded("late"), 6),
        (Status::cancelled("stopped"), 6),
        (unavailable("RECOVERING"), 7),
        (unavailable("DRAINING"), 7),
        (unavailable("OTHER"), 6),
        (Status::invalid_argument("branch payload is 5 MiB; the limit is 1 MiB"), 1),
        (Status::failed_precondition("it is decided"), 1),
    ] {
        let message = status.message().to_owned();
        let fake = Fake { error: Some(status), ..Fake::default() };
        let said = run_against(&fake, &["tx", "show", XID]).await;
        assert_eq!((said.code, said.stdout.as_str()), (code, ""), "{message}");
        assert!(said.stderr.starts_with(&format!("error: {message}\n")), "{said:?}");
    }
}

#[tokio::test]
async fn ending_a_transaction_exits_by_its_outcome() {
    for (outcome, run_or_commit, abort) in [
        (Outcome::Committed, 0, 1),
        (Outcome::Aborted, 4, 0),
        (Outcome::Mixed, 5, 5),
        (Outcome::Hazard, 5, 5),
        (Outcome::Unknown, 5, 5),
    ] {
        let fake = Fake { result: result(outcome), ..Fake::default() };
        for (arguments, code) in [
            (&["tx", "run", "--protocol", "2pc"][..], run_or_commit),
            (&["tx", "commit", XID], run_or_commit),
            (&["tx", "abort", XID], abort),
        ] {
            let said = run_against(&fake, arguments).await;
            assert_eq!(said.code, code, "{arguments:?} {said:?}");
            assert!(said.stdout.contains(XID) && said.stdout.contains("shop/stock"), "{said:?}");
            let said = run_against(&fake, &[arguments, &["-o", "json"]].concat()).await;
            assert_eq!(said.code, code);
            assert_eq!(
                (&said.json()["xid"], &said.json()["branches"][0]["reply"]),
                (&XID.into(), &"42".into())
            );
        }
    }
}

#[tokio::test]
async fn run_sends_what_was_typed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("payload");
    std::fs::write(&file, "from file").unwrap();
    let fake = Fake { result: result(Outcome::Committed), ..Fake::default() };
    let server = fake.start().await;
    let from_file = format!("b@http://b:7000=@{}", file.display());
    let mut child = assent(&["--server", &server, "tx", "run", "--protocol", "tcc", "--label", "checkout"])
        .args(["--timeout", "7s", "--request-id", "r1", "--wait", "decision"])
        .args(["--branch", "shop/stock={\"sku\":1}", "--branch", &from_file, "--branch", "c=-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"from stdin").await.unwrap();
    assert!(wait(&mut child).await.success());

    let sent = fake.run_requests();
    let [request] = sent.as_slice() else { panic!("{sent:?}") };
    assert_eq!(request.protocol(), Protocol::Tcc);
    assert_eq!(
        (request.label.as_str(), request.request_id.as_str(), request.timeout_ms),
        ("checkout", "r1", 7_000)
    );
    assert_eq!(request.wait(), assent_proto::v1::Wait::Decision);
    let branches: Vec<_> = request
        .branches
        .iter()
        .map(|branch| (branch.participant.as_str(), branch.endpoint.as_str(), &branch.payload[..]))
        .collect();
    assert_eq!(
        branches,
        [
            ("shop/stock", "", b"{\"sku\":1}".as_slice()),
            ("b", "http://b:7000", b"from file"),
            ("c", "", b"from stdin")
        ]
    );
}

#[tokio::test]
async fn steps_of_a_transaction_send_what_was_typed() {
    let fake = Fake { result: result(Outcome::Aborted), transaction: transaction(), ..Fake::default() };
    let said = run_against(&fake, &["tx", "begin", "--protocol", "2pc", "--timeout", "1m"]).await;
    assert_eq!((said.code, said.stdout), (0, format!("{}\n", fake::BEGUN_XID)));
    let branches = ["--branch", "a=x", "--branch", "b", "--vote", "read-only", "--protocol", "tcc"];
    let said = run_against(&fake, &[&["tx", "enlist", XID][..], &branches].concat()).await;
    assert_eq!((said.code, said.stdout.as_str()), (0, "1\n1\n"));
    for arguments in [
        &["tx", "abort", XID, "--reason", "changed my mind"][..],
        &["tx", "forget", XID, "--reason", "settled by hand"],
        &["tx", "resolve", XID, "2", "rolled-back", "--reason", "seen in the books"],
        &["tx", "retry", XID],
        &["tx", "show", "--request-id", "r1"],
    ] {
        let said = run_against(&fake, arguments).await;
        assert_eq!(said.code, 0, "{said:?}");
    }
    let seen = fake.seen();
    for expected in [
        "timeout_ms: 60000",
        "vote: ReadOnly",
        "inquires: false",
        "protocol: Tcc",
        "payload: b\"x\"",
        "reason: \"changed my mind\"",
        "reason: \"settled by hand\"",
        "resolution: RolledBack",
        "branch_id: \"2\"",
        "target: Some(Xid(",
        "key: Some(RequestId(\"r1\"))",
    ] {
        assert!(seen.iter().any(|request| request.contains(expected)), "{expected} is not in {seen:#?}");
    }
}

#[tokio::test]
async fn show_explains_and_escapes_what_others_wrote() {
    let fake = Fake { transaction: transaction(), ..Fake::default() };
    let said = run_against(&fake, &["tx", "show", XID]).await;
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    assert!(said.stdout.starts_with("decided: commit; waits for shop/payment, which was called 4 times"));
    assert!(said.stdout.contains("\\u{1b}[31mrefused"), "{}", said.stdout);
    assert!(!said.stdout.contains('\x1b'), "{}", said.stdout);

    let json = run_against(&fake, &["tx", "show", XID, "--output", "json"]).await.json();
    assert_eq!(json["protocol"], "two_phase");
    assert_eq!(json["state"], "committing");
    assert_eq!(json["branches"][0]["last_error"], "\x1b[31mrefused");
    assert_eq!(json["history"][0]["kind"], "begun");
    assert_eq!(json["end_time"], Value::Null);
}

#[tokio::test]
async fn list_reads_page_after_page_up_to_the_limit() {
    let fake = Fake { transaction: transaction(), total: 2_500, ..Fake::default() };
    let flags = ["--state", "committing,mixed", "--protocol", "tcc", "--label", "l", "--participant", "p"];
    let said = run_against(&fake, &[&["tx", "list", "--attention", "-o", "json"][..], &flags].concat()).await;
    assert_eq!(said.json()["transactions"].as_array().unwrap().len(), 100);
    assert_eq!(said.json()["more"], true);
    let seen = fake.seen();
    let filter =
        "states: [Committing, Mixed], protocol: Tcc, label: \"l\", participant: \"p\", needs_attention: true";
    assert!(seen[0].contains(filter), "{seen:?}");

    let said = run_against(&fake, &["tx", "list", "--limit", "5000", "-o", "json"]).await;
    assert_eq!(said.json()["transactions"].as_array().unwrap().len(), 2_500);
    assert_eq!(said.json()["more"], false);

    let said = run_against(&fake, &["tx", "list", "--limit", "2"]).await;
    assert_eq!(said.stdout.lines().count(), 3, "{}", said.stdout);
    assert!(fake.seen().last().unwrap().contains("page_size: 2,"), "{:?}", fake.seen());
    assert!(said.stdout.starts_with("XID ") && said.stderr.contains("--limit"), "{said:?}");
}

#[tokio::test]
async fn an_empty_list_says_so_beside_the_data() {
    let said = run_against(&Fake::default(), &["tx", "list"]).await;
    assert_eq!((said.code, said.stdout.as_str(), said.stderr.as_str()), (0, "", "no transaction matches\n"));
}

#[tokio::test]
async fn watching_one_transaction_ends_with_it_and_exits_by_its_outcome() {
    let ended =
        Transaction { state: State::Aborted.into(), outcome: Outcome::Aborted.into(), ..transaction() };
    let fake = Fake { transaction: transaction(), watched: vec![transaction(), ended], ..Fake::default() };
    let said = run_against(&fake, &["tx", "watch", XID]).await;
    assert_eq!((said.code, said.stdout.lines().count()), (4, 2), "{said:?}");
    let said = run_against(&fake, &["tx", "watch", XID, "-o", "json"]).await;
    let states: Vec<Value> = said
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["state"].clone())
        .collect();
    assert_eq!(states, ["committing", "aborted"]);

    let cut_off = Fake { watched: vec![transaction()], ..Fake::default() };
    assert_eq!(run_against(&cut_off, &["tx", "watch", XID]).await.code, 6);
}

#[tokio::test]
async fn health_tells_ready_alive_and_unreachable_apart() {
    let fake = Fake::default();
    let server = fake.start().await;
    let health = async |flag: &str| run(&["--server", &server, "health", flag]).await;
    assert_eq!(health("--live").await.code, 0);
    let said = health("--ready").await;
    assert_eq!((said.code, said.stdout.as_str()), (7, "not ready\n"));
    fake.set_ready().await;
    let said = health("--ready").await;
    assert_eq!((said.code, said.stdout.as_str()), (0, "ready\n"));
    let said = run(&["--server", &server, "-o", "json", "health"]).await;
    assert_eq!(said.json(), serde_json::json!({ "check": "ready", "serving": true }));
}

#[tokio::test]
async fn status_shows_server_and_participants() {
    let said = run_against(&Fake::default(), &["status"]).await;
    assert_eq!(said.code, 0);
    for expected in ["serving", "7 in 3 syncs", "shop/stock", "1 session", "paused"] {
        assert!(said.stdout.contains(expected), "{expected}: {}", said.stdout);
    }
    let json = run_against(&Fake::default(), &["status", "-o", "json"]).await.json();
    assert_eq!((&json["ready"], &json["participants"][0]["name"]), (&true.into(), &"shop/stock".into()));
}

#[tokio::test]
async fn nothing_is_coloured_when_it_is_not_a_terminal() {
    let fake =
        Fake { transaction: transaction(), total: 1, result: result(Outcome::Mixed), ..Fake::default() };
    for arguments in
        [&["tx", "list"][..], &["tx", "show", XID], &["tx", "commit", XID], &["status"], &["nonsense"]]
    {
        let said = run_against(&fake, arguments).await;
        assert!(!said.stdout.contains('\x1b') && !said.stderr.contains('\x1b'), "{said:?}");
    }
}

#[tokio::test]
async fn completions_are_printed_for_each_shell() {
    for (shell, mark) in [("bash", "complete -F"), ("zsh", "#compdef assent"), ("fish", "complete -c assent")]
    {
        let said = run(&["completions", shell]).await;
        assert_eq!(said.code, 0);
        assert!(said.stdout.contains(mark) && said.stdout.contains("enlist"), "{shell}");
    }
}

#[tokio::test]
async fn config_init_is_checked_and_shown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("assent.toml");
    let path = path.to_str().unwrap();
    std::fs::write(path, run(&["config", "init"]).await.stdout).unwrap();
    let said = run(&["config", "check", path]).await;
    assert_eq!((said.code, said.stdout), (0, format!("{path}: valid\n")));

    std::fs::write(path, "[limits]\nmax_branches = 5\nmax_active = 5\n").unwrap();
    let mut show = assent(&["--config", path, "config", "show", "--origin", "--set", "log.format=json"]);
    let said = finish(show.env("ASSENT_LIMITS__MAX_ACTIVE", "6")).await;
    assert_eq!(said.code, 0, "{said:?}");
    for line in [
        "format = \"json\"  # flag --set log.format",
        "max_active = 6  # environment ASSENT_LIMITS__MAX_ACTIVE",
        &format!("max_branches = 5  # file {path}"),
        "filter = \"info\"  # default",
    ] {
        assert!(said.stdout.contains(&format!("\n{line}\n")), "{line}: {}", said.stdout);
    }
    let mut show = assent(&["config", "show", "--origin", "-o", "json"]);
    let json = finish(show.env("ASSENT_CONFIG", path)).await.json();
    assert_eq!(json["limits.max_branches"]["value"], 5);
    assert_eq!(json["limits.max_branches"]["origin"], format!("file {path}"));
}

#[tokio::test]
async fn wrong_configuration_exits_with_1_and_names_the_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("assent.toml");
    let path = path.to_str().unwrap();
    std::fs::write(path, "[storage]\ndata_dri = \"/x\"\n").unwrap();
    for arguments in
        [&["config", "check", path][..], &["config", "show", "--config", path], &["serve", "--config", path]]
    {
        let said = run(arguments).await;
        assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{said:?}");
        let expected = format!(
            "error: unknown setting `storage.data_dri` (file {path}); did you mean `storage.data_dir`?\nhint: "
        );
        assert!(said.stderr.starts_with(&expected), "{said:?}");
    }
    assert_eq!(run(&["--config", "/nonexistent", "config", "check"]).await.code, 1);
}

#[tokio::test]
async fn serve_dev_says_where_it_is_drains_on_sigterm_and_leaves_nothing_behind() {
    let mut child = assent(&["serve", "--dev"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line =
        async || tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    let address = line().await;
    assert!(address.starts_with("listening on http://127.0.0.1:") && !address.ends_with(":0"), "{address}");
    let data = line().await;
    let data = data.strip_prefix("data in ").and_then(|rest| rest.strip_suffix(", removed at exit")).unwrap();
    assert!(Path::new(data).is_dir(), "{data}");

    let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(wait(&mut child).await.code(), Some(0));
    assert!(!Path::new(data).exists(), "{data}");
}

#[tokio::test]
async fn serve_refuses_an_address_that_is_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = run(&["serve", "--dev", "--listen", &address]).await;
    assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{said:?}");
    assert!(said.stderr.contains(&format!("error: cannot listen on {address}: ")), "{said:?}");
}

async fn wait(child: &mut tokio::process::Child) -> ExitStatus {
    tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap()
}
