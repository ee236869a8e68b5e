//! Participants that break the rules of their stream, or answer nonsense.

use assent_proto::v1 as pb;
use pb::call_reply::Result as Told;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::{Target, assert_refused, assert_says, branch, soon};
use crate::session::{self, Session};

#[tokio::test]
async fn a_session_without_hello_is_refused() {
    let target = Target::start().await;
    let greetings = [
        pb::SessionRequest::default(),
        pb::SessionRequest { draining: true, ..pb::SessionRequest::default() },
        pb::SessionRequest { replies: vec![pb::CallReply::default()], ..pb::SessionRequest::default() },
    ];
    for first in greetings {
        let status = refused(&target, first).await;
        assert_refused(&status, Code::InvalidArgument, &["hello is not set"]);
    }
    target.still_commits().await;
}

#[tokio::test]
async fn a_hello_under_a_hostile_name_is_refused() {
    let target = Target::start().await;
    let long = "x".repeat(1024);
    for (name, says) in [("", "is empty"), ("größe", "'ö'"), ("a\0b", r"'\0'"), (&long, "1024 bytes")] {
        let status = refused(&target, session::hello(name)).await;
        assert_refused(&status, Code::InvalidArgument, &["hello.participant", says]);
    }
    let named = pb::Hello { participant: "shop/stock".to_owned(), ..pb::Hello::default() };
    let hello = pb::Hello { instance_id: long.clone(), ..named.clone() };
    let status = refused(&target, pb::SessionRequest { hello: Some(hello), ..Default::default() }).await;
    assert_refused(&status, Code::InvalidArgument, &["hello.instance_id", "1024 bytes", "64"]);
    let hello = pb::Hello { agent: long, ..named };
    let status = refused(&target, pb::SessionRequest { hello: Some(hello), ..Default::default() }).await;
    assert_refused(&status, Code::InvalidArgument, &["hello.agent", "1024 bytes", "128"]);
    target.still_commits().await;
}

/// The call is made again, until the answer has a meaning.
#[tokio::test]
async fn an_answer_that_means_nothing_is_no_answer() {
    let target = Target::start().await;
    let mut participant = Session::open(&target.channel, "shop/stock").await.unwrap();
    session::willing(&target.channel, "shop/ledger").await;
    let running = start(&target, vec![branch("shop/stock"), branch("shop/ledger")]);
    let completion =
        |number| Told::Completion(pb::PhaseTwoResult { completion: number, ..Default::default() });
    let too_large = vec![0; (1 << 20) + 1].into();
    let nonsense = [
        Told::Vote(pb::PhaseOneResult::default()),
        Told::Vote(pb::PhaseOneResult { vote: 99, ..Default::default() }),
        Told::Vote(pb::PhaseOneResult { reply: too_large, ..session::vote(pb::Vote::Prepared) }),
        Told::Error("x".repeat(1 << 20)),
        // Answers to another question.
        completion(pb::Completion::Done.into()),
        completion(0),
    ];
    for answer in nonsense {
        let call = soon(participant.call()).await;
        assert_eq!(call.operation(), pb::Operation::PhaseOne);
        participant.reply(&call, answer);
    }
    let call = soon(participant.call()).await;
    participant.reply(&call, session::yes(call.operation()));
    for answer in [completion(0), completion(99), Told::Vote(session::vote(pb::Vote::Refused))] {
        let call = soon(participant.call()).await;
        assert_eq!(call.operation(), pb::Operation::Commit);
        participant.reply(&call, answer);
    }
    tokio::spawn(participant.be_willing());
    let result = soon(running).await.unwrap();
    assert_eq!(result.outcome(), pb::Outcome::Committed, "{}", result.reason);
    assert!(result.branches.iter().all(|branch| branch.state() == pb::BranchState::Committed));
    target.still_commits().await;
}

/// They are dropped: what they are about is asked again, and the session goes on.
#[tokio::test]
async fn replies_about_nothing_harm_nobody() {
    let target = Target::start().await;
    let xid = target.begin().await;
    let mut participant = Session::open(&target.channel, "shop/stock").await.unwrap();
    let reply = |xid: &str, branch_id: &str, operation: i32, result| pb::CallReply {
        xid: xid.to_owned(),
        branch_id: branch_id.to_owned(),
        operation,
        result,
    };
    let prepared = || Some(Told::Vote(session::vote(pb::Vote::Prepared)));
    let long = "x".repeat(1024);
    participant.send(pb::SessionRequest {
        replies: vec![
            reply("", "", 0, None),
            reply("größe", "1", 1, prepared()),
            reply(&xid, "", 1, prepared()),
            reply(&xid, &long, 1, prepared()),
            reply(&xid, "1", 99, prepared()),
            reply(&xid, "1", 1, None),
            reply(&xid, "never enlisted", 1, prepared()),
            reply(&xid, "1", 1, prepared()),
            reply("00000000-0000-8000-8000-004000000000", "1", 2, Some(session::yes(pb::Operation::Commit))),
        ],
        ..pb::SessionRequest::default()
    });
    assert_eq!(outcome(&mut participant, &xid).await, pb::InquiryAnswer::Pending);
    assert_eq!(target.get(&xid).await.branches.len(), 0);
    target.still_commits().await;
}

#[tokio::test]
async fn a_participant_cannot_answer_for_another() {
    let target = Target::start().await;
    let mut victim = Session::open(&target.channel, "shop/ledger").await.unwrap();
    let mut liar = Session::open(&target.channel, "shop/liar").await.unwrap();
    session::willing(&target.channel, "shop/stock").await;
    let running = start(&target, vec![branch("shop/stock"), branch("shop/ledger")]);

    let call = soon(victim.call()).await;
    liar.reply(&call, Told::Vote(session::vote(pb::Vote::Refused)));
    liar.reply(&call, session::yes(pb::Operation::PhaseOne));
    assert_eq!(outcome(&mut liar, &call.xid).await, pb::InquiryAnswer::Pending);
    assert_eq!(target.get(&call.xid).await.branches[1].state(), pb::BranchState::Preparing);
    victim.reply(&call, session::yes(pb::Operation::PhaseOne));

    let call = soon(victim.call()).await;
    assert_eq!(call.operation(), pb::Operation::Commit);
    liar.reply(&call, session::yes(pb::Operation::Commit));
    assert_eq!(outcome(&mut liar, &call.xid).await, pb::InquiryAnswer::Commit);
    assert_eq!(target.get(&call.xid).await.branches[1].state(), pb::BranchState::Committing);
    victim.reply(&call, session::yes(pb::Operation::Commit));

    assert_eq!(soon(running).await.unwrap().outcome(), pb::Outcome::Committed);
    target.still_commits().await;
}

#[tokio::test]
async fn a_participant_cannot_enlist_another() {
    let target = Target::start().await;
    let xid = target.begin().await;
    let mut participant = Session::open(&target.channel, "shop/stock").await.unwrap();
    let enlistment = |participant: &str| pb::Enlistment {
        branch: Some(branch(participant)),
        vote: Some(session::vote(pb::Vote::Prepared)),
    };
    let wanted = [
        (1, Some(enlistment("shop/ledger"))),
        (2, Some(enlistment("shop/stock-1"))),
        (3, Some(enlistment("shop"))),
        (4, None),
        (5, Some(enlistment("shop/stock"))),
    ];
    let enlistments = wanted
        .into_iter()
        .map(|(call_id, enlistment)| pb::SessionEnlistment { call_id, xid: xid.clone(), enlistment })
        .collect();
    participant.send(pb::SessionRequest { enlistments, ..pb::SessionRequest::default() });
    let mut answers = Vec::new();
    while answers.len() < 5 {
        answers.extend(soon(participant.responses.message()).await.unwrap().unwrap().enlist_answers);
    }
    answers.sort_by_key(|answer| answer.call_id);
    for answer in &answers[..3] {
        assert_eq!(answer.code, i32::from(Code::InvalidArgument), "{answer:?}");
        assert_says(&answer.message, &["branch.participant", "this session enlists only for shop/stock"]);
    }
    assert_eq!(answers[3].code, i32::from(Code::InvalidArgument), "{:?}", answers[3]);
    assert_eq!(answers[4].code, 0, "{:?}", answers[4]);
    assert_eq!(target.get(&xid).await.branches.len(), 1);
    target.still_commits().await;
}

#[tokio::test]
async fn a_flood_of_inquiries_is_answered_and_holds_up_nobody() {
    const MESSAGES: usize = 100;
    const INQUIRIES: usize = 1_000;
    let target = Target::start().await;
    let xid = target.begin().await;
    let mut participant = Session::open(&target.channel, "shop/stock").await.unwrap();
    for _ in 0..MESSAGES {
        participant.send(inquiries(&xid, INQUIRIES));
    }
    target.still_commits().await;
    let mut answered = 0;
    while answered < MESSAGES * INQUIRIES {
        let response = soon(participant.responses.message()).await.unwrap().unwrap();
        assert!(response.inquiry_results.iter().all(|result| result.xid == xid));
        answered += response.inquiry_results.len();
    }
    participant.send(inquiries(&xid, INQUIRIES + 1));
    let end = end(&mut participant).await;
    assert_refused(&end, Code::InvalidArgument, &["inquiries has 1001", "1000"]);
    target.still_commits().await;
}

#[tokio::test]
async fn an_inquiry_that_is_wrong_ends_its_session_with_the_reason() {
    let target = Target::start().await;
    for (xid, field) in [("order-1", "inquiries.xid"), ("", "inquiries.xid")] {
        let mut participant = Session::open(&target.channel, "shop/stock").await.unwrap();
        participant.send(inquiries(xid, 1));
        assert_refused(&end(&mut participant).await, Code::InvalidArgument, &[field]);
    }
    target.still_commits().await;
}

/// Runs a transaction, and does not wait for its end.
pub(super) fn start(target: &Target, branches: Vec<pb::BranchSpec>) -> JoinHandle<pb::TransactionResult> {
    let mut transactions = target.transactions();
    let request = pb::RunRequest { branches, ..pb::RunRequest::default() };
    tokio::spawn(async move { transactions.run(request).await.unwrap().into_inner().result.unwrap() })
}

pub(super) fn inquiries(xid: &str, count: usize) -> pb::SessionRequest {
    let inquiry = pb::Inquiry { xid: xid.to_owned(), branch_id: "1".to_owned(), expired: false };
    pb::SessionRequest { inquiries: vec![inquiry; count], ..pb::SessionRequest::default() }
}

/// What the coordinator answers on this session; whatever was sent before has been dealt with by then.
pub(super) async fn outcome(participant: &mut Session, xid: &str) -> pb::InquiryAnswer {
    participant.send(inquiries(xid, 1));
    loop {
        let response = soon(participant.responses.message()).await.unwrap().unwrap();
        if let Some(result) = response.inquiry_results.first() {
            return result.answer();
        }
    }
}

/// How the session ends.
pub(super) async fn end(participant: &mut Session) -> Status {
    loop {
        match soon(participant.responses.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended without a reason"),
            Err(status) => return status,
        }
    }
}

/// Why a session does not open.
async fn refused(target: &Target, first: pb::SessionRequest) -> Status {
    soon(Session::open_with(&target.channel, first)).await.map(drop).unwrap_err()
}
