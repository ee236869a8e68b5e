//! What is different is kept apart, and what is no branch is turned down.

use assent_proto::v1 as pb;
use pb::call_reply::Result as Answer;
use pb::{Completion, Operation, Vote};

use super::{broken, expect};
use crate::check::bench::{Bench, Branch, Effect, Stop, described};
use crate::check::subject::Trouble;

const APART: &str = "the decision on one branch must not touch another";

pub async fn prefixes(bench: &Bench) -> Result<Effect, Stop> {
    for shorter_commits in [false, true] {
        let shorter = bench.branch();
        let longer = Branch { xid: shorter.xid.clone(), id: format!("{}0", shorter.id) };
        bench.prepare(&shorter).await?;
        bench.prepare(&longer).await?;
        let (committed, undone) = if shorter_commits { (shorter, longer) } else { (longer, shorter) };
        one_of_each(bench, &committed, &undone).await?;
    }
    Ok(Effect::Units(2))
}

pub async fn transactions(bench: &Bench) -> Result<Effect, Stop> {
    let committed = bench.branch();
    let undone = Branch { xid: bench.branch().xid, id: committed.id.clone() };
    bench.prepare(&undone).await?;
    bench.prepare(&committed).await?;
    one_of_each(bench, &committed, &undone).await?;
    Ok(Effect::Units(1))
}

/// Both are prepared: rolls back one, and then commits the other.
async fn one_of_each(bench: &Bench, committed: &Branch, undone: &Branch) -> Result<(), Stop> {
    let what = format!("rollback of {} beside {}", undone.id, committed.id);
    expect(&what, bench.rollback(undone).await?, &[Completion::Done], APART)?;
    let what = format!("commit of {} after the rollback of {}", committed.id, undone.id);
    expect(&what, bench.commit(committed).await?, &[Completion::Done], APART)
}

pub async fn malformed(bench: &Bench) -> Result<Effect, Stop> {
    let (good, long) = (bench.branch(), "x".repeat(65));
    let ids = [
        ("an xid that is none", "not-an-xid", good.id.as_str()),
        ("an empty xid", "", &good.id),
        ("an empty branch id", &good.xid, ""),
        ("a branch id of 65 bytes", &good.xid, &long),
        ("a branch id with a space", &good.xid, "branch 1"),
    ];
    for (what, xid, id) in ids {
        let branch = Branch { xid: xid.to_owned(), id: id.to_owned() };
        let call = bench.call(&branch, Operation::PhaseOne, bench.plan().payload.clone());
        turned_down(bench, &format!("phase one with {what}"), call, "nobody will ever end such a branch")
            .await?;
    }
    bench.prepare(&good).await?;
    bench.rollback(&good).await?;
    Ok(Effect::NotLookedAt)
}

pub async fn wrong_protocol(bench: &Bench) -> Result<Effect, Stop> {
    let branch = bench.branch();
    let call = bench.call(&branch, Operation::PhaseOne, bench.plan().payload.clone());
    let (other, word) = match call.protocol() {
        pb::Protocol::Tcc => (pb::Protocol::TwoPhase, "a Prepare"),
        pb::Protocol::TwoPhase | pb::Protocol::Unspecified => (pb::Protocol::Tcc, "a Try"),
    };
    let call = pb::Call { protocol: other.into(), ..call };
    let breaks =
        "it would be prepared by one protocol and ended by another; give both to --protocol if it has both";
    turned_down(bench, word, call, breaks).await?;
    Ok(Effect::Units(0))
}

/// An error is as good as a refusal here.
async fn turned_down(bench: &Bench, what: &str, call: pb::Call, breaks: &str) -> Result<(), Stop> {
    let seen = match bench.attempt(call).await {
        Ok(Answer::Vote(vote)) if vote.vote() == Vote::Refused => return Ok(()),
        Ok(Answer::Error(_)) | Err(Trouble::Again(_) | Trouble::Unimplemented(_)) => return Ok(()),
        Ok(Answer::Vote(vote)) => format!("was voted {}", described(&vote)),
        Ok(Answer::Completion(_)) => "was answered with a completion".to_owned(),
        Err(Trouble::Silent(waited)) => format!("was not answered within {waited:?}"),
    };
    Err(broken(&format!("{what} {seen}"), "an error or REFUSED", breaks))
}
