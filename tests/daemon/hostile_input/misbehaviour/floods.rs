//! Too much of everything.

use assent_proto::v1 as pb;
use prost::Message as _;
use tokio::net::TcpStream;
use tonic::Code;
use tonic::codegen::http::uri::PathAndQuery;

use super::super::bytes::Raw;
use super::super::sessions::{end, inquiries};
use super::{CULPRIT, Honest, sessions, until_sessions};
use crate::hostile_input::{Target, assert_refused, branch, connect, soon};
use crate::session::{self, Session, vote};

#[tokio::test]
async fn a_flood_of_replies_that_mean_nothing_holds_up_nobody() {
    const MESSAGES: usize = 100;
    const REPLIES: usize = 3_000;
    let target = Target::start().await;
    let honest = Honest::begin(&target).await;
    let xid = target.begin().await;
    let mut culprit = Session::open(&target.channel, CULPRIT).await.unwrap();
    let about = |xid: &str, branch_id: &str| pb::CallReply {
        xid: xid.to_owned(),
        branch_id: branch_id.to_owned(),
        operation: pb::Operation::PhaseOne.into(),
        result: Some(pb::call_reply::Result::Vote(vote(pb::Vote::Prepared))),
    };
    let kinds = [about("order-1", "1"), about(&xid, "1"), about(&xid, ""), pb::CallReply::default()];
    let replies: Vec<_> = kinds.into_iter().cycle().take(REPLIES).collect();
    for _ in 0..MESSAGES {
        culprit.send(pb::SessionRequest { replies: replies.clone(), ..pb::SessionRequest::default() });
    }
    // The answer comes after them all.
    culprit.send(inquiries(&xid, 1));
    while soon(culprit.responses.message()).await.unwrap().unwrap().inquiry_results.is_empty() {}
    assert_eq!(target.get(&xid).await.branches.len(), 0);
    honest.end(&target).await;
}

#[tokio::test]
async fn a_flood_of_enlistments_is_answered_one_by_one_and_holds_up_nobody() {
    const MESSAGES: usize = 100;
    const ENLISTMENTS: usize = 1_000;
    /// `limits.max_branches`
    const BRANCHES_MAX: usize = 64;
    // So that it is open to the end.
    let target = Target::start_with(&["--set", "limits.default_timeout=1h"]).await;
    let honest = Honest::begin(&target).await;
    let xid = target.begin().await;
    let mut culprit = Session::open(&target.channel, CULPRIT).await.unwrap();
    let enlistment = pb::Enlistment { branch: Some(branch(CULPRIT)), vote: Some(vote(pb::Vote::Prepared)) };
    for _ in 0..MESSAGES {
        let one =
            pb::SessionEnlistment { call_id: 1, xid: xid.clone(), enlistment: Some(enlistment.clone()) };
        let enlistments = vec![one; ENLISTMENTS];
        culprit.send(pb::SessionRequest { enlistments, ..pb::SessionRequest::default() });
    }
    let (mut taken, mut refused) = (0, 0);
    while taken + refused < MESSAGES * ENLISTMENTS {
        for answer in soon(culprit.responses.message()).await.unwrap().unwrap().enlist_answers {
            if answer.code == 0 {
                taken += 1;
            } else {
                assert!(answer.message.contains("limits.max_branches"), "{}", answer.message);
                refused += 1;
            }
        }
    }
    assert_eq!(taken, BRANCHES_MAX);
    honest.end(&target).await;
}

#[tokio::test]
async fn one_that_asks_and_never_reads_is_cut_off() {
    let target = Target::start().await;
    let honest = Honest::begin(&target).await;
    let xid = target.begin().await;
    // A connection of its own, which is full of what it does not read.
    let mut culprit = Session::open(&connect(&target).await, CULPRIT).await.unwrap();
    for _ in 0..300 {
        culprit.send(inquiries(&xid, 1_000));
    }
    until_sessions(&target, CULPRIT, 0).await;
    // When it has read the rest at last, it is told why.
    let end = end(&mut culprit).await;
    assert_refused(&end, Code::ResourceExhausted, &["does not read", "connect again"]);
    honest.end(&target).await;
}

#[tokio::test]
async fn thousands_of_sessions_under_one_name_hold_up_nobody() {
    const SESSIONS: usize = 4_000;
    let target = Target::start().await;
    let honest = Honest::begin(&target).await;
    let mut opened = Vec::new();
    for _ in 0..4 {
        let channel = connect(&target).await;
        let opening: Vec<_> = (0..SESSIONS / 4)
            .map(|_| {
                let channel = channel.clone();
                tokio::spawn(async move { Session::open(&channel, CULPRIT).await.unwrap() })
            })
            .collect();
        for session in opening {
            opened.push(soon(session).await.unwrap());
        }
    }
    assert_eq!(sessions(&target, CULPRIT).await, SESSIONS);
    drop(opened);
    until_sessions(&target, CULPRIT, 0).await;
    honest.end(&target).await;
}

#[tokio::test]
async fn sessions_that_come_and_go_without_end_leave_nothing() {
    let target = Target::start().await;
    let honest = Honest::begin(&target).await;
    for _ in 0..50 {
        let channel = connect(&target).await;
        let opening: Vec<_> = (0..20)
            .map(|_| {
                let channel = channel.clone();
                tokio::spawn(async move { Session::open(&channel, CULPRIT).await.unwrap() })
            })
            .collect();
        for session in opening {
            drop(soon(session).await.unwrap());
        }
        // Others do not even say what they want.
        for _ in 0..100 {
            drop(TcpStream::connect(target.coordinator.url().trim_start_matches("http://")).await.unwrap());
        }
    }
    until_sessions(&target, CULPRIT, 0).await;
    honest.end(&target).await;
}

/// The largest message that is taken, full of the smallest things that there are.
#[tokio::test]
async fn an_enormous_message_harms_nobody() {
    /// What a session takes, with `limits.max_payload`.
    const MESSAGE_BYTES_MAX: usize = 5 << 20;
    /// Two hundred times as much, while a list grows to twice what it holds, and half as much again while it is copied.
    const DECODED_MIB_MAX: u64 = 1_536;
    let target = Target::start().await;
    let honest = Honest::begin(&target).await;
    for (bytes, code) in [(MESSAGE_BYTES_MAX + 2, Code::OutOfRange), (MESSAGE_BYTES_MAX, Code::Ok)] {
        let nothing = pb::SessionRequest { replies: vec![pb::CallReply::default()], ..Default::default() };
        let nothing = nothing.encode_to_vec();
        let enormous = nothing.repeat(bytes / nothing.len());
        let messages = [session::hello(CULPRIT).encode_to_vec(), enormous].map(bytes::Bytes::from);
        // The culprit says no more: what comes after its welcome is the end.
        let path = PathAndQuery::from_static("/assent.v1.ParticipantSessionService/Session");
        let mut grpc = tonic::client::Grpc::new(connect(&target).await);
        grpc.ready().await.unwrap();
        let request = tonic::Request::new(tokio_stream::iter(messages));
        let mut answers = soon(grpc.streaming(request, path, Raw)).await.unwrap().into_inner();
        let end = loop {
            match soon(answers.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => break Code::Ok,
                Err(status) => break status.code(),
            }
        };
        assert_eq!(end, code, "{bytes} bytes");
    }
    honest.end_with(&target, DECODED_MIB_MAX).await;
}
