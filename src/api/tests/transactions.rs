use super::*;

#[tokio::test]
async fn the_same_request_id_is_the_same_transaction_and_other_content_is_refused() {
    let fixture = Fixture::serving().await;
    let mut client = fixture.transactions();
    let request = |label: &str| pb::BeginRequest {
        label: label.to_owned(),
        request_id: "order-1".to_owned(),
        ..Default::default()
    };
    let first = client.begin(request("checkout")).await.unwrap().into_inner();
    assert_eq!(client.begin(request("checkout")).await.unwrap().into_inner(), first);
    let refusal = client.begin(request("other")).await.unwrap_err();
    assert_eq!(why(&refusal), (Code::AlreadyExists, "REQUEST_ID_REUSED".to_owned()));
    let as_run = pb::RunRequest {
        label: "checkout".to_owned(),
        request_id: "order-1".to_owned(),
        ..Default::default()
    };
    assert_eq!(why(&client.run(as_run).await.unwrap_err()).0, Code::AlreadyExists);
    let by_request = pb::GetRequest { key: Some(pb::get_request::Key::RequestId("order-1".to_owned())) };
    assert_eq!(client.get(by_request).await.unwrap().into_inner().transaction.unwrap().xid, first.xid);
    let unknown = pb::GetRequest { key: Some(pb::get_request::Key::RequestId("order-10".to_owned())) };
    assert_eq!(
        why(&client.get(unknown).await.unwrap_err()),
        (Code::NotFound, "TRANSACTION_NOT_FOUND".to_owned())
    );
}

#[tokio::test]
async fn get_shows_the_history() {
    let fixture = Fixture::serving().await;
    let xid = fixture.begin().await;
    fixture.enlist(&xid, "shop/stock").await;
    let abort = pb::AbortRequest { xid: xid.clone(), reason: "changed my mind".to_owned(), wait: 1 };
    let result = fixture.transactions().abort(abort).await.unwrap().into_inner().result.unwrap();
    assert_eq!((result.outcome(), result.complete), (pb::Outcome::Aborted, false));
    let shown = fixture.get(&xid).await;
    let kinds: Vec<_> =
        shown.history.iter().map(|event| (event.kind.as_str(), event.branch_id.as_str())).collect();
    assert_eq!(kinds, [("begun", ""), ("enlisted", "1"), ("voted", "1"), ("decided", "")]);
    assert_eq!(shown.history[3].detail, "abort: changed my mind");
    assert!(shown.branches[0].next_attempt_time.is_some(), "{:?}", shown.branches[0]);
    assert_eq!(shown.branches[0].last_error, "it is not connected");
}

#[tokio::test]
async fn pages_follow_one_another_newest_first_and_miss_none() {
    let fixture = Fixture::serving().await;
    let mut begun = Vec::new();
    for _ in 0..25 {
        begun.push(fixture.begin().await);
    }
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = pb::ListRequest { filter: None, page_size: 10, page_token };
        let page = fixture.transactions().list(request).await.unwrap().into_inner();
        assert!(page.transactions.len() <= 10);
        listed.extend(page.transactions.into_iter().map(|transaction| transaction.xid));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    begun.reverse();
    assert_eq!(listed, begun);
}

#[tokio::test]
async fn a_run_of_the_largest_payloads_fits_and_one_byte_more_is_refused_by_name() {
    let fixture = Fixture::serving().await;
    let mut stock = fixture.session("shop/stock").await;
    let largest = pb::BranchSpec { payload: vec![7; 1024 * 1024].into(), ..spec("shop/stock") };
    let mut client = fixture.transactions();
    let request = pb::RunRequest { branches: vec![largest.clone(); 16], ..Default::default() };
    let run = tokio::spawn(async move { client.run(request).await });
    let mut ids = BTreeSet::new();
    while ids.len() < 16 {
        let call = stock.next().await;
        assert_eq!(call.payload.len(), 1024 * 1024);
        ids.insert(call.branch_id);
    }
    run.abort();
    let larger = pb::BranchSpec { payload: vec![7; 1024 * 1024 + 1].into(), ..largest };
    let request = pb::RunRequest { branches: vec![larger], ..Default::default() };
    let refusal = fixture.transactions().run(request).await.unwrap_err();
    assert_eq!(
        refusal.message(),
        "branches[0].payload has 1048577 bytes; the limit is 1048576 bytes (limits.max_payload)"
    );
}

#[tokio::test]
async fn a_commit_whose_client_went_away_takes_its_course() {
    let fixture = Fixture::serving().await;
    let mut stock = fixture.session("shop/stock").await;
    let xid = fixture.begin().await;
    fixture.enlist(&xid, "shop/stock").await;
    let (mut client, request) =
        (fixture.transactions(), pb::CommitRequest { xid: xid.clone(), ..Default::default() });
    let commit = tokio::spawn(async move { client.commit(request).await });
    let call = stock.next().await;
    commit.abort();
    assert!(commit.await.unwrap_err().is_cancelled());
    stock.answer(&call, pb::Completion::Done).await;
    let again = pb::CommitRequest { xid, ..Default::default() };
    let result = soon(fixture.transactions().commit(again)).await.unwrap().into_inner().result.unwrap();
    assert_eq!((result.outcome(), result.complete), (pb::Outcome::Committed, true));
}
