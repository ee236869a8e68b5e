//! What orders, stock and money say at the end, and whether they agree.

use anyhow::ensure;
use assent_sdk::Result;
use assent_sdk::postgres::sqlx;

use crate::partner::{self, Money, WALLET};
use crate::{APPLE, CROWN, PEAR, Shop};

/// Of one run.
#[derive(Clone)]
pub struct Books {
    /// How many transactions the coordinator committed.
    pub committed: i64,
    pub orders: Orders,
    pub stock: Stock,
    pub money: Money,
}

#[derive(Clone)]
pub struct Orders {
    pub pending: i64,
    pub confirmed: i64,
    /// Of the confirmed ones, in pieces and in coins.
    pub quantity: i64,
    pub amount: i64,
}

#[derive(Clone)]
pub struct Stock {
    pub free: i64,
    pub held: i64,
    pub sold: i64,
}

/// Two figures that must be the same.
struct Check {
    is: i64,
    what: &'static str,
    must_be: i64,
    against: &'static str,
}

impl Books {
    pub async fn read(shop: &Shop, committed: i64) -> Result<Books> {
        let mut db = shop.postgres.connection().await?;
        let orders = "SELECT count(*) FILTER (WHERE state = 'pending'),
                             count(*) FILTER (WHERE state = 'confirmed'),
                             coalesce(sum(quantity) FILTER (WHERE state = 'confirmed'), 0),
                             coalesce(sum(amount) FILTER (WHERE state = 'confirmed'), 0)
                      FROM orders WHERE id LIKE $1 || '-%'";
        let orders = sqlx::query_as(orders).bind(&shop.run).fetch_one(&mut *db).await?;
        let (pending, confirmed, quantity, amount) = orders;
        let orders = Orders { pending, confirmed, quantity, amount };

        let money = if let Some(partner) = &shop.payment {
            let partner::Books { money, calls, failed } = partner.get("/books").await?;
            println!("the payment partner was called {calls} times, and failed {failed} of these calls");
            money
        } else {
            let credit = "SELECT in_wallet, paid FROM credit WHERE customer = 'alice-' || $1";
            let (in_wallet, captured) = sqlx::query_as(credit).bind(&shop.run).fetch_one(&mut *db).await?;
            Money { in_wallet, held: 0, captured }
        };

        let mut db = shop.mysql.connection().await?;
        let stock = "SELECT CAST(sum(free) AS INT), CAST(sum(held) AS INT), CAST(sum(sold) AS INT)
                     FROM stock WHERE item LIKE concat('%-', ?)";
        let (free, held, sold) = sqlx::query_as(stock).bind(&shop.run).fetch_one(&mut *db).await?;
        Ok(Books { committed, orders, stock: Stock { free, held, sold }, money })
    }

    /// Prints what must hold. The last line says whether all of it does, which is an error otherwise.
    pub fn close(&self) -> anyhow::Result<()> {
        println!("do orders, stock and money agree?");
        for check in self.checks() {
            let Check { is, what, must_be, against } = check;
            let (mark, sign) = if check.holds() { ("yes", "=") } else { ("NO ", "!=") };
            println!("  {mark} {is} {what} {sign} {must_be} {against}");
        }
        ensure!(self.checks().iter().all(Check::holds), "it does not add up");
        let Books { orders, stock, money, .. } = self;
        println!(
            "it adds up: {} orders confirmed, {} pieces sold, {} coins captured, nothing held",
            orders.confirmed, stock.sold, money.captured
        );
        Ok(())
    }

    fn checks(&self) -> [Check; 8] {
        let Books { committed, orders, stock, money } = self;
        let check = |is, what, must_be, against| Check { is, what, must_be, against };
        let (start, end) = ("at the beginning", "when all is done");
        let in_stock = [APPLE, PEAR, CROWN].map(|item| i64::from(item.in_stock)).iter().sum();
        let all_stock = stock.free + stock.held + stock.sold;
        // Of the goods only apples can be sold at all.
        let price = stock.sold * i64::from(APPLE.price);
        let all_money = money.in_wallet + money.held + money.captured;
        [
            check(orders.confirmed, "orders confirmed", *committed, "transactions committed"),
            check(stock.sold, "pieces sold", orders.quantity, "pieces in confirmed orders"),
            check(money.captured, "coins captured", orders.amount, "coins in confirmed orders"),
            check(money.captured, "coins captured", price, "coins for the pieces sold"),
            check(all_stock, "pieces free, held and sold", in_stock, start),
            check(all_money, "coins in the wallet, held and captured", WALLET.into(), start),
            check(orders.pending, "orders pending", 0, end),
            check(stock.held + money.held, "pieces and coins held", 0, end),
        ]
    }
}

impl Check {
    fn holds(&self) -> bool {
        self.is == self.must_be
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After two orders of two apples each.
    fn books() -> Books {
        let in_stock = i64::from(APPLE.in_stock + PEAR.in_stock + CROWN.in_stock);
        Books {
            committed: 2,
            orders: Orders { pending: 0, confirmed: 2, quantity: 4, amount: 12 },
            stock: Stock { free: in_stock - 4, held: 0, sold: 4 },
            money: Money { in_wallet: i64::from(WALLET) - 12, held: 0, captured: 12 },
        }
    }

    #[test]
    fn books_that_agree_add_up() {
        books().close().unwrap();
    }

    #[test]
    fn whatever_is_lost_made_or_left_hanging_does_not_add_up() {
        let wrong: [fn(&mut Books); 10] = [
            |books| books.committed -= 1,
            |books| books.orders.confirmed -= 1,
            |books| books.orders.pending += 1,
            |books| books.orders.quantity += 1,
            |books| books.orders.amount -= 3,
            |books| books.stock.free += 1,
            |books| (books.stock.free, books.stock.held) = (books.stock.free - 1, 1),
            |books| (books.stock.free, books.stock.sold) = (books.stock.free - 1, books.stock.sold + 1),
            |books| books.money.in_wallet -= 3,
            |books| (books.money.in_wallet, books.money.held) = (books.money.in_wallet - 3, 3),
        ];
        for (index, spoil) in wrong.into_iter().enumerate() {
            let mut books = books();
            spoil(&mut books);
            assert!(books.close().is_err(), "{index}");
        }
    }
}
