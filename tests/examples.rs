//! The examples of the SDK, run as people run them, against the real coordinator.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "daemon/coordinator.rs"]
#[expect(dead_code, reason = "these tests need a part of what those of the daemon do")]
mod coordinator;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use assent_sdk::throwaway::Server;
use serde_json::Value;

use crate::coordinator::Coordinator;

/// An example takes some seconds, and longer where it has to start database servers.
const PATIENCE: Duration = Duration::from_mins(3);

/// All of them, by name. Cargo builds what is not built yet: whoever runs these tests alone has not asked for examples.
static EXAMPLES: LazyLock<HashMap<String, PathBuf>> = LazyLock::new(|| {
    // With the same choice as in `cargo test --workspace --all-features`, there is nothing left to build after that.
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--workspace", "--all-features", "--examples"]);
    cargo.args(["--message-format", "json-render-diagnostics", "--target-dir"]);
    cargo.arg(Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap());
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).stderr(Stdio::inherit()).output().unwrap();
    assert!(built.status.success(), "the examples are not built: {}", built.status);
    let messages = String::from_utf8(built.stdout).unwrap();
    let messages = messages.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let examples = messages.filter(|message| message["target"]["kind"] == serde_json::json!(["example"]));
    examples
        .filter_map(|message| {
            let executable = message["executable"].as_str()?.into();
            Some((message["target"]["name"].as_str()?.to_owned(), executable))
        })
        .collect()
});

/// What a run of an example came to.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn last_line(&self) -> &str {
        self.stdout.lines().last().unwrap_or_default()
    }

    fn count(&self, part: &str) -> usize {
        self.stdout.lines().filter(|line| line.contains(part)).count()
    }

    #[track_caller]
    fn assert_added_up(&self, last_line: &str) {
        assert_eq!((self.code, self.last_line()), (Some(0), last_line), "{self:?}");
    }

    /// It placed its three orders of different kinds, and nine more, of which each third is refused.
    #[track_caller]
    fn assert_orders_added_up(&self) {
        self.assert_added_up(
            "it adds up: 7 orders confirmed, 21 pieces sold, 63 coins captured, nothing held",
        );
        let aborted = [self.count(": aborted: shop/stock"), self.count("(branch 3) refused: ")];
        assert_eq!((self.count(": committed"), aborted), (7, [4, 1]), "{self:?}");
    }
}

async fn run(example: &str, arguments: &[&str]) -> Ran {
    let mut command = tokio::process::Command::new(&EXAMPLES[example]);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").unwrap();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

async fn order(coordinator: &Coordinator, arguments: &[&str]) -> Ran {
    let orders = ["--coordinator", &coordinator.url(), "--orders", "9", "--quantity", "3"];
    run("order", &[&orders, arguments].concat()).await
}

#[tokio::test]
async fn orders_by_tcc_add_up_though_the_partner_fails() {
    let coordinator = Coordinator::start(&[]);
    let ran = order(&coordinator, &["--protocol", "tcc", "--partner-fails", "40"]).await;
    ran.assert_orders_added_up();
    assert_eq!(ran.count("aborted: shop/payment (branch 3) refused: declined"), 1, "{ran:?}");
    assert_eq!((ran.count("the payment partner was called"), ran.count("failed 0 of")), (1, 0), "{ran:?}");
}

#[tokio::test]
async fn mixed_orders_add_up_though_the_partner_answers_too_late() {
    let coordinator = Coordinator::start(&[]);
    // After a second it is not waited for: so does one call in six end, and what it did is done.
    let late = ["--protocol", "mixed", "--partner-fails", "0", "--partner-delay", "1200ms"];
    let ran = order(&coordinator, &late).await;
    ran.assert_orders_added_up();
    assert_eq!(ran.count("aborted: shop/payment (branch 3) refused: declined"), 1, "{ran:?}");
}

#[tokio::test]
async fn orders_by_2pc_add_up_without_the_partner() {
    let coordinator = Coordinator::start(&[]);
    let ran = order(&coordinator, &["--protocol", "2pc"]).await;
    ran.assert_orders_added_up();
    assert_eq!(ran.count("aborted: shop/credit (branch 3) refused"), 1, "{ran:?}");
    assert_eq!(ran.count("the payment partner was called"), 0, "{ran:?}");
}

#[tokio::test]
async fn transfers_move_money_and_lose_none() {
    let coordinator = Coordinator::start(&[]);
    let ran = run("transfer", &["--coordinator", &coordinator.url()]).await;
    ran.assert_added_up("it adds up: north has 60 coins, south has 540, and together they had 600");
    assert_eq!(ran.count(": 40 coins from north to south"), 6, "{ran:?}");
    assert_eq!(ran.count(": nothing moved: bank/north (branch 1) refused: "), 3, "{ran:?}");
}

#[tokio::test]
async fn databases_that_are_named_are_used_again_and_again() {
    let coordinator = Coordinator::start(&[]);
    let (postgres, maria_db) = (Server::postgres(&[]).unwrap(), Server::maria_db(&[]).unwrap());
    let (postgres, maria_db) = (postgres.url(), maria_db.url());
    for protocol in ["tcc", "2pc", "mixed", "tcc"] {
        let databases = ["--postgres", &postgres, "--mysql", &maria_db, "--protocol", protocol];
        let ran = order(&coordinator, &databases).await;
        ran.assert_orders_added_up();
        assert_eq!(ran.count("starting"), 0, "{ran:?}");
    }
    for (south, together) in [(540, 600), (300, 360)] {
        let ran = run("transfer", &["--coordinator", &coordinator.url(), "--north", &postgres]).await;
        let sums = format!("north has 60 coins, south has {south}, and together they had {together}");
        ran.assert_added_up(&format!("it adds up: {sums}"));
    }
}

#[tokio::test]
async fn the_stock_example_sells_what_there_is() {
    let coordinator = Coordinator::start(&[]);
    let ran = run("stock", &[&coordinator.url()]).await;
    ran.assert_added_up("2 apples: shop/stock (branch 1) refused: not 2 apple left");
}

#[tokio::test]
async fn without_arguments_an_example_says_what_it_needs() {
    for example in ["order", "transfer"] {
        let (bare, help) = (run(example, &[]).await, run(example, &["--help"]).await);
        assert_eq!((bare.code, help.code), (Some(2), Some(0)), "{bare:?}, {help:?}");
        for said in [bare.stderr, help.stdout] {
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            for part in [
                "--coordinator <http://HOST:PORT>",
                "needs a coordinator; `assent serve --dev`",
                "postgresql",
            ] {
                assert!(said.contains(part), "{part}: {said}");
            }
        }
    }
}

#[tokio::test]
async fn wrong_usage_is_told_with_what_would_be_right() {
    let nobody = "http://127.0.0.1:1";
    let coordinator = Coordinator::start(&[]);
    let here = &coordinator.url();
    let no_database = "postgres://127.0.0.1:1/shop";
    for (example, arguments, code, said) in [
        ("order", &["--protocol", "tcc"][..], 2, "--coordinator <http://HOST:PORT>"),
        ("order", &["--coordinator", nobody], 2, "--protocol <PROTOCOL>"),
        ("order", &["--coordinator", nobody, "--protocol", "3pc"], 2, "[possible values: tcc, 2pc, mixed]"),
        ("order", &["--coordinator", nobody, "--protocol", "tcc", "--partner-fails", "51"], 2, "0..=50"),
        (
            "order",
            &["--coordinator", nobody, "--protocol", "tcc", "--partner-delay", "1"],
            2,
            "time unit needed",
        ),
        ("order", &["--coordinator", "here", "--protocol", "tcc"], 1, "one looks like http://127.0.0.1:7420"),
        (
            "order",
            &["--coordinator", nobody, "--protocol", "tcc"],
            1,
            "hint: `assent serve --dev` starts one",
        ),
        ("order", &["--coordinator", here, "--protocol", "tcc", "--postgres", no_database], 1, "--postgres"),
        ("transfer", &["--north", no_database], 2, "--coordinator <http://HOST:PORT>"),
        ("transfer", &["--coordinator", nobody], 1, "hint: `assent serve --dev` starts one"),
        ("transfer", &["--coordinator", here, "--north", no_database], 1, "--north"),
    ] {
        let ran = run(example, arguments).await;
        assert_eq!(ran.code, Some(code), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.starts_with("error: ") && ran.stderr.contains(said), "{arguments:?}: {ran:?}");
    }
}

#[tokio::test]
async fn the_commands_in_the_readme_run() {
    let read = |path| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let manifest: toml::Table = read("participant-sdk/Cargo.toml").parse().unwrap();
    let coordinator = Coordinator::start(&[]);
    let readme = read("README.md");
    let commands = readme.split(['\n', '`']).filter(|part| part.starts_with("cargo run -p assent-sdk "));
    let mut seen = Vec::new();
    for command in commands {
        let command = command.replace("URL", &coordinator.url());
        let words: Vec<_> = command.split_whitespace().collect();
        let [
            "cargo",
            "run",
            "-p",
            "assent-sdk",
            "--features",
            features,
            "--example",
            example,
            "--",
            arguments @ ..,
        ] = &words[..]
        else {
            panic!("{command}");
        };
        let entries = manifest["example"].as_array().unwrap();
        let entry = entries.iter().find(|entry| entry["name"].as_str() == Some(example)).unwrap();
        for wanted in entry["required-features"].as_array().unwrap() {
            assert!(
                features.split(',').any(|feature| Some(feature) == wanted.as_str()),
                "{command}: {wanted}"
            );
        }
        let ran = run(example, arguments).await;
        assert_eq!(ran.code, Some(0), "{command}: {ran:?}");
        seen.push((*example).to_owned());
    }
    seen.sort();
    assert_eq!(seen, ["order", "stock", "transfer"]);
}
