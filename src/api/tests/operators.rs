use pb::retry_request::Target;

use super::*;

fn resolve(xid: &str, resolution: pb::Resolution) -> pb::ResolveRequest {
    pb::ResolveRequest {
        xid: xid.to_owned(),
        branch_id: "1".to_owned(),
        resolution: resolution.into(),
        reason: "seen in the ledger".to_owned(),
        request_id: String::new(),
    }
}

#[tokio::test]
async fn a_stuck_branch_is_settled_once_and_a_repetition_is_fine() {
    let fixture = Fixture::serving().await;
    let xid = fixture.begin().await;
    fixture.enlist(&xid, "shop/stock").await;
    let commit = pb::CommitRequest { xid: xid.clone(), wait: 1, ..Default::default() };
    fixture.transactions().commit(commit).await.unwrap();
    let mut client = fixture.admin();
    let refusal = client.resolve(resolve(&xid, pb::Resolution::RolledBack)).await.unwrap_err();
    assert_eq!(why(&refusal), (Code::FailedPrecondition, "WRONG_STATE".to_owned()));
    let once = client.resolve(resolve(&xid, pb::Resolution::Committed)).await.unwrap().into_inner();
    let once = once.transaction.unwrap();
    assert_eq!(once.state(), pb::State::Committed);
    let twice = client.resolve(resolve(&xid, pb::Resolution::Committed)).await.unwrap().into_inner();
    assert_eq!(twice.transaction.unwrap().history, once.history);
    assert_eq!(once.history.iter().filter(|event| event.kind == "resolved").count(), 1);
}

#[tokio::test]
async fn settled_branches_leave_their_places_to_others() {
    let fixture = Fixture::serving().await;
    let mut stock = fixture.session("shop/stock").await;
    // More than are called at a time, and none is ever answered.
    for _ in 0..2 * IN_FLIGHT_MAX {
        let xid = fixture.begin().await;
        fixture.enlist(&xid, "shop/stock").await;
        let commit = pb::CommitRequest { xid: xid.clone(), wait: 1, ..Default::default() };
        fixture.transactions().commit(commit).await.unwrap();
        assert_eq!(stock.next().await.xid, xid);
        fixture.admin().resolve(resolve(&xid, pb::Resolution::Committed)).await.unwrap();
    }
}

#[tokio::test]
async fn calls_to_a_paused_participant_wait_until_it_is_resumed() {
    let fixture = Fixture::serving().await;
    let mut client = fixture.admin();
    let name = || "shop/stock".to_owned();
    client.pause(pb::PauseRequest { participant: name() }).await.unwrap();
    let mut stock = fixture.session("shop/stock").await;
    let xid = fixture.begin().await;
    fixture.enlist(&xid, "shop/stock").await;
    fixture.enlist(&xid, "shop/stock").await;
    let commit = pb::CommitRequest { xid: xid.clone(), wait: 1, ..Default::default() };
    fixture.transactions().commit(commit).await.unwrap();
    assert_eq!(fixture.get(&xid).await.branches[0].last_error, "calls to it are paused by an operator");
    // Made due, and still paused.
    let calls = client.retry(pb::RetryRequest { target: Some(Target::Xid(xid.clone())) }).await.unwrap();
    assert_eq!(calls.into_inner().calls, 2);
    let calls = client.resume(pb::ResumeRequest { participant: name() }).await.unwrap().into_inner().calls;
    assert_eq!(calls, 2);
    assert_eq!(stock.next().await.operation(), pb::Operation::Commit);
    let calls = client.retry(pb::RetryRequest { target: Some(Target::Participant(name())) }).await.unwrap();
    assert_eq!(calls.into_inner().calls, 0);
    assert_eq!(
        client.retry(pb::RetryRequest::default()).await.unwrap_err().message(),
        "target is not set; give xid or participant"
    );
}

#[tokio::test]
async fn participants_are_listed_by_name_with_their_sessions() {
    let fixture = Fixture::serving().await;
    let _stock = fixture.session("shop/stock").await;
    let mut client = fixture.admin();
    client.pause(pb::PauseRequest { participant: "a/paused".to_owned() }).await.unwrap();
    let listed =
        client.list_participants(pb::ListParticipantsRequest {}).await.unwrap().into_inner().participants;
    let names: Vec<_> =
        listed.iter().map(|p| (p.name.as_str(), p.endpoint.as_str(), p.paused, p.sessions.len())).collect();
    assert_eq!(
        names,
        [
            ("a/paused", "", true, 0),
            ("partner/bank", "http://127.0.0.1:1", false, 0),
            ("shop/stock", "", false, 1)
        ]
    );
    assert_eq!(listed[2].sessions[0].agent, "test");
}

#[tokio::test]
async fn only_an_ended_transaction_is_forgotten_and_only_with_a_reason() {
    let fixture = Fixture::serving().await;
    let mut stock = fixture.session("shop/stock").await;
    let xid = fixture.begin().await;
    fixture.enlist(&xid, "shop/stock").await;
    let mut client = fixture.admin();
    let forget = |reason: &str| pb::ForgetRequest { xid: xid.clone(), reason: reason.to_owned() };
    let refusal = client.forget(forget("")).await.unwrap_err();
    assert_eq!(refusal.message(), "reason is empty; say why in 1 to 1024 bytes");
    assert_eq!(why(&client.forget(forget("tidy")).await.unwrap_err()).0, Code::FailedPrecondition);
    let (mut initiator, request) =
        (fixture.transactions(), pb::CommitRequest { xid: xid.clone(), ..Default::default() });
    let commit = tokio::spawn(async move { initiator.commit(request).await.unwrap() });
    let call = stock.next().await;
    stock.answer(&call, pb::Completion::Done).await;
    assert!(soon(commit).await.unwrap().into_inner().result.unwrap().complete);
    soon(client.forget(forget("tidy"))).await.unwrap();
    assert_eq!(why(&client.forget(forget("tidy")).await.unwrap_err()).0, Code::NotFound);
}

#[tokio::test]
async fn the_status_counts_transactions_and_forced_writes() {
    let fixture = Fixture::serving().await;
    let xid = fixture.begin().await;
    fixture.enlist(&xid, "shop/stock").await;
    let mut client = fixture.admin();
    let commit = pb::CommitRequest { xid, wait: 1, ..Default::default() };
    fixture.transactions().commit(commit).await.unwrap();
    let ended = fixture.begin().await;
    fixture.transactions().commit(pb::CommitRequest { xid: ended, ..Default::default() }).await.unwrap();
    let status = client.get_server_status(pb::GetServerStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.phase.as_str(), status.ready), ("serving", true));
    assert_eq!((status.active_transactions, status.retained_transactions), (1, 1));
    assert_eq!((status.forced_writes, status.log_syncs), (1, 1));
    assert_eq!((status.version.as_str(), status.data_dir.as_str()), (env!("CARGO_PKG_VERSION"), "/memory"));
    assert!(status.start_time.unwrap().seconds > 1_700_000_000);
}
