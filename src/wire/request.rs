//! What initiators ask for: whole requests.

use assent_proto::v1 as pb;
use prost::Message;
use smol_str::SmolStr;
use uuid::Uuid;

use super::{
    Invalid, Limits, REASON_MAX, branch_spec, enlistment, label, protocol, reason, request_id, timeout,
    tx_id, wait,
};
use crate::core::{BeginSpec, BranchId, BranchSpec, Enlistment, Map, Request, TxId, Wait};

/// The name space of fingerprints. They are kept in the log, so it never changes.
const FINGERPRINTS: Uuid = Uuid::from_u128(0x6f1c_7b1e_52d4_4a0b_9c55_0e6a_91d3_7c28);
/// What kind of request has a fingerprint: a `Begin` and a `Run` without branches have the same bytes.
const BEGIN: u8 = 1;
const RUN: u8 = 2;

pub fn begin(mut request: pb::BeginRequest, limits: &Limits) -> Result<BeginSpec, Invalid> {
    let id = request_id(&std::mem::take(&mut request.request_id))?;
    Ok(BeginSpec {
        protocol: protocol("protocol", request.protocol)?,
        label: label(&request.label)?,
        timeout: timeout(request.timeout_ms, limits)?,
        request: id.map(|id| Request { id, fingerprint: fingerprint(BEGIN, &request) }),
    })
}

/// The branches that it gives all have ids, and different ones.
pub fn run(
    mut request: pb::RunRequest,
    limits: &Limits,
) -> Result<(BeginSpec, Vec<BranchSpec>, Wait), Invalid> {
    let id = request_id(&std::mem::take(&mut request.request_id))?;
    // Who asks again may want to wait for something else.
    let wait = wait(std::mem::take(&mut request.wait))?;
    check_count("branches", request.branches.len(), limits)?;
    let spec = BeginSpec {
        protocol: protocol("protocol", request.protocol)?,
        label: label(&request.label)?,
        timeout: timeout(request.timeout_ms, limits)?,
        request: id.map(|id| Request { id, fingerprint: fingerprint(RUN, &request) }),
    };
    let parse =
        |(at, spec)| branch_spec(spec, limits).map_err(|wrong| wrong.within(&format!("branches[{at}]")));
    let mut branches = request.branches.into_iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
    let taken = distinct(&branches, |at| format!("branches[{at}].branch_id"))?;
    // Numbered here, where all ids are seen: a number that comes later under its own name would be the same branch.
    let mut free = (1..).map(BranchId::numbered).filter(|id| !taken.contains_key(id));
    for branch in branches.iter_mut().filter(|branch| branch.id.is_none()) {
        branch.id = free.next();
    }
    Ok((spec, branches, wait))
}

pub fn enlist(request: pb::EnlistRequest, limits: &Limits) -> Result<(TxId, Enlistment), Invalid> {
    let tx = tx_id("xid", &request.xid)?;
    let Some(asked) = request.enlistment else { return Err(Invalid::new("enlistment", "is not set")) };
    let enlistment = enlistment(asked, limits).map_err(|wrong| wrong.within("enlistment"))?;
    Ok((tx, enlistment))
}

/// Branches that have ids come first, so that those which are then numbered get none of theirs.
pub fn commit(request: pb::CommitRequest, limits: &Limits) -> Result<(TxId, Vec<Enlistment>, Wait), Invalid> {
    let tx = tx_id("xid", &request.xid)?;
    let wait = wait(request.wait)?;
    check_count("enlistments", request.enlistments.len(), limits)?;
    let parse = |(at, asked)| {
        enlistment(asked, limits).map_err(|wrong: Invalid| wrong.within(&format!("enlistments[{at}]")))
    };
    let mut enlistments =
        request.enlistments.into_iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
    distinct(enlistments.iter().map(|enlistment| &enlistment.branch), |at| {
        format!("enlistments[{at}].branch.branch_id")
    })?;
    enlistments.sort_by_key(|enlistment| enlistment.branch.id.is_none());
    Ok((tx, enlistments, wait))
}

pub fn abort(request: &pb::AbortRequest) -> Result<(TxId, SmolStr, Wait), Invalid> {
    Ok((tx_id("xid", &request.xid)?, reason(&request.reason), wait(request.wait)?))
}

/// Why an operator does something: must be said, and is kept whole.
pub fn given_reason(text: &str) -> Result<SmolStr, Invalid> {
    if text.trim().is_empty() {
        return Err(Invalid::new("reason", format!("is empty; say why in 1 to {REASON_MAX} bytes")));
    }
    if text.len() > REASON_MAX {
        return Err(Invalid::new("reason", format!("has {} bytes; the limit is {REASON_MAX}", text.len())));
    }
    Ok(SmolStr::new(text))
}

/// All that a request says, in 16 bytes.
fn fingerprint(kind: u8, request: &impl Message) -> [u8; 16] {
    let mut bytes = Vec::with_capacity(1 + request.encoded_len());
    bytes.push(kind);
    request.encode(&mut bytes).expect("a vector grows");
    Uuid::new_v5(&FINGERPRINTS, &bytes).into_bytes()
}

fn check_count(field: &str, count: usize, limits: &Limits) -> Result<(), Invalid> {
    let limit = limits.max_branches;
    if count <= limit {
        return Ok(());
    }
    Err(Invalid::new(field, format!("has {count} elements; the limit is {limit} (limits.max_branches)")))
}

/// The ids that branches of one request came with; none may be there twice.
fn distinct<'a>(
    branches: impl IntoIterator<Item = &'a BranchSpec>,
    field: impl Fn(usize) -> String,
) -> Result<Map<BranchId, usize>, Invalid> {
    let mut taken = Map::default();
    for (at, branch) in branches.into_iter().enumerate() {
        if let Some(id) = &branch.id
            && let Some(first) = taken.insert(id.clone(), at)
        {
            let problem = format!(
                "is {:?}, as {} is; give each branch an id of its own, or none",
                id.as_str(),
                field(first)
            );
            return Err(Invalid::new(field(at), problem));
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests;
