//! Holds back what must not be told before the log is durable.
//!
//! The log is written in groups, and each group has a ticket. What a forced step leads to waits for its group; and so
//! does all that later steps of the same transaction lead to, since it may give the undurable decision away. Other
//! transactions do not wait.

use std::collections::BTreeMap;

use crate::core::{Map, TxId};

/// Things of type `T` that wait for tickets.
#[derive(Debug)]
pub(super) struct Gate<T> {
    /// The last group known to be durable.
    durable: u64,
    /// The group that is being put together.
    current: u64,
    /// Transactions with a forced write that is not durable, and the last such group.
    dirty: Map<TxId, u64>,
    held: BTreeMap<u64, Held<T>>,
}

#[derive(Debug)]
struct Held<T> {
    things: Vec<T>,
    subjects: Vec<TxId>,
}

impl<T> Gate<T> {
    pub fn new() -> Gate<T> {
        Gate { durable: 0, current: 1, dirty: Map::default(), held: BTreeMap::new() }
    }

    /// A forced write of this transaction joins the current group.
    pub fn mark(&mut self, tx: TxId) {
        self.dirty.insert(tx, self.current);
        self.held(self.current).subjects.push(tx);
    }

    /// Holds the thing back if it must wait, and gives it back if it need not. `None`: it is about many transactions.
    pub fn hold(&mut self, subject: Option<TxId>, thing: T) -> Option<T> {
        let ticket = match subject {
            Some(tx) => self.dirty.get(&tx).copied(),
            None => self.held.last_key_value().map(|(ticket, _)| *ticket),
        };
        match ticket {
            Some(ticket) => {
                self.held(ticket).things.push(thing);
                None
            }
            None => Some(thing),
        }
    }

    /// Closes the current group and gives its ticket.
    pub fn close_group(&mut self) -> u64 {
        self.current += 1;
        self.current - 1
    }

    /// Groups up to this ticket are durable: what waited for them, in order.
    pub fn open(&mut self, ticket: u64) -> impl Iterator<Item = T> + use<T> {
        self.durable = self.durable.max(ticket);
        let later = self.held.split_off(&(ticket + 1));
        let opened = std::mem::replace(&mut self.held, later);
        for tx in opened.values().flat_map(|held| &held.subjects) {
            if self.dirty.get(tx).is_some_and(|last| *last <= ticket) {
                self.dirty.remove(tx);
            }
        }
        opened.into_values().flat_map(|held| held.things)
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    fn held(&mut self, ticket: u64) -> &mut Held<T> {
        self.held.entry(ticket).or_insert_with(|| Held { things: Vec::new(), subjects: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Epoch, Shard};

    fn tx(n: u64) -> TxId {
        TxId::new(n, 0, Epoch(1), Shard(0), 0)
    }

    #[test]
    fn later_steps_of_a_transaction_wait_for_its_decision_and_others_do_not() {
        let mut gate = Gate::new();
        gate.mark(tx(1));
        assert_eq!(gate.hold(Some(tx(1)), "commit calls"), None);
        assert_eq!(gate.hold(Some(tx(2)), "prepare calls"), Some("prepare calls"));
        let first = gate.close_group();
        assert_eq!(gate.hold(Some(tx(1)), "answer to an inquiry"), None);
        assert_eq!(gate.hold(None, "list"), None);
        assert_eq!(gate.open(first).collect::<Vec<_>>(), ["commit calls", "answer to an inquiry", "list"]);
        assert_eq!(gate.hold(Some(tx(1)), "now"), Some("now"));
        assert_eq!(gate.hold(None, "now"), Some("now"));
    }

    #[test]
    fn a_second_forced_write_holds_what_comes_after_it() {
        let mut gate = Gate::new();
        gate.mark(tx(1));
        let first = gate.close_group();
        gate.mark(tx(1));
        assert_eq!(gate.hold(Some(tx(1)), "second"), None);
        let second = gate.close_group();
        assert_eq!(gate.open(first).count(), 0);
        assert_eq!(gate.hold(Some(tx(1)), "third"), None);
        assert_eq!(gate.open(second).collect::<Vec<_>>(), ["second", "third"]);
    }
}
