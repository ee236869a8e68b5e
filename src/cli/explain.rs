//! Says in one sentence where a transaction stands and what it waits for.

use std::time::SystemTime;

use assent_proto::v1::{Branch, BranchState, State, Transaction};

use super::time::{brief, since, system_time};
use crate::config::Span;

/// How many of the branches that are waited for are described.
const DESCRIBED_MAX: usize = 3;

/// Where `tx` stands at `now`.
pub fn sentence(tx: &Transaction, now: SystemTime) -> String {
    match State::try_from(tx.state) {
        Ok(State::Active) => active(tx, now),
        Ok(State::Preparing) => {
            let pending = in_states(tx, &[BranchState::Enlisted, BranchState::Preparing]);
            format!("preparing: {}; {}", waits_for("the vote of ", &pending, now), deadline(tx, now))
        }
        Ok(State::Delegated) => {
            let branches: Vec<&Branch> = tx.branches.iter().collect();
            let waits = waits_for("", &branches, now);
            format!(
                "delegated: its single branch decides, so the outcome is not known (and is no abort); {waits}"
            )
        }
        Ok(State::Committing) => {
            format!("decided: commit; {}", waits_for("", &in_states(tx, &[BranchState::Committing]), now))
        }
        Ok(State::Aborting) => {
            let waits = waits_for("", &in_states(tx, &[BranchState::RollingBack]), now);
            format!("decided: abort{}; {waits}", because(tx))
        }
        Ok(State::Committed) => format!("committed{}", took(tx)),
        Ok(State::Aborted) => format!("aborted{}{}", took(tx), because(tx)),
        Ok(State::Mixed) => format!("mixed: {}{}", heuristics(tx), to_do(tx)),
        Ok(State::Hazard) => format!("hazard: {}{}", heuristics(tx), to_do(tx)),
        Ok(State::Unspecified) | Err(_) => {
            format!("in a state that this command does not know ({})", tx.state)
        }
    }
}

/// Nothing more is to be done for a branch in this state.
pub fn is_finished(branch: &Branch) -> bool {
    match BranchState::try_from(branch.state) {
        Ok(
            BranchState::ReadOnly
            | BranchState::Refused
            | BranchState::Committed
            | BranchState::RolledBack
            | BranchState::HeuristicCommit
            | BranchState::HeuristicRollback
            | BranchState::HeuristicHazard,
        ) => true,
        Ok(
            BranchState::Unspecified
            | BranchState::Enlisted
            | BranchState::Preparing
            | BranchState::Prepared
            | BranchState::Committing
            | BranchState::RollingBack,
        )
        | Err(_) => false,
    }
}

fn active(tx: &Transaction, now: SystemTime) -> String {
    let voted = tx.branches.len() - in_states(tx, &[BranchState::Enlisted]).len();
    let branches = match tx.branches.len() {
        0 => "no branch yet".to_owned(),
        1 => format!("1 branch, {voted} voted"),
        count => format!("{count} branches, {voted} voted"),
    };
    format!("active: {branches}; waits for its initiator to commit or abort; {}", deadline(tx, now))
}

fn waits_for(what: &str, pending: &[&Branch], now: SystemTime) -> String {
    let described: Vec<String> =
        pending.iter().take(DESCRIBED_MAX).map(|branch| describe(branch, now)).collect();
    match pending.len() {
        0 => "every answer is here".to_owned(),
        count if count > DESCRIBED_MAX => {
            format!("waits for {what}{}; and for {} more", described.join("; "), count - DESCRIBED_MAX)
        }
        _ => format!("waits for {what}{}", described.join("; and for ")),
    }
}

fn describe(branch: &Branch, now: SystemTime) -> String {
    let called = match branch.attempts {
        0 => String::new(),
        1 => "called once".to_owned(),
        attempts => format!("called {attempts} times"),
    };
    let experience = match (called.as_str(), branch.last_error.as_str()) {
        ("", "") => "which has not been called yet".to_owned(),
        ("", error) => format!("which could not be called ({error})"),
        (called, "") => format!("which was {called} and has not answered"),
        (called, error) => format!("which was {called} without success ({error})"),
    };
    let next = match system_time(branch.next_attempt_time.as_ref()) {
        None => String::new(),
        Some(next) if next <= now => "; next attempt due now".to_owned(),
        Some(next) => format!("; next attempt in {}", brief(since(next, now))),
    };
    format!("{}, {experience}{next}", branch.participant)
}

fn deadline(tx: &Transaction, now: SystemTime) -> String {
    let timeout = Span::from_millis(tx.timeout_ms);
    match system_time(tx.begin_time.as_ref()).and_then(|begin| begin.checked_add(timeout.0)) {
        Some(deadline) if deadline > now => {
            format!("aborts in {} unless committed", brief(since(deadline, now)))
        }
        Some(_) => format!("its timeout of {timeout} is over: it aborts"),
        None => "its timeout is not known".to_owned(),
    }
}

fn took(tx: &Transaction) -> String {
    match (system_time(tx.begin_time.as_ref()), system_time(tx.end_time.as_ref())) {
        (Some(begin), Some(end)) => format!(", {} after it began", brief(since(end, begin))),
        (Some(_) | None, Some(_) | None) => String::new(),
    }
}

/// Why it aborts, after a colon. A refusal is told in the participant's own words.
fn because(tx: &Transaction) -> String {
    match in_states(tx, &[BranchState::Refused]).first() {
        Some(branch) if branch.reason.is_empty() => format!(": {} refused", branch.participant),
        Some(branch) => format!(": {} refused: {}", branch.participant, branch.reason),
        None if tx.reason.is_empty() => String::new(),
        None => format!(": {}", tx.reason),
    }
}

fn heuristics(tx: &Transaction) -> String {
    let told: Vec<String> = tx
        .branches
        .iter()
        .filter_map(|branch| {
            let what = match BranchState::try_from(branch.state).ok()? {
                BranchState::HeuristicCommit => "committed although the decision was abort",
                BranchState::HeuristicRollback => "rolled back although the decision was commit",
                BranchState::HeuristicHazard => "cannot tell what happened",
                BranchState::Unspecified
                | BranchState::Enlisted
                | BranchState::Preparing
                | BranchState::Prepared
                | BranchState::ReadOnly
                | BranchState::Refused
                | BranchState::Committing
                | BranchState::RollingBack
                | BranchState::Committed
                | BranchState::RolledBack => return None,
            };
            let reason =
                if branch.reason.is_empty() { String::new() } else { format!(" ({})", branch.reason) };
            Some(format!("{} {what}{reason}", branch.participant))
        })
        .collect();
    match (told.as_slice(), tx.reason.as_str()) {
        ([], "") => "a branch went against the decision".to_owned(),
        ([], reason) => reason.to_owned(),
        (told, _) => told.join("; "),
    }
}

/// What an operator is to do about a heuristic outcome.
fn to_do(tx: &Transaction) -> String {
    let pending: Vec<&Branch> = tx.branches.iter().filter(|branch| !is_finished(branch)).collect();
    let forget = "it is kept until an operator has set it right and says `assent tx forget`";
    if pending.is_empty() {
        format!("; {forget}")
    } else {
        format!("; {} more under way; {forget}", pending.len())
    }
}

fn in_states<'a>(tx: &'a Transaction, states: &[BranchState]) -> Vec<&'a Branch> {
    tx.branches.iter().filter(|branch| states.iter().any(|state| *state as i32 == branch.state)).collect()
}

#[cfg(test)]
pub mod tests;
