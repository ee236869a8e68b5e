//! How scenarios show what the engine did.

use std::fmt::Write;
use std::time::Duration;

use crate::core::{
    Answer, Branch, Call, CallState, Completion, Outcome, Protocol, Record, ReservationClass, Timestamp,
    Transaction, TransactionResult, What, state_word,
};

/// Records, one after another.
pub(super) fn records(bytes: &[u8]) -> String {
    Record::decode_all(bytes).map(|record| what(&record.unwrap().what)).collect::<Vec<_>>().join("; ")
}

pub(super) fn what(what: &What) -> String {
    match what {
        What::Begun { protocol, timeout, request, .. } => {
            let request = request.as_ref().map(|request| format!(", request {}", request.id));
            format!("begun {}, timeout {timeout:?}{}", protocol_word(*protocol), request.unwrap_or_default())
        }
        What::Enlisted(branch) => format!(
            "enlisted {} {} {}{}{}",
            branch.id,
            branch.participant,
            protocol_word(branch.protocol),
            ttl(branch.reservation_ttl),
            if branch.inquires { "" } else { " never asks" },
        ),
        What::Voted { branch, vote, reason, reservation_ttl, class } => {
            let class = match class {
                ReservationClass::Cooperative => "",
                ReservationClass::Autonomous => " autonomous",
            };
            format!(
                "voted {} {}{}{class}{}",
                at(branch.0),
                spaced(vote),
                ttl(*reservation_ttl),
                colon(reason)
            )
        }
        What::Delegated => "delegated".into(),
        What::DelegationDeclined => "delegation declined".into(),
        What::Decided { decision, reason } => format!("decided {}{}", spaced(decision), colon(reason)),
        What::Unreached { branch } => format!("unreached {}", at(branch.0)),
        What::Acknowledged { branch } => format!("acknowledged {}", at(branch.0)),
        What::Heuristic { branch, completion, detail } => {
            format!("heuristic {} {}{}", at(branch.0), completion_word(*completion), colon(detail))
        }
        What::Resolved { branch, committed, reason } => {
            let word = if *committed { "committed" } else { "rolled back" };
            format!("resolved {} {word}{}", at(branch.0), colon(reason))
        }
        What::Ended { outcome } => format!("ended {}", spaced(outcome)),
        What::Doubted { reason } => format!("doubted{}", colon(reason)),
    }
}

pub(super) fn call(call: &Call) -> String {
    let mut line = format!(
        "call {}/{} {} to {}{}",
        call.tx,
        call.branch,
        call.operation.word(call.protocol),
        call.participant,
        ttl(call.reservation_ttl)
    );
    if !call.payload.is_empty() {
        write!(line, " with {:?}", String::from_utf8_lossy(&call.payload)).unwrap();
    }
    if let Some(endpoint) = &call.endpoint {
        write!(line, " at {endpoint}").unwrap();
    }
    if let Some(replica) = call.prefer {
        write!(line, " preferring replica {}", replica.0).unwrap();
    }
    if call.attempt > 1 {
        write!(line, ", attempt {}", call.attempt).unwrap();
    }
    line
}

pub(super) fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Begun { tx, timeout } => format!("{tx} begun, timeout {timeout:?}"),
        Answer::Enlisted { branch } => format!("enlisted as {branch}"),
        Answer::Ended(result) => self::result(result),
        Answer::Inquiry(answer) => spaced(answer),
        Answer::Transaction(tx) => format!("{} is {}", tx.id, state_word(tx.state())),
        Answer::Retried { calls } => format!("{calls} calls made"),
        Answer::Forgotten => "forgotten".into(),
        Answer::Rejected(rejection) => format!("REJECTED {rejection}"),
    }
}

fn result(result: &TransactionResult) -> String {
    let outcome = match result.outcome {
        None => "UNKNOWN",
        Some(Outcome::Committed) => "COMMITTED",
        Some(Outcome::Aborted) => "ABORTED",
        Some(Outcome::Mixed) => "MIXED",
        Some(Outcome::Hazard) => "HAZARD",
    };
    let complete = if result.complete { "" } else { ", incomplete" };
    let branches = result.branches.iter().map(|branch| {
        let reply = String::from_utf8_lossy(&branch.reply);
        let reply = if reply.is_empty() { String::new() } else { format!(" with {reply:?}") };
        format!("{} {}{reply}{}", branch.id, spaced(branch.state), parenthesis(&branch.reason))
    });
    let branches = branches.collect::<Vec<_>>().join(", ");
    format!("{outcome}{complete}{} [{branches}]", colon(&result.reason))
}

pub(super) fn transaction(tx: &Transaction, now: Timestamp) -> Vec<String> {
    let head = format!("{} is {}{}", tx.id, state_word(tx.state()), colon(&tx.reason));
    std::iter::once(head).chain(tx.branches.iter().map(|each| branch(each, now))).collect()
}

fn branch(branch: &Branch, now: Timestamp) -> String {
    let call = match branch.call {
        CallState::Idle => String::new(),
        CallState::InFlight { .. } => format!(", call {} is out", branch.attempts),
        CallState::Waiting { .. } => {
            let next = branch.next_attempt_in(now).expect("it waits");
            format!(", {} attempts, next in {:?}", branch.attempts, millis(next))
        }
    };
    let error = if branch.last_error().is_empty() { "" } else { ", last error" };
    format!(
        "  {} {}: {}{}{call}{error}{}",
        branch.id,
        branch.participant,
        spaced(branch.state),
        parenthesis(branch.reason()),
        colon(branch.last_error())
    )
}

pub(super) fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

/// Cut to whole milliseconds.
pub(super) fn millis(span: Duration) -> Duration {
    Duration::from_millis(u64::try_from(span.as_millis()).unwrap())
}

/// Branches are counted from 1 in scenarios, as they are named.
fn at(index: u16) -> String {
    format!("{}", index + 1)
}

fn ttl(ttl: Duration) -> String {
    if ttl.is_zero() { String::new() } else { format!(" ttl {ttl:?}") }
}

fn colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

fn parenthesis(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

fn protocol_word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::TwoPhase => "2pc",
        Protocol::Tcc => "tcc",
    }
}

fn completion_word(completion: Completion) -> String {
    spaced(completion).replace("heuristic ", "")
}

/// `RolledBack` as `rolled back`.
fn spaced(name: impl std::fmt::Debug) -> String {
    let mut text = String::new();
    for c in format!("{name:?}").chars() {
        if c.is_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}
