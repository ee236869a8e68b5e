//! What the databases say, and whether it adds up.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::{Error, Service, Store};

/// All five databases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Books {
    pub order: Orders,
    pub stock: Stock,
    pub payment: Payment,
    pub north: Ledger,
    pub south: Ledger,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Orders {
    pub pending: i64,
    pub confirmed: i64,
    /// Items in confirmed orders.
    pub quantity: i64,
    /// Coins in confirmed orders.
    pub amount: i64,
    /// Branches that are prepared and do not know the decision. So in all books.
    pub in_doubt: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stock {
    pub free: i64,
    pub held: i64,
    pub sold: i64,
    pub in_doubt: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Payment {
    /// On the customers' accounts.
    pub balance: i64,
    pub held: i64,
    /// In the till.
    pub received: i64,
    pub in_doubt: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ledger {
    pub balance: i64,
    /// Entries that are staged.
    pub staged: i64,
    pub in_doubt: i64,
}

/// A figure, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    pub what: &'static str,
    pub is: i64,
    /// Where the other figure is from.
    pub against: &'static str,
    pub must_be: i64,
}

impl Check {
    pub fn holds(&self) -> bool {
        self.is == self.must_be
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}; {} {}", self.is, self.what, self.against, self.must_be)
    }
}

impl Books {
    /// Reads the stores, past the processes that write them.
    pub(super) async fn read(stores: &BTreeMap<Service, Store>) -> Result<Books, Error> {
        let [pending, confirmed, quantity, amount, in_doubt] = stores[&Service::Order]
            .figures(
                "SELECT count(*) FILTER (WHERE state = 'pending'), count(*) FILTER (WHERE state = 'confirmed'),
                     coalesce(sum(quantity) FILTER (WHERE state = 'confirmed'), 0),
                     coalesce(sum(amount) FILTER (WHERE state = 'confirmed'), 0)
                 FROM orders",
            )
            .await?;
        let order = Orders { pending, confirmed, quantity, amount, in_doubt };
        // There is nothing but apples.
        let [free, held, sold, in_doubt] =
            stores[&Service::Stock].figures("SELECT free, held, sold FROM stock").await?;
        let stock = Stock { free, held, sold, in_doubt };
        let [balance, held, received, in_doubt] = stores[&Service::Payment]
            .figures(
                "SELECT (SELECT sum(balance) FROM accounts), (SELECT sum(held) FROM accounts),
                     (SELECT sum(received) FROM till)",
            )
            .await?;
        let payment = Payment { balance, held, received, in_doubt };
        let (north, south) = (&stores[&Service::North], &stores[&Service::South]);
        Ok(Books {
            order,
            stock,
            payment,
            north: Ledger::read(north).await?,
            south: Ledger::read(south).await?,
        })
    }

    /// After an order of so many apples for so many coins.
    #[must_use]
    pub(super) fn with_order(mut self, quantity: i64, amount: i64) -> Books {
        (self.stock.free, self.stock.sold) = (self.stock.free - quantity, self.stock.sold + quantity);
        self.payment.balance -= amount;
        self.payment.received += amount;
        self.order.confirmed += 1;
        (self.order.quantity, self.order.amount) =
            (self.order.quantity + quantity, self.order.amount + amount);
        self
    }

    /// One service's figures in a line: `stock: free 8, held 0, sold 2`.
    pub(super) fn line(&self, service: Service) -> String {
        let (figures, in_doubt): (&dyn fmt::Display, i64) = match service {
            Service::Order | Service::OrderTwoPhase => (&self.order, self.order.in_doubt),
            Service::Stock | Service::StockTwoPhase => (&self.stock, self.stock.in_doubt),
            Service::Payment => (&self.payment, self.payment.in_doubt),
            Service::North => (&self.north, self.north.in_doubt),
            Service::South => (&self.south, self.south.in_doubt),
        };
        let doubt = if in_doubt > 0 { "  (prepared, decision not known)" } else { "" };
        format!("{service}: {figures}{doubt}")
    }

    /// What must hold at the end, given the books at the opening: nothing lost, nothing made from nothing, nothing left
    /// hanging, and all services agree on what was sold.
    pub(super) fn checks(&self, opening: &Books) -> Vec<Check> {
        let (order, stock, payment) = (&self.order, &self.stock, &self.payment);
        let check = |what, is, against, must_be| Check { what, is, against, must_be };
        let none = |what, is| Check { what, is, against: "there must be", must_be: 0 };
        let start = "at the beginning there were";
        let orders = "in confirmed orders there are";
        vec![
            check("apples free, held and sold", stock.all(), start, opening.stock.all()),
            check("coins with customers, held and in the till", payment.all(), start, opening.payment.all()),
            check("coins in both banks", self.in_banks(), start, opening.in_banks()),
            check("apples sold", stock.sold, orders, order.quantity),
            check("coins in the till", payment.received, orders, order.amount),
            none("orders pending", order.pending),
            none("apples held", stock.held),
            none("coins held", payment.held),
            none("entries staged", self.north.staged + self.south.staged),
            none("branches in doubt", self.in_doubt()),
        ]
    }

    fn in_banks(&self) -> i64 {
        self.north.balance + self.south.balance
    }

    fn in_doubt(&self) -> i64 {
        self.order.in_doubt
            + self.stock.in_doubt
            + self.payment.in_doubt
            + self.north.in_doubt
            + self.south.in_doubt
    }
}

impl Ledger {
    async fn read(store: &Store) -> Result<Ledger, Error> {
        let statement = match store {
            Store::File(_) => "SELECT (SELECT sum(balance) FROM accounts), (SELECT count(*) FROM staged)",
            // There the database itself stages what is prepared. Of BIGINT the sum is NUMERIC.
            Store::Postgres(_) | Store::MySql(_) => {
                "SELECT CAST(sum(balance) AS BIGINT), CAST(0 AS BIGINT) FROM accounts"
            }
        };
        let [balance, staged, in_doubt] = store.figures(statement).await?;
        Ok(Ledger { balance, staged, in_doubt })
    }
}

impl Stock {
    fn all(&self) -> i64 {
        self.free + self.held + self.sold
    }
}

impl Payment {
    fn all(&self) -> i64 {
        self.balance + self.held + self.received
    }
}

impl fmt::Display for Orders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pending {}, confirmed {}", self.pending, self.confirmed)
    }
}

impl fmt::Display for Stock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "free {}, held {}, sold {}", self.free, self.held, self.sold)
    }
}

impl fmt::Display for Payment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "customers {}, held {}, till {}", self.balance, self.held, self.received)
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "balance {}, staged entries {}", self.balance, self.staged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening() -> Books {
        let ledger = Ledger { balance: 200, staged: 0, in_doubt: 0 };
        Books {
            order: Orders { pending: 0, confirmed: 0, quantity: 0, amount: 0, in_doubt: 0 },
            stock: Stock { free: 10, held: 0, sold: 0, in_doubt: 0 },
            payment: Payment { balance: 100, held: 0, received: 0, in_doubt: 0 },
            north: ledger.clone(),
            south: ledger,
        }
    }

    /// After an order of two for six, and a transfer of thirty.
    fn closing() -> Books {
        let mut books = opening();
        books.order = Orders { confirmed: 1, quantity: 2, amount: 6, ..books.order };
        books.stock = Stock { free: 8, sold: 2, ..books.stock };
        books.payment = Payment { balance: 94, received: 6, ..books.payment };
        books.north.balance -= 30;
        books.south.balance += 30;
        books
    }

    #[test]
    fn books_that_add_up_pass_every_check() {
        for books in [opening(), closing()] {
            assert_eq!(failing(&books), [""; 0]);
        }
    }

    #[test]
    fn whatever_is_lost_made_or_left_hanging_is_found_and_named() {
        type Spoil = fn(&mut Books);
        let wrong: [(Spoil, &[&str]); 12] = [
            (|books| books.stock.free -= 1, &["apples free, held and sold"]),
            (|books| books.stock.held += 1, &["apples free, held and sold", "apples held"]),
            (|books| (books.stock.free, books.stock.sold) = (7, 3), &["apples sold"]),
            (|books| books.payment.balance += 1, &["coins with customers, held and in the till"]),
            (|books| (books.payment.balance, books.payment.held) = (93, 1), &["coins held"]),
            (|books| (books.payment.balance, books.payment.received) = (97, 3), &["coins in the till"]),
            (|books| books.north.balance += 30, &["coins in both banks"]),
            (|books| books.order.pending = 1, &["orders pending"]),
            (|books| books.order.quantity = 0, &["apples sold"]),
            (|books| books.north.staged = 1, &["entries staged"]),
            (|books| books.south.staged = 1, &["entries staged"]),
            (|books| books.payment.in_doubt = 1, &["branches in doubt"]),
        ];
        for (index, (spoil, named)) in wrong.into_iter().enumerate() {
            let mut books = closing();
            spoil(&mut books);
            assert_eq!(failing(&books), named, "{index}");
        }
    }

    fn failing(books: &Books) -> Vec<&'static str> {
        let checks = books.checks(&opening());
        checks.into_iter().filter(|check| !check.holds()).map(|check| check.what).collect()
    }
}
