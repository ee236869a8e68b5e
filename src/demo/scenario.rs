//! What happens in the demo. Each scenario says what it does, does it, and holds the databases against what they must say.

use std::time::Duration;

use assent_proto::TxId;
use assent_proto::v1::State;
use assent_sdk::client::{Completed, NewTransaction, OneCall};
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
const TIMEOUT: Duration = Duration::from_secs(10);
/// Where something will hang.
const TIMEOUT_SHORT: Duration = Duration::from_millis(1500);

pub(super) async fn order_commits(stage: &mut Stage<'_>) -> Result<Ended, Error> {
    let mut books = stage.books()?;
    stage.say(
        "Alice orders 2 apples for 6 coins. In one call the coordinator asks order, stock and payment to reserve; \
         all three can, so all three are told to confirm.",
    )?;
    let order = stage.client.transaction("order-1").tcc().timeout(TIMEOUT);
    let done = complete(&in_one_call(order, "order-1", 2).execute().await?)?;
    stage.say("Committed. Whoever looks now finds it done:")?;
    stage.show(&SHOP)?;

    (books.stock.free, books.stock.sold) = (books.stock.free - 2, books.stock.sold + 2);
    (books.payment.balance, books.payment.received) = (books.payment.balance - 6, books.payment.received + 6);
    books.order.confirmed += 1;
    (books.order.quantity, books.order.amount) = (books.order.quantity + 2, books.order.amount + 6);
    stage.books_are("the order", &books)?;
    Ok(Ended { xid: done, outcome: Committed })
}

pub(super) async fn order_is_refused(stage: &mut Stage<'_>) -> Result<Ended, Error> {
    let books = stage.books()?;
    stage.say("Alice orders 20 apples. She can pay for them, but there are not that many.")?;
    let order = stage.client.transaction("order-2").tcc().timeout(TIMEOUT);
    let (xid, reason) = aborted(in_one_call(order, "order-2", 20).execute().await)?;
    if !reason.contains("apple: 20 wanted") {
        let expected = "the words of shop/stock: apple: 20 wanted".to_owned();
        return Err(Error::Wrong { what: "the reason".to_owned(), found: reason, expected });
    }
    stage.say(&format!("Aborted: {reason}. Nothing is held, nobody has paid:"))?;
    stage.show(&SHOP)?;
    stage.books_are("the refusal", &books)?;
    Ok(Ended { xid, outcome: Aborted })
}

pub(super) async fn transfer_commits(stage: &mut Stage<'_>) -> Result<Ended, Error> {
    let mut books = stage.books()?;
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
    stage.show(&[North, South])?;
    books.north.balance -= 30;
    books.south.balance += 30;
    stage.books_are("the transfer", &books)?;
    Ok(Ended { xid: done, outcome: Committed })
}

/// Calls to the shop are paused at the coordinator before the commit. Stopping the shop's processes instead would not do:
/// what the coordinator sends them would wait in their sockets, and outlive it.
pub(super) async fn coordinator_is_killed(stage: &mut Stage<'_>) -> Result<Ended, Error> {
    let opening = stage.books()?;
    stage.say(
        "Alice orders 2 apples again. This time the shop's front end calls the three services itself; the transaction's \
         id travels along. Each reserves, and tells the coordinator so.",
    )?;
    let order = stage.client.transaction("order-4").tcc().wait(Wait::Decision).begin().await?;
    let xid = order.xid();
    let (new_order, take, charge) = requests("order-4", 2);
    stage.ask(Order, xid, &new_order).await?;
    stage.ask(Stock, xid, &take).await?;
    stage.ask(Payment, xid, &charge).await?;

    stage.say(
        "To catch the moment after the decision, an operator has the coordinator hold back its calls to them. Then the \
         front end asks for commit.",
    )?;
    for service in SHOP {
        stage.pause(service).await?;
    }
    order.commit().await?;
    stage.comes_to(xid, State::Committing).await?;
    let logs_before = SHOP.map(|service| (service, stage.process(service).log().len()));
    stage.kill_coordinator();
    stage.say(
        "\"Committed\", it is told: the decision is on disk, though no service knows it. And now the coordinator is killed.",
    )?;

    for (service, log_before) in logs_before {
        stage.misses_coordinator(service, log_before).await?;
    }
    stage.say("The services dial it in vain. They may not confirm, they may not cancel; they hold on:")?;
    stage.show(&SHOP)?;
    let mut books = opening;
    (books.stock.free, books.stock.held) = (books.stock.free - 2, 2);
    (books.payment.balance, books.payment.held) = (books.payment.balance - 6, 6);
    books.order.pending = 1;
    (books.order.in_doubt, books.stock.in_doubt, books.payment.in_doubt) = (1, 1, 1);
    stage.books_are("the coordinator's end", &books)?;

    stage.restart_coordinator().await?;
    (books.stock.held, books.stock.sold) = (0, books.stock.sold + 2);
    (books.payment.held, books.payment.received) = (0, books.payment.received + 6);
    (books.order.pending, books.order.confirmed) = (0, books.order.confirmed + 1);
    (books.order.quantity, books.order.amount) = (books.order.quantity + 2, books.order.amount + 6);
    (books.order.in_doubt, books.stock.in_doubt, books.payment.in_doubt) = (0, 0, 0);
    stage.books_become("the commit that was decided before the crash", &books).await?;
    stage.comes_to(xid, State::Committed).await?;
    stage.say("The coordinator is started again on the same log, reads the decision, and carries it out:")?;
    stage.show(&SHOP)?;
    Ok(Ended { xid, outcome: Committed })
}

pub(super) async fn initiator_is_killed(stage: &mut Stage<'_>) -> Result<Ended, Error> {
    let opening = stage.books()?;
    let (mut process, xid) = stage.start_initiator().await?;
    process.kill();
    let (quantity, hold) = (initiator::QUANTITY, initiator::RESERVATION.as_secs());
    stage.say(&format!(
        "A front end reserves {quantity} apples for at most {hold} seconds, and is killed before it can go on:"
    ))?;
    stage.show(&[Stock])?;
    let mut books = opening.clone();
    (books.stock.free, books.stock.held) = (books.stock.free - i64::from(quantity), i64::from(quantity));
    books.stock.in_doubt = 1;
    stage.books_are("the initiator's end", &books)?;

    stage.books_become("the stock that comes back", &opening).await?;
    stage.comes_to(xid, State::Aborted).await?;
    stage.say(
        "When the time is up, stock asks the coordinator. Nobody has asked for commit, so the transaction is aborted \
         and the apples are free again:",
    )?;
    stage.show(&[Stock])?;
    Ok(Ended { xid, outcome: Aborted })
}

pub(super) async fn partner_hangs(stage: &mut Stage<'_>) -> Result<Ended, Error> {
    let books = stage.books()?;
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
    stage.show(&[Order, Stock])?;

    stage.process(Payment).thaw()?;
    stage.comes_to(xid, State::Aborted).await?;
    stage.say(
        "Payment wakes up. It finds the late request to reserve, and the one to cancel: no coin has moved.",
    )?;
    stage.show(&[Payment])?;
    stage.books_are("the partner's late answer", &books)?;
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

fn requests(id: &str, quantity: u32) -> (participant::Order, Take, Charge) {
    let (item, amount) = ("apple".to_owned(), quantity * PRICE);
    let order = participant::Order { id: id.to_owned(), item: item.clone(), quantity, amount };
    (order, Take { item, quantity }, Charge { customer: "alice".to_owned(), amount })
}

/// A commit that every branch has acknowledged.
fn complete(done: &Completed) -> Result<TxId, Error> {
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
