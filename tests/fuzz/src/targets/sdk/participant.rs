//! Calls, answers and horizons in any order. Each branch is worked on once, and ended once, as it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use assent_proto::v1 as pb;
use assent_sdk::memory::Memory;
use assent_sdk::{Branch, Participant, Tcc, Vote};
use bytes::Bytes;
use tonic::Status;

use super::coordinator::{Coordinator, Session};
use crate::lab::soon;
use crate::values::{millis, text, variant};

const CLUSTER: &str = "0b0b0b0b-0b0b-4b0b-8b0b-0b0b0b0b0b0b";
const MESSAGES_MAX: usize = 40;
const STREAMS_MAX: usize = 2;

/// What became of each branch.
type Books = BTreeMap<String, Entry>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Reserved,
    Confirmed,
    Cancelled,
}

struct Handler;

impl Tcc<Memory<Books>> for Handler {
    type Request = Bytes;
    type Reply = Bytes;

    fn reserve(&self, books: &mut Books, branch: &Branch, request: Bytes) -> assent_sdk::Result<Vote<Bytes>> {
        let before = books.insert(branch.to_string(), Entry::Reserved);
        assert_eq!(before, None, "reserved twice");
        Ok(Vote::Prepared(request))
    }

    fn confirm(&self, books: &mut Books, branch: &Branch, _: Bytes) -> assent_sdk::Result<()> {
        let before = books.insert(branch.to_string(), Entry::Confirmed);
        assert_eq!(before, Some(Entry::Reserved), "confirmed");
        Ok(())
    }

    fn cancel(&self, books: &mut Books, branch: &Branch, _: Bytes) -> assent_sdk::Result<()> {
        let before = books.insert(branch.to_string(), Entry::Cancelled);
        assert_eq!(before, Some(Entry::Reserved), "cancelled");
        Ok(())
    }
}

/// What the coordinator has said of branches, by transaction and id.
#[derive(Debug, Default)]
struct Said {
    commit: BTreeSet<(String, String)>,
    abort: BTreeSet<(String, String)>,
}

pub async fn attempt(u: &mut Unstructured<'_>) -> Result<()> {
    let mut coordinator = Coordinator::start().await;
    let memory: Memory<Books> = Memory::new(Books::new());
    let participant = Participant::builder("shop/stock")
        .resource(memory.clone().tcc(Handler))
        .inquire_after(Duration::from_millis(10))
        .max_in_flight(4)
        .drain_timeout(Duration::from_millis(50))
        .connect(coordinator.url.clone())
        .await
        .expect("it may");
    let mut said = Said::default();
    let streams = u.int_in_range(1..=STREAMS_MAX)?;
    for stream in 1..=streams {
        let mut session = soon(coordinator.sessions.recv()).await.expect("the participant comes");
        let hello = session.receive().await.and_then(|first| first.hello).expect("it says hello");
        assert_eq!(hello.participant, "shop/stock");
        let welcome = pb::Welcome {
            cluster_id: CLUSTER.to_owned(),
            epoch: u.arbitrary().unwrap_or(1),
            max_payload_bytes: *u.choose(&[0, 4, 1 << 20]).unwrap_or(&0),
        };
        session.send(pb::SessionResponse { welcome: Some(welcome), ..Default::default() });
        for _ in 0..MESSAGES_MAX {
            if u.is_empty() || u.ratio(1, 32)? {
                break;
            }
            session.send(message(u, &mut said)?);
            if u.ratio(1, 4)? {
                drop(tokio::time::timeout(Duration::from_millis(1), session.receive()).await);
            }
        }
        if stream == streams {
            still_serves(&mut session).await;
        } else if u.arbitrary()? {
            session.fail(Status::new(variant(u, 17)?.into(), "it breaks"));
        }
    }
    ended_as_told(&memory.state(), &said);
    soon(participant.shutdown()).await;
    Ok(())
}

/// A call of a branch of its own is answered.
async fn still_serves(session: &mut Session) {
    let call = call("00000000-0000-8000-8000-004000000000", "last", pb::Operation::Rollback.into());
    session.send(pb::SessionResponse { calls: vec![call], ..Default::default() });
    loop {
        let request = session.receive().await.expect("its session goes on");
        for reply in request.replies {
            match reply.result.as_ref().expect("a reply has a result") {
                pb::call_reply::Result::Error(error) => assert!(error.len() <= 1024, "{}", error.len()),
                pb::call_reply::Result::Vote(vote) => assert!(vote.reason.len() <= 1024),
                pb::call_reply::Result::Completion(done) => assert_ne!(done.completion, 0),
            }
            if reply.branch_id == "last" {
                return;
            }
        }
    }
}

fn ended_as_told(books: &Books, said: &Said) {
    for (branch, entry) in books {
        let among = |told: &BTreeSet<(String, String)>| {
            told.iter().any(|(xid, id)| branch.contains(xid.as_str()) && branch.contains(id.as_str()))
        };
        match entry {
            Entry::Reserved => {}
            Entry::Confirmed => assert!(among(&said.commit), "{branch} was confirmed, and not told so"),
            Entry::Cancelled => assert!(among(&said.abort), "{branch} was cancelled, and not told so"),
        }
    }
}

fn message(u: &mut Unstructured<'_>, said: &mut Said) -> Result<pb::SessionResponse> {
    let mut message = pb::SessionResponse::default();
    for _ in 0..u.int_in_range(0..=3)? {
        let call = pb::Call {
            protocol: if u.ratio(7, 8)? { pb::Protocol::Tcc.into() } else { variant(u, 3)? },
            payload: Bytes::from_static(b"payload"),
            reservation_ttl_ms: millis(u)?,
            attempt: u.int_in_range(0..=3)?,
            traceparent: text(u, &["", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"])?,
            ..call(&xid(u)?, &branch_id(u)?, variant(u, 5)?)
        };
        match call.operation() {
            pb::Operation::Commit | pb::Operation::CommitOnePhase => said.commit.insert(key(&call)),
            pb::Operation::Rollback => said.abort.insert(key(&call)),
            pb::Operation::PhaseOne | pb::Operation::Unspecified => false,
        };
        message.calls.push(call);
    }
    for _ in 0..u.int_in_range(0..=2)? {
        let answer = variant(u, 5)?;
        let result = pb::InquiryResult { xid: xid(u)?, branch_id: branch_id(u)?, answer };
        let named = (result.xid.clone(), result.branch_id.clone());
        match result.answer() {
            pb::InquiryAnswer::Commit => drop(said.commit.insert(named)),
            pb::InquiryAnswer::Abort => drop(said.abort.insert(named)),
            pb::InquiryAnswer::Unspecified | pb::InquiryAnswer::Pending | pb::InquiryAnswer::Foreign => {}
        }
        message.inquiry_results.push(result);
    }
    if u.ratio(1, 8)? {
        message.welcome = Some(pb::Welcome::default());
    }
    if u.ratio(1, 8)? {
        let before = text(u, &["0000010000000000000", "000001000000000000001", "fffffffffffffffffffff"])?;
        let cluster_id = if u.ratio(3, 4)? { CLUSTER.to_owned() } else { String::new() };
        message.horizon = Some(pb::Horizon { cluster_id, before });
    }
    if u.ratio(1, 8)? {
        message.enlist_answers.push(pb::SessionEnlistAnswer {
            call_id: u.int_in_range(0..=2)?,
            code: variant(u, 17)?,
            message: text(u, &["", "no"])?,
        });
    }
    Ok(message)
}

fn call(xid: &str, branch_id: &str, operation: i32) -> pb::Call {
    let (xid, branch_id) = (xid.to_owned(), branch_id.to_owned());
    pb::Call { xid, branch_id, protocol: pb::Protocol::Tcc.into(), operation, ..pb::Call::default() }
}

fn key(call: &pb::Call) -> (String, String) {
    (call.xid.clone(), call.branch_id.clone())
}

fn xid(u: &mut Unstructured<'_>) -> Result<String> {
    text(
        u,
        &[
            "00000000-0001-8000-8000-004000000000",
            "00000000-0002-8000-8000-004000000000",
            "00000000-0003-8000-8000-008000000000",
        ],
    )
}

fn branch_id(u: &mut Unstructured<'_>) -> Result<String> {
    text(u, &["a", "b", "b"])
}
