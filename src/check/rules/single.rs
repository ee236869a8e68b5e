//! Refusals, commits in one phase, and reservations.

use assent_proto::v1 as pb;
use pb::{Completion, Protocol};

use super::{broken, expect, expect_not_committed, expect_refused};
use crate::check::bench::{Bench, Branch, Effect, OnePhase, Stop, TTL_ASKED_MS};

const ONE_PHASE: &str = "a commit in one phase";

pub async fn refusal(bench: &Bench) -> Result<Effect, Stop> {
    let payload = bench.plan().payload_refused.clone().unwrap_or_default();
    let branch = bench.branch();
    for what in ["phase one of --payload-refused", "phase one of --payload-refused, repeated"] {
        let voted = bench.phase_one_of(&branch, payload.clone()).await?;
        expect_refused(what, &voted, "what cannot be done must be refused before the transaction commits")?;
    }
    let breaks = "nothing was done";
    expect_not_committed("commit of what was refused", bench.commit(&branch).await?, breaks)?;
    let other = Branch { xid: branch.xid, id: bench.branch().id };
    bench.prepare(&other).await?;
    let breaks = "a refusal must not stand in the way of another branch";
    expect("commit beside what was refused", bench.commit(&other).await?, &[Completion::Done], breaks)?;
    let alone = bench.branch();
    let protocol = bench.call(&alone, pb::Operation::PhaseOne, payload.clone()).protocol();
    if protocol == Protocol::TwoPhase {
        match bench.one_phase(&alone, payload).await? {
            OnePhase::Refused | OnePhase::Unimplemented => {}
            OnePhase::Completed(completion, _) => {
                let seen =
                    format!("{ONE_PHASE} of --payload-refused was answered {}", super::word(completion));
                return Err(broken(&seen, "a refusal", "what cannot be done must be refused"));
            }
        }
    }
    Ok(Effect::Units(1))
}

pub async fn one_phase(bench: &Bench) -> Result<Effect, Stop> {
    let branch = bench.branch();
    let first = completed(bench, &branch, ONE_PHASE).await?;
    let again = completed(bench, &branch, "a repeated commit in one phase").await?;
    if again != first {
        let shown = |reply: &[u8]| format!("{:?}", String::from_utf8_lossy(reply));
        let seen = format!("a repeated commit in one phase had the reply {}", shown(&again));
        return Err(broken(
            &seen,
            &shown(&first),
            "an answer may be lost, and so the repetition must say the same",
        ));
    }
    let breaks = "a rollback is how the coordinator asks for a lost outcome; the effect stays";
    let undone = bench.rollback(&branch).await?;
    expect("rollback after a commit in one phase", undone, &[Completion::HeuristicCommit], breaks)?;

    let prepared = bench.branch();
    bench.prepare(&prepared).await?;
    completed(bench, &prepared, "a commit in one phase of what is prepared").await?;
    Ok(Effect::Units(2))
}

pub async fn one_phase_after_rollback(bench: &Bench) -> Result<Effect, Stop> {
    let branch = bench.branch();
    bench.prepare(&branch).await?;
    bench.rollback(&branch).await?;
    match bench.one_phase(&branch, bench.plan().payload.clone()).await? {
        OnePhase::Refused => Ok(Effect::NotLookedAt),
        OnePhase::Unimplemented => Err(unimplemented()),
        OnePhase::Completed(completion, _) => {
            let seen = format!("{ONE_PHASE} after the rollback was answered {}", super::word(completion));
            Err(broken(&seen, "a refusal", "the transaction has been told to be aborted"))
        }
    }
}

async fn completed(bench: &Bench, branch: &Branch, what: &str) -> Result<bytes::Bytes, Stop> {
    match bench.one_phase(branch, bench.plan().payload.clone()).await? {
        OnePhase::Completed(Completion::Done, reply) => Ok(reply),
        OnePhase::Completed(completion, _) => {
            let seen = format!("{what} was answered {}", super::word(completion));
            Err(broken(&seen, "DONE", "the same work is voted PREPARED in two phases"))
        }
        OnePhase::Refused => Err(broken(
            &format!("{what} was refused"),
            "DONE",
            "the same work is voted PREPARED in two phases",
        )),
        OnePhase::Unimplemented => Err(unimplemented()),
    }
}

fn unimplemented() -> Stop {
    Stop::NotRun("it answers UNIMPLEMENTED, and the coordinator then commits in two phases".to_owned())
}

pub async fn reservation(bench: &Bench) -> Result<Effect, Stop> {
    let branch = bench.branch();
    let granted = bench.prepare(&branch).await?;
    if granted.reservation_ttl_ms == 0 || granted.reservation_ttl_ms > TTL_ASKED_MS {
        let seen = match granted.reservation_ttl_ms {
            0 => "a reservation without expiry was granted".to_owned(),
            ms => format!("a reservation of {ms} ms was granted"),
        };
        let expected = format!("1 to {TTL_ASKED_MS} ms");
        return Err(broken(&seen, &expected, "whoever reserves may not be held to more than was asked"));
    }
    if pb::ReservationClass::try_from(granted.reservation_class).is_err() {
        let seen = format!("the reservation's class is {}", granted.reservation_class);
        let breaks = "the coordinator must know who ends it when it expires";
        return Err(broken(&seen, "COOPERATIVE or AUTONOMOUS", breaks));
    }
    bench.rollback(&branch).await?;
    Ok(Effect::NotLookedAt)
}
