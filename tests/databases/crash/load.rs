//! Clients that begin transfers, one after another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use assent_sdk::client::{Completed, NewBranch};
use assent_sdk::{Client, Error, Json};
use bytes::Bytes;
use tokio::task::JoinHandle;

use super::bank::{ACCOUNTS, Bank, Begun, Told, participant};
use super::participants::{Posting, Work};

const CLIENTS: usize = 8;
const TIMEOUT: Duration = Duration::from_secs(3);

/// Who takes part in a transfer: the first gives to the others, or the other way round. Each list is in alphabetical
/// order.
const SHAPES: [&[&str]; 9] = [
    &["bank/a", "bank/b"],
    &["bank/a", "bank/c"],
    &["bank/b", "till/c"],
    &["till/a", "till/c"],
    &["bank/a", "bank/b", "bank/c", "till/a"],
    &["bank/b", "bank/c"],
    &["bank/a"],
    &["bank/c"],
    &["till/a"],
];

pub struct Load {
    stopping: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(coordinator: &str, bank: &Bank) -> Load {
        let stopping = Arc::new(AtomicBool::new(false));
        let client = Client::connect(coordinator).unwrap();
        let clients = (0..CLIENTS).map(|_| {
            let (client, bank, stopping) = (client.clone(), bank.clone(), stopping.clone());
            tokio::spawn(async move {
                while !stopping.load(Ordering::Relaxed) {
                    let number = bank.next();
                    let works = works(number);
                    let told = transact(&client, &bank, number, &works).await;
                    let did = works.iter().filter(|(_, work)| !work.postings.is_empty());
                    let amounts = did.map(|(name, work)| (*name, sum(work))).collect();
                    bank.told(number, Begun { told, amounts });
                }
            })
        });
        let clients = clients.collect();
        Load { stopping, clients }
    }

    pub async fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
    }
}

/// What the transfer of this number asks of whom.
fn works(number: u64) -> Vec<(&'static str, Work)> {
    let pick =
        |count: u64, salt: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(20) / salt % count;
    let shape = SHAPES[usize::try_from(number % SHAPES.len() as u64).unwrap()];
    let amount = 1 + i64::try_from(pick(400, 1)).unwrap();
    let amount = if pick(2, 3) == 0 { amount } else { -amount };
    let account = |of: usize| (pick(ACCOUNTS, 7) + 5 * of as u64) % ACCOUNTS;
    let mut works: Vec<_> = shape
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let others = i64::try_from(shape.len()).unwrap() - 1;
            let amount = if at == 0 { -amount * others } else { amount };
            let mut postings = vec![Posting { account: account(at), amount }];
            if shape.len() == 1 {
                postings[0].amount = -5;
                postings.push(Posting { account: account(1), amount: 5 });
            }
            let reply = if number.is_multiple_of(3) { format!("{name} did {number}") } else { String::new() };
            (*name, Work { number, postings, refuse: false, reply })
        })
        .collect();
    if pick(8, 11) == 0 {
        works.last_mut().unwrap().1.refuse = true;
    }
    if shape == ["bank/a", "bank/c"] && pick(2, 13) == 0 {
        works.push(("bank/b", Work { number, ..Work::default() }));
    }
    works
}

async fn transact(client: &Client, bank: &Bank, number: u64, works: &[(&str, Work)]) -> Told {
    let mut transaction = client.transaction(format!("transfer {number}")).timeout(TIMEOUT);
    if number.is_multiple_of(2) {
        transaction = transaction.request_id(format!("request {number}"));
    }
    let branches = works
        .iter()
        .map(|(name, work)| NewBranch::of(*name, &Json(work)).protocol(participant(name).protocol));
    match transaction.branches(branches).execute().await {
        Ok(done) => {
            check_replies(bank, &done, works);
            Told::Committed
        }
        Err(Error::Aborted { .. }) => Told::Aborted,
        Err(Error::Heuristic { xid, reason, .. }) => panic!("{xid} ended heuristically: {reason}"),
        Err(_) => Told::Unknown,
    }
}

/// Replies are told once. A client that has to ask a second time hears the outcome only, and so does a coordinator that has
/// to ask a branch which was to decide alone.
fn check_replies(bank: &Bank, done: &Completed, works: &[(&str, Work)]) {
    let replies: Vec<Bytes> = works.iter().map(|(name, _)| done.reply(name).unwrap()).collect();
    if replies.iter().all(Bytes::is_empty) {
        return;
    }
    for (reply, (name, work)) in replies.iter().zip(works) {
        assert_eq!(*reply, work.reply, "the reply of {name} to {work:?}");
    }
    bank.replied();
}

fn sum(work: &Work) -> i64 {
    work.postings.iter().map(|posting| posting.amount).sum()
}
