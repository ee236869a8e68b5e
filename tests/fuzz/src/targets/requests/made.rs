//! Requests, field by field: mostly right.

use arbitrary::{Result, Unstructured};
use assent_proto::v1 as pb;
use bytes::Bytes;

use crate::lab::PAYLOAD_BYTES_MAX;
use crate::values::{millis, text, variant};

pub fn begin(u: &mut Unstructured<'_>) -> Result<pb::BeginRequest> {
    Ok(pb::BeginRequest {
        protocol: variant(u, 3)?,
        label: text(u, &["", "checkout", "Größe ✓"])?,
        timeout_ms: millis(u)?,
        request_id: text(u, &["", "", "order-1", "order-10"])?,
    })
}

pub fn enlist(u: &mut Unstructured<'_>, xids: &[String]) -> Result<pb::EnlistRequest> {
    Ok(pb::EnlistRequest { xid: xid(u, xids)?, enlistment: maybe(u, enlistment)? })
}

pub fn commit(u: &mut Unstructured<'_>, xids: &[String]) -> Result<pb::CommitRequest> {
    Ok(pb::CommitRequest { xid: xid(u, xids)?, enlistments: some(u, enlistment)?, wait: variant(u, 3)? })
}

pub fn abort(u: &mut Unstructured<'_>, xids: &[String]) -> Result<pb::AbortRequest> {
    Ok(pb::AbortRequest { xid: xid(u, xids)?, reason: text(u, &["", "enough"])?, wait: variant(u, 3)? })
}

pub fn run(u: &mut Unstructured<'_>) -> Result<pb::RunRequest> {
    let pb::BeginRequest { protocol, label, timeout_ms, request_id } = begin(u)?;
    let (branches, wait) = (some(u, branch_spec)?, variant(u, 3)?);
    Ok(pb::RunRequest { protocol, label, timeout_ms, request_id, branches, wait })
}

pub fn get(u: &mut Unstructured<'_>, xids: &[String]) -> Result<pb::GetRequest> {
    use pb::get_request::Key;
    let key = match u.int_in_range(0..=4)? {
        0 => None,
        1 => Some(Key::RequestId(text(u, &["order-1", "order-10"])?)),
        _ => Some(Key::Xid(xid(u, xids)?)),
    };
    Ok(pb::GetRequest { key })
}

pub fn list(u: &mut Unstructured<'_>) -> Result<pb::ListRequest> {
    Ok(pb::ListRequest {
        filter: maybe(u, filter)?,
        page_size: if u.ratio(1, 4)? { u.arbitrary()? } else { u.int_in_range(0..=3)? },
        page_token: text(u, &["", "", "0000010000000007d0000", "fffffffffffffffffffff"])?,
    })
}

pub fn watch(u: &mut Unstructured<'_>, xids: &[String]) -> Result<pb::WatchRequest> {
    let xid = if u.arbitrary()? { xid(u, xids)? } else { String::new() };
    Ok(pb::WatchRequest { xid, filter: maybe(u, filter)? })
}

pub fn get_outcome(u: &mut Unstructured<'_>, xids: &[String]) -> Result<pb::GetOutcomeRequest> {
    Ok(pb::GetOutcomeRequest { inquiry: maybe(u, |u| inquiry(u, xids))? })
}

pub fn outcomes(u: &mut Unstructured<'_>, xids: &[String]) -> Result<pb::BatchGetOutcomesRequest> {
    let mut inquiries = some(u, |u| inquiry(u, xids))?;
    if u.ratio(1, 8)? && !inquiries.is_empty() {
        inquiries = inquiries.into_iter().cycle().take(u.int_in_range(990..=1_010)?).collect();
    }
    Ok(pb::BatchGetOutcomesRequest { inquiries })
}

pub fn resolve(u: &mut Unstructured<'_>, xids: &[String]) -> Result<pb::ResolveRequest> {
    Ok(pb::ResolveRequest {
        xid: xid(u, xids)?,
        branch_id: branch_id(u)?,
        resolution: variant(u, 3)?,
        reason: text(u, &["seen in the books"])?,
        request_id: text(u, &["", "ticket-1"])?,
    })
}

pub fn retry(u: &mut Unstructured<'_>, xids: &[String]) -> Result<pb::RetryRequest> {
    use pb::retry_request::Target;
    let target = match u.int_in_range(0..=4)? {
        0 => None,
        1 | 2 => Some(Target::Participant(participant(u)?)),
        _ => Some(Target::Xid(xid(u, xids)?)),
    };
    Ok(pb::RetryRequest { target })
}

pub fn forget(u: &mut Unstructured<'_>, xids: &[String]) -> Result<pb::ForgetRequest> {
    Ok(pb::ForgetRequest { xid: xid(u, xids)?, reason: text(u, &["done with"])? })
}

pub fn session(u: &mut Unstructured<'_>, xids: &[String]) -> Result<pb::SessionRequest> {
    let hello = maybe(u, |u| {
        Ok(pb::Hello {
            participant: participant(u)?,
            instance_id: text(u, &["", "one"])?,
            agent: text(u, &["", "assent-sdk/0.1.0"])?,
        })
    })?;
    Ok(pb::SessionRequest {
        hello,
        replies: some(u, |u| call_reply(u, xids))?,
        inquiries: some(u, |u| inquiry(u, xids))?,
        enlistments: some(u, |u| session_enlistment(u, xids))?,
        draining: u.ratio(1, 8)?,
    })
}

pub fn session_enlistment(u: &mut Unstructured<'_>, xids: &[String]) -> Result<pb::SessionEnlistment> {
    Ok(pb::SessionEnlistment {
        call_id: u.int_in_range(0..=3)?,
        xid: xid(u, xids)?,
        enlistment: maybe(u, enlistment)?,
    })
}

pub fn call_reply(u: &mut Unstructured<'_>, xids: &[String]) -> Result<pb::CallReply> {
    Ok(pb::CallReply {
        xid: xid(u, xids)?,
        branch_id: branch_id(u)?,
        operation: variant(u, 5)?,
        result: maybe(u, call_result)?,
    })
}

pub fn call_result(u: &mut Unstructured<'_>) -> Result<pb::call_reply::Result> {
    use pb::call_reply::Result::{Completion, Error, Vote};
    Ok(match u.int_in_range(0..=8)? {
        0 => Error(text(u, &["no", "try again"])?),
        1..=4 => Vote(vote(u)?),
        _ => Completion(pb::PhaseTwoResult {
            completion: variant(u, 6)?,
            detail: text(u, &["", "so it says"])?,
            reply: payload(u)?,
        }),
    })
}

pub fn inquiry(u: &mut Unstructured<'_>, xids: &[String]) -> Result<pb::Inquiry> {
    Ok(pb::Inquiry { xid: xid(u, xids)?, branch_id: branch_id(u)?, expired: u.ratio(1, 4)? })
}

pub fn participant(u: &mut Unstructured<'_>) -> Result<String> {
    text(u, &["shop/stock", "shop/ledger", "shop/liar"])
}

fn enlistment(u: &mut Unstructured<'_>) -> Result<pb::Enlistment> {
    Ok(pb::Enlistment {
        branch: maybe(u, branch_spec)?,
        vote: if u.arbitrary()? { Some(vote(u)?) } else { None },
    })
}

fn branch_spec(u: &mut Unstructured<'_>) -> Result<pb::BranchSpec> {
    Ok(pb::BranchSpec {
        branch_id: if u.arbitrary()? { String::new() } else { branch_id(u)? },
        participant: participant(u)?,
        endpoint: if u.ratio(3, 4)? {
            String::new()
        } else {
            text(
                u,
                &["http://127.0.0.1:1", "http://127.0.0.1:1/", "http://evil.example:80", "http://127.0.0.1"],
            )?
        },
        protocol: variant(u, 3)?,
        payload: payload(u)?,
        reservation_ttl_ms: millis(u)?,
    })
}

fn vote(u: &mut Unstructured<'_>) -> Result<pb::PhaseOneResult> {
    Ok(pb::PhaseOneResult {
        vote: variant(u, 4)?,
        reason: text(u, &["", "out of stock"])?,
        reply: payload(u)?,
        reservation_ttl_ms: millis(u)?,
        reservation_class: variant(u, 3)?,
        inquires: u.arbitrary()?,
    })
}

fn filter(u: &mut Unstructured<'_>) -> Result<pb::TransactionFilter> {
    Ok(pb::TransactionFilter {
        states: some(u, |u| variant(u, 10))?,
        protocol: variant(u, 3)?,
        label: text(u, &["", "checkout"])?,
        participant: if u.arbitrary()? { String::new() } else { participant(u)? },
        needs_attention: u.arbitrary()?,
    })
}

fn payload(u: &mut Unstructured<'_>) -> Result<Bytes> {
    let over = u.ratio(1, 8)?;
    let length = if over { u.int_in_range(0..=2 * PAYLOAD_BYTES_MAX)? } else { 3 };
    Ok(Bytes::from(vec![7; length]))
}

pub fn branch_id(u: &mut Unstructured<'_>) -> Result<String> {
    text(u, &["1", "2", "3"])
}

/// One that is known, mostly.
pub fn xid(u: &mut Unstructured<'_>, known: &[String]) -> Result<String> {
    match u.int_in_range(0..=9)? {
        0 => text(u, &["00000000-0000-4000-8000-000000000000", "00000000-0000-8000-8000-004000000000"]),
        _ => u.choose(known).cloned(),
    }
}

fn maybe<T>(
    u: &mut Unstructured<'_>,
    make: impl FnOnce(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Option<T>> {
    if u.ratio(1, 16)? { Ok(None) } else { make(u).map(Some) }
}

fn some<T>(
    u: &mut Unstructured<'_>,
    mut make: impl FnMut(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let count = u.int_in_range(0..=3)?;
    (0..count).map(|_| make(u)).collect()
}
