use super::*;
use crate::api::tests::{Fixture, soon};

async fn shown(watcher: &mut Watcher) -> Option<pb::Transaction> {
    soon(watcher.next()).await.map(|message| message.unwrap().transaction.unwrap())
}

#[tokio::test]
async fn a_watcher_that_falls_behind_is_shown_the_latest_state() {
    let fixture = Fixture::serving().await;
    let xid = fixture.begin().await;
    let watched = Watched::One(xid.parse().unwrap());
    let mut watcher = Watcher::start(fixture.coordinator.clone(), watched).await.unwrap();
    assert_eq!(shown(&mut watcher).await.unwrap().state(), pb::State::Active);
    // It ends, and so much happens then that its change is dropped before the watcher looks.
    fixture.transactions().commit(pb::CommitRequest { xid, ..Default::default() }).await.unwrap();
    for _ in 0..1_100 {
        fixture.begin().await;
    }
    assert_eq!(shown(&mut watcher).await.unwrap().state(), pb::State::Committed);
    assert!(shown(&mut watcher).await.is_none());
}

#[tokio::test]
async fn a_state_is_never_followed_by_an_older_one() {
    let fixture = Fixture::serving().await;
    let xid = fixture.begin().await;
    let watched = Watched::One(xid.parse().unwrap());
    let mut watcher = Watcher::start(fixture.coordinator.clone(), watched).await.unwrap();
    for participant in ["shop/stock", "shop/payment"] {
        fixture.enlist(&xid, participant).await;
    }
    // What a reading that came late would find: the changes are still to be heard of.
    watcher.read().await.unwrap();
    fixture.enlist(&xid, "shop/order").await;
    let mut branches = Vec::new();
    while branches.last() != Some(&3) {
        branches.push(shown(&mut watcher).await.unwrap().branches.len());
    }
    assert!(branches.is_sorted(), "{branches:?}");
}
