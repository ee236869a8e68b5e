//! `assent log`: looking at a log without a daemon, and what a repaired one may claim.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "log/book.rs"]
mod book;
#[path = "log/looking.rs"]
mod looking;
#[path = "log/repairing.rs"]
mod repairing;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// How a command ended, and what it said.
#[derive(Debug)]
struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The binary, with an environment that says nothing of assent.
fn assent(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_assent"));
    for (variable, _) in std::env::vars().filter(|(variable, _)| variable.starts_with("ASSENT_")) {
        command.env_remove(variable);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// `assent log COMMAND --data-dir DIR …`
fn log(command: &str, dir: &Path, more: &[&str]) -> Said {
    let dir = dir.to_str().unwrap();
    let output = assent(&[&["log", command, "--data-dir", dir], more].concat()).output().unwrap();
    Said {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Every byte of every file below a directory.
fn bytes(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.insert(path.clone(), Vec::new());
            files.extend(bytes(&path));
        } else {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    files
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    // The witness first: it must not know of more than the log that is copied after it.
    let mut entries: Vec<_> = fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort_by_key(|path| path.is_dir());
    for path in entries {
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}
