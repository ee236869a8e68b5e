//! Answers that are wrong, late, or somebody else's.

use assent_proto::v1 as pb;
use pb::call_reply::Result as Told;

use super::super::sessions::{inquiries, outcome, start};
use super::{CULPRIT, Honest, sessions, until_sessions};
use crate::hostile_input::{Target, branch, connect, soon};
use crate::session::{self, Session, vote, yes};

/// The transaction has aborted without it; and what it says then, it says in vain.
#[tokio::test]
async fn a_vote_after_the_decision_changes_nothing() {
    let target = Target::start().await;
    let honest = Honest::begin(&target).await;
    let mut culprit = Session::open(&target.channel, CULPRIT).await.unwrap();
    let mut refuses = Session::open(&target.channel, "shop/stock").await.unwrap();
    let running = start(&target, vec![branch(CULPRIT), branch("shop/stock")]);
    let prepare = soon(culprit.call()).await;
    let call = soon(refuses.call()).await;
    refuses.reply(&call, Told::Vote(vote(pb::Vote::Refused)));

    let rollback = soon(culprit.call()).await;
    assert_eq!(rollback.operation(), pb::Operation::Rollback);
    for wrong in [vote(pb::Vote::Prepared), vote(pb::Vote::ReadOnly), vote(pb::Vote::Refused)] {
        culprit.reply(&prepare, Told::Vote(wrong.clone()));
        culprit.reply(&rollback, Told::Vote(wrong));
    }
    let commit = pb::Call { operation: pb::Operation::Commit.into(), ..rollback.clone() };
    culprit.reply(&commit, yes(pb::Operation::Commit));
    assert_eq!(outcome(&mut culprit, &prepare.xid).await, pb::InquiryAnswer::Abort);
    assert_eq!(target.get(&prepare.xid).await.state(), pb::State::Aborting);
    // A vote is no answer to a rollback, so it is told again.
    let rollback = soon(culprit.call()).await;
    assert_eq!(rollback.operation(), pb::Operation::Rollback);
    culprit.reply(&rollback, yes(pb::Operation::Rollback));
    assert_eq!(soon(running).await.unwrap().outcome(), pb::Outcome::Aborted);
    honest.end(&target).await;
}

/// It did commit; only what it says besides is left out.
#[tokio::test]
async fn a_commit_with_a_reply_that_is_too_large_is_a_commit() {
    let target = Target::start().await;
    let mut culprit = Session::open(&target.channel, CULPRIT).await.unwrap();
    let running = start(&target, vec![branch(CULPRIT)]);
    let call = soon(culprit.call()).await;
    assert_eq!(call.operation(), pb::Operation::CommitOnePhase);
    let reply = vec![7; (1 << 20) + 1].into();
    let completion = pb::Completion::Done.into();
    culprit.reply(&call, Told::Completion(pb::PhaseTwoResult { completion, reply, ..Default::default() }));
    let result = soon(running).await.unwrap();
    assert_eq!(result.outcome(), pb::Outcome::Committed, "{}", result.reason);
    assert_eq!(result.branches[0].reply.len(), 0);
    target.still_commits().await;
}

#[tokio::test]
async fn a_question_about_a_transaction_of_others_changes_nothing() {
    let target = Target::start().await;
    let honest = Honest::begin(&target).await;
    let mut victim = Session::open(&target.channel, "shop/stock").await.unwrap();
    session::willing(&target.channel, "shop/ledger").await;
    let running = start(&target, vec![branch("shop/stock"), branch("shop/ledger")]);
    let call = soon(victim.call()).await;
    let mut culprit = Session::open(&target.channel, CULPRIT).await.unwrap();
    for _ in 0..10 {
        culprit.send(inquiries(&call.xid, 1_000));
    }
    assert_eq!(outcome(&mut culprit, &call.xid).await, pb::InquiryAnswer::Pending);
    assert_eq!(target.get(&call.xid).await.state(), pb::State::Preparing);
    victim.reply(&call, yes(call.operation()));
    tokio::spawn(victim.be_willing());
    assert_eq!(soon(running).await.unwrap().outcome(), pb::Outcome::Committed);
    honest.end(&target).await;
}

/// Names are not proved yet, so it gets calls of the one whose name it took. While it says nothing, they are only late: each
/// comes again, by turns to the others.
#[tokio::test]
async fn a_silent_session_under_a_stolen_name_only_delays() {
    let target = Target::start_with(&["--set", "participants.call_timeout=200ms"]).await;
    let channel = connect(&target).await;
    for participant in ["shop/stock", "shop/ledger"] {
        session::willing(&channel, participant).await;
    }
    let thief = Session::open(&target.channel, "shop/stock").await.unwrap();
    assert_eq!(sessions(&target, "shop/stock").await, 2);
    for _ in 0..10 {
        let result = target.run(vec![branch("shop/stock"), branch("shop/ledger")]).await.unwrap();
        assert_eq!(result.outcome(), pb::Outcome::Committed, "{}", result.reason);
    }
    drop(thief);
    until_sessions(&target, "shop/stock", 1).await;
    target.still_commits().await;
}
