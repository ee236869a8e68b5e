//! Runs the kit, and reads its report.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

/// No check here takes anywhere near as long.
const PATIENCE: Duration = Duration::from_mins(4);

/// How the kit ended, and what it said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// The binary, with an environment that says nothing of assent.
pub fn assent(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_assent"));
    for (variable, _) in std::env::vars().filter(|(variable, _)| variable.starts_with("ASSENT_")) {
        command.env_remove(variable);
    }
    command.args(["participant", "check"]).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

pub async fn check(arguments: &[&str]) -> Said {
    let output = tokio::time::timeout(PATIENCE, assent(arguments).output()).await.unwrap().unwrap();
    Said {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Said {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The names of the rules with this result, each with its reason.
    pub fn rules(&self, result: &str) -> Vec<(String, String)> {
        let report = self.json();
        let rules = report["rules"].as_array().unwrap().iter();
        let chosen = rules.filter(|rule| rule["result"] == result);
        chosen
            .map(|rule| {
                let reason = rule["reason"].as_str().unwrap_or_default().to_owned();
                (rule["name"].as_str().unwrap().to_owned(), reason)
            })
            .collect()
    }

    pub fn names(&self, result: &str) -> Vec<String> {
        self.rules(result).into_iter().map(|(name, _)| name).collect()
    }

    /// Nothing failed, these were not run, and the rest passed.
    pub fn assert_passed_but_for(&self, not_run: &[&str]) {
        assert_eq!((self.rules("failed"), self.code), (Vec::new(), 0), "{}", self.stderr);
        assert_eq!(self.names("not_run"), not_run, "{:?}", self.rules("not_run"));
        assert!(self.names("passed").len() > 15, "{}", self.stdout);
        assert_eq!(self.json()["left_open"], Value::Array(Vec::new()));
    }
}
