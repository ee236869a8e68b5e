//! Transactions, as they are shown.

use std::time::Duration;

use assent_proto::v1 as pb;
use humantime::format_duration;

use super::{
    branch_state_to_pb, class_to_pb, decision_word, millis, outcome_to_pb, protocol_to_pb, state_to_pb,
    vote_to_pb,
};
use crate::core::{
    Branch, BranchIndex, BranchResult, Decision, Now, Outcome, Protocol, Record, ReservationClass, State,
    Transaction, TransactionResult, Vote, WallTime, What, state_word,
};

/// Whether a transaction is shown with everything that happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    Shown,
    LeftOut,
}

/// How the end of a transaction is told.
pub fn result_to_pb(result: TransactionResult) -> pb::TransactionResult {
    pb::TransactionResult {
        xid: result.tx.to_string(),
        outcome: result.outcome.map_or(pb::Outcome::Unknown, outcome_to_pb).into(),
        complete: result.complete,
        reason: result.reason.into(),
        branches: result.branches.into_iter().map(branch_result_to_pb).collect(),
    }
}

/// A transaction as it stands at `now`.
pub fn transaction_to_pb(tx: &Transaction, now: Now, history: History) -> pb::Transaction {
    pb::Transaction {
        xid: tx.id.to_string(),
        label: tx.label.to_string(),
        protocol: protocol_to_pb(tx.protocol).into(),
        state: state_to_pb(tx.state()).into(),
        outcome: outcome_so_far(tx).into(),
        reason: tx.reason.to_string(),
        begin_time: Some(timestamp(tx.begun_at)),
        decide_time: tx.decided_at().map(timestamp),
        end_time: tx.ended_at().map(timestamp),
        timeout_ms: millis(tx.timeout),
        request_id: tx.request.as_ref().map(|request| request.id.to_string()).unwrap_or_default(),
        branches: tx.branches.iter().map(|branch| branch_to_pb(branch, now)).collect(),
        history: match history {
            History::Shown => tx.records().map(|record| history_event(tx, record)).collect(),
            History::LeftOut => Vec::new(),
        },
    }
}

pub fn timestamp(at: WallTime) -> prost_types::Timestamp {
    let span = Duration::from_millis(at.0);
    prost_types::Timestamp {
        seconds: i64::try_from(span.as_secs()).expect("a u64 of milliseconds has fewer seconds than an i64"),
        nanos: i32::try_from(span.subsec_nanos()).expect("a second has 10^9 of them"),
    }
}

fn branch_result_to_pb(branch: BranchResult) -> pb::BranchResult {
    pb::BranchResult {
        branch_id: branch.id.to_string(),
        participant: branch.participant.to_string(),
        state: branch_state_to_pb(branch.state).into(),
        reply: branch.reply,
        reason: branch.reason.into(),
    }
}

fn outcome_so_far(tx: &Transaction) -> pb::Outcome {
    match (tx.outcome, tx.decision, tx.state()) {
        (Some(outcome), _, _) => outcome_to_pb(outcome),
        (None, Some(Decision::Commit), _) => pb::Outcome::Committed,
        (None, Some(Decision::Abort), _) => pb::Outcome::Aborted,
        (None, None, State::Delegated) => pb::Outcome::Unknown,
        (
            None,
            None,
            State::Active | State::Preparing | State::Committing | State::Aborting | State::Ended(_),
        ) => pb::Outcome::Unspecified,
    }
}

fn branch_to_pb(branch: &Branch, now: Now) -> pb::Branch {
    let next_attempt = branch.next_attempt_in(now.mono).map(|span| now.wall.0.saturating_add(millis(span)));
    pb::Branch {
        branch_id: branch.id.to_string(),
        participant: branch.participant.to_string(),
        endpoint: branch.endpoint().map(ToString::to_string).unwrap_or_default(),
        protocol: protocol_to_pb(branch.protocol).into(),
        state: branch_state_to_pb(branch.state).into(),
        vote: vote_to_pb(branch.vote).into(),
        reason: branch.reason().to_owned(),
        attempts: branch.attempts,
        last_error: branch.last_error().to_owned(),
        next_attempt_time: next_attempt.map(|at| timestamp(WallTime(at))),
        // Until it has voted, what is there is the one that was asked for.
        reservation_ttl_ms: if branch.vote.is_some() { millis(branch.reservation_ttl) } else { 0 },
        reservation_class: match (branch.protocol, branch.vote) {
            (Protocol::Tcc, Some(Vote::Prepared)) => class_to_pb(branch.class).into(),
            (Protocol::Tcc, Some(Vote::ReadOnly | Vote::Refused) | None) | (Protocol::TwoPhase, _) => {
                pb::ReservationClass::Unspecified.into()
            }
        },
    }
}

fn history_event(tx: &Transaction, record: Record) -> pb::HistoryEvent {
    let (kind, branch, detail) = match record.what {
        What::Begun { protocol, timeout, .. } => {
            ("begun", None, format!("{}, timeout {}", protocol_word(protocol), format_duration(timeout)))
        }
        What::Enlisted(enlisted) => {
            let word = protocol_word(enlisted.protocol);
            let at = enlisted.endpoint.map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
            let detail = format!("{}{at}, {word}", enlisted.participant);
            return event(record.at, "enlisted", enlisted.id.to_string(), detail);
        }
        What::Voted { branch, vote, reason, reservation_ttl, class } => {
            ("voted", Some(branch), vote_detail(vote, &reason, reservation_ttl, class))
        }
        What::Delegated => ("delegated", None, "its only participant decides".to_owned()),
        What::DelegationDeclined => {
            ("delegation_declined", None, "its participant has no commit in one phase".to_owned())
        }
        What::Decided { decision, reason } => {
            ("decided", None, with_reason(decision_word(decision), &reason))
        }
        What::Unreached { branch } => ("unreached", Some(branch), "there is nothing to roll back".to_owned()),
        What::Acknowledged { branch } => ("acknowledged", Some(branch), String::new()),
        What::Heuristic { branch, detail, .. } => ("heuristic", Some(branch), detail.into()),
        What::Resolved { branch, committed, reason } => {
            let word = if committed { "committed" } else { "rolled back" };
            ("resolved", Some(branch), with_reason(word, &reason))
        }
        What::Ended { outcome } => ("ended", None, outcome_word(outcome).to_owned()),
        What::Doubted { reason } => ("doubted", None, reason.into()),
    };
    let branch = branch.map(|BranchIndex(at)| tx.branches[usize::from(at)].id.to_string());
    event(record.at, kind, branch.unwrap_or_default(), detail)
}

fn event(at: WallTime, kind: &str, branch_id: String, detail: String) -> pb::HistoryEvent {
    pb::HistoryEvent { time: Some(timestamp(at)), kind: kind.to_owned(), branch_id, detail }
}

fn vote_detail(vote: Vote, reason: &str, ttl: Duration, class: ReservationClass) -> String {
    let reserved = match (ttl.is_zero(), class) {
        (true, _) => String::new(),
        (false, ReservationClass::Cooperative) => format!(", reserved for {}", format_duration(ttl)),
        (false, ReservationClass::Autonomous) => {
            format!(", reserved for {}, then cancelled by the participant", format_duration(ttl))
        }
    };
    match vote {
        Vote::Prepared => format!("prepared{reserved}"),
        Vote::ReadOnly => "read-only".to_owned(),
        Vote::Refused => with_reason("refused", reason),
    }
}

fn with_reason(word: &str, reason: &str) -> String {
    if reason.is_empty() { word.to_owned() } else { format!("{word}: {reason}") }
}

fn protocol_word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::TwoPhase => "2pc",
        Protocol::Tcc => "tcc",
    }
}

fn outcome_word(outcome: Outcome) -> &'static str {
    state_word(State::Ended(outcome))
}

#[cfg(test)]
mod tests;
