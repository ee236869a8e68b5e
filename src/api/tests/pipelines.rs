use std::collections::HashMap;

use pb::pipeline_answer::Answer;
use pb::pipeline_call::Call;

use super::*;

struct Pipe {
    calls: mpsc::Sender<pb::PipelineRequest>,
    answers: Streaming<pb::PipelineResponse>,
}

impl Pipe {
    async fn open(fixture: &Fixture) -> Pipe {
        let (calls, outgoing) = mpsc::channel(16);
        let answers =
            fixture.transactions().pipeline(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Pipe { calls, answers }
    }

    async fn send(&self, calls: Vec<(u64, Option<Call>)>) {
        let calls = calls.into_iter().map(|(call_id, call)| pb::PipelineCall { call_id, call }).collect();
        self.calls.send(pb::PipelineRequest { calls }).await.unwrap();
    }

    /// So many answers, by call.
    async fn answers(&mut self, count: usize) -> HashMap<u64, Answer> {
        let mut answers = HashMap::new();
        while answers.len() < count {
            let message = soon(self.answers.message()).await.unwrap().expect("more answers are due");
            answers
                .extend(message.answers.into_iter().map(|answer| (answer.call_id, answer.answer.unwrap())));
        }
        answers
    }
}

fn begin() -> Call {
    Call::Begin(pb::BeginRequest::default())
}

fn commit(xid: &str) -> Call {
    Call::Commit(pb::CommitRequest { xid: xid.to_owned(), ..Default::default() })
}

#[tokio::test]
async fn each_call_is_answered_in_its_kind_and_a_bad_one_harms_only_itself() {
    let fixture = Fixture::serving().await;
    let xid = fixture.begin().await;
    let mut pipe = Pipe::open(&fixture).await;
    pipe.send(vec![
        (1, Some(begin())),
        (2, Some(Call::Begin(pb::BeginRequest { protocol: 9, ..Default::default() }))),
        (3, Some(commit(&xid))),
        (4, Some(Call::Run(pb::RunRequest::default()))),
        (5, None),
        (6, Some(Call::Enlist(pb::EnlistRequest::default()))),
        (
            7,
            Some(Call::Abort(pb::AbortRequest {
                xid: "00000000-0000-8000-8000-004000000000".to_owned(),
                ..Default::default()
            })),
        ),
    ])
    .await;
    let answers = pipe.answers(7).await;
    assert!(matches!(&answers[&1], Answer::Begin(begun) if begun.timeout_ms == 30_000));
    let error = |n| match &answers[&n] {
        Answer::Error(error) => (error.code, error.reason.as_str(), error.message.as_str()),
        other => panic!("{other:?}"),
    };
    let invalid = i32::from(Code::InvalidArgument);
    assert_eq!(error(2), (invalid, "INVALID_FIELD", "protocol is 9, which is none of its values"));
    assert!(
        matches!(&answers[&3], Answer::Commit(done) if done.result.as_ref().unwrap().outcome() == pb::Outcome::Committed)
    );
    assert!(matches!(&answers[&4], Answer::Run(done) if done.result.as_ref().unwrap().complete));
    assert_eq!(error(5).2, "call is not set; give one of begin, enlist, commit, abort and run");
    assert_eq!(error(6).2, "xid is empty; give a transaction id");
    assert_eq!((error(7).0, error(7).1), (Code::NotFound.into(), "TRANSACTION_NOT_FOUND"));
    drop(pipe.calls);
    assert!(soon(pipe.answers.message()).await.unwrap().is_none());
}

#[tokio::test]
async fn more_calls_than_may_be_under_way_are_all_answered() {
    let fixture = Fixture::serving().await;
    let mut pipe = Pipe::open(&fixture).await;
    pipe.send((0..5_000).map(|n| (n, Some(begin()))).collect()).await;
    drop(pipe.calls.clone());
    let answers = pipe.answers(5_000).await;
    assert!(answers.values().all(|answer| matches!(answer, Answer::Begin(_))));
}

#[tokio::test]
async fn calls_past_the_bound_wait_unread() {
    let fixture = Fixture::serving().await;
    let xid = fixture.begin().await;
    fixture.enlist(&xid, "shop/stock").await;
    let mut pipe = Pipe::open(&fixture).await;
    // Nobody acknowledges, so these stay under way.
    pipe.send((0..1_024).map(|n| (n, Some(commit(&xid)))).collect()).await;
    pipe.send(vec![(9_999, Some(begin()))]).await;
    let reached = |count| {
        let coordinator = fixture.coordinator.clone();
        async move { coordinator.read(None, |engine| engine.counts()).await.unwrap().active == count }
    };
    assert!(reached(1).await);
    let mut stock = fixture.session("shop/stock").await;
    let call = stock.next().await;
    assert!(reached(1).await, "the begin was read");
    stock.answer(&call, pb::Completion::Done).await;
    let answers = pipe.answers(1_025).await;
    assert!(matches!(answers[&9_999], Answer::Begin(_)));
}

#[tokio::test]
async fn an_id_that_is_in_flight_ends_the_stream_because_its_answers_could_be_mistaken() {
    let fixture = Fixture::serving().await;
    let xid = fixture.begin().await;
    fixture.enlist(&xid, "shop/stock").await;
    let mut pipe = Pipe::open(&fixture).await;
    pipe.send(vec![(1, Some(commit(&xid))), (1, Some(begin()))]).await;
    let end = soon(pipe.answers.message()).await.unwrap_err();
    assert_eq!(end.code(), Code::InvalidArgument);
    assert_eq!(end.message(), "call_id is 1, as that of a call in flight is; give each its own");
    // What was asked takes its course.
    let mut stock = fixture.session("shop/stock").await;
    assert_eq!(stock.next().await.operation(), pb::Operation::Commit);
}

#[tokio::test]
async fn a_pipeline_ends_when_the_coordinator_has_stopped() {
    let fixture = Fixture::serving().await;
    let xid = fixture.begin().await;
    fixture.enlist(&xid, "shop/stock").await;
    let mut pipe = Pipe::open(&fixture).await;
    pipe.send(vec![(1, Some(begin())), (2, Some(commit(&xid)))]).await;
    pipe.answers(1).await;
    fixture.coordinator.stop().await.unwrap();
    assert_eq!(
        why(&soon(pipe.answers.message()).await.unwrap_err()),
        (Code::Unavailable, "STOPPED".to_owned())
    );
}
