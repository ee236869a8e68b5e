//! Participants that are dialled.

use std::time::Duration;

use assent_sdk::memory::Memory;
use assent_sdk::participant::Builder;
use assent_sdk::proto::v1 as pb;
use assent_sdk::proto::v1::commit_one_phase_response::Result as OnePhase;
use assent_sdk::proto::v1::tcc_participant_service_client::TccParticipantServiceClient;
use assent_sdk::proto::v1::two_phase_participant_service_client::TwoPhaseParticipantServiceClient;
use assent_sdk::{Encode as _, Error, Participant};
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::coordinator::{CLUSTER, Coordinator, Inquiries, result};
use crate::shop::{Shelf, Stock, at, shelf, take, tx};
use crate::{soon, until};

fn tcc(memory: &Memory<Shelf>) -> Builder {
    Participant::builder("shop/stock")
        .resource(memory.clone().tcc(Stock::default()))
        .inquire_after(Duration::from_millis(50))
}

async fn serving(builder: Builder) -> (Participant, Channel) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let participant = builder.serve(listener).await.unwrap();
    let url = format!("http://{}", participant.local_addr().unwrap());
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    (participant, channel)
}

fn try_request(n: u64, count: i64, ttl_ms: u64) -> pb::TryRequest {
    pb::TryRequest {
        xid: tx(n).to_string(),
        branch_id: "a".into(),
        payload: take(count).to_bytes().unwrap(),
        reservation_ttl_ms: ttl_ms,
        attempt: 1,
        cluster_id: CLUSTER.into(),
    }
}

async fn try_(channel: &Channel, request: pb::TryRequest) -> Result<pb::PhaseOneResult, Status> {
    let mut client = TccParticipantServiceClient::new(channel.clone());
    soon(client.r#try(request)).await.map(|response| response.into_inner().result.unwrap())
}

async fn confirm(channel: &Channel, n: u64) -> pb::Completion {
    let request = pb::ConfirmRequest { xid: tx(n).to_string(), branch_id: "a".into(), attempt: 1 };
    let mut client = TccParticipantServiceClient::new(channel.clone());
    soon(client.confirm(request)).await.unwrap().into_inner().completion()
}

async fn cancel(channel: &Channel, n: u64) -> pb::Completion {
    let request = pb::CancelRequest { xid: tx(n).to_string(), branch_id: "a".into(), attempt: 1 };
    let mut client = TccParticipantServiceClient::new(channel.clone());
    soon(client.cancel(request)).await.unwrap().into_inner().completion()
}

#[tokio::test]
async fn try_confirm_and_cancel_by_unary_calls() {
    let memory = Memory::new(shelf());
    let (_participant, channel) = serving(tcc(&memory)).await;
    let granted = try_(&channel, try_request(1, 3, 60_000)).await.unwrap();
    assert_eq!((granted.vote(), granted.reservation_ttl_ms), (pb::Vote::Prepared, 60_000));
    assert!(!granted.inquires, "it knows nobody to ask");
    assert_eq!(&granted.reply[..], br#"{"left":7}"#);
    let refused = try_(&channel, try_request(2, 11, 0)).await.unwrap();
    assert_eq!((refused.vote(), &*refused.reason), (pb::Vote::Refused, "out of stock"));
    assert_eq!(confirm(&channel, 1).await, pb::Completion::Done);
    assert_eq!(cancel(&channel, 1).await, pb::Completion::HeuristicCommit);
    assert_eq!(cancel(&channel, 9).await, pb::Completion::UnknownBranch);
    assert_eq!(memory.state(), at(7, 0, 3));
}

#[tokio::test]
async fn prepare_commit_and_one_phase_by_unary_calls() {
    let memory = Memory::new(shelf());
    let resource = memory.clone().two_phase(Stock::default());
    let (_participant, channel) = serving(Participant::builder("shop/stock").resource(resource)).await;
    let mut client = TwoPhaseParticipantServiceClient::new(channel);
    let prepare = |n: u64, count: i64| pb::PrepareRequest {
        xid: tx(n).to_string(),
        branch_id: "a".into(),
        payload: take(count).to_bytes().unwrap(),
        attempt: 1,
        cluster_id: CLUSTER.into(),
    };
    let vote = client.prepare(prepare(1, 3)).await.unwrap().into_inner().result.unwrap();
    assert_eq!((vote.vote(), vote.reservation_ttl_ms), (pb::Vote::Prepared, 0));
    let commit = pb::TwoPhaseParticipantServiceCommitRequest {
        xid: tx(1).to_string(),
        branch_id: "a".into(),
        attempt: 1,
    };
    assert_eq!(client.commit(commit).await.unwrap().into_inner().completion(), pb::Completion::Done);
    let rollback = pb::RollbackRequest { xid: tx(2).to_string(), branch_id: "a".into(), attempt: 1 };
    let unknown = client.rollback(rollback).await.unwrap().into_inner().completion();
    assert_eq!(unknown, pb::Completion::UnknownBranch);

    let one_phase = |n: u64, count: i64| pb::CommitOnePhaseRequest {
        xid: tx(n).to_string(),
        branch_id: "a".into(),
        payload: take(count).to_bytes().unwrap(),
        attempt: 1,
        cluster_id: CLUSTER.into(),
    };
    let done = client.commit_one_phase(one_phase(3, 2)).await.unwrap().into_inner();
    assert_eq!(done.result, Some(OnePhase::Completion(pb::Completion::Done.into())));
    assert_eq!(&done.reply[..], br#"{"left":5}"#);
    let refused = client.commit_one_phase(one_phase(4, 11)).await.unwrap().into_inner();
    assert_eq!(refused.result, Some(OnePhase::Refused("out of stock".into())));
    assert_eq!(memory.state(), at(5, 0, 5));
}

#[tokio::test]
async fn trouble_is_a_grpc_error_and_a_call_for_the_other_protocol_a_refusal() {
    let memory = Memory::new(shelf());
    let stock = Stock::default();
    stock.0.after_reserve.store(true, std::sync::atomic::Ordering::SeqCst);
    let builder = Participant::builder("shop/stock").resource(memory.clone().tcc(stock));
    let (_participant, channel) = serving(builder).await;
    let status = try_(&channel, try_request(1, 3, 0)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the disk wobbled"));
    let bad = pb::TryRequest { xid: "order-1".into(), ..try_request(1, 3, 0) };
    assert_eq!(try_(&channel, bad).await.unwrap_err().code(), Code::InvalidArgument);
    let prepare = pb::PrepareRequest {
        xid: tx(1).to_string(),
        branch_id: "a".into(),
        payload: take(1).to_bytes().unwrap(),
        attempt: 1,
        cluster_id: CLUSTER.into(),
    };
    let mut client = TwoPhaseParticipantServiceClient::new(channel);
    let vote = client.prepare(prepare).await.unwrap().into_inner().result.unwrap();
    assert_eq!(vote.vote(), pb::Vote::Refused);
    assert_eq!(memory.state(), shelf());
}

#[tokio::test]
async fn with_an_address_to_inquire_at_it_asks_and_follows_the_answer() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
    let (_participant, channel) = serving(tcc(&memory).inquire_at(coordinator.url())).await;
    // The first inquiry is empty: it learns the horizon.
    let first = coordinator.inquiries().await;
    assert_eq!(first.request.inquiries, []);
    let horizon = pb::Horizon { cluster_id: CLUSTER.into(), before: tx(1).order().to_string() };
    first.answer(Ok(pb::BatchGetOutcomesResponse { results: Vec::new(), horizon: Some(horizon) }));
    // A read-only Try leaves nothing, so it can be repeated until the horizon is in force.
    until(async || {
        let vote = try_(&channel, try_request(0, 0, 0)).await.unwrap();
        vote.reason == "the transaction ended long ago"
    })
    .await;

    let granted = try_(&channel, try_request(1, 3, 20)).await.unwrap();
    assert!(granted.inquires);
    let asked = inquiries_with(&coordinator, |inquiry| inquiry.expired).await;
    let results =
        asked.request.inquiries.iter().map(|inquiry| result(inquiry, pb::InquiryAnswer::Abort)).collect();
    asked.answer(Ok(pb::BatchGetOutcomesResponse { results, horizon: None }));
    until(async || memory.state() == shelf()).await;
}

/// The next inquiries with one such among them. To others it says that it is not ready.
async fn inquiries_with(coordinator: &Coordinator, such: impl Fn(&pb::Inquiry) -> bool) -> Inquiries {
    soon(async {
        loop {
            let asked = coordinator.inquiries().await;
            if asked.request.inquiries.iter().any(&such) {
                return asked;
            }
            asked.answer(Err(Status::unavailable("recovering")));
        }
    })
    .await
}

#[tokio::test]
async fn doubts_of_an_earlier_life_are_asked_about_at_the_start() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
    {
        let (_participant, channel) = serving(tcc(&memory)).await;
        try_(&channel, try_request(1, 3, 0)).await.unwrap();
    }
    let patient = tcc(&memory).inquire_after(Duration::from_hours(1)).inquire_at(coordinator.url());
    let (_participant, _) = serving(patient).await;
    let asked = inquiries_with(&coordinator, |_| true).await;
    let results = vec![result(&asked.request.inquiries[0], pb::InquiryAnswer::Commit)];
    asked.answer(Ok(pb::BatchGetOutcomesResponse { results, horizon: None }));
    until(async || memory.state() == at(7, 0, 3)).await;
}

#[tokio::test]
async fn without_an_address_cooperative_reservations_are_held_and_autonomous_ones_still_expire() {
    let memory = Memory::new(shelf());
    let (_cooperative, channel) = serving(tcc(&memory)).await;
    try_(&channel, try_request(1, 3, 1)).await.unwrap();
    let (_autonomous, channel) = serving(tcc(&memory).autonomous()).await;
    try_(&channel, try_request(2, 4, 20)).await.unwrap();
    until(async || memory.state() == at(7, 3, 0)).await;
    assert_eq!(confirm(&channel, 2).await, pb::Completion::HeuristicRollback);
    assert_eq!(confirm(&channel, 1).await, pb::Completion::Done);
}

#[tokio::test]
async fn joining_enlists_by_unary_call_with_the_advertised_endpoint() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
    let builder = tcc(&memory).inquire_at(coordinator.url()).advertise("http://stock:8080");
    let (participant, _) = serving(builder).await;
    let handle = participant.handle();
    let joining = tokio::spawn(async move { handle.join(tx(1), "line-1").with(&take(3)).await });
    let asked = coordinator.enlisting().await;
    let branch = asked.request.enlistment.clone().unwrap().branch.unwrap();
    assert_eq!((&*branch.endpoint, &*branch.branch_id), ("http://stock:8080", "line-1"));
    // Busy: it is tried again.
    asked.answer(Err(Status::unavailable("recovering")));
    let asked = coordinator.enlisting().await;
    asked.answer(Err(Status::failed_precondition("the transaction is ending")));
    let error = soon(joining).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Rejected { code: Code::FailedPrecondition, .. }), "{error:?}");
    assert_eq!(memory.state(), shelf());
}

#[tokio::test]
async fn joining_without_a_coordinator_is_refused_before_any_work() {
    let memory = Memory::new(shelf());
    let (participant, _) = serving(tcc(&memory)).await;
    let error = participant.handle().join(tx(1), "line-1").with(&take(3)).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    assert_eq!(memory.state(), shelf());
}

#[tokio::test]
async fn ballot_is_an_enlistment_with_its_vote() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
    let (participant, _) = serving(tcc(&memory).inquire_at(coordinator.url())).await;
    let (joined, ballot) = soon(participant.handle().join(tx(1), "line-1").ballot(&take(3))).await.unwrap();
    assert_eq!(joined.branch().id().as_str(), "line-1");
    let enlistment: pb::Enlistment = prost::Message::decode(&ballot[..]).unwrap();
    assert_eq!(enlistment.vote.unwrap().vote(), pb::Vote::Prepared);
    assert_eq!(memory.state(), at(7, 3, 0));
}

#[tokio::test]
async fn shutdown_of_a_serving_participant_does_not_wait_for_idle_connections() {
    let memory = Memory::new(shelf());
    let (participant, channel) = serving(tcc(&memory)).await;
    try_(&channel, try_request(1, 3, 0)).await.unwrap();
    soon(participant.shutdown()).await;
    assert_eq!(memory.state(), at(7, 3, 0));
}
