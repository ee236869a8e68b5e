//! Each flaw is found by the rules that it breaks, and by no other.

use std::time::Duration;

use crate::kit::{Said, check};
use crate::wrong::{self, Flaw, Settings};
use crate::{command, free_port};

/// How many are checked at the same time.
const AT_ONCE: usize = 8;

/// Who runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// It runs in the test.
    Quiet,
    /// The kit starts and kills it.
    Killed,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_version_passes_everything() {
    let said = checked(Flaw::None, Life::Killed, "2pc").await;
    said.assert_passed_but_for(&[]);
    let said = checked(Flaw::None, Life::Killed, "tcc").await;
    said.assert_passed_but_for(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_wrong_is_found() {
    let doubt = ["in-doubt-commit", "in-doubt-abort", "in-doubt-pending", "in-doubt-foreign"];
    found(&[
        (Flaw::LeavesNoTombstone, &["rollback-first"]),
        (Flaw::CommitsTheUnknown, &["commit-of-unknown", "refusal"]),
        (
            Flaw::RefusesRepetitions,
            &["phase-one-repeated", "phase-one-after-commit", "phase-one-at-once", "one-phase"],
        ),
        (
            Flaw::RepliesAnew,
            &["phase-one-repeated", "phase-one-after-commit", "phase-one-at-once", "one-phase"],
        ),
        (Flaw::CallsTheCommittedRolledBack, &["rollback-after-commit", "one-phase", doubt[0]]),
        (Flaw::CallsTheRolledBackCommitted, &["commit-after-rollback", doubt[1]]),
        (Flaw::ForgetsWhatItCommitted, &["commit-repeated", "commit-at-once"]),
        // Without an xid it cannot ask either.
        (Flaw::KnowsBranchesByIdAlone, &["transactions-apart", "in-doubt-asks"]),
        (Flaw::KnowsBranchesByPrefix, &["prefixes-apart"]),
        (Flaw::TakesAnyId, &["malformed-ids"]),
        (Flaw::TakesAnyProtocol, &["wrong-protocol"]),
        (Flaw::VotesForTheImpossible, &["refusal"]),
        (Flaw::CommitsInOnePhaseAfterRollback, &["one-phase-after-rollback"]),
        (Flaw::NeverAsks, &["in-doubt-asks"]),
        (Flaw::GuessesInDoubt, &[doubt[2], doubt[3]]),
        (Flaw::IgnoresTheAnswer, &[doubt[0], doubt[1]]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_wrong_is_found_by_looking_at_the_data() {
    found(&[
        (
            Flaw::WorksAgain,
            &["phase-one-repeated", "phase-one-after-commit", "phase-one-at-once", "one-phase"],
        ),
        (Flaw::TakesTheCommitBeforeItsWork, &["commit-first"]),
        (Flaw::KeepsWhatItRefused, &["refusal"]),
        (
            Flaw::CancelsHalf,
            &[
                "rollback-repeated",
                "rollback-at-once",
                "commit-after-rollback",
                "prefixes-apart",
                "transactions-apart",
                "in-doubt-abort",
            ],
        ),
        (Flaw::LooksBeforeItLocks, &["phase-one-at-once", "commit-at-once", "rollback-at-once"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restart_forgets_is_found() {
    for (flaw, rule) in [
        (Flaw::ForgetsThePreparedAtRestart, "killed-prepared"),
        (Flaw::ForgetsTheDecidedAtRestart, "killed-decided"),
    ] {
        let said = checked(flaw, Life::Killed, "2pc").await;
        assert_eq!((said.names("failed"), said.code), (vec![rule.to_owned()], 1), "{flaw:?}: {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_longer_than_asked_is_found() {
    let said = checked(Flaw::GrantsTooLong, Life::Quiet, "tcc").await;
    let expected = "a reservation of 1200000 ms was granted; expected 1 to 600000 ms: whoever reserves may not be \
                    held to more than was asked";
    assert_eq!(said.rules("failed"), [("reservation".to_owned(), expected.to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_has_failed_after_a_bounded_wait_and_is_said_to_hold_something() {
    let said = checked(Flaw::Hangs, Life::Quiet, "2pc").await;
    let failed = said.rules("failed");
    assert_eq!(
        failed,
        [("phase-one-is-voted".to_owned(), "phase one was not answered within 5s".to_owned())]
    );
    assert!(said.rules("not_run").iter().any(|(_, why)| why == "phase-one-is-voted did not pass"));
    // Its phase one may have been done, and its rollback was not answered either.
    assert_eq!(said.json()["left_open"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_says_what_was_expected_and_seen_and_what_it_breaks() {
    let said = checked(Flaw::CommitsTheUnknown, Life::Quiet, "2pc").await;
    let expected = "commit of an unknown branch was answered DONE; expected UNKNOWN_BRANCH: a participant that lost \
                    its data would report success";
    assert!(said.rules("failed").iter().any(|(_, why)| why == expected), "{said:?}");
}

/// Checks them all, a few at a time.
async fn found(flaws: &[(Flaw, &[&str])]) {
    let mut wrong = Vec::new();
    for some in flaws.chunks(AT_ONCE) {
        let checks: Vec<_> =
            some.iter().map(|(flaw, _)| tokio::spawn(checked(*flaw, Life::Quiet, "2pc"))).collect();
        for (check, (flaw, expected)) in checks.into_iter().zip(some) {
            let said = check.await.unwrap();
            if (said.names("failed"), said.code) != (expected.iter().map(ToString::to_string).collect(), 1) {
                wrong.push(format!("{flaw:?}: {:#?}", said.rules("failed")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn checked(flaw: Flaw, life: Life, protocol: &str) -> Said {
    let directory = tempfile::Builder::new().prefix("assent-test-check-").tempdir().unwrap();
    let (port, asked_at) = (free_port(), free_port());
    let settings = Settings {
        flaw,
        port,
        directory: directory.path().to_owned(),
        tcc: protocol == "tcc",
        coordinator: format!("http://127.0.0.1:{asked_at}"),
    };
    let run = command(&format!("wrong {}", serde_json::to_string(&settings).unwrap()));
    let (url, listen) = (format!("http://127.0.0.1:{port}"), format!("127.0.0.1:{asked_at}"));
    let observe = format!("cat '{}'", directory.path().join("numbers").display());
    let mut arguments =
        vec![&url[..], "--protocol", protocol, "--payload", "1", "--payload-refused", "100000"];
    arguments.extend(["--listen", &listen, "--observe", &observe, "--patience", "3s", "--timeout", "5s"]);
    arguments.extend(["--output", "json"]);
    match life {
        Life::Killed => {
            arguments.extend(["--run", &run]);
            check(&arguments).await
        }
        Life::Quiet => {
            let serving = tokio::spawn(wrong::serve(settings));
            wait_for(port).await;
            let said = check(&arguments).await;
            serving.abort();
            without_killed(said)
        }
    }
}

/// Where nobody can be killed the two rules about it say how to enable them.
fn without_killed(said: Said) -> Said {
    let not_run = said.rules("not_run");
    let killed = not_run.iter().filter(|(name, why)| name.starts_with("killed-") && why.contains("--run"));
    assert_eq!(killed.count(), 2, "{said:?}");
    said
}

async fn wait_for(port: u16) {
    let listens = async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), listens).await.unwrap();
}
