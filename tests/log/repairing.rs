//! A repaired log contradicts nothing that was acknowledged before.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown, symlink};
use std::path::Path;

use assent::core::{InquiryAnswer, LogWrite, Operation, Request, TxId};
use assent::store::{OpenError, SledLog, SledOptions};
use serde_json::Value;
use tempfile::TempDir;

use crate::book::Book;
use crate::{Said, bytes, copy_dir, log};

/// What was decided, as far as the whole log knew.
#[derive(Default)]
struct Truth {
    all: BTreeSet<TxId>,
    committed: BTreeSet<TxId>,
    aborted: BTreeSet<TxId>,
}

/// A log of two lives, what it was after each step, and what is true in the end.
fn history() -> (TempDir, Vec<TempDir>, Truth) {
    let (dir, mut steps, mut truth) = (tempfile::tempdir().unwrap(), Vec::new(), Truth::default());
    for _life in 0..2 {
        let mut book = Book::open(dir.path());
        book.resume();
        for n in 0..6 {
            let tx = book.begin();
            truth.all.insert(tx);
            steps.push(copy(dir.path()));
            book.enlist(tx);
            steps.push(copy(dir.path()));
            if n % 3 == 2 {
                book.abort(tx);
                truth.aborted.insert(tx);
            } else {
                book.commit(tx);
                truth.committed.insert(tx);
            }
            steps.push(copy(dir.path()));
            if n % 2 == 1 {
                book.done(tx, if n % 3 == 2 { Operation::Rollback } else { Operation::Commit });
                steps.push(copy(dir.path()));
            }
        }
        book.close();
    }
    (dir, steps, truth)
}

#[test]
fn repair_after_any_lost_end_contradicts_nothing_that_was_acknowledged() {
    let (whole, steps, truth) = history();
    let mut kept = BTreeSet::new();
    // The last of them is whole.
    for step in &steps[..steps.len() - 1] {
        let dir = lost_end(&whole, step);
        let told = repair(&dir).json();
        kept.insert(told["kept"].as_u64().unwrap());
        let mut book = Book::open(dir.path());
        let beyond = truth.all.iter().map(|tx| tx.epoch().0 + 1000).max().unwrap();
        assert!(book.opened.epoch.0 > beyond, "participants would take its ids for old ones");
        for (tx, operation) in book.resume() {
            let right = if truth.committed.contains(&tx) { Operation::Commit } else { Operation::Rollback };
            assert_eq!(operation, right, "{tx}");
        }
        for &tx in &truth.all {
            for branch in ["1", "2", "3"] {
                let told = book.ask(tx, branch);
                let wrong = match told {
                    InquiryAnswer::Commit => !truth.committed.contains(&tx),
                    // The third was never enlisted.
                    InquiryAnswer::Abort => !truth.aborted.contains(&tx) && branch != "3",
                    InquiryAnswer::Pending | InquiryAnswer::Foreign => false,
                };
                assert!(!wrong, "branch {branch} of {tx} is told {told:?}");
            }
        }
        let known = book.begin();
        assert!(truth.all.iter().all(|tx| tx.order() < known.order()));
        book.close();
        assert_eq!(log("verify", dir.path(), &[]).code, 0);
    }
    assert!(kept.len() >= 6, "too few different logs: {kept:?}");
}

#[test]
fn what_is_in_doubt_waits_for_an_operator_who_decides() {
    let (whole, steps, truth) = history();
    let first = *truth.all.first().unwrap();
    // It is enlisted and prepared here, and committed in the part that is lost.
    let dir = lost_end(&whole, &steps[0]);
    let before = bytes(dir.path());
    let backup = tempfile::tempdir().unwrap();
    let backup = backup.path().join("before");
    let said = log(
        "repair",
        dir.path(),
        &["--backup", backup.to_str().unwrap(), "--reason", "the disk lies", "--output", "json"],
    );
    assert_eq!(said.code, 0, "{said:?}");
    let told = said.json();
    assert_eq!(told["in_doubt"], serde_json::json!([first.to_string()]));
    assert!(said.stderr.contains("assent tx list --attention"), "{said:?}");
    for (path, content) in &before {
        let copied = backup.join(path.strip_prefix(dir.path()).unwrap());
        assert!(content.is_empty() || fs::read(&copied).unwrap() == *content, "{}", copied.display());
    }
    let line = fs::read_to_string(dir.path().join("repairs.log")).unwrap();
    let noted: Value = serde_json::from_str(line.trim_end()).unwrap();
    assert_eq!((&noted, &noted["reason"]), (&told, &"the disk lies".into()));

    let mut book = Book::open(dir.path());
    assert!(book.resume().is_empty());
    assert_eq!(book.ask(first, "1"), InquiryAnswer::Pending);
    let transaction = book.engine.get(first).unwrap().into_owned();
    assert!(transaction.reason.contains("the disk lies"), "{}", transaction.reason);
    book.resolve(first, true);
    assert_eq!(book.ask(first, "1"), InquiryAnswer::Commit);
    // It was enlisted in the part that is lost.
    assert_eq!(book.ask(first, "2"), InquiryAnswer::Foreign);
    book.close();
}

#[test]
fn lost_or_damaged_witness_leaves_the_end_in_doubt() {
    let (whole, _, truth) = history();
    for damage in [lose_witness, spoil_witness] {
        let dir = copy(whole.path());
        let mut book = Book::open(dir.path());
        book.resume();
        let open = book.begin();
        book.close();
        damage(dir.path());
        assert_eq!(log("verify", dir.path(), &[]).code, 1);
        let told = repair(&dir).json();
        assert_eq!(told["in_doubt"], serde_json::json!([open.to_string()]));
        let mut book = Book::open(dir.path());
        assert_eq!(book.ask(open, "1"), InquiryAnswer::Pending);
        assert!(truth.committed.iter().all(|tx| book.ask(*tx, "1") == InquiryAnswer::Commit));
    }
}

fn lose_witness(dir: &Path) {
    fs::remove_file(dir.join("witness")).unwrap();
}

fn spoil_witness(dir: &Path) {
    fs::write(dir.join("witness"), vec![0; 5000]).unwrap();
}

#[test]
fn a_lost_log_is_repaired_to_one_that_presumes_nothing() {
    let (whole, _, truth) = history();
    fs::remove_dir_all(whole.path().join("sled")).unwrap();
    let told = repair(&whole).json();
    assert_eq!(told["kept"], 0);
    let mut book = Book::open(whole.path());
    assert_eq!(book.opened.cluster.to_string(), told["cluster_id"].as_str().unwrap());
    for tx in truth.all {
        assert_eq!(book.ask(tx, "1"), InquiryAnswer::Foreign);
    }
}

#[test]
fn a_repair_that_must_not_be_changes_nothing() {
    let (whole, steps, _) = history();
    let dir = lost_end(&whole, &steps[4]);
    let before = bytes(dir.path());
    let backup = tempfile::tempdir().unwrap();
    let [taken, inside] = [backup.path().to_owned(), dir.path().join("backup")];
    let dry = log("repair", dir.path(), &["--dry-run"]);
    assert_eq!(dry.code, 0, "{dry:?}");
    assert!(dry.stdout.contains("in doubt") && dry.stderr.contains("nothing was changed"), "{dry:?}");
    for place in [taken, inside] {
        let said = log("repair", dir.path(), &["--backup", place.to_str().unwrap(), "--reason", "why"]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains("cannot back up to"), "{said:?}");
    }
    for more in [&["--reason", "why"][..], &["--backup", "x"], &[]] {
        assert_eq!(log("repair", dir.path(), more).code, 2);
    }
    assert!(bytes(dir.path()) == before, "something was changed");
    // A sound log stays as it is, too.
    let before = bytes(whole.path());
    let said = log("repair", whole.path(), &["--backup", "/nonexistent/x", "--reason", "why"]);
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("there is nothing to repair"), "{said:?}");
    assert!(bytes(whole.path()) == before);
}

/// The process ends between the renames: no daemon starts, least of all on an empty log, and the next repair finishes.
#[test]
fn a_repair_that_is_cut_off_leaves_what_no_daemon_takes() {
    let (whole, steps, _) = history();
    let damaged = lost_end(&whole, &steps[20]);
    let repaired = copy(damaged.path());
    repair(&repaired);
    let between = copy(damaged.path());
    let new = between.path().join("repair.new");
    fs::copy(repaired.path().join("witness"), between.path().join("witness")).unwrap();
    assert!(refused(between.path()));
    copy_dir(&repaired.path().join("sled"), &new.join("sled"));
    fs::write(new.join("repairs.log"), "{\"reason\":\"the first\"}\n").unwrap();
    let after_first = copy(between.path());
    fs::rename(between.path().join("sled"), new.join("sled.old")).unwrap();
    for dir in [after_first.path(), between.path()] {
        assert!(refused(dir));
        let before = bytes(dir);
        for (command, more) in [("verify", &[][..]), ("stat", &[]), ("repair", &["--dry-run"])] {
            let said = log(command, dir, more);
            assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{said:?}");
            assert!(said.stderr.contains("was interrupted, and no daemon starts"), "{said:?}");
        }
        assert!(bytes(dir) == before, "something was changed");
        // Its last line was cut off.
        fs::write(dir.join("repairs.log"), "{}").unwrap();
        let said = log("repair", dir, &["--backup", "/nonexistent/x", "--reason", "again"]);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.stderr.contains("is finished"), "{said:?}");
        let notes = fs::read_to_string(dir.join("repairs.log")).unwrap();
        assert_eq!(notes, "{}\n{\"reason\":\"the first\"}\n");
        assert!(!dir.join("repair.new").exists());
        assert_eq!(log("verify", dir, &[]).code, 0);
        Book::open(dir).close();
    }
}

#[test]
fn a_repair_that_cannot_be_finished_says_what_to_put_back() {
    let (whole, steps, _) = history();
    let dir = lost_end(&whole, &steps[20]);
    fs::create_dir(dir.path().join("repair.new")).unwrap();
    fs::rename(dir.path().join("sled"), dir.path().join("repair.new/sled.old")).unwrap();
    assert!(refused(dir.path()));
    let backup = tempfile::tempdir().unwrap();
    let backup = backup.path().join("b");
    let again = ["--backup", backup.to_str().unwrap(), "--reason", "again"];
    for (command, more) in [("verify", &[][..]), ("repair", &again)] {
        let said = log(command, dir.path(), more);
        assert_eq!(said.code, 1);
        assert!(said.stderr.contains("move repair.new/sled.old to sled"), "{said:?}");
    }
    assert!(!backup.exists());
}

#[test]
fn what_a_finished_repair_left_is_removed_by_the_next_start() {
    let (whole, steps, _) = history();
    let dir = lost_end(&whole, &steps[4]);
    repair(&dir);
    let new = dir.path().join("repair.new");
    fs::create_dir_all(new.join("sled.old")).unwrap();
    fs::write(new.join("repairs.log"), "{}\n").unwrap();
    Book::open(dir.path()).close();
    assert!(!new.exists());
    assert_eq!(fs::read_to_string(dir.path().join("repairs.log")).unwrap().lines().count(), 2);
}

/// Where the test may give files away.
#[test]
fn a_repaired_log_belongs_to_whom_the_directory_does() {
    let (whole, steps, _) = history();
    let dir = lost_end(&whole, &steps[4]);
    fs::remove_file(dir.path().join("LOCK")).unwrap();
    if chown(dir.path(), Some(54_321), Some(54_322)).is_err() {
        return;
    }
    repair(&dir);
    for path in bytes(dir.path()).keys() {
        let file = fs::metadata(path).unwrap();
        assert_eq!((file.uid(), file.gid()), (54_321, 54_322), "{}", path.display());
    }
}

#[test]
fn a_backup_within_the_data_directory_is_seen_through_links() {
    let (whole, steps, _) = history();
    let dir = lost_end(&whole, &steps[4]);
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("link");
    symlink(dir.path(), &link).unwrap();
    for (data, backup) in [(dir.path(), link.join("b")), (&link, dir.path().join("b"))] {
        let said = log("repair", data, &["--backup", backup.to_str().unwrap(), "--reason", "why"]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains("it lies in the data directory"), "{said:?}");
    }
    // What lies on another disk is read and backed up as well.
    fs::rename(dir.path().join("sled"), elsewhere.path().join("sled")).unwrap();
    symlink(elsewhere.path().join("sled"), dir.path().join("sled")).unwrap();
    fs::rename(dir.path().join("sled/db"), elsewhere.path().join("db")).unwrap();
    symlink(elsewhere.path().join("db"), dir.path().join("sled/db")).unwrap();
    let backup = elsewhere.path().join("b");
    let said = log("repair", dir.path(), &["--backup", backup.to_str().unwrap(), "--reason", "why"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(fs::read(backup.join("sled/db")).unwrap(), fs::read(elsewhere.path().join("db")).unwrap());
    assert_eq!(log("verify", dir.path(), &[]).code, 0);
}

#[test]
fn a_reason_says_something() {
    let (whole, steps, _) = history();
    let dir = lost_end(&whole, &steps[4]);
    for reason in [" ", &"x".repeat(2000)] {
        let said = log("repair", dir.path(), &["--backup", "/nonexistent/x", "--reason", reason]);
        assert_eq!(said.code, 2, "{said:?}");
        assert!(said.stderr.contains("--reason"), "{said:?}");
    }
}

#[test]
fn a_refused_start_names_the_command_that_says_more() {
    let (whole, steps, _) = history();
    let dir = lost_end(&whole, &steps[4]);
    let dir = dir.path().to_str().unwrap();
    let output = crate::assent(&["serve", "--listen", "127.0.0.1:0", "--data-dir", dir]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(&format!("`assent log verify --data-dir {dir}`")), "{said}");
}

/// The first was ended and removed before its request began the second, and the part that says so is lost.
#[test]
fn of_one_request_only_the_last_transaction_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let request = Request { id: "order-1".parse().unwrap(), fingerprint: [7; 16] };
    let mut book = Book::open(dir.path());
    let removed = book.begin_for(Some(request.clone()));
    book.commit(removed);
    book.done(removed, Operation::Commit);
    let value = book.value(removed);
    book.write(LogWrite::Remove { tx: removed });
    book.close();
    let mut book = Book::open(dir.path());
    let later = book.begin_for(Some(request));
    book.write(LogWrite::Put { tx: removed, value });
    book.close();
    let verified = log("verify", dir.path(), &[]);
    assert_eq!(verified.code, 1, "{verified:?}");
    let problem = format!("transaction {removed}: its request began {later} too");
    assert!(verified.stdout.contains(&problem), "{verified:?}");
    let told = repair(&dir).json();
    assert_eq!(told["dropped"][0]["xid"], removed.to_string(), "{told:#}");
    assert!(told["dropped"][0]["reason"].as_str().unwrap().starts_with("it had been removed"), "{told:#}");
    let mut book = Book::open(dir.path());
    assert_eq!(book.ask(removed, "1"), InquiryAnswer::Foreign);
    assert_eq!(book.ask(later, "1"), InquiryAnswer::Pending);
}

/// One without a lock file, as backups may be.
#[test]
fn a_copy_is_repaired_too() {
    let (whole, steps, _) = history();
    let dir = lost_end(&whole, &steps[4]);
    fs::remove_file(dir.path().join("LOCK")).unwrap();
    assert_eq!(log("verify", dir.path(), &[]).code, 1);
    assert!(!dir.path().join("LOCK").exists());
    repair(&dir);
    assert_eq!(log("verify", dir.path(), &[]).code, 0);
}

fn refused(dir: &Path) -> bool {
    let copy = copy(dir);
    let options = SledOptions { ballast_bytes: 0, ..SledOptions::default() };
    matches!(SledLog::open(copy.path(), &options), Err(OpenError::Refused { .. }))
}

fn repair(dir: &TempDir) -> Said {
    let backup = tempfile::tempdir().unwrap();
    let backup = backup.path().join("backup");
    let arguments = ["--backup", backup.to_str().unwrap(), "--reason", "a test", "--output", "json"];
    let said = log("repair", dir.path(), &arguments);
    assert_eq!(said.code, 0, "{said:?}");
    said
}

/// The log as it was at some time, under the witness of the end.
fn lost_end(whole: &TempDir, step: &TempDir) -> TempDir {
    let dir = copy(whole.path());
    fs::remove_dir_all(dir.path().join("sled")).unwrap();
    copy_dir(&step.path().join("sled"), &dir.path().join("sled"));
    dir
}

fn copy(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir, copy.path());
    copy
}
