//! What happens on database servers only.

use assent_proto::v1::State;
use assent_sdk::client::NewBranch;
use assent_sdk::{Json, Protocol};

use crate::demo::Outcome::Committed;
use crate::demo::Service::{self, Order, OrderTwoPhase, Payment, Stock, StockTwoPhase};
use crate::demo::scenario::{TIMEOUT, ask_each, complete, decide_and_kill, requests};
use crate::demo::stage::Stage;
use crate::demo::{Ended, Error};

/// Who takes part in a mixed order.
const MIXED: [Service; 3] = [OrderTwoPhase, StockTwoPhase, Payment];
/// What is shown of it.
const SHOP: [Service; 3] = [Order, Stock, Payment];

pub(super) async fn mixed_order_commits(stage: &mut Stage<'_>) -> Result<Ended, Error> {
    let books = stage.books().await?;
    stage.say(
        "Alice orders 1 apple for 3 coins. Order and stock prepare in their databases (PREPARE TRANSACTION, XA PREPARE), \
         payment reserves; one decision ends all three.",
    )?;
    let (order, take, charge) = requests("order-mixed", 1);
    let (order, take, charge) = (Json(order), Json(take), Json(charge));
    let mixed = stage.client.transaction("order-mixed").two_phase().timeout(TIMEOUT);
    let mixed = mixed
        .branch(OrderTwoPhase.participant(), &order)
        .branch(StockTwoPhase.participant(), &take)
        .with_branch(NewBranch::of(Payment.participant(), &charge).protocol(Protocol::Tcc));
    let xid = complete(&mixed.execute().await?)?;
    stage.say("Committed:")?;
    stage.show(&SHOP).await?;
    stage.books_are("the mixed order", &books.with_order(1, 3)).await?;
    Ok(Ended { xid, outcome: Committed })
}

pub(super) async fn coordinator_is_killed(stage: &mut Stage<'_>) -> Result<Ended, Error> {
    let opening = stage.books().await?;
    stage.say(
        "Alice orders 2 apples. The shop's front end calls the three services itself: order and stock prepare, payment \
         reserves, and each tells the coordinator so.",
    )?;
    let order = ask_each(stage, MIXED, "order-4").await?;
    let xid = order.xid();
    decide_and_kill(stage, MIXED, order).await?;
    stage.say(
        "The services dial it in vain, and hold on. What is prepared nobody sees, but the databases keep it, with its locks:",
    )?;
    stage.show(&SHOP).await?;
    stage.show_prepared(&[Order, Stock]).await?;
    let mut books = opening.clone();
    (books.payment.balance, books.payment.held) = (books.payment.balance - 6, 6);
    (books.order.in_doubt, books.stock.in_doubt, books.payment.in_doubt) = (1, 1, 1);
    stage.books_are("the coordinator's end", &books).await?;

    stage.restart_coordinator().await?;
    let books = opening.with_order(2, 6);
    stage.books_become("the commit that was decided before the crash", &books).await?;
    stage.comes_to(xid, State::Committed).await?;
    stage.say(
        "The coordinator is started again on the same log, reads the decision, and has both databases commit what they kept:",
    )?;
    stage.show(&SHOP).await?;
    Ok(Ended { xid, outcome: Committed })
}

pub(super) async fn servers_are_killed(stage: &mut Stage<'_>) -> Result<Ended, Error> {
    let opening = stage.books().await?;
    stage.say("Alice orders 2 apples once more. Order and stock prepare, payment reserves: all three have voted yes.")?;
    let order = ask_each(stage, MIXED, "order-5").await?;
    let xid = order.xid();
    stage.crash_servers()?;
    stage.say(
        "Now PostgreSQL and MariaDB are killed. The front end, which knows nothing of it, asks for commit.",
    )?;
    order.commit().await?;
    stage.comes_to(xid, State::Committing).await?;
    stage.say(
        "\"Committed\", it is told all the same: a vote is a promise that a database keeps on its disk. The coordinator calls \
         order and stock again and again, until somebody is there.",
    )?;

    stage.restart_servers()?;
    stage.books_become("the commit of what the databases had prepared", &opening.with_order(2, 6)).await?;
    stage.comes_to(xid, State::Committed).await?;
    stage.say("Both servers are started again on what is on their disks, and the promise is kept:")?;
    stage.show(&SHOP).await?;
    Ok(Ended { xid, outcome: Committed })
}
