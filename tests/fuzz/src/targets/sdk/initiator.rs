//! Answers of all kinds to an initiator, who never takes what it was not told for an outcome.

use std::time::Duration;

use arbitrary::{Result, Unstructured};
use assent_proto::{TxId, v1 as pb};
use assent_sdk::{Client, Error};
use pb::pipeline_answer::Answer;
use pb::pipeline_call::Call;
use tonic::{Code, Status};

use super::coordinator::{Coordinator, Pipeline};
use crate::lab::soon;
use crate::values::{text, variant};

const XID: &str = "00000000-0001-8000-8000-004000000000";
const OTHER_XID: &str = "00000000-0002-8000-8000-004000000000";

/// What the coordinator said in answer to the call that decides.
#[derive(Debug, Default)]
struct Said {
    /// The transaction that it began.
    xid: String,
    /// Outcomes, in an answer of the right kind about the right transaction.
    outcomes: Vec<i32>,
    /// Codes of errors.
    errors: Vec<i32>,
    /// How often the call came.
    calls: u32,
}

/// How an initiator asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    OneCall,
    Commit,
    Abort,
}

pub async fn attempt(u: &mut Unstructured<'_>) -> Result<()> {
    let mut coordinator = Coordinator::start().await;
    let client = Client::connect(coordinator.url.clone()).expect("it is an address");
    let way = *u.choose(&[Way::OneCall, Way::Commit, Way::Abort])?;
    let asked = tokio::spawn(async move {
        let transaction = client.transaction("checkout").timeout(Duration::from_secs(30));
        match way {
            Way::OneCall => {
                transaction.branch("shop/stock", &()).execute().await.map(|done| done.xid.to_string())
            }
            Way::Commit => {
                let transaction = transaction.begin().await?;
                transaction.commit().await.map(|done| done.xid.to_string())
            }
            Way::Abort => {
                let transaction = transaction.begin().await?;
                transaction.abort("enough").await.map(|()| String::new())
            }
        }
    });
    let mut said = Said::default();
    let mut script = 0;
    'streams: while let Some(mut stream) = soon_or_done(&mut coordinator, &asked).await {
        while let Some(request) = received(&mut stream, &asked).await {
            for call in request.calls {
                script += 1;
                // In the end it says the truth.
                let honest = script > 8 || u.is_empty();
                if !honest && u.ratio(1, 16)? {
                    stream.fail(Status::new(variant(u, 17)?.into(), "it breaks"));
                    continue 'streams;
                }
                answer(u, &stream, call, honest, &mut said)?;
            }
        }
    }
    judge(way, soon(asked).await.expect("it does not panic"), &said);
    Ok(())
}

/// The next stream, unless the initiator has what it wants.
async fn soon_or_done<T>(
    coordinator: &mut Coordinator,
    asked: &tokio::task::JoinHandle<T>,
) -> Option<Pipeline> {
    soon(async {
        loop {
            if asked.is_finished() {
                return None;
            }
            let next = tokio::time::timeout(Duration::from_millis(5), coordinator.pipelines.recv());
            if let Ok(stream) = next.await {
                return stream;
            }
        }
    })
    .await
}

async fn received<T>(
    stream: &mut Pipeline,
    asked: &tokio::task::JoinHandle<T>,
) -> Option<pb::PipelineRequest> {
    if asked.is_finished() { None } else { stream.receive().await }
}

fn answer(
    u: &mut Unstructured<'_>,
    stream: &Pipeline,
    call: pb::PipelineCall,
    honest: bool,
    said: &mut Said,
) -> Result<()> {
    let asked = call.call.expect("the SDK's calls are calls");
    let decides = matches!(asked, Call::Commit(_) | Call::Run(_));
    said.calls += u32::from(decides);
    let mut answers = Vec::new();
    if !honest {
        for _ in 0..u.int_in_range(0..=2)? {
            // To a call that never was, of any kind.
            answers.push(pb::PipelineAnswer { call_id: call.call_id + 1000, answer: Some(any(u)?) });
        }
    }
    let told = if honest {
        Some(truth(&asked))
    } else if u.ratio(1, 16)? {
        None
    } else {
        Some(any(u)?)
    };
    match (&asked, &told) {
        (Call::Begin(_), Some(Answer::Begin(begun))) => said.xid.clone_from(&begun.xid),
        (Call::Commit(_), Some(Answer::Commit(pb::CommitResponse { result: Some(result) })))
            if result.xid == said.xid || result.xid.parse::<TxId>().is_err() =>
        {
            said.outcomes.push(result.outcome);
        }
        (Call::Run(_), Some(Answer::Run(pb::RunResponse { result: Some(result) }))) => {
            said.outcomes.push(result.outcome);
        }
        (_, Some(Answer::Error(error))) if decides => said.errors.push(error.code),
        _ => {}
    }
    answers.push(pb::PipelineAnswer { call_id: call.call_id, answer: told });
    stream.send(pb::PipelineResponse { answers });
    Ok(())
}

/// What it is told must follow from what was said.
fn judge(way: Way, ended: std::result::Result<String, Error>, said: &Said) {
    let heard = |outcome: pb::Outcome| said.outcomes.contains(&outcome.into());
    match ended {
        Ok(xid) if way != Way::Abort => {
            assert!(heard(pb::Outcome::Committed), "{said:?}");
            assert!(way != Way::Commit || xid == said.xid, "{xid}");
        }
        Err(Error::Aborted { xid, .. }) => {
            let unknown_to_it = said.errors.contains(&Code::NotFound.into()) && said.calls == 1;
            assert!(heard(pb::Outcome::Aborted) || unknown_to_it, "{said:?}");
            assert!(way != Way::Commit || xid.to_string() == said.xid, "{xid}");
        }
        Err(Error::Heuristic { .. }) => {
            assert!(way == Way::Abort || heard(pb::Outcome::Mixed) || heard(pb::Outcome::Hazard), "{said:?}");
        }
        // Nothing was committed: so it was never told otherwise, nor left in the dark.
        Err(Error::Unavailable(_) | Error::Rejected { .. }) if said.calls > 0 => {
            assert!(!heard(pb::Outcome::Committed) && !said.errors.is_empty(), "{said:?}");
            let last = Code::from_i32(*said.errors.last().expect("there is one"));
            let leaves_it_open = [Code::Internal, Code::Unknown, Code::DeadlineExceeded, Code::Aborted];
            assert!(!leaves_it_open.contains(&last), "{said:?}");
        }
        Ok(_) | Err(Error::Unknown { .. } | Error::Unavailable(_) | Error::Rejected { .. }) => {}
        Err(other) => panic!("{other:?} after {said:?}"),
    }
}

fn truth(asked: &Call) -> Answer {
    let result = Some(result(XID, pb::Outcome::Committed.into()));
    match asked {
        Call::Begin(_) => Answer::Begin(pb::BeginResponse { xid: XID.to_owned(), timeout_ms: 30_000 }),
        Call::Enlist(_) => Answer::Enlist(pb::EnlistResponse { branch_id: "1".to_owned() }),
        Call::Commit(_) => Answer::Commit(pb::CommitResponse { result }),
        Call::Abort(_) => Answer::Abort(pb::AbortResponse { result }),
        Call::Run(_) => Answer::Run(pb::RunResponse { result }),
    }
}

fn any(u: &mut Unstructured<'_>) -> Result<Answer> {
    let xid = text(u, &[XID, XID, XID, OTHER_XID])?;
    let result = if u.ratio(1, 8)? { None } else { Some(result(&xid, variant(u, 6)?)) };
    Ok(match u.int_in_range(0..=7)? {
        0 => Answer::Begin(pb::BeginResponse {
            xid: if u.arbitrary()? { xid } else { XID.to_owned() },
            timeout_ms: 1,
        }),
        1 => Answer::Enlist(pb::EnlistResponse { branch_id: text(u, &["1"])? }),
        2 | 3 => Answer::Commit(pb::CommitResponse { result }),
        4 => Answer::Abort(pb::AbortResponse { result }),
        5 => Answer::Run(pb::RunResponse { result }),
        _ => Answer::Error(pb::PipelineError {
            code: variant(u, 17)?,
            message: text(u, &["no"])?,
            reason: text(u, &["", "WRONG_STATE"])?,
            retry_delay_ms: if u.ratio(1, 8)? { u64::MAX } else { 0 },
        }),
    })
}

fn result(xid: &str, outcome: i32) -> pb::TransactionResult {
    pb::TransactionResult { xid: xid.to_owned(), outcome, complete: true, ..Default::default() }
}
