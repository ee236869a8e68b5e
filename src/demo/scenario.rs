//! What happens in the demo. Each scenario says what it does, does it, and holds the databases against what they must say.

use std::time::Duration;

use assent_proto::TxId;
use assent_proto::v1::State;
use assent_sdk::client::{Completed, NewTransaction, OneCall, Transaction};
use assent_sdk::{Json, Wait};

use super::Outcome::{Aborted, Committed};
use super::Service::{self, North, Order, Payment, South, Stock};
use super::participant::{self, Charge, Entry, Take};
use super::stage::Stage;
use super::{Ended, Error, initiator};

const SHOP: [Service; 3] = [Order, Stock, Payment];
/// Coins for one apple.
const PRICE: u32 = 3;
/// Far longer than anything takes that does not hang.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// Where something will hang.
const TIMEOUT_SHORT: Duration = Duration::from_millis(1500);

/// What can be played on any store.
pub(super) async fn play_first(stage: &mut Stage<'_>) -> Result<(), Error> {
    stage.play("order-committed", "An order, by TCC", order_commits).await?;
    stage.play("order-refused", "An order that is refused", order_is_refused).await?;
    stage.play("transfer", "A transfer between two banks, by 2PC", transfer_commits).await
}

pub(super) async fn play_last(stage: &mut Stage<'_>) -> Result<(), Error> {
    let title = "The initiator is killed (kill -9), and its reservation expires";
    stage.play("initiator-killed", title, initiator_is_killed).await?;
    let title = "The payment partner hangs, and answers too late";
    stage.play("partner-hangs", title, partner_hangs).await
}

async fn order_commits(stage: &mut Stage<'_>) -> Result<Ended, Error> {
    let books = stage.books().await?;
    stage.say(
        "Alice orders 2 apples for 6 coins. In one call the coordinator asks order, stock and payment to reserve; \
         all three can, so all three are told to confirm.",
    )?;
    let order = stage.client.transaction("order-1").tcc().timeout(TIMEOUT);
    let done = complete(&in_one_call(order, "order-1", 2).execute().await?)?;
    stage.say("Committed. Whoever looks now finds it done:")?;
    stage.show(&SHOP).await?;
    stage.books_are("the order", &books.with_order(2, 6)).await?;
    Ok(Ended { xid: done, outcome: Committed })
}

async fn order_is_refused(stage: &mut Stage<'_>) -> Result<Ended, Error> {
    let books = stage.books().await?;
    stage.say("Alice orders 20 apples. She can pay for them, but there are not that many.")?;
    let order = stage.client.transaction("order-2").tcc().timeout(TIMEOUT);
    let (xid, reason) = aborted(in_one_call(order, "order-2", 20).execute().await)?;
    if !reason.contains("apple: 20 wanted") {
        let expected = "the words of shop/stock: apple: 20 wanted".to_owned();
        return Err(Error::Wrong { what: "the reason".to_owned(), found: reason, expected });
    }
    stage.say(&format!("Aborted: {reason}. Nothing is held, nobody has paid:"))?;
    stage.show(&SHOP).await?;
    stage.books_are("the refusal", &books).await?;
    Ok(Ended { xid, outcome: Aborted })
}

async fn transfer_commits(stage: &mut Stage<'_>) -> Result<Ended, Error> {
    let mut books = stage.books().await?;
    stage.say(
        "Alice, at the north bank, sends 30 coins to Bob, at the south bank. Both prepare, then both commit.",
    )?;
    let entry = |account: &str, amount| Json(Entry { account: account.to_owned(), amount });
    let transfer = stage.client.transaction("transfer").two_phase().timeout(TIMEOUT);
    let transfer = transfer
        .branch(North.participant(), &entry("alice", -30))
        .branch(South.participant(), &entry("bob", 30));
    let done = complete(&transfer.execute().await?)?;
    stage.say("Committed:")?;
    stage.show(&[North, South]).await?;
    books.north.balance -= 30;
    books.south.balance += 30;
    stage.books_are("the transfer", &books).await?;
    Ok(Ended { xid: done, outcome: Committed })
}

pub(super) async fn coordinator_is_killed(stage: &mut Stage<'_>) -> Result<Ended, Error> {
    let opening = stage.books().await?;
    stage.say(
        "Alice orders 2 apples again. This time the shop's front end calls the three services itself; the transaction's \
         id travels along. Each reserves, and tells the coordinator so.",
    )?;
    let order = ask_each(stage, SHOP, "order-4").await?;
    let xid = order.xid();
    decide_and_kill(stage, SHOP, order).await?;
    stage.say("The services dial it in vain. They may not confirm, they may not cancel; they hold on:")?;
    stage.show(&SHOP).await?;
    let mut books = opening.clone();
    (books.stock.free, books.stock.held) = (books.stock.free - 2, 2);
    (books.payment.balance, books.payment.held) = (books.payment.balance - 6, 6);
    books.order.pending = 1;
    (books.order.in_doubt, books.stock.in_doubt, books.payment.in_doubt) = (1, 1, 1);
    stage.books_are("the coordinator's end", &books).await?;

    stage.restart_coordinator().await?;
    let books = opening.with_order(2, 6);
    stage.books_become("the commit that was decided before the crash", &books).await?;
    stage.comes_to(xid, State::Committed).await?;
    stage.say("The coordinator is started again on the same log, reads the decision, and carries it out:")?;
    stage.show(&SHOP).await?;
    Ok(Ended { xid, outcome: Committed })
}

/// The shop's front end itself calls the three services for 2 apples, and each does its part.
pub(super) async fn ask_each(
    stage: &mut Stage<'_>,
    shop: [Service; 3],
    id: &str,
) -> Result<Transaction, Error> {
    let transaction = stage.client.transaction(id).timeout(TIMEOUT).wait(Wait::Decision).begin().await?;
    let (order, take, charge) = requests(id, 2);
    stage.ask(shop[0], transaction.xid(), &order).await?;
    stage.ask(shop[1], transaction.xid(), &take).await?;
    stage.ask(shop[2], transaction.xid(), &charge).await?;
    Ok(transaction)
}

/// Calls to the shop are paused at the coordinator before the commit. Stopping the shop's processes instead would not do:
/// what the coordinator sends them would wait in their sockets, and outlive it.
pub(super) async fn decide_and_kill(
    stage: &mut Stage<'_>,
    shop: [Service; 3],
    order: Transaction,
) -> Result<(), Error> {
    stage.say(
        "To catch the moment after the decision, an operator has the coordinator hold back its calls to them. Then the \
         front end asks for commit.",
    )?;
    for service in shop {
        stage.pause(service).await?;
    }
    let xid = order.xid();
    order.commit().await?;
    stage.comes_to(xid, State::Committing).await?;
    let logs_before = shop.map(|service| (service, stage.process(service).log().len()));
    stage.kill_coordinator();
    stage.say(
        "\"Committed\", it is told: the decision is on disk, though no service knows it. And now the coordinator is killed.",
    )?;
    for (service, log_before) in logs_before {
        stage.misses_coordinator(service, log_before).await?;
    }
    Ok(())
}

async fn initiator_is_killed(stage: &mut Stage<'_>) -> Result<Ended, Error> {
    let opening = stage.books().await?;
    let (mut process, xid) = stage.start_initiator().await?;
    process.kill();
    let (quantity, hold) = (initiator::QUANTITY, initiator::RESERVATION.as_secs());
    stage.say(&format!(
        "A front end reserves {quantity} apples for at most {hold} seconds, and is killed before it can go on:"
    ))?;
    stage.show(&[Stock]).await?;
    let mut books = opening.clone();
    (books.stock.free, books.stock.held) = (books.stock.free - i64::from(quantity), i64::from(quantity));
    books.stock.in_doubt = 1;
    stage.books_are("the initiator's end", &books).await?;

    stage.books_become("the stock that comes back", &opening).await?;
    stage.comes_to(xid, State::Aborted).await?;
    stage.say(
        "When the time is up, stock asks the coordinator. Nobody has asked for commit, so the transaction is aborted \
         and the apples are free again:",
    )?;
    stage.show(&[Stock]).await?;
    Ok(Ended { xid, outcome: Aborted })
}

async fn partner_hangs(stage: &mut Stage<'_>) -> Result<Ended, Error> {
    let books = stage.books().await?;
    stage.process(Payment).freeze()?;
    stage.say(&format!(
        "The payment partner hangs (its process is stopped) while Alice orders 1 apple. Order and stock reserve; \
         payment says nothing, and the transaction's timeout is {} s.",
        TIMEOUT_SHORT.as_secs_f32()
    ))?;
    // Not to be kept waiting for the partner's part of the abort.
    let order = stage.client.transaction("order-6").tcc().timeout(TIMEOUT_SHORT).wait(Wait::Decision);
    let (xid, reason) = aborted(in_one_call(order, "order-6", 1).execute().await)?;
    stage.books_become("order and stock as before, while payment hangs", &books).await?;
    stage.comes_to(xid, State::Aborting).await?;
    stage.say(&format!(
        "Aborted: {reason}. Order and stock are back as they were, while payment still hangs:"
    ))?;
    stage.show(&[Order, Stock]).await?;

    stage.process(Payment).thaw()?;
    stage.comes_to(xid, State::Aborted).await?;
    stage.say(
        "Payment wakes up. It finds the late request to reserve, and the one to cancel: no coin has moved.",
    )?;
    stage.show(&[Payment]).await?;
    stage.books_are("the partner's late answer", &books).await?;
    Ok(Ended { xid, outcome: Aborted })
}

/// An order for which the coordinator calls all three services.
fn in_one_call<'a>(order: NewTransaction<'a>, id: &str, quantity: u32) -> OneCall<'a> {
    let (order_request, take, charge) = requests(id, quantity);
    order
        .branch(Order.participant(), &Json(order_request))
        .branch(Stock.participant(), &Json(take))
        .branch(Payment.participant(), &Json(charge))
}

pub(super) fn requests(id: &str, quantity: u32) -> (participant::Order, Take, Charge) {
    let (item, amount) = ("apple".to_owned(), quantity * PRICE);
    let order = participant::Order { id: id.to_owned(), item: item.clone(), quantity, amount };
    (order, Take { item, quantity }, Charge { customer: "alice".to_owned(), amount })
}

/// A commit that every branch has acknowledged.
pub(super) fn complete(done: &Completed) -> Result<TxId, Error> {
    if done.complete {
        return Ok(done.xid);
    }
    let expected = "acknowledged by every participant".to_owned();
    Err(Error::Wrong {
        what: format!("transaction {}", done.xid),
        found: "not complete".to_owned(),
        expected,
    })
}

/// The transaction and the reason of what had to abort.
fn aborted(ended: Result<Completed, assent_sdk::Error>) -> Result<(TxId, String), Error> {
    match ended {
        Err(assent_sdk::Error::Aborted { xid, reason, .. }) => Ok((xid, reason)),
        Err(error) => Err(error.into()),
        Ok(done) => {
            let (found, expected) = ("committed".to_owned(), "aborted".to_owned());
            Err(Error::Wrong { what: format!("transaction {}", done.xid), found, expected })
        }
    }
}
