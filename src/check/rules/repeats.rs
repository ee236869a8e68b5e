//! Calls come again, one after another and at once, and take effect once.

use assent_proto::v1::{Completion, Operation, Vote};

use super::{broken, expect, expect_same};
use crate::check::bench::{Bench, Effect, Stop, alike, change, completion, described, vote};

const COMMIT_IS_DONE: &str = "a prepared branch must follow the decision";
const COMMIT_AGAIN: &str =
    "the answer may be lost, and the coordinator asks until it hears that the effect is there";
const ROLLBACK_AGAIN: &str =
    "the answer may be lost, and the coordinator asks until it hears that nothing is left";

pub async fn phase_one(bench: &Bench) -> Result<Effect, Stop> {
    let branch = bench.branch();
    let voted = bench.phase_one(&branch).await?;
    match voted.vote() {
        Vote::Prepared => bench.rollback(&branch).await.map(drop)?,
        Vote::ReadOnly => {}
        Vote::Refused | Vote::Unspecified => {
            return Err(broken(
                &format!("phase one of --payload was voted {}", described(&voted)),
                "PREPARED or READ_ONLY",
                "without work that succeeds nothing can be judged",
            ));
        }
    }
    Ok(Effect::NotLookedAt)
}

/// Finds out what a commit does to the numbers. All other effects are compared with that.
pub async fn effect(bench: &Bench) -> Result<Effect, Stop> {
    let mut changes = Vec::new();
    let mut before = bench.observe().await?;
    for _ in 0..2 {
        let branch = bench.branch();
        bench.prepare(&branch).await?;
        expect("commit", bench.commit(&branch).await?, &[Completion::Done], COMMIT_IS_DONE)?;
        let after = bench.observe().await?;
        changes.push(change(&before, &after));
        before = after;
    }
    let unit = changes.remove(0);
    if unit.iter().all(|number| *number == 0.0) {
        let seen = format!("a commit changed none of the numbers {before:?}");
        return Err(broken(
            &seen,
            "a change",
            "DONE means that the effect is there, where --observe looks for it",
        ));
    }
    if !alike(&unit, &changes[0]) {
        let seen = format!("the second commit changed the numbers by {:?}", changes[0]);
        let why = "the same work has the same effect, and nobody else may use the participant meanwhile";
        return Err(broken(&seen, &format!("{unit:?} as the first"), why));
    }
    bench.judge_by(unit);
    Ok(Effect::NotLookedAt)
}

pub async fn phase_one_repeated(bench: &Bench) -> Result<Effect, Stop> {
    let branch = bench.branch();
    let first = bench.prepare(&branch).await?;
    for _ in 0..2 {
        expect_same("a repeated phase one", &first, &bench.phase_one(&branch).await?)?;
    }
    expect("commit", bench.commit(&branch).await?, &[Completion::Done], COMMIT_IS_DONE)?;
    Ok(Effect::Units(1))
}

pub async fn commit(bench: &Bench) -> Result<Effect, Stop> {
    let branch = bench.branch();
    bench.prepare(&branch).await?;
    expect("commit", bench.commit(&branch).await?, &[Completion::Done], COMMIT_IS_DONE)?;
    for _ in 0..2 {
        expect("a repeated commit", bench.commit(&branch).await?, &[Completion::Done], COMMIT_AGAIN)?;
    }
    Ok(Effect::Units(1))
}

pub async fn rollback(bench: &Bench) -> Result<Effect, Stop> {
    let branch = bench.branch();
    bench.prepare(&branch).await?;
    let done = bench.rollback(&branch).await?;
    expect("rollback", done, &[Completion::Done], "a prepared branch must follow the decision")?;
    for _ in 0..2 {
        let allowed = [Completion::Done, Completion::UnknownBranch];
        expect("a repeated rollback", bench.rollback(&branch).await?, &allowed, ROLLBACK_AGAIN)?;
    }
    Ok(Effect::Units(0))
}

pub async fn phase_one_after_commit(bench: &Bench) -> Result<Effect, Stop> {
    let branch = bench.branch();
    let first = bench.prepare(&branch).await?;
    expect("commit", bench.commit(&branch).await?, &[Completion::Done], COMMIT_IS_DONE)?;
    expect_same("phase one after the commit", &first, &bench.phase_one(&branch).await?)?;
    Ok(Effect::Units(1))
}

pub async fn phase_one_at_once(bench: &Bench) -> Result<Effect, Stop> {
    let branch = bench.branch();
    let mut first = None;
    for answer in bench.at_once(&branch, Operation::PhaseOne).await? {
        let voted = vote(answer)?;
        let first = first.get_or_insert_with(|| voted.clone());
        expect_same("phase one made at once", first, &voted)?;
    }
    // Whatever all were told must be so.
    let first = first.unwrap_or_default();
    expect_same("phase one after those made at once", &first, &bench.prepare(&branch).await?)?;
    expect("commit", bench.commit(&branch).await?, &[Completion::Done], COMMIT_IS_DONE)?;
    Ok(Effect::Units(1))
}

pub async fn commit_at_once(bench: &Bench) -> Result<Effect, Stop> {
    let branch = bench.branch();
    bench.prepare(&branch).await?;
    for answer in bench.at_once(&branch, Operation::Commit).await? {
        let done = completion("commit", &answer)?;
        expect("commit made at once", done, &[Completion::Done], COMMIT_AGAIN)?;
    }
    Ok(Effect::Units(1))
}

pub async fn rollback_at_once(bench: &Bench) -> Result<Effect, Stop> {
    let branch = bench.branch();
    bench.prepare(&branch).await?;
    for answer in bench.at_once(&branch, Operation::Rollback).await? {
        let allowed = [Completion::Done, Completion::UnknownBranch];
        expect("rollback made at once", completion("rollback", &answer)?, &allowed, ROLLBACK_AGAIN)?;
    }
    Ok(Effect::Units(0))
}
