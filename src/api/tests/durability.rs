//! Nothing is told before it is durable, and what could not be written is not told at all.

use super::*;
use crate::store::FailedAppend;

type Answered<T> = JoinHandle<Result<tonic::Response<T>, Status>>;

/// Two branches that have voted: all that lacks is the decision.
async fn voted(fixture: &Fixture) -> String {
    let xid = fixture.begin().await;
    fixture.enlist(&xid, "shop/stock").await;
    fixture.enlist(&xid, "shop/payment").await;
    xid
}

fn commit(fixture: &Fixture, xid: &str) -> Answered<pb::CommitResponse> {
    let mut client = fixture.transactions();
    let request =
        pb::CommitRequest { xid: xid.to_owned(), wait: pb::Wait::Decision.into(), ..Default::default() };
    tokio::spawn(async move { client.commit(request).await })
}

fn inquire(fixture: &Fixture, xid: &str) -> Answered<pb::GetOutcomeResponse> {
    let mut client = fixture.inquiries();
    let inquiry = pb::Inquiry { xid: xid.to_owned(), branch_id: "1".to_owned(), expired: false };
    tokio::spawn(async move { client.get_outcome(pb::GetOutcomeRequest { inquiry: Some(inquiry) }).await })
}

async fn answer(inquiry: Answered<pb::GetOutcomeResponse>) -> pb::InquiryAnswer {
    soon(inquiry).await.unwrap().unwrap().into_inner().result.unwrap().answer()
}

async fn outcome(commit: Answered<pb::CommitResponse>) -> pb::Outcome {
    soon(commit).await.unwrap().unwrap().into_inner().result.unwrap().outcome()
}

/// Waits until a write is held back at the gate.
async fn write_is_held(log: &MemoryLog) {
    let log = log.clone();
    soon(tokio::task::spawn_blocking(move || log.wait_for_append_at_gate())).await.unwrap();
}

/// A Try for another transaction, which waits for nothing: what was sent before it would have come before it.
async fn overtake(fixture: &Fixture, stock: &mut Participant) {
    let mut client = fixture.transactions();
    let request = pb::RunRequest {
        protocol: pb::Protocol::Tcc.into(),
        branches: vec![spec("shop/stock")],
        ..Default::default()
    };
    tokio::spawn(async move { client.run(request).await });
    let first = stock.next().await;
    assert_eq!(first.operation(), pb::Operation::PhaseOne, "{first:?}");
}

#[tokio::test]
async fn nothing_of_a_decision_is_told_before_it_is_durable() {
    let log = MemoryLog::new();
    let fixture = Fixture::serving_on(&log).await;
    let mut stock = fixture.session("shop/stock").await;
    let xid = voted(&fixture).await;
    log.close_gate();
    let commit = commit(&fixture, &xid);
    write_is_held(&log).await;
    let inquiry = inquire(&fixture, &xid);
    overtake(&fixture, &mut stock).await;
    assert!(!commit.is_finished() && !inquiry.is_finished());

    log.open_gate();
    let call = stock.next().await;
    assert_eq!((&call.xid, call.operation()), (&xid, pb::Operation::Commit));
    assert_eq!(outcome(commit).await, pb::Outcome::Committed);
    assert_eq!(answer(inquiry).await, pb::InquiryAnswer::Commit);
}

#[tokio::test]
async fn a_deadline_that_passes_while_the_commit_is_written_changes_nothing() {
    let log = MemoryLog::new();
    let fixture = Fixture::serving_on(&log).await;
    let begin = || pb::BeginRequest { timeout_ms: 300, ..Default::default() };
    let xid = fixture.transactions().begin(begin()).await.unwrap().into_inner().xid;
    fixture.enlist(&xid, "shop/stock").await;
    fixture.enlist(&xid, "shop/payment").await;
    log.close_gate();
    let commit = commit(&fixture, &xid);
    write_is_held(&log).await;
    // The engine has looked at its timers since: this one, begun later, is aborted by the same deadline.
    let later = fixture.transactions().begin(begin()).await.unwrap().into_inner().xid;
    soon(async {
        while fixture.get(&later).await.state() != pb::State::Aborted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    log.open_gate();
    assert_eq!(outcome(commit).await, pb::Outcome::Committed);
    assert_eq!(fixture.get(&xid).await.state(), pb::State::Committing);
    assert_eq!(answer(inquire(&fixture, &xid)).await, pb::InquiryAnswer::Commit);
}

#[tokio::test]
async fn a_decision_that_could_not_be_written_is_not_told_and_the_next_life_follows_the_log() {
    for (writes, found) in [
        (FailedAppend::Lost, pb::InquiryAnswer::Abort),
        // The disk has it, though the sync failed.
        (FailedAppend::Kept, pb::InquiryAnswer::Commit),
    ] {
        let log = MemoryLog::new();
        let fixture = Fixture::serving_on(&log).await;
        let mut stock = fixture.session("shop/stock").await;
        let xid = voted(&fixture).await;
        log.fail_append(1, writes);
        let refusal = soon(commit(&fixture, &xid)).await.unwrap().unwrap_err();
        assert_eq!(why(&refusal), (Code::Unavailable, "STOPPED".to_owned()), "{writes:?}");
        let ended = soon(fixture.driver).await.unwrap().unwrap_err();
        assert!(matches!(ended, DriverError::Log(_)), "{ended:?}");
        while let Ok(Some(message)) = soon(stock.calls.message()).await {
            assert_eq!(message.calls, [], "{writes:?}: called for what is not known to be durable");
        }

        log.crash();
        let next = Fixture::serving_on(&log).await;
        assert_eq!(answer(inquire(&next, &xid)).await, found, "{writes:?}");
        if found == pb::InquiryAnswer::Commit {
            let call = next.session("shop/stock").await.next().await;
            assert_eq!((call.xid, call.operation), (xid, pb::Operation::Commit.into()));
        }
    }
}
