//! The daemon as its operators meet it: started twice, filled up, restored from a backup, told to stop.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::coordinator::Coordinator;
use crate::crash;
use crate::session::{self, Session, willing, yes};
use assent_proto::v1 as pb;
use assent_sdk::client::NewBranch;
use assent_sdk::memory::Memory;
use assent_sdk::{Branch, Client, Error, Participant, Result, TwoPhase, Vote, Wait};
use pb::admin_service_client::AdminServiceClient;
use pb::inquiry_service_client::InquiryServiceClient;
use pb::transaction_service_client::TransactionServiceClient;
use pb::two_phase_participant_service_client::TwoPhaseParticipantServiceClient;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

/// Nothing here takes anywhere near as long.
const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn a_second_daemon_on_the_same_directory_is_refused() {
    let first = Coordinator::start(&[]);
    let second = Command::new(env!("CARGO_BIN_EXE_assent"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(first.data_dir())
        .output()
        .unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{said}");
    let pid = first.pid().to_string();
    for part in [first.data_dir().to_str().unwrap(), "is in use by another assent", &pid] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

#[tokio::test]
async fn ten_thousand_in_doubt_are_finished_while_new_work_is_served() {
    const IN_DOUBT: usize = 10_000;
    const IN_FLIGHT_MAX: usize = 100;
    let mut coordinator = Coordinator::start(&["--set", "participants.max_in_flight=100"]);
    decide_but_do_not_deliver(&coordinator, IN_DOUBT).await;
    coordinator.kill9();

    coordinator.restart();
    let channel = connect(&coordinator).await;
    assert_eq!(active(&channel).await, IN_DOUBT as u64);
    let most_at_once = Arc::new(AtomicUsize::new(0));
    let slow = tokio::spawn(answer_in_bursts(channel.clone(), IN_DOUBT, most_at_once.clone()));
    // New work of others is served meanwhile.
    willing(&channel, "shop/other").await;
    let client = Client::connect(coordinator.url()).unwrap();
    let mut served = 0;
    while !slow.is_finished() {
        let pair = [NewBranch::of("shop/other", &()), NewBranch::of("shop/other", &())];
        client.transaction("new").branches(pair).execute().await.unwrap();
        served += 1;
    }
    slow.await.unwrap();
    assert!(served > 0);
    until("nothing is open", async || active(&channel).await == 0).await;
    let most = most_at_once.load(Ordering::Relaxed);
    assert!(most <= IN_FLIGHT_MAX, "{most} calls were out at once");
}

#[tokio::test]
async fn ten_thousand_branches_of_a_dead_participant_hold_up_nobody() {
    const PENDING: usize = 10_000;
    const PLACES: u32 = 100;
    const OTHERS: usize = 200;
    // Nothing is called again because time passed, so every call can be counted.
    let patient = ["participants.max_in_flight=100", "participants.call_timeout=1h"];
    let coordinator = Coordinator::start(&["--set", patient[0], "--set", patient[1]]);
    decide_but_do_not_deliver(&coordinator, PENDING).await;
    let channel = connect(&coordinator).await;
    let calls = Arc::new(AtomicUsize::new(0));
    for name in ["shop/one", "shop/other"] {
        let session = Session::open(&channel, name).await.unwrap();
        tokio::spawn(count_calls(session, Arc::clone(&calls)));
    }
    let client = Client::connect(coordinator.url()).unwrap();
    let others_complete = async || {
        let before = calls.load(Ordering::Relaxed);
        let others = (0..OTHERS).map(|_| async {
            let pair = [NewBranch::of("shop/one", &()), NewBranch::of("shop/other", &())];
            let done = client.transaction("other").branches(pair).execute().await.unwrap();
            assert!(done.complete);
        });
        futures_util::future::join_all(others).await;
        let made = calls.load(Ordering::Relaxed) - before;
        assert_eq!(made, 4 * OTHERS, "a prepare and a commit for each branch, and none came again");
        assert_eq!(active(&channel).await, PENDING as u64, "none of those that wait has ended");
    };

    until("the dead one is known to be gone", async || lane(&channel, "shop/slow").await.is_none()).await;
    others_complete().await;

    // It is back, and takes calls, but answers none of them.
    let mute = Session::open(&channel, "shop/slow").await.unwrap();
    let waits = (PLACES, u32::try_from(PENDING).unwrap() - PLACES);
    until("all its calls are made or wait", async || lane(&channel, "shop/slow").await == Some(waits)).await;
    others_complete().await;
    assert_eq!(lane(&channel, "shop/slow").await, Some(waits), "those that wait wait for it alone");
    for name in ["shop/one", "shop/other"] {
        assert_eq!(lane(&channel, name).await, Some((0, 0)), "nothing waits for {name}");
    }
    drop(mute);
}

#[tokio::test]
async fn a_log_restored_from_an_old_copy_presumes_nothing_of_what_came_after() {
    let mut coordinator = Coordinator::start(&[]);
    assert!(coordinator.terminate().success());
    let copy = tempfile::tempdir().unwrap();
    copy_dir(&coordinator.data_dir(), copy.path());
    coordinator.restart();
    let later = begin(&connect(&coordinator).await).await;
    coordinator.kill9();

    std::fs::remove_dir_all(coordinator.data_dir()).unwrap();
    copy_dir(copy.path(), &coordinator.data_dir());
    coordinator.restart();
    let channel = connect(&coordinator).await;
    let own = begin(&channel).await;
    let (later_epoch, own_epoch) = (epoch(&later), epoch(&own));
    assert_eq!(later_epoch, own_epoch, "the same number twice is what makes this dangerous");
    assert_eq!(inquire(&channel, &later).await, pb::InquiryAnswer::Foreign);
    assert_eq!(inquire(&channel, &own).await, pb::InquiryAnswer::Pending);
    let forgotten = own.replace(&own[..8], "00000000");
    assert_eq!(inquire(&channel, &forgotten).await, pb::InquiryAnswer::Abort);
}

#[tokio::test]
async fn an_inquiry_of_the_forgotten_past_is_answered_abort() {
    let mut coordinator = Coordinator::start(&[]);
    let undecided = begin(&connect(&coordinator).await).await;
    coordinator.kill9();
    coordinator.restart();
    let channel = connect(&coordinator).await;
    assert_eq!(inquire(&channel, &undecided).await, pb::InquiryAnswer::Abort);
    let get = pb::GetRequest { key: Some(pb::get_request::Key::Xid(undecided)) };
    let status = TransactionServiceClient::new(channel).get(get).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound, "to an initiator it is not known");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_refuses_new_work_and_finishes_the_old() {
    let mut coordinator = Coordinator::start(&[]);
    let channel = connect(&coordinator).await;
    let mut session = Session::open(&channel, "shop/slow").await.unwrap();
    let client = Client::connect(coordinator.url()).unwrap();
    let pair = [NewBranch::of("shop/slow", &()), NewBranch::of("shop/slow", &())];
    let under_way = tokio::spawn({
        let client = client.clone();
        async move { client.transaction("under way").branches(pair).execute().await }
    });
    let calls = [session.call().await, session.call().await];

    signal(&coordinator, rustix::process::Signal::TERM);
    let mut transactions = TransactionServiceClient::new(channel.clone());
    let refusal = loop {
        if let Err(refusal) = transactions.begin(pb::BeginRequest::default()).await {
            break refusal;
        }
    };
    assert_eq!(refusal.code(), tonic::Code::Unavailable, "{refusal:?}");
    assert_eq!(refusal.get_error_details().error_info().unwrap().reason, "DRAINING");

    for call in calls {
        session.reply(&call, yes(call.operation()));
    }
    tokio::spawn(session.be_willing());
    let committed = under_way.await.unwrap().unwrap();
    assert!(committed.complete);
    assert!(tokio::task::spawn_blocking(move || coordinator.wait()).await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_drain_time_does_not_finish_is_left_safely() {
    let mut coordinator = Coordinator::start(&["--set", "server.drain_timeout=200ms"]);
    decide_but_do_not_deliver(&coordinator, 10).await;
    assert!(coordinator.terminate().success());
    coordinator.restart();
    let channel = connect(&coordinator).await;
    willing(&channel, "shop/slow").await;
    until("nothing is open", async || active(&channel).await == 0).await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut coordinator = Coordinator::start(&[]);
    begin(&connect(&coordinator).await).await;
    signal(&coordinator, rustix::process::Signal::TERM);
    until("it drains", async || coordinator.log().contains("draining active=1")).await;
    signal(&coordinator, rustix::process::Signal::INT);
    assert_eq!(coordinator.wait().code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dialled_participant_that_moved_gets_what_waits_for_it() {
    let counted = Memory::new(0_u32);
    let (old, old_address) = serve_counter(&counted).await;
    let mut coordinator = Coordinator::start(&["--set", &moving_at(&old_address)]);
    let client = Client::connect(coordinator.url()).unwrap();
    let begun = client.transaction("moving").wait(Wait::Decision).begin().await.unwrap();
    let xid = begun.xid();
    let prepare = pb::PrepareRequest {
        xid: xid.to_string(),
        branch_id: "1".to_owned(),
        ..pb::PrepareRequest::default()
    };
    let mut participant = TwoPhaseParticipantServiceClient::connect(old_address).await.unwrap();
    participant.prepare(prepare).await.unwrap();
    drop(old);
    enlist_voted(&connect(&coordinator).await, &xid.to_string(), "shop/moving").await;
    begun.commit().await.unwrap();
    assert_eq!(state(&client, xid).await, pb::State::Committing);
    coordinator.kill9();

    let (_new, new_address) = serve_counter(&counted).await;
    coordinator.restart_with(&["--set", &moving_at(&new_address)]);
    until("it is delivered", async || state(&client, xid).await == pb::State::Committed).await;
    assert_eq!(counted.state(), 1);
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_takes_no_new_transactions() {
    let coordinator = Coordinator::start(&["--set", "storage.min_free=1 TiB"]);
    let mut transactions = TransactionServiceClient::new(connect(&coordinator).await);
    let refusal = loop {
        if let Err(refusal) = transactions.begin(pb::BeginRequest::default()).await {
            break refusal;
        }
    };
    assert_eq!(refusal.code(), tonic::Code::ResourceExhausted, "{refusal:?}");
    let details = refusal.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "DISK_NEARLY_FULL");
    assert!(details.retry_info().unwrap().retry_delay.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_alone_costs_one_sync_and_many_share_theirs() {
    const ALONE: u64 = 20;
    const TOGETHER_EACH: u64 = 8;
    const TOGETHER: u64 = TOGETHER_EACH * 256;
    let coordinator = Coordinator::start(&[]);
    let channel = connect(&coordinator).await;
    willing(&channel, "shop/stock").await;
    let client = Client::connect(coordinator.url()).unwrap();
    let transact = async |client: &Client| {
        let pair = [NewBranch::of("shop/stock", &()), NewBranch::of("shop/stock", &())];
        client.transaction("alone").branches(pair).execute().await.unwrap();
    };

    let before = syncs(&channel).await;
    for _ in 0..ALONE {
        transact(&client).await;
    }
    let alone = syncs(&channel).await - before;
    assert!(alone <= ALONE, "{ALONE} transactions one after another took {alone} syncs");

    let before = syncs(&channel).await;
    let clients = (0..256).map(|_| {
        let client = client.clone();
        async move {
            for _ in 0..TOGETHER_EACH {
                transact(&client).await;
            }
        }
    });
    futures_util::future::join_all(clients).await;
    let together = syncs(&channel).await - before;
    crash::report(&format!(
        "{ALONE} transactions one after another: {alone} syncs; {TOGETHER} transactions, 256 at a time: {together} syncs",
    ));
    assert!(together * 4 < TOGETHER, "{TOGETHER} transactions, 256 at a time, took {together} syncs");
}

#[tokio::test]
async fn what_changes_nothing_writes_nothing() {
    let coordinator = Coordinator::start(&[]);
    let channel = connect(&coordinator).await;
    let client = Client::connect(coordinator.url()).unwrap();
    let reader = Participant::builder("shop/reader")
        .resource(Memory::new(0).two_phase(ReadOnly))
        .connect(coordinator.url())
        .await
        .unwrap();
    reader.ready().await;
    let before = syncs(&channel).await;
    client.transaction("empty").branches([]).execute().await.unwrap();
    let pair = [NewBranch::of("shop/reader", &()), NewBranch::of("shop/reader", &())];
    client.transaction("read").branches(pair).execute().await.unwrap();
    // Without a request id: whoever gives one may ask again, so that is remembered.
    let branch = pb::BranchSpec { participant: "shop/reader".to_owned(), ..pb::BranchSpec::default() };
    let one_phase = pb::RunRequest { branches: vec![branch], ..pb::RunRequest::default() };
    let run = TransactionServiceClient::new(channel.clone()).run(one_phase).await.unwrap().into_inner();
    assert_eq!(run.result.unwrap().outcome(), pb::Outcome::Committed);
    let aborted = client.transaction("nobody").timeout(Duration::from_millis(100));
    let nobody = [NewBranch::of("shop/nobody", &()), NewBranch::of("shop/nobody", &())];
    assert!(matches!(aborted.branches(nobody).execute().await, Err(Error::Aborted { .. })));
    assert_eq!(syncs(&channel).await, before);
}

/// Counts its commits.
struct Count;

impl TwoPhase<Memory<u32>> for Count {
    type Request = ();
    type Reply = ();

    fn prepare(&self, _count: &mut u32, _branch: &Branch, (): ()) -> Result<Vote<()>> {
        Ok(Vote::Prepared(()))
    }

    fn commit(&self, count: &mut u32, _branch: &Branch, (): ()) -> Result<()> {
        *count += 1;
        Ok(())
    }

    fn rollback(&self, _count: &mut u32, _branch: &Branch, (): ()) -> Result<()> {
        Ok(())
    }
}

/// Only looks.
struct ReadOnly;

impl TwoPhase<Memory<u32>> for ReadOnly {
    type Request = ();
    type Reply = ();

    fn prepare(&self, _count: &mut u32, _branch: &Branch, (): ()) -> Result<Vote<()>> {
        Ok(Vote::ReadOnly(()))
    }

    fn commit(&self, _count: &mut u32, branch: &Branch, (): ()) -> Result<()> {
        panic!("{branch} voted read-only, and is committed")
    }

    fn rollback(&self, _count: &mut u32, branch: &Branch, (): ()) -> Result<()> {
        panic!("{branch} voted read-only, and is rolled back")
    }
}

async fn serve_counter(counted: &Memory<u32>) -> (Participant, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let resource = counted.clone().two_phase(Count);
    (Participant::builder("shop/moving").resource(resource).serve(listener).await.unwrap(), address)
}

fn moving_at(address: &str) -> String {
    format!("participants.endpoints.shop/moving={address}")
}

/// Has so many transactions decided: commit, with a branch of `shop/slow` that was never told.
async fn decide_but_do_not_deliver(coordinator: &Coordinator, count: usize) {
    let channel = connect(coordinator).await;
    let mut session = Session::open(&channel, "shop/slow").await.unwrap();
    // Votes, and keeps silent on everything else.
    let voter = tokio::spawn(async move {
        while let Ok(Some(response)) = session.responses.message().await {
            for call in response.calls {
                if call.operation() == pb::Operation::PhaseOne {
                    session.reply(&call, yes(call.operation()));
                }
            }
        }
    });
    let client = Client::connect(coordinator.url()).unwrap();
    let left = AtomicUsize::new(count);
    let take = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
    // `shop/slow` answers no commit, so its places in flight fill up; a vote that came with the work needs none.
    let workers = (0..64).map(|_| async {
        while take() {
            let transaction = client.transaction("in doubt").wait(Wait::Decision).begin().await.unwrap();
            enlist_voted(&channel, &transaction.xid().to_string(), "shop/slow").await;
            transaction.commit().await.unwrap();
        }
    });
    futures_util::future::join_all(workers).await;
    voter.abort();
}

/// Answers what waits for `shop/slow`, only when nothing more comes, and notes how much was out at once.
async fn answer_in_bursts(channel: Channel, count: usize, most_at_once: Arc<AtomicUsize>) {
    let mut session = Session::open(&channel, "shop/slow").await.unwrap();
    let mut answered = 0;
    let mut held = Vec::new();
    while answered < count {
        let quiet = tokio::time::timeout(Duration::from_millis(20), session.call()).await;
        match quiet {
            Ok(call) => held.push(call),
            Err(_quiet) => {
                most_at_once.fetch_max(held.len(), Ordering::Relaxed);
                answered += held.len();
                for call in held.drain(..) {
                    session.reply(&call, yes(call.operation()));
                }
            }
        }
    }
    tokio::spawn(session.be_willing());
}

/// Says yes to everything, and counts what it is asked.
async fn count_calls(mut session: Session, calls: Arc<AtomicUsize>) {
    loop {
        let call = session.call().await;
        calls.fetch_add(1, Ordering::Relaxed);
        session.reply(&call, yes(call.operation()));
    }
}

async fn enlist_voted(channel: &Channel, xid: &str, participant: &str) {
    let branch = pb::BranchSpec { participant: participant.to_owned(), ..pb::BranchSpec::default() };
    let enlistment = pb::Enlistment { branch: Some(branch), vote: Some(session::vote(pb::Vote::Prepared)) };
    let request = pb::EnlistRequest { xid: xid.to_owned(), enlistment: Some(enlistment) };
    TransactionServiceClient::new(channel.clone()).enlist(request).await.unwrap();
}

async fn begin(channel: &Channel) -> String {
    let begun = TransactionServiceClient::new(channel.clone()).begin(pb::BeginRequest::default()).await;
    begun.unwrap().into_inner().xid
}

async fn inquire(channel: &Channel, xid: &str) -> pb::InquiryAnswer {
    let inquiry = pb::Inquiry { xid: xid.to_owned(), branch_id: "1".to_owned(), expired: false };
    let request = pb::GetOutcomeRequest { inquiry: Some(inquiry) };
    let response = InquiryServiceClient::new(channel.clone()).get_outcome(request).await.unwrap();
    response.into_inner().result.unwrap().answer()
}

fn epoch(xid: &str) -> u32 {
    xid.parse::<assent_proto::TxId>().unwrap().epoch().0
}

async fn state(client: &Client, xid: assent_proto::TxId) -> pb::State {
    // While the coordinator is down there is no state.
    client.get(xid).await.map_or(pb::State::Unspecified, |transaction| transaction.state())
}

async fn status(channel: &Channel) -> pb::GetServerStatusResponse {
    let mut admin = AdminServiceClient::new(channel.clone());
    admin.get_server_status(pb::GetServerStatusRequest {}).await.unwrap().into_inner()
}

/// Calls that a participant with a session has not answered, and calls that wait for their place.
async fn lane(channel: &Channel, participant: &str) -> Option<(u32, u32)> {
    let mut admin = AdminServiceClient::new(channel.clone());
    let all =
        admin.list_participants(pb::ListParticipantsRequest {}).await.unwrap().into_inner().participants;
    let found = all.into_iter().find(|it| it.name == participant && !it.sessions.is_empty())?;
    Some((found.in_flight, found.queued))
}

async fn active(channel: &Channel) -> u64 {
    status(channel).await.active_transactions
}

async fn syncs(channel: &Channel) -> u64 {
    status(channel).await.log_syncs
}

async fn connect(coordinator: &Coordinator) -> Channel {
    Channel::from_shared(coordinator.url()).unwrap().connect().await.unwrap()
}

fn signal(coordinator: &Coordinator, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(coordinator.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn copy_dir(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(format!("{}/.", from.display())).arg(to).status().unwrap();
    assert!(copied.success());
}
