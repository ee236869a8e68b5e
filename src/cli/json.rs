//! Messages as JSON: the stable form that scripts read.
//!
//! Keys are those of the protos. Enums are lower-case words, times RFC 3339 in UTC with milliseconds, and what is absent
//! is `null`.

use assent_proto::v1::{
    Branch, BranchResult, BranchState, GetServerStatusResponse, HistoryEvent, Outcome, Participant, Protocol,
    ReservationClass, State, Transaction, TransactionResult, Vote,
};
use prost_types::Timestamp;
use serde_json::{Value, json};

use super::time::{rfc3339, system_time};
use super::words::json_word;

pub fn transaction(tx: &Transaction) -> Value {
    json!({
        "xid": tx.xid,
        "label": text(&tx.label),
        "protocol": json_word::<Protocol>(tx.protocol),
        "state": json_word::<State>(tx.state),
        "outcome": json_word::<Outcome>(tx.outcome),
        "reason": text(&tx.reason),
        "begin_time": time(tx.begin_time.as_ref()),
        "decide_time": time(tx.decide_time.as_ref()),
        "end_time": time(tx.end_time.as_ref()),
        "timeout_ms": tx.timeout_ms,
        "request_id": text(&tx.request_id),
        "branches": tx.branches.iter().map(branch).collect::<Vec<_>>(),
        "history": tx.history.iter().map(event).collect::<Vec<_>>(),
    })
}

pub fn result(result: &TransactionResult) -> Value {
    json!({
        "xid": result.xid,
        "outcome": json_word::<Outcome>(result.outcome),
        "complete": result.complete,
        "reason": text(&result.reason),
        "branches": result.branches.iter().map(branch_result).collect::<Vec<_>>(),
    })
}

pub fn status(status: &GetServerStatusResponse, participants: &[Participant]) -> Value {
    json!({
        "version": status.version,
        "cluster_id": status.cluster_id,
        "epoch": status.epoch,
        "start_time": time(status.start_time.as_ref()),
        "ready": status.ready,
        "phase": text(&status.phase),
        "active_transactions": status.active_transactions,
        "retained_transactions": status.retained_transactions,
        "forced_writes": status.forced_writes,
        "log_syncs": status.log_syncs,
        "log_bytes": status.log_bytes,
        "data_dir": status.data_dir,
        "participants": participants.iter().map(participant).collect::<Vec<_>>(),
    })
}

fn branch(branch: &Branch) -> Value {
    json!({
        "branch_id": branch.branch_id,
        "participant": branch.participant,
        "endpoint": text(&branch.endpoint),
        "protocol": json_word::<Protocol>(branch.protocol),
        "state": json_word::<BranchState>(branch.state),
        "vote": json_word::<Vote>(branch.vote),
        "reason": text(&branch.reason),
        "attempts": branch.attempts,
        "last_error": text(&branch.last_error),
        "next_attempt_time": time(branch.next_attempt_time.as_ref()),
        "reservation_ttl_ms": branch.reservation_ttl_ms,
        "reservation_class": json_word::<ReservationClass>(branch.reservation_class),
    })
}

fn event(event: &HistoryEvent) -> Value {
    json!({
        "time": time(event.time.as_ref()),
        "kind": event.kind,
        "branch_id": text(&event.branch_id),
        "detail": text(&event.detail),
    })
}

fn branch_result(branch: &BranchResult) -> Value {
    json!({
        "branch_id": branch.branch_id,
        "participant": branch.participant,
        "state": json_word::<BranchState>(branch.state),
        "reply": reply(&branch.reply),
        "reason": text(&branch.reason),
    })
}

fn participant(participant: &Participant) -> Value {
    let sessions: Vec<Value> = participant
        .sessions
        .iter()
        .map(|session| {
            json!({
                "instance_id": session.instance_id,
                "agent": text(&session.agent),
                "peer": text(&session.peer),
                "connect_time": time(session.connect_time.as_ref()),
            })
        })
        .collect();
    json!({
        "name": participant.name,
        "sessions": sessions,
        "endpoint": text(&participant.endpoint),
        "paused": participant.paused,
        "in_flight": participant.in_flight,
        "queued": participant.queued,
    })
}

/// A reply that is text is a string; any other is `{"hex": "…"}`.
fn reply(bytes: &[u8]) -> Value {
    use std::fmt::Write as _;
    match std::str::from_utf8(bytes) {
        Ok(reply) => text(reply),
        Err(_) => json!({ "hex": bytes.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }) }),
    }
}

fn text(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { Value::from(text) }
}

fn time(time: Option<&Timestamp>) -> Value {
    system_time(time).map(rfc3339).into()
}
