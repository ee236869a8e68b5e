//! Participants over a session.

use std::time::Duration;

use assent_sdk::memory::Memory;
use assent_sdk::proto::v1 as pb;
use assent_sdk::proto::v1::call_reply::Result as Reply;
use assent_sdk::{Encode as _, Error, Participant};
use bytes::Bytes;

use crate::coordinator::{Coordinator, Session};
use crate::in_flight::Gated;
use crate::shop::{Shelf, Stock, at, shelf, take, tx};
use crate::{soon, until};

const MINUTE_MS: u64 = 60_000;

/// A call about branch `id` of transaction `n`.
pub fn call(n: u64, id: &str, operation: pb::Operation) -> pb::Call {
    let payload = match operation {
        pb::Operation::PhaseOne | pb::Operation::CommitOnePhase => take(3).to_bytes().unwrap(),
        _ => Bytes::new(),
    };
    pb::Call {
        xid: tx(n).to_string(),
        branch_id: id.into(),
        protocol: pb::Protocol::Tcc.into(),
        operation: operation.into(),
        payload,
        attempt: 1,
        ..pb::Call::default()
    }
}

pub fn reserve(n: u64, ttl_ms: u64) -> pb::Call {
    pb::Call { reservation_ttl_ms: ttl_ms, ..call(n, "a", pb::Operation::PhaseOne) }
}

async fn vote(session: &mut Session, call: pb::Call) -> pb::PhaseOneResult {
    match session.call(call).await {
        Reply::Vote(vote) => vote,
        other => panic!("no vote: {other:?}"),
    }
}

async fn completion(session: &mut Session, call: pb::Call) -> pb::Completion {
    match session.call(call).await {
        Reply::Completion(done) => done.completion(),
        other => panic!("not completed: {other:?}"),
    }
}

fn participant(memory: &Memory<Shelf>) -> assent_sdk::participant::Builder {
    Participant::builder("shop/stock")
        .resource(memory.clone().tcc(Stock::default()))
        .inquire_after(Duration::from_millis(50))
}

async fn connected(coordinator: &Coordinator, memory: &Memory<Shelf>) -> (Participant, Session) {
    let participant = participant(memory).connect(coordinator.url()).await.unwrap();
    let session = coordinator.welcomed().await;
    soon(participant.ready()).await;
    (participant, session)
}

#[tokio::test]
async fn calls_are_carried_out_and_votes_say_what_was_granted() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
    let (_participant, mut session) = connected(&coordinator, &memory).await;

    let granted = vote(&mut session, reserve(1, MINUTE_MS)).await;
    assert_eq!(granted.vote(), pb::Vote::Prepared);
    assert_eq!(&granted.reply[..], br#"{"left":7}"#);
    assert_eq!(granted.reservation_ttl_ms, MINUTE_MS);
    assert_eq!(granted.reservation_class(), pb::ReservationClass::Cooperative);
    assert!(granted.inquires);

    let big = pb::Call { payload: take(11).to_bytes().unwrap(), ..reserve(2, 0) };
    let refused = vote(&mut session, big).await;
    assert_eq!((refused.vote(), refused.reason.as_str()), (pb::Vote::Refused, "out of stock"));

    let done = completion(&mut session, call(1, "a", pb::Operation::Commit)).await;
    assert_eq!(done, pb::Completion::Done);
    assert_eq!(memory.state(), at(7, 0, 3));
    let unknown = completion(&mut session, call(9, "a", pb::Operation::Rollback)).await;
    assert_eq!(unknown, pb::Completion::UnknownBranch);
}

#[tokio::test]
async fn call_for_another_protocol_is_refused_and_a_malformed_one_is_trouble() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
    let (_participant, mut session) = connected(&coordinator, &memory).await;

    let other = pb::Call { protocol: pb::Protocol::TwoPhase.into(), ..reserve(1, 0) };
    let refused = vote(&mut session, other).await;
    assert_eq!(refused.reason, "shop/stock takes part by TCC, not by two-phase commit");

    for bad in [
        pb::Call { xid: "order-1".into(), ..reserve(1, 0) },
        pb::Call { branch_id: String::new(), ..reserve(1, 0) },
        pb::Call { branch_id: "ä".repeat(1000), ..reserve(1, 0) },
        pb::Call { operation: 99, ..reserve(1, 0) },
    ] {
        match session.call(bad.clone()).await {
            Reply::Error(_) => {}
            other => panic!("{bad:?}: {other:?}"),
        }
    }
    assert_eq!(memory.state(), shelf());
}

#[tokio::test]
async fn replies_that_are_ready_together_travel_together() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(Shelf { free: 10_000, ..shelf() }));
    let (_participant, mut session) = connected(&coordinator, &memory).await;
    let calls: Vec<pb::Call> = (1..=500).map(|n| reserve(n, 0)).collect();
    session.send(pb::SessionResponse { calls, ..Default::default() }).await;
    let (mut replies, mut messages) = (0, 0);
    while replies < 500 {
        replies += session.receive().await.replies.len();
        messages += 1;
    }
    assert!(messages < 250, "{messages} messages for 500 replies");
}

#[tokio::test]
async fn participant_starts_before_its_coordinator_and_reconnects() {
    let memory = Memory::new(shelf());
    let coordinator = Coordinator::start().await;
    let addr = coordinator.addr;
    drop(coordinator);
    let participant = participant(&memory).connect(format!("http://{addr}")).await.unwrap();

    let coordinator = Coordinator::start_at(addr).await;
    let mut session = coordinator.welcomed().await;
    soon(participant.ready()).await;
    assert_eq!(vote(&mut session, reserve(1, 0)).await.vote(), pb::Vote::Prepared);
    drop((session, coordinator));

    let coordinator = Coordinator::start_at(addr).await;
    let mut session = coordinator.welcomed().await;
    let done = completion(&mut session, call(1, "a", pb::Operation::Commit)).await;
    assert_eq!(done, pb::Completion::Done);
}

#[tokio::test]
async fn branches_in_doubt_are_handed_over_on_reconnect_and_follow_the_answers() {
    let memory = Memory::new(shelf());
    let coordinator = Coordinator::start().await;
    // As long as it is patient it asks only because it reconnects.
    let patient = participant(&memory).inquire_after(Duration::from_hours(1));
    let _participant = patient.connect(coordinator.url()).await.unwrap();
    let mut session = coordinator.welcomed().await;
    for n in 1..=3 {
        vote(&mut session, reserve(n, MINUTE_MS)).await;
    }
    drop(session);

    let mut session = coordinator.welcomed().await;
    let mut asked = Vec::new();
    while asked.len() < 3 {
        asked.extend(session.inquiries().await);
    }
    asked.sort_by(|a, b| a.xid.cmp(&b.xid));
    assert!(asked.iter().all(|inquiry| !inquiry.expired));
    session.answer(&asked[0], pb::InquiryAnswer::Commit).await;
    session.answer(&asked[1], pb::InquiryAnswer::Abort).await;
    session.answer(&asked[2], pb::InquiryAnswer::Foreign).await;
    until(async || memory.state() == at(4, 3, 3)).await;
    // What is foreign is held, and asked about again.
    assert_eq!(session.inquiries().await[0].xid, tx(3).to_string());
    assert_eq!(memory.state(), at(4, 3, 3));
}

#[tokio::test]
async fn restarted_participant_asks_about_what_it_prepared() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
    let (participant, mut session) = connected(&coordinator, &memory).await;
    vote(&mut session, reserve(1, MINUTE_MS)).await;
    drop((participant, session));

    let (_participant, mut session) = connected(&coordinator, &memory).await;
    let asked = session.inquiries().await;
    assert_eq!((asked[0].xid.as_str(), asked[0].branch_id.as_str()), (tx(1).to_string().as_str(), "a"));
    session.answer(&asked[0], pb::InquiryAnswer::Commit).await;
    until(async || memory.state() == at(7, 0, 3)).await;
}

#[tokio::test]
async fn branch_of_a_replica_that_is_gone_is_asked_about_though_the_session_stays_open() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
    let (_participant, mut session) = connected(&coordinator, &memory).await;
    // Elsewhere, so that this session has no part in it.
    let elsewhere = Coordinator::start().await;
    let (replica, mut other) = connected(&elsewhere, &memory).await;
    vote(&mut other, reserve(1, MINUTE_MS)).await;
    drop((replica, other));

    let asked = session.inquiries().await;
    assert_eq!(asked[0].xid, tx(1).to_string());
    session.answer(&asked[0], pb::InquiryAnswer::Abort).await;
    until(async || memory.state() == shelf()).await;
}

#[tokio::test]
async fn pending_branch_is_held_and_asked_about_until_decided() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
    let (_participant, mut session) = connected(&coordinator, &memory).await;
    vote(&mut session, reserve(1, MINUTE_MS)).await;
    for _ in 0..3 {
        let asked = session.inquiries().await;
        assert_eq!(memory.state(), at(7, 3, 0));
        session.answer(&asked[0], pb::InquiryAnswer::Pending).await;
    }
    let asked = session.inquiries().await;
    session.answer(&asked[0], pb::InquiryAnswer::Commit).await;
    until(async || memory.state() == at(7, 0, 3)).await;
}

/// The branch became prepared while no stream could carry its vote: nothing but its own patience brings it up.
#[tokio::test]
async fn prepared_branch_that_nobody_mentions_is_asked_about() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
    let (_participant, mut session) = connected(&coordinator, &memory).await;
    vote(&mut session, reserve(1, 0)).await;
    let asked = session.inquiries().await;
    session.answer(&asked[0], pb::InquiryAnswer::Abort).await;
    until(async || memory.state() == shelf()).await;
}

#[tokio::test]
async fn expired_cooperative_reservation_asks_and_follows_the_answer() {
    for (answer, end) in [(pb::InquiryAnswer::Commit, at(7, 0, 3)), (pb::InquiryAnswer::Abort, shelf())] {
        let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
        let patient = participant(&memory).inquire_after(Duration::from_hours(1));
        let _participant = patient.connect(coordinator.url()).await.unwrap();
        let mut session = coordinator.welcomed().await;
        vote(&mut session, reserve(1, 30)).await;
        let asked = session.inquiries().await;
        assert!(asked[0].expired);
        assert_eq!(memory.state(), at(7, 3, 0), "held until there is an answer");
        session.answer(&asked[0], answer).await;
        until(async || memory.state() == end).await;
    }
}

#[tokio::test]
async fn expired_cooperative_reservation_is_kept_while_the_coordinator_is_away() {
    let memory = Memory::new(shelf());
    let coordinator = Coordinator::start().await;
    let addr = coordinator.addr;
    let (_participant, mut session) = connected(&coordinator, &memory).await;
    vote(&mut session, reserve(1, 1)).await;
    drop((session, coordinator));

    let coordinator = Coordinator::start_at(addr).await;
    let mut session = coordinator.welcomed().await;
    // It has expired while nobody could be asked, and is asked about several times now.
    let asked = expired(&mut session).await;
    assert_eq!(memory.state(), at(7, 3, 0));
    session.answer(&asked, pb::InquiryAnswer::Commit).await;
    until(async || memory.state() == at(7, 0, 3)).await;
}

#[tokio::test]
async fn expired_autonomous_reservation_cancels_itself_and_a_late_confirm_is_told_so() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
    let participant = participant(&memory).autonomous().max_reservation(Duration::from_millis(40));
    let _participant = participant.connect(coordinator.url()).await.unwrap();
    let mut session = coordinator.welcomed().await;
    let granted = vote(&mut session, reserve(1, MINUTE_MS)).await;
    assert_eq!(granted.reservation_ttl_ms, 40, "never more than the participant's maximum");
    assert_eq!(granted.reservation_class(), pb::ReservationClass::Autonomous);
    until(async || memory.state() == shelf()).await;
    let late = completion(&mut session, call(1, "a", pb::Operation::Commit)).await;
    assert_eq!(late, pb::Completion::HeuristicRollback);
    assert_eq!(memory.state(), shelf());
}

#[tokio::test]
async fn promise_to_ask_outlives_a_change_to_autonomous() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
    let (first, mut session) = connected(&coordinator, &memory).await;
    vote(&mut session, reserve(1, 20)).await;
    drop((first, session));

    let _participant = participant(&memory).autonomous().connect(coordinator.url()).await.unwrap();
    let mut session = coordinator.welcomed().await;
    expired(&mut session).await;
    assert_eq!(memory.state(), at(7, 3, 0));
}

#[tokio::test]
async fn horizon_clears_rows_and_refuses_what_comes_late() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
    let (_participant, mut session) = connected(&coordinator, &memory).await;
    completion(&mut session, call(1, "a", pb::Operation::Rollback)).await;
    let horizon =
        pb::Horizon { cluster_id: crate::coordinator::CLUSTER.into(), before: tx(2).order().to_string() };
    session.send(pb::SessionResponse { horizon: Some(horizon), ..Default::default() }).await;
    let refusals =
        async { while vote(&mut session, reserve(1, 0)).await.reason != "the transaction ended long ago" {} };
    soon(refusals).await;
    assert_eq!(vote(&mut session, reserve(2, 0)).await.vote(), pb::Vote::Prepared);
}

#[tokio::test]
async fn draining_finishes_calls_in_flight_and_then_closes() {
    let coordinator = Coordinator::start().await;
    let gated = Gated::default();
    let participant =
        Participant::builder("shop/stock").resource(gated.clone()).connect(coordinator.url()).await.unwrap();
    let mut session = coordinator.welcomed().await;
    session.send(pb::SessionResponse { calls: vec![reserve(1, 0)], ..Default::default() }).await;
    soon(gated.begun.acquire()).await.unwrap().forget();

    let shutdown = tokio::spawn(participant.shutdown());
    while !session.receive().await.draining {}
    assert!(!shutdown.is_finished());
    // A call that was on its way is answered still.
    session
        .send(pb::SessionResponse {
            calls: vec![call(7, "b", pb::Operation::Rollback)],
            ..Default::default()
        })
        .await;
    let mut replies = session.receive().await.replies;
    assert_eq!(replies.pop().unwrap().branch_id, "b");
    gated.gate.add_permits(1);
    let mut voted = false;
    while let Some(message) = session.receive_or_end().await {
        voted |= message.replies.iter().any(|reply| reply.xid == tx(1).to_string());
    }
    assert!(voted, "the vote was sent before the stream closed");
    drop(session);
    soon(shutdown).await.unwrap();
}

#[tokio::test]
async fn reply_over_the_coordinators_limit_is_trouble_that_names_it() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
    let _participant = participant(&memory).connect(coordinator.url()).await.unwrap();
    let mut session = coordinator.session().await;
    session.receive().await;
    let welcome = pb::Welcome { max_payload_bytes: 5, ..Default::default() };
    session.send(pb::SessionResponse { welcome: Some(welcome), ..Default::default() }).await;
    match session.call(reserve(1, 0)).await {
        Reply::Error(error) => {
            assert_eq!(error, "the handler's reply is 10 bytes; the coordinator takes 5");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn joining_enlists_the_branch_with_its_vote() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
    let (participant, mut session) = connected(&coordinator, &memory).await;
    let handle = participant.handle();
    let joining =
        tokio::spawn(
            async move { handle.join(tx(1), "line-1").ttl(Duration::from_mins(1)).with(&take(3)).await },
        );
    let asked = enlistment(&mut session).await;
    assert_eq!(asked.xid, tx(1).to_string());
    let (branch, vote) = {
        let enlistment = asked.enlistment.unwrap();
        (enlistment.branch.unwrap(), enlistment.vote.unwrap())
    };
    assert_eq!((branch.participant.as_str(), branch.branch_id.as_str()), ("shop/stock", "line-1"));
    assert_eq!(branch.protocol(), pb::Protocol::Tcc);
    assert_eq!((vote.vote(), vote.reservation_ttl_ms), (pb::Vote::Prepared, MINUTE_MS));
    assert!(!joining.is_finished(), "not before it is enlisted");
    enlisted(&session, asked.call_id, tonic::Code::Ok).await;
    let joined = soon(joining).await.unwrap().unwrap();
    let reply: Bytes = joined.reply().unwrap();
    assert_eq!(&reply[..], br#"{"left":7}"#);
    assert_eq!(memory.state(), at(7, 3, 0));
}

#[tokio::test]
async fn branch_whose_enlistment_is_rejected_is_rolled_back() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
    let (participant, mut session) = connected(&coordinator, &memory).await;
    let handle = participant.handle();
    let joining = tokio::spawn(async move { handle.join(tx(1), "line-1").with(&take(3)).await });
    let asked = enlistment(&mut session).await;
    assert_eq!(memory.state(), at(7, 3, 0));
    enlisted(&session, asked.call_id, tonic::Code::FailedPrecondition).await;
    let error = soon(joining).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Rejected { code: tonic::Code::FailedPrecondition, .. }), "{error:?}");
    assert_eq!(memory.state(), shelf());
}

/// The coordinator has a branch of this id, perhaps this very one with its vote from another replica: not ours to undo.
#[tokio::test]
async fn branch_whose_id_is_taken_is_held_and_asked_about() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
    let patient = participant(&memory).inquire_after(Duration::from_hours(1));
    let participant = patient.connect(coordinator.url()).await.unwrap();
    let mut session = coordinator.welcomed().await;
    let handle = participant.handle();
    let joining = tokio::spawn(async move { handle.join(tx(1), "line-1").with(&take(3)).await });
    let asked = enlistment(&mut session).await;
    enlisted(&session, asked.call_id, tonic::Code::AlreadyExists).await;
    let error = soon(joining).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Rejected { code: tonic::Code::AlreadyExists, .. }), "{error:?}");
    let asked = session.inquiries().await;
    assert_eq!(memory.state(), at(7, 3, 0));
    session.answer(&asked[0], pb::InquiryAnswer::Commit).await;
    until(async || memory.state() == at(7, 0, 3)).await;
}

#[tokio::test]
async fn time_to_live_below_a_millisecond_is_told_as_one_and_not_as_none() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
    let short = participant(&memory).autonomous().max_reservation(Duration::from_micros(10));
    let _participant = short.connect(coordinator.url()).await.unwrap();
    let mut session = coordinator.welcomed().await;
    assert_eq!(vote(&mut session, reserve(1, MINUTE_MS)).await.reservation_ttl_ms, 1);
}

#[tokio::test]
async fn enlistment_lost_with_its_stream_is_sent_again() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
    let (participant, mut session) = connected(&coordinator, &memory).await;
    let handle = participant.handle();
    let joining = tokio::spawn(async move { handle.join(tx(1), "line-1").with(&take(3)).await });
    enlistment(&mut session).await;
    drop(session);
    let mut session = coordinator.welcomed().await;
    let asked = enlistment(&mut session).await;
    enlisted(&session, asked.call_id, tonic::Code::Ok).await;
    soon(joining).await.unwrap().unwrap();
    assert_eq!(memory.state(), at(7, 3, 0));
}

#[tokio::test]
async fn joining_that_the_handler_refuses_enlists_nothing() {
    let (coordinator, memory) = (Coordinator::start().await, Memory::new(shelf()));
    let (participant, _session) = connected(&coordinator, &memory).await;
    let error = soon(participant.handle().join(tx(1), "line-1").with(&take(11))).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { reason } if reason == "out of stock"), "{error:?}");
    assert_eq!(memory.state(), shelf());
}

#[tokio::test]
async fn names_and_addresses_that_are_none_are_refused_at_once() {
    let memory = Memory::new(shelf());
    let named = |name: &str| Participant::builder(name).resource(memory.clone().tcc(Stock::default()));
    let nameless = named("").connect("http://127.0.0.1:1").await.unwrap_err();
    assert!(nameless.to_string().contains("participant name"), "{nameless}");
    for url in ["", "127.0.0.1:7420", "ftp://host", "http://"] {
        let error = named("shop/stock").connect(url).await.unwrap_err();
        assert!(error.to_string().contains("is not a coordinator's address"), "{error}");
    }
    let none = named("shop/stock").max_in_flight(0).connect("http://127.0.0.1:1").await.unwrap_err();
    assert_eq!(none.to_string(), "max_in_flight is 0; it can be 1 to 65536");
}

/// The next inquiry that says that its reservation has expired.
async fn expired(session: &mut Session) -> pb::Inquiry {
    soon(async {
        loop {
            if let Some(inquiry) = session.inquiries().await.into_iter().find(|inquiry| inquiry.expired) {
                return inquiry;
            }
        }
    })
    .await
}

async fn enlistment(session: &mut Session) -> pb::SessionEnlistment {
    loop {
        if let Some(enlistment) = session.receive().await.enlistments.pop() {
            return enlistment;
        }
    }
}

async fn enlisted(session: &Session, call_id: u64, code: tonic::Code) {
    let answer = pb::SessionEnlistAnswer { call_id, code: code.into(), message: "so be it".into() };
    session.send(pb::SessionResponse { enlist_answers: vec![answer], ..Default::default() }).await;
}

#[tokio::test]
async fn resource_that_cannot_tell_its_doubts_gets_no_session() {
    let forgetful = Gated { inquires: false, ..Gated::default() };
    let builder = Participant::builder("shop/stock").resource(forgetful);
    let error = builder.connect("http://127.0.0.1:1").await.unwrap_err().to_string();
    assert!(error.contains("shop/stock") && error.contains("use `serve`"), "{error}");
}
