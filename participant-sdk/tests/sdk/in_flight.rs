//! Calls that are under way, wait, or hang.

use std::sync::Arc;
use std::time::Duration;

use assent_sdk::proto::v1 as pb;
use assent_sdk::proto::v1::call_reply::Result as Reply;
use assent_sdk::resource::{Cleaned, Granted, InDoubt, OnePhase, PhaseOne};
use assent_sdk::{
    Branch, ClusterId, Completion, Horizon, Participant, ParticipantName, Protocol, Resource, Result, Vote,
};
use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::coordinator::Coordinator;
use crate::session::{call, reserve};
use crate::shop::tx;
use crate::soon;

/// Even where the calls that hang are all that the participant takes on, and more wait behind them.
#[tokio::test]
async fn draining_leaves_calls_that_hang() {
    let coordinator = Coordinator::start().await;
    let gated = Gated::default();
    let participant = Participant::builder("shop/stock")
        .resource(gated.clone())
        .max_in_flight(1)
        .drain_timeout(Duration::from_millis(50))
        .connect(coordinator.url())
        .await
        .unwrap();
    let session = coordinator.welcomed().await;
    let calls = vec![reserve(1, 0), reserve(2, 0)];
    session.send(pb::SessionResponse { calls, ..Default::default() }).await;
    soon(gated.begun.acquire()).await.unwrap().forget();
    soon(participant.shutdown()).await;
}

#[tokio::test]
async fn calls_for_one_branch_wait_for_each_other_and_others_do_not() {
    let coordinator = Coordinator::start().await;
    let gated = Gated::default();
    let _participant =
        Participant::builder("shop/stock").resource(gated.clone()).connect(coordinator.url()).await.unwrap();
    let mut session = coordinator.welcomed().await;
    session.send(pb::SessionResponse { calls: vec![reserve(1, 0)], ..Default::default() }).await;
    soon(gated.begun.acquire()).await.unwrap().forget();
    let calls = vec![call(1, "a", pb::Operation::Rollback), call(2, "a", pb::Operation::Rollback)];
    session.send(pb::SessionResponse { calls, ..Default::default() }).await;
    // The other branch is answered while the first one hangs.
    let first = session.receive().await.replies;
    assert_eq!(first.iter().map(|reply| &*reply.xid).collect::<Vec<_>>(), [tx(2).to_string()]);
    gated.gate.add_permits(1);
    let mut order = Vec::new();
    while order.len() < 2 {
        order.extend(session.receive().await.replies.into_iter().map(|reply| reply.operation));
    }
    assert_eq!(order, [i32::from(pb::Operation::PhaseOne), pb::Operation::Rollback.into()]);
}

#[tokio::test]
async fn repetitions_of_a_call_that_hangs_leave_room_for_other_branches() {
    let (coordinator, gated) = (Coordinator::start().await, Gated::default());
    let participant = Participant::builder("shop/stock").resource(gated.clone()).max_in_flight(8);
    let _participant = participant.connect(coordinator.url()).await.unwrap();
    let mut session = coordinator.welcomed().await;
    let mut calls = vec![reserve(1, 0); 20];
    calls.push(call(2, "a", pb::Operation::Rollback));
    session.send(pb::SessionResponse { calls, ..Default::default() }).await;
    let mut replies = Vec::new();
    while !replies.iter().any(|reply: &pb::CallReply| reply.xid == tx(2).to_string()) {
        replies.extend(session.receive().await.replies);
    }
    let told = replies.iter().filter(|reply| matches!(&reply.result, Some(Reply::Error(_)))).count();
    assert_eq!(told, 16, "one is under way, three wait, the others come again");
}

#[tokio::test]
async fn panic_of_a_resource_is_answered_as_trouble() {
    let (coordinator, gated) = (Coordinator::start().await, Gated::default());
    // It panics at a closed gate.
    gated.gate.close();
    let _participant =
        Participant::builder("shop/stock").resource(gated).connect(coordinator.url()).await.unwrap();
    let mut session = coordinator.welcomed().await;
    match session.call(reserve(1, 0)).await {
        Reply::Error(error) => assert_eq!(error, "the call ended in a panic"),
        other => panic!("{other:?}"),
    }
}

/// They begin in portions, and these must not wait for room that is only made by their own beginning.
#[tokio::test]
async fn more_calls_in_one_message_than_may_be_under_way_are_all_answered() {
    let coordinator = Coordinator::start().await;
    let participant = Participant::builder("shop/stock").resource(Gated::default()).max_in_flight(2);
    let _participant = participant.connect(coordinator.url()).await.unwrap();
    let mut session = coordinator.welcomed().await;
    let calls = (1..=200).map(|n| call(n, "a", pb::Operation::Rollback)).collect();
    session.send(pb::SessionResponse { calls, ..Default::default() }).await;
    let mut replies = 0;
    while replies < 200 {
        replies += session.receive().await.replies.len();
    }
}

#[tokio::test]
async fn call_that_hangs_does_not_hold_up_those_that_came_with_it() {
    let (coordinator, gated) = (Coordinator::start().await, Gated::default());
    let participant = Participant::builder("shop/stock").resource(gated.clone());
    let _participant = participant.connect(coordinator.url()).await.unwrap();
    let mut session = coordinator.welcomed().await;
    let mut calls: Vec<_> = (2..=200).map(|n| call(n, "a", pb::Operation::Rollback)).collect();
    calls.insert(0, reserve(1, 0));
    session.send(pb::SessionResponse { calls, ..Default::default() }).await;
    let mut others = 0;
    while others < 199 {
        let replies = session.receive().await.replies;
        assert!(replies.iter().all(|reply| reply.xid != tx(1).to_string()), "its gate is closed");
        others += replies.len();
    }
    gated.gate.add_permits(1);
    assert_eq!(session.receive().await.replies[0].xid, tx(1).to_string());
}

/// A resource of the raw kind, whose phase one waits at a gate.
#[derive(Clone)]
pub struct Gated {
    pub begun: Arc<Semaphore>,
    pub gate: Arc<Semaphore>,
    pub inquires: bool,
}

impl Default for Gated {
    fn default() -> Gated {
        Gated { begun: Arc::new(Semaphore::new(0)), gate: Arc::new(Semaphore::new(0)), inquires: true }
    }
}

impl Resource for Gated {
    fn protocol(&self) -> Protocol {
        Protocol::Tcc
    }

    fn inquires(&self) -> bool {
        self.inquires
    }

    async fn phase_one(&self, _: PhaseOne) -> Result<Granted> {
        self.begun.add_permits(1);
        self.gate.acquire().await.expect("the gate is not closed").forget();
        Ok(Granted { vote: Vote::Prepared(Bytes::new()), reservation: None })
    }

    async fn commit(&self, _: &Branch) -> Result<Completion> {
        Ok(Completion::Done)
    }

    async fn rollback(&self, _: &Branch, _: &ClusterId) -> Result<Completion> {
        Ok(Completion::Done)
    }

    async fn commit_one_phase(&self, call: PhaseOne) -> Result<OnePhase> {
        self.phase_one(call).await?;
        Ok(OnePhase { completion: Completion::Done, reply: Bytes::new() })
    }

    async fn in_doubt(&self, _: &ParticipantName) -> Result<Vec<InDoubt>> {
        Ok(Vec::new())
    }

    async fn forget_before(&self, _: &Horizon) -> Result<Cleaned> {
        Ok(Cleaned::Wholly)
    }
}
