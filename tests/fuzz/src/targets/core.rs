//! Any event at any time, from participants that lie, with crashes between.

use std::time::Duration;

use arbitrary::{Result, Unstructured};
use assent::core::{
    BeginSpec, BranchId, BranchSpec, Enlistment, Event, FailureKind, Label, Operation, ParticipantName,
    PhaseOne, Replica, Report, Request, ReservationClass, TxId, Vote, Wait,
};
use bytes::Bytes;

use super::records::{completion, protocol};
use crate::clocked::{self, Clocked};

const STEPS_MAX: usize = 200;

pub fn run(input: &[u8]) {
    let mut u = Unstructured::new(input);
    let mut life = Clocked::new();
    for _ in 0..STEPS_MAX {
        if u.is_empty() || step(&mut u, &mut life).is_err() {
            break;
        }
    }
    life.finish();
}

fn step(u: &mut Unstructured<'_>, life: &mut Clocked) -> Result<()> {
    let waiter = life.waiter();
    let event = match u.int_in_range(0..=19)? {
        0 | 1 => Event::Begin { waiter, spec: begin(u)? },
        2 => {
            let count = u.int_in_range(0..=5)?;
            let branches = (1..=count).map(|n| branch(u, Some(n))).collect::<Result<_>>()?;
            Event::Run { waiter, spec: begin(u)?, branches, wait: wait(u)? }
        }
        3 | 4 => Event::Enlist { waiter, tx: tx(u, life)?, enlistment: enlistment(u)? },
        5 | 6 => {
            let count = u.int_in_range(0..=2)?;
            let enlistments = (0..count).map(|_| enlistment(u)).collect::<Result<_>>()?;
            Event::Commit { waiter, tx: tx(u, life)?, enlistments, wait: wait(u)? }
        }
        7 => Event::Abort { waiter, tx: tx(u, life)?, reason: "enough".into(), wait: wait(u)? },
        // To what was asked.
        8..=11 if !life.calls.is_empty() => {
            let at = u.choose_index(life.calls.len())?;
            let call = if u.arbitrary()? { life.calls.swap_remove(at) } else { life.calls[at].clone() };
            Event::Reported {
                tx: call.tx,
                branch: call.branch,
                operation: call.operation,
                report: report(u)?,
            }
        }
        // To what was not.
        8..=11 => Event::Reported {
            tx: tx(u, life)?,
            branch: branch_id(u)?,
            operation: operation(u)?,
            report: report(u)?,
        },
        12 => Event::Inquire {
            waiter,
            tx: tx(u, life)?,
            branch: branch_id(u)?,
            expired: u.arbitrary()?,
            known_life: u.arbitrary()?,
        },
        13 => match u.int_in_range(0..=2)? {
            0 => Event::Due { tx: tx(u, life)? },
            1 => Event::Wake { tx: tx(u, life)?, participant: participant(u)? },
            _ => Event::Resume { tx: tx(u, life)? },
        },
        14 => Event::Resolve {
            waiter,
            tx: tx(u, life)?,
            branch: branch_id(u)?,
            committed: u.arbitrary()?,
            reason: "seen".into(),
        },
        15 => Event::Retry { waiter, tx: tx(u, life)? },
        16 => Event::Forget { waiter, tx: tx(u, life)? },
        17 => {
            life.pass(Duration::from_millis(*u.choose(&[1, 400, 1_000, 5_000, 40_000, 4_000_000])?));
            return Ok(());
        }
        18 => {
            life.crash(u.int_in_range(0..=6)?);
            life.resume();
            return Ok(());
        }
        _ => {
            life.sync();
            return Ok(());
        }
    };
    life.handle(event);
    Ok(())
}

fn tx(u: &mut Unstructured<'_>, life: &Clocked) -> Result<TxId> {
    if life.begun.is_empty() || u.ratio(1, 16)? {
        return Ok(clocked::tx(u.int_in_range(0..=3)?));
    }
    u.choose(&life.begun).copied()
}

fn begin(u: &mut Unstructured<'_>) -> Result<BeginSpec> {
    let request = if u.ratio(1, 3)? {
        let id = u.choose(&["order-1", "order-2"])?.parse().unwrap();
        Some(Request { id, fingerprint: [u.int_in_range(0..=1)?; 16] })
    } else {
        None
    };
    let timeout = Duration::from_millis(*u.choose(&[30_000, 1, 1_000, 604_800_000])?);
    Ok(BeginSpec { protocol: protocol(u)?, label: Label::default(), timeout, request })
}

/// `n`: those of one request have different ids, or none.
fn branch(u: &mut Unstructured<'_>, n: Option<usize>) -> Result<BranchSpec> {
    let id = match n {
        Some(n) => Some(BranchId::numbered(n)),
        None if u.arbitrary()? => Some(branch_id(u)?),
        None => None,
    };
    Ok(BranchSpec {
        id,
        participant: participant(u)?,
        endpoint: u.ratio(1, 4)?.then(|| "http://127.0.0.1:1".into()),
        protocol: if u.ratio(1, 4)? { Some(protocol(u)?) } else { None },
        payload: Bytes::from_static(b"payload"),
        reservation_ttl: if u.arbitrary()? { Some(ttl(u)?) } else { None },
        inquires: u.arbitrary()?,
    })
}

fn enlistment(u: &mut Unstructured<'_>) -> Result<Enlistment> {
    let vote = if u.arbitrary()? { Some(vote(u)?) } else { None };
    Ok(Enlistment { branch: branch(u, None)?, vote })
}

fn vote(u: &mut Unstructured<'_>) -> Result<PhaseOne> {
    Ok(PhaseOne {
        vote: *u.choose(&[Vote::Prepared, Vote::Prepared, Vote::ReadOnly, Vote::Refused])?,
        reason: "".into(),
        reply: Bytes::from_static(b"reply"),
        reservation_ttl: if u.arbitrary()? { ttl(u)? } else { Duration::ZERO },
        class: *u.choose(&[ReservationClass::Cooperative, ReservationClass::Autonomous])?,
    })
}

fn report(u: &mut Unstructured<'_>) -> Result<Report> {
    Ok(match u.int_in_range(0..=4)? {
        0 | 1 => Report::Voted { result: vote(u)?, replica: Some(Replica(u.int_in_range(0..=2)?)) },
        2 | 3 => Report::Completed {
            completion: completion(u)?,
            detail: "so it says".into(),
            reply: Bytes::from_static(b"reply"),
        },
        _ => {
            let kinds = [FailureKind::Unknown, FailureKind::NotSent, FailureKind::Unimplemented];
            Report::Failed { error: "no".into(), kind: *u.choose(&kinds)? }
        }
    })
}

fn operation(u: &mut Unstructured<'_>) -> Result<Operation> {
    let all = [Operation::PhaseOne, Operation::Commit, Operation::Rollback, Operation::CommitOnePhase];
    u.choose(&all).copied()
}

fn participant(u: &mut Unstructured<'_>) -> Result<ParticipantName> {
    Ok(u.choose(&["shop/stock", "shop/ledger", "shop/liar"])?.parse().unwrap())
}

fn branch_id(u: &mut Unstructured<'_>) -> Result<BranchId> {
    Ok(BranchId::numbered(u.int_in_range(1..=5)?))
}

fn ttl(u: &mut Unstructured<'_>) -> Result<Duration> {
    let all = [1, 600, 2_000, 60_000, u64::MAX];
    Ok(Duration::from_millis(*u.choose(&all)?))
}

fn wait(u: &mut Unstructured<'_>) -> Result<Wait> {
    u.choose(&[Wait::Decision, Wait::Completion]).copied()
}
