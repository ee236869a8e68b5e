//! Transactions by the page.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use assent_proto::v1 as pb;
use prost::Message as _;
use tonic::Status;

use crate::api::status;
use crate::coordinator::{Coordinator, Stopped};
use crate::core::{Label, Now, ParticipantName, Protocol, Transaction, TxOrder, WallTime};
use crate::wire::{self, History, Invalid};

const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: u32 = 1_000;
/// A page that has this many bytes is sent, so that with one more transaction it is still below the 4 MiB that gRPC
/// clients take by default.
const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

pub(super) async fn list(
    coordinator: &Coordinator,
    request: pb::ListRequest,
) -> Result<pb::ListResponse, Status> {
    let (filter, size, before) = parse(request).map_err(|wrong| status::invalid(&wrong))?;
    let (found, next) = newest(coordinator, &Arc::new(filter), before, size).await?;
    Ok(page(&found, next, coordinator.now()))
}

/// Transactions that match, newest first and older than `before`, at most `limit`; and where to go on, if there may be
/// more.
pub(super) async fn newest(
    coordinator: &Coordinator,
    filter: &Arc<Filter>,
    mut before: Option<TxOrder>,
    limit: usize,
) -> Result<(Vec<Transaction>, Option<TxOrder>), Status> {
    let mut found = Vec::new();
    loop {
        // The engine looks at a bounded number in one go, and others get their turn in between.
        let (filter, room, now) = (filter.clone(), limit - found.len(), coordinator.now().wall);
        let look = coordinator.read(None, move |engine| {
            let (some, next) = engine.list(before, room, |transaction| filter.matches(transaction, now));
            (some.into_iter().map(Cow::into_owned).collect::<Vec<_>>(), next)
        });
        let (some, next) = look.await.map_err(|Stopped| status::stopped())?;
        found.extend(some);
        if next.is_none() || found.len() == limit {
            return Ok((found, next));
        }
        before = next;
    }
}

/// Which transactions are asked for.
#[derive(Debug)]
pub(super) struct Filter {
    /// Empty: all.
    states: BTreeSet<pb::State>,
    protocol: Option<Protocol>,
    label: Option<Label>,
    participant: Option<ParticipantName>,
    needs_attention: bool,
}

impl Filter {
    pub fn parse(filter: pb::TransactionFilter) -> Result<Filter, Invalid> {
        let state = |(at, value): (usize, i32)| {
            let field = format!("filter.states[{at}]");
            match wire::known(&field, value)? {
                pb::State::Unspecified => Err(Invalid::new(field, "is not set")),
                state => Ok(state),
            }
        };
        let (label, participant) = (&filter.label, &filter.participant);
        Ok(Filter {
            states: filter.states.into_iter().enumerate().map(state).collect::<Result<_, _>>()?,
            protocol: wire::branch_protocol("filter.protocol", filter.protocol)?,
            label: if label.is_empty() { None } else { Some(wire::name("filter.label", label)?) },
            participant: if participant.is_empty() {
                None
            } else {
                Some(wire::name("filter.participant", participant)?)
            },
            needs_attention: filter.needs_attention,
        })
    }

    pub fn matches(&self, transaction: &Transaction, now: WallTime) -> bool {
        let has =
            |name: &ParticipantName| transaction.branches.iter().any(|branch| branch.participant == *name);
        (self.states.is_empty() || self.states.contains(&wire::state_to_pb(transaction.state())))
            && self.protocol.is_none_or(|protocol| transaction.protocol == protocol)
            && self.label.as_ref().is_none_or(|label| transaction.label == *label)
            && self.participant.as_ref().is_none_or(has)
            && (!self.needs_attention || transaction.needs_attention(now))
    }
}

/// What to look for, how many, and where to begin.
fn parse(request: pb::ListRequest) -> Result<(Filter, usize, Option<TxOrder>), Invalid> {
    let filter = Filter::parse(request.filter.unwrap_or_default())?;
    let size = match request.page_size {
        0 => PAGE_SIZE_DEFAULT,
        size @ 1..=PAGE_SIZE_MAX => size as usize,
        size => {
            let problem = format!("is {size}; give 1 to {PAGE_SIZE_MAX}, or 0 for {PAGE_SIZE_DEFAULT}");
            return Err(Invalid::new("page_size", problem));
        }
    };
    // A token is the place of the last transaction that was looked at.
    let token = request.page_token;
    let before = if token.is_empty() {
        None
    } else {
        Some(token.parse::<TxOrder>().map_err(|_| {
            let problem = "is not one of this service; give the next_page_token of a response as it came";
            Invalid::new("page_token", problem)
        })?)
    };
    Ok((filter, size, before))
}

/// As many of them as one response takes.
fn page(found: &[Transaction], next: Option<TxOrder>, now: Now) -> pb::ListResponse {
    let mut transactions = Vec::with_capacity(found.len());
    let mut bytes = 0;
    for transaction in found {
        if bytes >= PAGE_BYTES_MAX {
            let last = &found[transactions.len() - 1];
            return pb::ListResponse { transactions, next_page_token: last.id.order().to_string() };
        }
        let shown = wire::transaction_to_pb(transaction, now, History::LeftOut);
        bytes += shown.encoded_len();
        transactions.push(shown);
    }
    pb::ListResponse { transactions, next_page_token: next.map(|next| next.to_string()).unwrap_or_default() }
}

#[cfg(test)]
mod tests;
