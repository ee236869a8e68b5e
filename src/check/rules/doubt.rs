//! A participant in doubt asks, and does as it is told.

use std::time::Duration;

use assent_proto::v1::{Completion, InquiryAnswer};

use super::{broken, expect};
use crate::check::bench::{Bench, Branch, Effect, Stop};

/// How long it may take to carry out an answer. There is no acknowledgement to wait for, and to look disturbs, so one that
/// has not done it in the first time gets a second chance with another branch, and a third.
const SETTLE_TIMES: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5)];
/// How long one that must hold on is watched, unless it shows by asking again that it does.
const WATCH_TIME: Duration = Duration::from_secs(2);

pub async fn asks(bench: &Bench) -> Result<Effect, Stop> {
    let branch = bench.branch();
    let voted = bench.prepare(&branch).await?;
    if !voted.inquires {
        return Err(Stop::NotRun(
            "its votes say that it never inquires, and the coordinator remembers for it".to_owned(),
        ));
    }
    asked(bench, &branch).await?;
    bench.rollback(&branch).await?;
    Ok(Effect::NotLookedAt)
}

pub async fn commit(bench: &Bench) -> Result<Effect, Stop> {
    for settle in SETTLE_TIMES {
        let branch = told(bench, InquiryAnswer::Commit, settle).await?;
        // A rollback now shows what it did, and leaves nothing where it did nothing.
        if bench.rollback(&branch).await? == Completion::HeuristicCommit {
            return Ok(Effect::Units(1));
        }
    }
    Err(not_followed("COMMIT", "it was not committed"))
}

pub async fn abort(bench: &Bench) -> Result<Effect, Stop> {
    for (settle, before) in SETTLE_TIMES.into_iter().zip(0..) {
        let branch = told(bench, InquiryAnswer::Abort, settle).await?;
        if bench.commit(&branch).await? != Completion::Done {
            return Ok(Effect::Units(before));
        }
    }
    Err(not_followed("ABORT", "it was not rolled back"))
}

pub async fn pending(bench: &Bench) -> Result<Effect, Stop> {
    holds_on(bench, InquiryAnswer::Pending, "PENDING", "the decision may still be either").await
}

pub async fn foreign(bench: &Bench) -> Result<Effect, Stop> {
    holds_on(bench, InquiryAnswer::Foreign, "FOREIGN", "nothing may be presumed; a person must decide").await
}

/// Two branches, so that it is seen to be ready for either decision.
async fn holds_on(bench: &Bench, answer: InquiryAnswer, word: &str, breaks: &str) -> Result<Effect, Stop> {
    let (undone, committed) = (bench.branch(), bench.branch());
    for branch in [&undone, &committed] {
        bench.desk().answer(&branch.xid, &branch.id, answer);
        bench.prepare(branch).await?;
    }
    for branch in [&undone, &committed] {
        asked(bench, branch).await?;
    }
    for branch in [&undone, &committed] {
        bench.desk().asked(&branch.xid, &branch.id, 2, WATCH_TIME).await;
    }
    let what = format!("rollback of what was answered {word}");
    expect(&what, bench.rollback(&undone).await?, &[Completion::Done], breaks)?;
    let what = format!("commit of what was answered {word}");
    expect(&what, bench.commit(&committed).await?, &[Completion::Done], breaks)?;
    Ok(Effect::NotLookedAt)
}

/// A branch that was in doubt, and had so much time since it was told.
async fn told(bench: &Bench, answer: InquiryAnswer, settle: Duration) -> Result<Branch, Stop> {
    let branch = bench.branch();
    bench.desk().answer(&branch.xid, &branch.id, answer);
    bench.prepare(&branch).await?;
    asked(bench, &branch).await?;
    tokio::time::sleep(settle).await;
    Ok(branch)
}

async fn asked(bench: &Bench, branch: &Branch) -> Result<(), Stop> {
    bench.provoke_inquiry();
    let patience = bench.plan().patience;
    if bench.desk().asked(&branch.xid, &branch.id, 1, patience).await {
        return Ok(());
    }
    let seen = format!("it did not ask about a prepared branch within {patience:?}");
    let breaks = "its votes promise that it inquires, and so the coordinator need not remember the branch";
    Err(broken(&seen, "an inquiry", breaks))
}

fn not_followed(word: &str, seen: &str) -> Stop {
    let longest = SETTLE_TIMES[SETTLE_TIMES.len() - 1];
    let seen = format!("{longest:?} after the answer {word} {seen}");
    broken(&seen, "that it follows", "the coordinator may never call again")
}
