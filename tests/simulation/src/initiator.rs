//! Initiators: they make transfers by the SDK's client in every way that it has, and come back for what a crash of theirs
//! left without an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use assent_history::{Call, Move, Record, Told, Transfer};
use assent_proto::v1::GetServerStatusRequest;
use assent_proto::v1::admin_service_client::AdminServiceClient;
use assent_sdk::client::{Completed, NewBranch, NewTransaction};
use assent_sdk::{Client, Error, Json, Protocol, Wait};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;

use crate::bank::{ACCOUNTS, Work};
use crate::coordinator;
use crate::judge::Flaw;
use crate::network::{channel, participants_network};
use crate::participant::{self, Answer, Ask, ROLES, SETS};
use crate::rng::Rng;
use crate::world::{HostId, effect_or_end, running, with};

/// The hosts.
pub const HOSTS: [&str; 3] = ["client-1", "client-2", "client-3"];

/// Transfers that one makes at a time.
const TOGETHER: usize = 3;

/// How long a service may take to join.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What an initiator knows, crash or no crash.
#[derive(Clone, Debug)]
pub struct Diary(Arc<Mutex<Pages>>);

#[derive(Debug)]
struct Pages {
    host: &'static str,
    rng: Rng,
    operations: u64,
    /// What has to be asked for again, after a crash: by request id it is the same transaction.
    open: BTreeMap<u64, Order>,
}

/// A transfer to be made.
#[derive(Clone, Debug)]
struct Order {
    transfer: Transfer,
    how: How,
    timeout_ms: u64,
    wait: Wait,
    has_request_id: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// In one call.
    Run,
    /// Begun, enlisted and committed in calls of their own.
    Enlist,
    /// By services that join with their votes.
    Join,
    /// By services whose votes the initiator carries.
    Carry,
    /// Begun and aborted.
    Abandon,
}

impl Diary {
    pub fn new(host: &'static str, rng: Rng) -> Diary {
        Diary(Arc::new(Mutex::new(Pages { host, rng, operations: 0, open: BTreeMap::new() })))
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Transfers that are to have an answer and have none.
    pub fn open(&self) -> usize {
        self.pages().open.len()
    }

    /// Chooses a transfer, and a number for making it.
    fn order(&self) -> (u64, Order) {
        let pages = &mut *self.pages();
        pages.operations += 1;
        let id = format!("{}:{}", pages.host, pages.operations);
        let rng = &mut pages.rng;
        let how =
            *rng.pick(&[How::Run, How::Run, How::Run, How::Enlist, How::Join, How::Carry, How::Abandon]);
        let order = Order {
            transfer: Transfer { id, moves: moves(rng, how) },
            how,
            timeout_ms: *rng.pick(&[300, 1_500, 5_000, 15_000]),
            wait: *rng.pick(&[Wait::Decision, Wait::Completion, Wait::Completion]),
            has_request_id: how == How::Run && rng.percent(60),
        };
        if order.has_request_id {
            pages.open.insert(pages.operations, order.clone());
        }
        (pages.operations, order)
    }

    /// A new number for making it again.
    fn again(&self) -> u64 {
        let pages = &mut *self.pages();
        pages.operations += 1;
        pages.operations
    }

    fn pause_ms(&self) -> u64 {
        self.pages().rng.skewed(0, 2_000)
    }
}

/// Money goes between accounts of one set to three; sometimes a further one is only looked at.
fn moves(rng: &mut Rng, how: How) -> Vec<Move> {
    let mut sets: Vec<_> = SETS.iter().map(|(set, joins)| (*set, *joins)).collect();
    if matches!(how, How::Join | How::Carry) {
        sets.retain(|(_, joins)| *joins);
    }
    let amount = i64::try_from(rng.within(2, 400)).expect("it is small");
    let mut draw = |rng: &mut Rng| {
        let at = usize::try_from(rng.below(sets.len() as u64)).expect("a place in memory");
        sets.remove(at).0
    };
    let change =
        |set: &str, account: u64, amount| Move { set: set.to_owned(), account: account.to_string(), amount };
    if how == How::Run && rng.percent(15) {
        // A branch that is alone commits in one phase.
        let (set, from) = (draw(rng), rng.within(1, ACCOUNTS - 1));
        return vec![change(set, from, -amount), change(set, from + 1, amount)];
    }
    let mut moves = vec![change(draw(rng), rng.within(1, ACCOUNTS), -amount)];
    let first = if rng.percent(50) { amount } else { amount / 2 };
    for part in [first, amount - first].into_iter().filter(|part| *part > 0) {
        moves.push(change(draw(rng), rng.within(1, ACCOUNTS), part));
    }
    if rng.percent(20) {
        moves.push(change(draw(rng), 1, 0));
    }
    moves
}

/// The life of the process: it goes on until told that there are to be no more transfers.
pub async fn live(diary: Diary, mut enough: watch::Receiver<bool>) -> anyhow::Result<()> {
    let client = Client::connect_on(participants_network(), coordinator::URL)?;
    let left: Vec<_> = diary.pages().open.clone().into_iter().collect();
    for (number, order) in left {
        tokio::spawn(settle(client.clone(), diary.clone(), number, diary.again(), order, Attempt::Later));
    }
    let mut running = Vec::new();
    for _ in 0..TOGETHER {
        let (client, diary, enough) = (client.clone(), diary.clone(), enough.clone());
        running.push(tokio::spawn(async move {
            while !*enough.borrow() {
                let (number, order) = diary.order();
                settle(client.clone(), diary.clone(), number, number, order, Attempt::First).await;
                sleep(Duration::from_millis(diary.pause_ms())).await;
            }
        }));
    }
    let _ = enough.wait_for(|enough| *enough).await;
    for task in running {
        task.await?;
    }
    // Others may still be settling what a crash left.
    tokio::join!(watch_coordinator(), call_everybody(&client));
    Ok(())
}

/// Asks for nothing of every participant, until all have answered: so everybody is reached again.
async fn call_everybody(client: &Client) {
    let host = running();
    loop {
        let nothing = |(set, _): &(&str, bool)| {
            let work = Work { transfer: String::new(), moves: BTreeMap::from([("1".to_owned(), 0)]) };
            NewBranch::of(format!("bank/{set}"), &Json(work)).protocol(protocol(set))
        };
        let call = client.transaction("everybody").timeout(JOIN_TIMEOUT).branches(SETS.iter().map(nothing));
        match call.execute().await {
            Ok(_) => with(|world| {
                world.judge.served.insert(host);
            }),
            Err(error) => with(|world| world.note(format_args!("not everybody answers: {error}"))),
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Asks again and again how much is open.
async fn watch_coordinator() {
    let endpoint = Endpoint::from_static(coordinator::URL)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true);
    let mut admin = AdminServiceClient::new(channel(&endpoint));
    loop {
        if let Ok(Ok(status)) =
            timeout(JOIN_TIMEOUT, admin.get_server_status(GetServerStatusRequest {})).await
        {
            let status = status.into_inner();
            with(|world| {
                let active = status.ready.then_some((status.active_transactions, world.now_ms));
                world.judge.active = active;
            });
        }
        sleep(Duration::from_secs(1)).await;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    /// An earlier one may have had its effect.
    Later,
}

/// Makes a transfer, and again while the answer is unknown and can be had.
async fn settle(
    client: Client,
    diary: Diary,
    number: u64,
    first_op: u64,
    order: Order,
    mut attempt: Attempt,
) {
    let host = running();
    let mut op = first_op;
    loop {
        begin(host, op, &order);
        effect_or_end().await;
        let told = told(make(&client, &order).await, attempt, &order.transfer.id);
        with(|world| world.told(host, op, &order.transfer.id, told));
        if told != Told::Unknown || !order.has_request_id {
            break;
        }
        attempt = Attempt::Later;
        sleep(Duration::from_millis(500)).await;
        op = diary.again();
    }
    effect_or_end().await;
    diary.pages().open.remove(&number);
}

fn begin(host: HostId, op: u64, order: &Order) {
    with(|world| {
        if world.is_alive(host) {
            let moves: Vec<_> = order.transfer.moves.iter().filter(|it| it.amount != 0).cloned().collect();
            let sets: BTreeSet<_> = moves.iter().map(|it| &it.set).collect();
            world.begun(host, op, &order.transfer.id, sets.len());
            let process = world.hosts[host.0].name.to_owned();
            let call = Call::Transfer(Transfer { id: order.transfer.id.clone(), moves });
            world.note(format_args!("{process} {op}: {:?} in {} ms", order.how, order.timeout_ms));
            world.record(Record::Begin { process, op, call });
        }
    });
}

async fn make(client: &Client, order: &Order) -> Result<Completed, Error> {
    let mut new = client
        .transaction(order.transfer.id.as_str())
        .timeout(Duration::from_millis(order.timeout_ms))
        .wait(order.wait);
    if order.has_request_id {
        new = new.request_id(order.transfer.id.as_str());
    }
    match order.how {
        How::Run => new.branches(branches(order)).execute().await,
        How::Enlist => enlist(new, order).await,
        How::Join | How::Carry => join(new, order).await,
        How::Abandon => {
            let transaction = new.begin().await?;
            let xid = transaction.xid();
            for branch in branches(order) {
                transaction.enlist(branch).await?;
            }
            transaction.abort("it thought better of it").await?;
            Err(Error::Aborted { xid, reason: String::new(), source: None })
        }
    }
}

fn branches(order: &Order) -> Vec<NewBranch> {
    let branch = |(set, work): (String, Work)| {
        NewBranch::of(format!("bank/{set}"), &Json(work)).protocol(protocol(&set)).id(set)
    };
    work(order).into_iter().map(branch).collect()
}

fn protocol(set: &str) -> Protocol {
    if matches!(set, "c" | "d") { Protocol::Tcc } else { Protocol::TwoPhase }
}

/// What is asked of each set's participant.
fn work(order: &Order) -> BTreeMap<String, Work> {
    let mut work = BTreeMap::new();
    for Move { set, account, amount } in &order.transfer.moves {
        let new = || Work { transfer: order.transfer.id.clone(), moves: BTreeMap::new() };
        work.entry(set.clone()).or_insert_with(new).moves.insert(account.clone(), *amount);
    }
    work
}

async fn enlist(new: NewTransaction<'_>, order: &Order) -> Result<Completed, Error> {
    let transaction = new.begin().await?;
    for branch in branches(order) {
        transaction.enlist(branch).await?;
    }
    transaction.commit().await
}

/// The services do their work before the commit, which needs no phase one any more.
async fn join(new: NewTransaction<'_>, order: &Order) -> Result<Completed, Error> {
    let transaction = new.begin().await?;
    let xid = transaction.xid();
    for (set, work) in work(order) {
        let host = with(|world| {
            let hosts: Vec<_> = ROLES.iter().filter(|role| role.set == set).collect();
            world.rng.pick(&hosts).host
        });
        let asked = Ask {
            xid: xid.to_string(),
            branch: set.clone(),
            work,
            ballot: order.how == How::Carry,
            ttl_ms: (protocol(&set) == Protocol::Tcc).then_some(order.timeout_ms),
        };
        let answer = match timeout(JOIN_TIMEOUT, participant::ask(host, &asked)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::No(error.to_string()),
            Err(_elapsed) => Answer::No("it took too long".to_owned()),
        };
        match answer {
            Answer::Enlisted => {}
            Answer::Ballot(ballot) => transaction.carry(&ballot)?,
            Answer::No(reason) => {
                transaction.abort(reason.as_str()).await?;
                return Err(Error::Aborted { xid, reason, source: None });
            }
        }
    }
    transaction.commit().await
}

/// What the client's answer says of the transfer.
fn told(answer: Result<Completed, Error>, attempt: Attempt, transfer: &str) -> Told {
    match answer {
        Ok(completed) if completed.complete => Told::Complete,
        Ok(_) => Told::Committed,
        Err(Error::Aborted { .. }) => Told::Aborted,
        Err(Error::Unknown { .. }) => {
            if with(|world| world.judge.flaw == Flaw::UnknownIsAbort) {
                Told::Aborted
            } else {
                Told::Unknown
            }
        }
        Err(error @ Error::Heuristic { .. }) => {
            with(|world| world.breach(format!("{transfer}: {error}")));
            Told::Unknown
        }
        // Nothing was done, this time.
        Err(error) => {
            with(|world| world.note(format_args!("{transfer}: {error}")));
            if attempt == Attempt::First { Told::Aborted } else { Told::Unknown }
        }
    }
}
