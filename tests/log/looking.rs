//! What can be seen of a log, and that looking changes nothing.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use assent::core::Operation;
use serde_json::Value;

use crate::book::Book;
use crate::{assent, bytes, copy_dir, log};

#[test]
fn a_sound_log_is_told_so_and_not_a_byte_of_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let mut book = Book::open(dir.path());
    let (open, ended) = (book.begin(), book.begin());
    book.commit(ended);
    book.done(ended, Operation::Commit);
    // As a kill leaves it, with a part of sled's work still to be done.
    let crashed = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), crashed.path());
    let cluster = book.opened.cluster.to_string();
    book.close();
    for dir in [dir.path(), crashed.path()] {
        let before = bytes(dir);
        let verified = log("verify", dir, &["--output", "json"]);
        assert_eq!(verified.code, 0, "{verified:?}");
        let told = verified.json();
        assert_eq!((&told["sound"], &told["transactions"]), (&true.into(), &2.into()), "{told:#}");
        assert_eq!((&told["cluster_id"], &told["damage"]), (&cluster.as_str().into(), &Value::Array(vec![])));
        assert_eq!(told["records"], 3 + 6);
        assert!(log("verify", dir, &[]).stdout.contains("sound"));

        let told = log("stat", dir, &["--output", "json"]).json();
        assert_eq!(told["states"], serde_json::json!({ "active": 1, "committed": 1 }), "{told:#}");
        assert_eq!((&told["epoch"], &told["oldest"]["xid"]), (&1.into(), &open.to_string().into()));
        assert!(told["bytes_in_force"].as_u64().unwrap() > 100);
        assert_eq!(told["witness"]["durable"], told["groups"]["last"]);
        let table = log("stat", dir, &[]);
        assert!(table.stdout.contains("1 committed") && table.code == 0, "{table:?}");

        let exported = log("export", dir, &[]);
        let lines: Vec<Value> =
            exported.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[0]["xid"], &lines[0]["state"]), (&open.to_string().into(), &"active".into()));
        assert_eq!(lines[1]["history"][3]["kind"], "decided");
        let one = log("export", dir, &["--xid", &ended.to_string()]);
        assert_eq!(serde_json::from_str::<Value>(&one.stdout).unwrap(), lines[1]);
        let none = log("export", dir, &["--xid", "018bcfe5-6800-8000-8000-004000000000"]);
        assert_eq!((none.code, none.stdout.as_str()), (3, ""));
        assert!(bytes(dir) == before, "something was changed");
    }
    // It opens as it would have.
    assert_eq!(Book::open(crashed.path()).opened.epoch.0, 2);
}

#[test]
fn a_log_that_somebody_has_is_refused_and_that_process_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let book = Book::open(dir.path());
    let pid = std::process::id().to_string();
    for (command, more) in [("verify", &[][..]), ("stat", &[]), ("export", &[]), ("repair", &["--dry-run"])] {
        let said = log(command, dir.path(), more);
        assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{said:?}");
        assert!(said.stderr.contains(&format!("process {pid}")), "{said:?}");
    }
    book.close();
    assert_eq!(log("verify", dir.path(), &[]).code, 0);
}

#[test]
fn where_there_is_no_log_none_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().join("nowhere");
    for place in [dir.path(), nowhere.as_path()] {
        for command in ["verify", "stat", "export"] {
            let said = log(command, place, &[]);
            assert_eq!((said.code, said.stdout.as_str()), (3, ""), "{said:?}");
            assert!(said.stderr.contains("there is no log in"), "{said:?}");
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_damaged_log_is_told_with_what_is_wrong_and_printed_only_when_that_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let mut book = Book::open(dir.path());
    let first = book.begin();
    let old = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), old.path());
    let second = book.begin();
    book.close();
    fs::remove_dir_all(dir.path().join("sled")).unwrap();
    copy_dir(&old.path().join("sled"), &dir.path().join("sled"));
    let before = bytes(dir.path());
    for (command, says) in [("verify", "damaged"), ("stat", "damaged")] {
        let said = log(command, dir.path(), &[]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stdout.contains(says) && said.stderr.contains("the log lost its end"), "{said:?}");
        assert!(said.stderr.contains("hint:") && said.stderr.contains("assent log repair"), "{said:?}");
    }
    let told = log("verify", dir.path(), &["--output", "json"]).json();
    assert_eq!(told["sound"], false);
    assert!(told["damage"][0].as_str().unwrap().contains("witness file knows"), "{told:#}");
    let refused = log("export", dir.path(), &[]);
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
    let salvaged = log("export", dir.path(), &["--salvage"]);
    assert_eq!(salvaged.code, 1);
    assert!(salvaged.stdout.contains(&first.to_string()) && !salvaged.stdout.contains(&second.to_string()));
    assert!(salvaged.stderr.contains("damage: the log ends with group"), "{salvaged:?}");
    assert!(bytes(dir.path()) == before, "something was changed");
}

#[test]
fn whoever_reads_only_the_first_line_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut book = Book::open(dir.path());
    for _ in 0..500 {
        book.begin();
    }
    book.close();
    let mut child = assent(&["log", "export", "--data-dir", dir.path().to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("\"xid\""), "{line}");
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn a_signal_leaves_no_copy_behind() {
    let (dir, room) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // It is waited for whoever writes into this.
    assert!(Command::new("mkfifo").arg(dir.path().join("witness")).status().unwrap().success());
    let mut child = assent(&["log", "verify", "--data-dir", dir.path().to_str().unwrap()])
        .env("TMPDIR", room.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let copies = || fs::read_dir(room.path()).unwrap().count();
    let patience = Instant::now() + Duration::from_secs(20);
    while copies() == 0 {
        assert!(Instant::now() < patience, "nothing is copied");
        thread::sleep(Duration::from_millis(5));
    }
    // The directory comes just before the signals are seen to.
    thread::sleep(Duration::from_millis(300));
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < patience, "it goes on");
        thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("ended by SIGTERM"));
    assert_eq!(copies(), 0);
}
