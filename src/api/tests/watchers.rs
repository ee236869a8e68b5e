use super::*;

async fn watch(
    fixture: &Fixture,
    xid: &str,
    filter: Option<pb::TransactionFilter>,
) -> Streaming<pb::WatchResponse> {
    let request = pb::WatchRequest { xid: xid.to_owned(), filter };
    fixture.transactions().watch(request).await.unwrap().into_inner()
}

async fn next(changes: &mut Streaming<pb::WatchResponse>) -> pb::Transaction {
    soon(changes.message()).await.unwrap().expect("there is more").transaction.unwrap()
}

#[tokio::test]
async fn one_transaction_is_shown_from_what_it_is_to_its_end() {
    let fixture = Fixture::serving().await;
    let xid = fixture.begin().await;
    let other = fixture.begin().await;
    let mut changes = watch(&fixture, &xid, None).await;
    let first = next(&mut changes).await;
    assert_eq!((&first.xid, first.state(), first.branches.len()), (&xid, pb::State::Active, 0));
    fixture.enlist(&other, "shop/stock").await;
    fixture.enlist(&xid, "shop/stock").await;
    assert_eq!(next(&mut changes).await.branches.len(), 1);
    fixture
        .transactions()
        .abort(pb::AbortRequest { xid: xid.clone(), wait: 1, ..Default::default() })
        .await
        .unwrap();
    assert_eq!(next(&mut changes).await.state(), pb::State::Aborting);
    let mut stock = fixture.session("shop/stock").await;
    let call = stock.next().await;
    stock.answer(&call, pb::Completion::Done).await;
    let mut last = next(&mut changes).await;
    while last.state() == pb::State::Aborting {
        last = next(&mut changes).await;
    }
    assert_eq!((&last.xid, last.state()), (&xid, pb::State::Aborted));
    assert!(soon(changes.message()).await.unwrap().is_none());
    // And once more, when it has ended.
    let mut changes = watch(&fixture, &xid, None).await;
    assert_eq!(next(&mut changes).await.state(), pb::State::Aborted);
    assert!(soon(changes.message()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_transaction_that_is_not_known_cannot_be_watched() {
    let fixture = Fixture::serving().await;
    let mut client = fixture.transactions();
    let xid = "00000000-0000-8000-8000-004000000000".to_owned();
    let refusal = client.watch(pb::WatchRequest { xid: xid.clone(), filter: None }).await.unwrap_err();
    assert_eq!(why(&refusal), (Code::NotFound, "TRANSACTION_NOT_FOUND".to_owned()));
    let filter = Some(pb::TransactionFilter { needs_attention: true, ..Default::default() });
    let refusal = client.watch(pb::WatchRequest { xid, filter }).await.unwrap_err();
    assert_eq!(refusal.message(), "filter is set, and so is xid; give one of them");
}

#[tokio::test]
async fn those_that_match_are_shown_at_once_and_when_they_change() {
    let fixture = Fixture::serving().await;
    let (one, two) = (fixture.begin().await, fixture.begin().await);
    fixture.enlist(&one, "shop/stock").await;
    let of_stock = pb::TransactionFilter { participant: "shop/stock".to_owned(), ..Default::default() };
    let mut changes = watch(&fixture, "", Some(of_stock)).await;
    assert_eq!(next(&mut changes).await.xid, one);
    fixture.enlist(&two, "shop/payment").await;
    fixture.enlist(&two, "shop/stock").await;
    let shown = next(&mut changes).await;
    assert_eq!((shown.xid, shown.branches.len()), (two, 2));
}

#[tokio::test]
async fn watchers_do_not_hold_up_a_shutdown() {
    let fixture = Fixture::serving().await;
    let xid = fixture.begin().await;
    let (mut one, mut all) = (watch(&fixture, &xid, None).await, watch(&fixture, "", None).await);
    next(&mut one).await;
    next(&mut all).await;
    fixture.coordinator.drain().await.unwrap();
    for changes in [&mut one, &mut all] {
        assert_eq!(
            why(&soon(changes.message()).await.unwrap_err()),
            (Code::Unavailable, "DRAINING".to_owned())
        );
    }
}
