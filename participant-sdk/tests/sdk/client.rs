//! The initiator's client.

use std::time::Duration;

use assent_sdk::client::NewBranch;
use assent_sdk::proto::v1 as pb;
use assent_sdk::proto::v1::pipeline_answer::Answer;
use assent_sdk::proto::v1::pipeline_call::Call;
use assent_sdk::{Client, Error, Heuristic, Json, Protocol, Result, Wait, context, refuse};
use bytes::Bytes;

use crate::coordinator::{Coordinator, Pipeline};
use crate::shop::{Taken, take, tx};
use crate::soon;

const XID: u64 = 1;

impl Pipeline {
    /// The next call.
    async fn next(&mut self) -> pb::PipelineCall {
        let mut calls = self.receive().await.calls;
        assert_eq!(calls.len(), 1, "one at a time here: {calls:?}");
        calls.pop().unwrap()
    }

    async fn reply(&self, call_id: u64, answer: Answer) {
        let answers = vec![pb::PipelineAnswer { call_id, answer: Some(answer) }];
        self.send(pb::PipelineResponse { answers }).await;
    }

    /// Takes a Begin and begins transaction `XID`.
    async fn begin(&mut self) -> pb::BeginRequest {
        let call = self.next().await;
        let Some(Call::Begin(begin)) = call.call else { panic!("{call:?}") };
        let begun = pb::BeginResponse { xid: tx(XID).to_string(), timeout_ms: begin.timeout_ms };
        self.reply(call.call_id, Answer::Begin(begun)).await;
        begin
    }

    async fn commit(&mut self) -> (u64, pb::CommitRequest) {
        let call = self.next().await;
        let Some(Call::Commit(commit)) = call.call else { panic!("{call:?}") };
        assert_eq!(commit.xid, tx(XID).to_string());
        (call.call_id, commit)
    }

    async fn abort(&mut self) -> (u64, pb::AbortRequest) {
        let call = self.next().await;
        let Some(Call::Abort(abort)) = call.call else { panic!("{call:?}") };
        assert_eq!(abort.xid, tx(XID).to_string());
        (call.call_id, abort)
    }

    async fn run(&mut self) -> (u64, pb::RunRequest) {
        let call = self.next().await;
        let Some(Call::Run(run)) = call.call else { panic!("{call:?}") };
        (call.call_id, run)
    }

    async fn fail(&self, call_id: u64, code: tonic::Code) {
        let error = pb::PipelineError { code: code.into(), message: "so be it".into(), ..Default::default() };
        self.reply(call_id, Answer::Error(error)).await;
    }
}

fn ended(outcome: pb::Outcome) -> pb::TransactionResult {
    pb::TransactionResult {
        xid: tx(XID).to_string(),
        outcome: outcome.into(),
        complete: true,
        reason: "shop/stock: out of stock".into(),
        branches: Vec::new(),
    }
}

fn committed(result: pb::TransactionResult) -> Answer {
    Answer::Commit(pb::CommitResponse { result: Some(result) })
}

fn aborted() -> Answer {
    Answer::Abort(pb::AbortResponse { result: Some(ended(pb::Outcome::Aborted)) })
}

fn ran(result: pb::TransactionResult) -> Answer {
    Answer::Run(pb::RunResponse { result: Some(result) })
}

async fn client() -> (Coordinator, Client) {
    let coordinator = Coordinator::start().await;
    let client = Client::connect(coordinator.url()).unwrap();
    (coordinator, client)
}

#[tokio::test]
async fn answer_about_another_transaction_says_nothing_of_this_one() {
    for outcome in [pb::Outcome::Committed, pb::Outcome::Aborted] {
        let (coordinator, client) = client().await;
        let running = tokio::spawn(async move { client.transaction("").run(async |_| Ok(())).await });
        let mut pipeline = coordinator.pipeline().await;
        pipeline.begin().await;
        let (call_id, _) = pipeline.commit().await;
        let of_another = pb::TransactionResult { xid: tx(XID + 1).to_string(), ..ended(outcome) };
        pipeline.reply(call_id, committed(of_another)).await;
        let told = soon(running).await.unwrap();
        assert!(matches!(told, Err(Error::Unknown { xid: Some(xid), .. }) if xid == tx(XID)), "{told:?}");
    }
}

#[tokio::test]
async fn answer_of_an_unknown_kind_leaves_the_outcome_unknown() {
    let (coordinator, client) = client().await;
    let running = tokio::spawn(async move { client.transaction("").run(async |_| Ok(())).await });
    let mut pipeline = coordinator.pipeline().await;
    pipeline.begin().await;
    let (call_id, _) = pipeline.commit().await;
    let of_a_later_version = pb::PipelineAnswer { call_id, answer: None };
    pipeline.send(pb::PipelineResponse { answers: vec![of_a_later_version] }).await;
    let told = soon(running).await.unwrap();
    assert!(matches!(told, Err(Error::Unknown { xid: Some(xid), .. }) if xid == tx(XID)), "{told:?}");
}

#[tokio::test]
async fn closure_that_ends_well_commits() {
    let (coordinator, client) = client().await;
    // In a task of its own: the future can be sent.
    let running = tokio::spawn(async move {
        let transaction = client.transaction("checkout").tcc().timeout(Duration::from_secs(7));
        transaction
            .wait(Wait::Decision)
            .run(async |tx| {
                assert_eq!(context::current().unwrap().xid(), Some(tx.xid()));
                Ok(tx.xid())
            })
            .await
    });
    let mut pipeline = coordinator.pipeline().await;
    let begin = pipeline.begin().await;
    assert_eq!((begin.label.as_str(), begin.timeout_ms), ("checkout", 7_000));
    assert_eq!(begin.protocol(), pb::Protocol::Tcc);
    let (call, commit) = pipeline.commit().await;
    assert_eq!(commit.wait(), pb::Wait::Decision);
    pipeline.reply(call, committed(ended(pb::Outcome::Committed))).await;
    assert_eq!(soon(running).await.unwrap().unwrap(), tx(XID));
}

#[tokio::test]
async fn closure_that_fails_aborts_and_its_error_is_the_source() {
    let (coordinator, client) = client().await;
    let running = tokio::spawn(async move {
        let transaction = client.transaction("checkout");
        let outcome: Result<u32, Error> = transaction.run(async |_| Ok("three".parse::<u32>()?)).await;
        outcome
    });
    let mut pipeline = coordinator.pipeline().await;
    pipeline.begin().await;
    let (call, abort) = pipeline.abort().await;
    assert_eq!(abort.reason, "invalid digit found in string");
    pipeline.reply(call, aborted()).await;
    match soon(running).await.unwrap().unwrap_err() {
        Error::Aborted { xid, reason, source } => {
            assert_eq!((xid, reason.as_str()), (tx(XID), "invalid digit found in string"));
            assert!(source.unwrap().is::<std::num::ParseIntError>());
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn abort_that_cannot_be_delivered_is_an_abort_all_the_same() {
    let (coordinator, client) = client().await;
    let running = tokio::spawn(async move {
        let outcome: Result<(), Error> =
            client.transaction("checkout").run(async |_| Err(refuse("no thanks"))).await;
        outcome
    });
    let mut pipeline = coordinator.pipeline().await;
    pipeline.begin().await;
    let (call, _) = pipeline.abort().await;
    pipeline.fail(call, tonic::Code::Internal).await;
    let error = soon(running).await.unwrap().unwrap_err();
    assert!(
        matches!(&error, Error::Aborted { reason, source: None, .. } if reason == "no thanks"),
        "{error:?}"
    );
}

#[tokio::test]
async fn dropped_transaction_is_aborted() {
    let (coordinator, client) = client().await;
    let (begun, running) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let transaction = client.transaction("checkout");
        transaction
            .run(async |_| {
                begun.send(()).unwrap();
                std::future::pending::<()>().await;
                Ok(())
            })
            .await
    });
    let mut pipeline = coordinator.pipeline().await;
    pipeline.begin().await;
    soon(running).await.unwrap();
    task.abort();
    let (_, abort) = pipeline.abort().await;
    assert_eq!(abort.reason, "the initiator dropped it");
}

#[tokio::test]
async fn abort_of_what_another_life_of_the_initiator_has_committed_is_never_called_an_abort() {
    let (coordinator, client) = client().await;
    let mut pipeline = None;
    // How the abort is answered, and how the same transaction ends that is begun again and fails half-way.
    for (outcome, expected) in [
        (Some(pb::Outcome::Committed), "has committed already"),
        (Some(pb::Outcome::Unknown), "is not known"),
        (None, "is not known"),
        (Some(pb::Outcome::Aborted), "aborted: no thanks"),
    ] {
        let client = client.clone();
        let running = tokio::spawn(async move {
            let again = client.transaction("checkout").request_id("order-1");
            again.run(async |_| Err::<(), _>(refuse("no thanks"))).await
        });
        let mut open = match pipeline.take() {
            Some(open) => open,
            None => coordinator.pipeline().await,
        };
        open.begin().await;
        let (call, _) = open.abort().await;
        match outcome {
            Some(outcome) => {
                let abort = pb::AbortResponse { result: Some(ended(outcome)) };
                open.reply(call, Answer::Abort(abort)).await;
            }
            None => open.fail(call, tonic::Code::Internal).await,
        }
        let error = soon(running).await.unwrap().unwrap_err();
        assert!(error.to_string().ends_with(expected), "{outcome:?}: {error}");
        assert_eq!(
            matches!(error, Error::Aborted { .. }),
            outcome == Some(pb::Outcome::Aborted),
            "{error:?}"
        );
        pipeline = Some(open);
    }
}

#[tokio::test]
async fn every_outcome_has_its_own_error() {
    let (coordinator, client) = client().await;
    let mut pipeline = None;
    for (outcome, expected) in [
        (pb::Outcome::Aborted, "aborted: shop/stock: out of stock"),
        (pb::Outcome::Mixed, "ended mixed: shop/stock: out of stock"),
        (pb::Outcome::Hazard, "ended hazard: shop/stock: out of stock"),
        (pb::Outcome::Unknown, "is not known"),
        (pb::Outcome::Unspecified, "is not known"),
    ] {
        let client = client.clone();
        let running = tokio::spawn(async move { client.transaction("checkout").run(async |_| Ok(())).await });
        let mut open = match pipeline.take() {
            Some(open) => open,
            None => coordinator.pipeline().await,
        };
        open.begin().await;
        let (call, _) = open.commit().await;
        open.reply(call, committed(ended(outcome))).await;
        let error = soon(running).await.unwrap().unwrap_err();
        assert!(error.to_string().ends_with(expected), "{outcome:?}: {error}");
        match (outcome, &error) {
            (pb::Outcome::Mixed, Error::Heuristic { outcome: Heuristic::Mixed, .. })
            | (pb::Outcome::Hazard, Error::Heuristic { outcome: Heuristic::Hazard, .. })
            | (pb::Outcome::Aborted, Error::Aborted { .. })
            | (_, Error::Unknown { xid: Some(_), .. }) => {}
            other => panic!("{other:?}"),
        }
        pipeline = Some(open);
    }
}

#[tokio::test]
async fn commit_whose_reply_is_lost_is_asked_again_on_the_next_stream() {
    let (coordinator, client) = client().await;
    let running = tokio::spawn(async move { client.transaction("checkout").run(async |_| Ok(7)).await });
    let mut pipeline = coordinator.pipeline().await;
    pipeline.begin().await;
    pipeline.commit().await;
    drop(pipeline);
    let mut pipeline = coordinator.pipeline().await;
    let (call, _) = pipeline.commit().await;
    pipeline.reply(call, committed(ended(pb::Outcome::Committed))).await;
    assert_eq!(soon(running).await.unwrap().unwrap(), 7);
}

#[tokio::test]
async fn commit_that_is_never_answered_is_unknown_and_never_aborted() {
    let (coordinator, client) = client().await;
    let running = tokio::spawn(async move {
        let transaction = client.transaction("checkout").timeout(Duration::ZERO).request_id("order-1");
        transaction.run(async |_| Ok(())).await
    });
    let mut pipeline = coordinator.pipeline().await;
    pipeline.begin().await;
    pipeline.commit().await;
    // The commit was sent; nothing but time is wanted any more, and paused it passes at once.
    tokio::time::pause();
    let error = soon(running).await.unwrap().unwrap_err();
    match error {
        Error::Unknown { xid, request_id } => assert_eq!((xid, &*request_id), (Some(tx(XID)), "order-1")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn transaction_that_the_coordinator_forgot_before_the_first_commit_is_aborted() {
    let (coordinator, client) = client().await;
    let running = tokio::spawn(async move { client.transaction("checkout").run(async |_| Ok(())).await });
    let mut pipeline = coordinator.pipeline().await;
    pipeline.begin().await;
    let (call, _) = pipeline.commit().await;
    pipeline.fail(call, tonic::Code::NotFound).await;
    let error = soon(running).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Aborted { .. }), "{error:?}");
}

/// It may have committed with the first commit, ended, and been forgotten since.
#[tokio::test]
async fn transaction_that_the_coordinator_forgot_after_a_lost_commit_is_unknown() {
    let (coordinator, client) = client().await;
    let running = tokio::spawn(async move { client.transaction("checkout").run(async |_| Ok(())).await });
    let mut pipeline = coordinator.pipeline().await;
    pipeline.begin().await;
    pipeline.commit().await;
    drop(pipeline);
    let mut pipeline = coordinator.pipeline().await;
    let (call, _) = pipeline.commit().await;
    pipeline.fail(call, tonic::Code::NotFound).await;
    let error = soon(running).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error:?}");
}

#[tokio::test]
async fn commit_that_is_rejected_is_followed_by_an_abort() {
    let (coordinator, client) = client().await;
    let running = tokio::spawn(async move { client.transaction("checkout").run(async |_| Ok(())).await });
    let mut pipeline = coordinator.pipeline().await;
    pipeline.begin().await;
    let (call, _) = pipeline.commit().await;
    pipeline.fail(call, tonic::Code::InvalidArgument).await;
    let error = soon(running).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Rejected { code: tonic::Code::InvalidArgument, .. }), "{error:?}");
    pipeline.abort().await;
}

#[tokio::test]
async fn busy_coordinator_is_asked_again() {
    let (coordinator, client) = client().await;
    let running = tokio::spawn(async move { client.transaction("checkout").begin().await });
    let mut pipeline = coordinator.pipeline().await;
    for code in [tonic::Code::ResourceExhausted, tonic::Code::Unavailable] {
        let call = pipeline.next().await;
        pipeline.fail(call.call_id, code).await;
    }
    pipeline.begin().await;
    assert_eq!(soon(running).await.unwrap().unwrap().xid(), tx(XID));
}

#[tokio::test]
async fn one_call_sends_all_branches_and_returns_their_replies() {
    let (coordinator, client) = client().await;
    let running = tokio::spawn(async move {
        client
            .transaction("checkout")
            .tcc()
            .request_id("order-1")
            .branch("shop/stock", &take(3))
            .with_branch(
                NewBranch::of("shop/payment", &Bytes::from_static(b"4.50"))
                    .id("charge")
                    .protocol(Protocol::TwoPhase)
                    .ttl(Duration::from_secs(5))
                    .endpoint("http://payment:8080"),
            )
            .execute()
            .await
    });
    let mut pipeline = coordinator.pipeline().await;
    let (call, run) = pipeline.run().await;
    assert_eq!((run.request_id.as_str(), run.timeout_ms), ("order-1", 30_000));
    assert_eq!(run.wait(), pb::Wait::Completion);
    let [stock, payment] = &run.branches[..] else { panic!("{run:?}") };
    assert_eq!((&*stock.participant, &stock.payload[..]), ("shop/stock", &br#"{"count":3}"#[..]));
    assert_eq!(payment.protocol(), pb::Protocol::TwoPhase);
    assert_eq!((&*payment.branch_id, payment.reservation_ttl_ms), ("charge", 5_000));
    let reply = |id: &str, participant: &str, reply: &'static [u8]| pb::BranchResult {
        branch_id: id.into(),
        participant: participant.into(),
        state: pb::BranchState::Committed.into(),
        reply: Bytes::from_static(reply),
        reason: String::new(),
    };
    let branches =
        vec![reply("1", "shop/stock", br#"{"left":7}"#), reply("charge", "shop/payment", b"receipt")];
    pipeline.reply(call, ran(pb::TransactionResult { branches, ..ended(pb::Outcome::Committed) })).await;

    let done = soon(running).await.unwrap().unwrap();
    assert!(done.complete);
    assert_eq!(done.reply::<Json<Taken>>("shop/stock").unwrap(), Json(Taken { left: 7 }));
    assert_eq!(done.reply::<Bytes>("charge").unwrap(), "receipt");
    assert!(done.reply::<()>("shop/delivery").unwrap_err().to_string().contains("no branch"));
    assert!(done.reply::<Json<u8>>("charge").unwrap_err().to_string().contains("cannot be read"));
}

#[tokio::test]
async fn run_whose_reply_is_lost_is_sent_again_with_the_same_request_id() {
    let (coordinator, client) = client().await;
    let running =
        tokio::spawn(
            async move { client.transaction("checkout").branch("shop/stock", &take(3)).execute().await },
        );
    let mut pipeline = coordinator.pipeline().await;
    let (_, first) = pipeline.run().await;
    assert!(!first.request_id.is_empty(), "the SDK draws one");
    drop(pipeline);
    let mut pipeline = coordinator.pipeline().await;
    let (call, second) = pipeline.run().await;
    assert_eq!(first, second);
    pipeline.reply(call, ran(ended(pb::Outcome::Committed))).await;
    soon(running).await.unwrap().unwrap();
}

#[tokio::test]
async fn refused_branch_is_an_abort_with_its_reason() {
    let (coordinator, client) = client().await;
    let running = tokio::spawn(async move {
        client.transaction("checkout").branch("shop/stock", &take(11)).execute().await
    });
    let mut pipeline = coordinator.pipeline().await;
    let (call, _) = pipeline.run().await;
    pipeline.reply(call, ran(ended(pb::Outcome::Aborted))).await;
    let error = soon(running).await.unwrap().unwrap_err();
    let text = format!("transaction {} aborted: shop/stock: out of stock", tx(XID));
    assert_eq!(error.to_string(), text);
}

#[tokio::test]
async fn calls_that_wait_travel_together_and_are_answered_in_any_order() {
    const CALLS: usize = 200;
    let (coordinator, client) = client().await;
    let calls: Vec<_> = (0..CALLS)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.transaction(n.to_string()).begin().await.unwrap() })
        })
        .collect();
    let mut pipeline = coordinator.pipeline().await;
    let (mut received, mut messages) = (Vec::new(), 0);
    while received.len() < CALLS {
        received.extend(pipeline.receive().await.calls);
        messages += 1;
    }
    assert!(messages <= CALLS / 10, "{messages} messages for {CALLS} calls");
    for call in received.into_iter().rev() {
        let Some(Call::Begin(begin)) = call.call else { panic!("not a begin") };
        let xid = tx(begin.label.parse().unwrap()).to_string();
        pipeline.reply(call.call_id, Answer::Begin(pb::BeginResponse { xid, timeout_ms: 1 })).await;
    }
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(soon(call).await.unwrap().xid(), tx(n.try_into().unwrap()));
    }
}

#[tokio::test]
async fn enlisting_names_the_branch_and_ballots_travel_with_the_commit() {
    let (coordinator, client) = client().await;
    let ballot = pb::Enlistment {
        branch: Some(pb::BranchSpec { participant: "shop/payment".into(), ..Default::default() }),
        vote: Some(pb::PhaseOneResult { vote: pb::Vote::Prepared.into(), ..Default::default() }),
    };
    let carried = prost::Message::encode_to_vec(&ballot);
    let running = tokio::spawn(async move {
        let transaction = client.transaction("checkout").begin().await?;
        assert!(transaction.carry(&[0xff]).is_err());
        transaction.carry(&carried)?;
        let branch = transaction.enlist(NewBranch::of("shop/stock", &take(3))).await?;
        transaction.commit().await.map(|_| branch)
    });
    let mut pipeline = coordinator.pipeline().await;
    pipeline.begin().await;
    let call = pipeline.next().await;
    let Some(Call::Enlist(enlist)) = call.call else { panic!("{call:?}") };
    let branch_id = enlist.enlistment.unwrap().branch.unwrap().branch_id;
    assert!(!branch_id.is_empty(), "so that the call can be repeated");
    pipeline.reply(call.call_id, Answer::Enlist(pb::EnlistResponse { branch_id: branch_id.clone() })).await;
    let (call, commit) = pipeline.commit().await;
    assert_eq!(commit.enlistments, [ballot]);
    pipeline.reply(call, committed(ended(pb::Outcome::Committed))).await;
    assert_eq!(soon(running).await.unwrap().unwrap(), branch_id);
}

#[tokio::test]
async fn outcome_can_be_looked_up_later() {
    let (coordinator, client) = client().await;
    let asking = tokio::spawn(async move { client.get_by_request_id("order-1").await });
    let asked = coordinator.getting().await;
    assert_eq!(asked.request.key, Some(pb::get_request::Key::RequestId("order-1".into())));
    let transaction = pb::Transaction { state: pb::State::Committed.into(), ..Default::default() };
    asked.answer(Ok(pb::GetResponse { transaction: Some(transaction) }));
    assert_eq!(soon(asking).await.unwrap().unwrap().state(), pb::State::Committed);
}

#[tokio::test]
async fn request_that_cannot_be_written_is_refused_before_anything_is_sent() {
    struct Unwritable;
    impl serde::Serialize for Unwritable {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("out of ink"))
        }
    }
    let client = Client::connect("http://127.0.0.1:1").unwrap();
    let call = client.transaction("checkout").branch("shop/stock", &Json(Unwritable));
    let error = soon(call.execute()).await.unwrap_err();
    assert_eq!(error.to_string(), "the request for shop/stock cannot be written: out of ink");
}
