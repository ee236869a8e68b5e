//! Calls come late and in the wrong order.

use assent_proto::v1::{Completion, Vote};

use super::{broken, expect, expect_not_committed, expect_refused};
use crate::check::bench::{Bench, Effect, Stop, described};

pub async fn rollback_first(bench: &Bench) -> Result<Effect, Stop> {
    let branch = bench.branch();
    let allowed = [Completion::Done, Completion::UnknownBranch];
    let breaks = "an unknown branch has nothing to roll back, and that is as good as done";
    expect("rollback before phase one", bench.rollback(&branch).await?, &allowed, breaks)?;
    for what in ["phase one after its rollback", "phase one repeated after its rollback"] {
        let breaks = "nobody will come to end what it would hold; a rollback must leave a tombstone";
        expect_refused(what, &bench.phase_one(&branch).await?, breaks)?;
    }
    Ok(Effect::Units(0))
}

pub async fn commit_of_unknown(bench: &Bench) -> Result<Effect, Stop> {
    let breaks = "a participant that lost its data would report success";
    let done = bench.commit(&bench.branch()).await?;
    expect("commit of an unknown branch", done, &[Completion::UnknownBranch], breaks)?;
    Ok(Effect::Units(0))
}

/// What the first commit is answered is another rule's. Whether the phase one is done then or refused, it must be so.
pub async fn commit_first(bench: &Bench) -> Result<Effect, Stop> {
    let branch = bench.branch();
    bench.commit(&branch).await?;
    let voted = bench.phase_one(&branch).await?;
    let done = bench.commit(&branch).await?;
    match voted.vote() {
        Vote::Prepared => {
            let what = "commit of a phase one that came between two commits";
            expect(what, done, &[Completion::Done], "a prepared branch must follow the decision")?;
            Ok(Effect::Units(1))
        }
        Vote::Refused => {
            expect_not_committed("commit of what was refused", done, "nothing was done")?;
            Ok(Effect::Units(0))
        }
        Vote::ReadOnly | Vote::Unspecified => Err(broken(
            &format!("phase one between two commits was voted {}", described(&voted)),
            "PREPARED or REFUSED",
            "the same work was voted PREPARED in another branch",
        )),
    }
}

pub async fn commit_after_rollback(bench: &Bench) -> Result<Effect, Stop> {
    let branch = bench.branch();
    bench.prepare(&branch).await?;
    bench.rollback(&branch).await?;
    for what in ["commit after the rollback", "commit repeated after the rollback"] {
        let breaks = "the coordinator would record an effect that is not there";
        expect_not_committed(what, bench.commit(&branch).await?, breaks)?;
    }
    Ok(Effect::Units(0))
}

pub async fn rollback_after_commit(bench: &Bench) -> Result<Effect, Stop> {
    let branch = bench.branch();
    bench.prepare(&branch).await?;
    bench.commit(&branch).await?;
    for what in ["rollback after the commit", "rollback repeated after the commit"] {
        let breaks = "the effect stays, and the coordinator must hear of it";
        expect(what, bench.rollback(&branch).await?, &[Completion::HeuristicCommit], breaks)?;
    }
    Ok(Effect::Units(1))
}
