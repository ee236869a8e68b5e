//! What was answered survives `kill -9`.

use assent_proto::v1::Completion;

use super::{expect, expect_not_committed, expect_refused, expect_same};
use crate::check::bench::{Bench, Effect, Stop};

const PROMISED: &str = "the vote promised to follow either decision, whatever happens";

pub async fn prepared(bench: &Bench) -> Result<Effect, Stop> {
    let (committed, undone) = (bench.branch(), bench.branch());
    let first = bench.prepare(&committed).await?;
    bench.prepare(&undone).await?;
    bench.kill_and_restart().await?;
    expect_same("phase one repeated after kill -9", &first, &bench.phase_one(&committed).await?)?;
    expect("commit after kill -9", bench.commit(&committed).await?, &[Completion::Done], PROMISED)?;
    expect("rollback after kill -9", bench.rollback(&undone).await?, &[Completion::Done], PROMISED)?;
    Ok(Effect::Units(1))
}

pub async fn decided(bench: &Bench) -> Result<Effect, Stop> {
    let (committed, undone, never_came) = (bench.branch(), bench.branch(), bench.branch());
    let first = bench.prepare(&committed).await?;
    bench.prepare(&undone).await?;
    bench.commit(&committed).await?;
    bench.rollback(&undone).await?;
    bench.rollback(&never_came).await?;
    bench.kill_and_restart().await?;
    let breaks = "what was answered must not be forgotten";
    expect("commit repeated after kill -9", bench.commit(&committed).await?, &[Completion::Done], breaks)?;
    let seen = bench.rollback(&committed).await?;
    expect("rollback of what was committed before kill -9", seen, &[Completion::HeuristicCommit], breaks)?;
    expect_same("phase one repeated after commit and kill -9", &first, &bench.phase_one(&committed).await?)?;
    let seen = bench.commit(&undone).await?;
    expect_not_committed("commit of what was rolled back before kill -9", seen, breaks)?;
    let seen = bench.phase_one(&never_came).await?;
    expect_refused("phase one after its rollback and kill -9", &seen, breaks)?;
    Ok(Effect::Units(1))
}
