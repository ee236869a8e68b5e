//! Histories that can be read aloud.

use std::fmt::Write;

use crate::core::{
    Action, Answer, Completion, Durability, InquiryAnswer, LogWrite, Operation, Outcome, Record, Rejection,
    Step, Vote, What,
};
use crate::site::Said;
use crate::world::{At, Happening, World};

const PARTICIPANTS: [&str; 8] = ["order", "stock", "payment", "books", "credit", "parcel", "points", "mail"];

/// The participant of a branch.
pub fn participant(branch: u8) -> &'static str {
    PARTICIPANTS[usize::from(branch)]
}

/// What happens, and what the coordinator does then, line by line; then the breach, if there is one.
pub fn tell(world: &mut World, happenings: &[Happening]) -> String {
    let mut story = String::new();
    world.watch();
    for (number, happening) in happenings.iter().enumerate() {
        let line = say(*happening);
        writeln!(story, "{:3}. {line}", number + 1).expect("a string takes all");
        let taken = crate::property::observe(|| world.take(*happening));
        for note in world.noted() {
            writeln!(story, "       {note}").expect("a string takes all");
        }
        if let Err(breach) = taken {
            writeln!(story, "     ! {}", breach.text).expect("a string takes all");
            break;
        }
    }
    story
}

/// A happening in words.
pub fn say(happening: Happening) -> String {
    match happening {
        Happening::Begin { plan } => format!("an initiator asks for transaction {}", plan + 1),
        Happening::Work { at, vote } => {
            format!("the initiator's call arrives at {}, which says {}", place(at), vote_word(vote))
        }
        Happening::Enlist { at } => format!("{} is enlisted", place(at)),
        Happening::Commit { tx, bring: true } => {
            format!("the initiator asks to commit t{}, bringing all branches", tx + 1)
        }
        Happening::Commit { tx, bring: false } => format!("the initiator asks to commit t{}", tx + 1),
        Happening::Abort { tx } => format!("the initiator asks to abort t{}", tx + 1),
        Happening::Call { at, operation, vote } => match operation {
            Operation::PhaseOne | Operation::CommitOnePhase => {
                format!("{} arrives at {}, which would say {}", word(operation), place(at), vote_word(vote))
            }
            Operation::Commit | Operation::Rollback => {
                format!("{} arrives at {}", word(operation), place(at))
            }
        },
        Happening::Report { at, operation, said } => {
            format!("the answer of {} to {} arrives: {}", place(at), word(operation), said_word(said))
        }
        Happening::Fail { at } => format!("the call to {} fails", place(at)),
        Happening::Unsent { at } => format!("the call to {} cannot be sent", place(at)),
        Happening::Inquire { at, expired: false } => format!("{} asks for the decision", place(at)),
        Happening::Inquire { at, expired: true } => {
            format!("{} asks for the decision, as its reservation has expired", place(at))
        }
        Happening::Answer { at, answer } => {
            format!("the answer to its question arrives at {}: {}", place(at), answer_word(answer))
        }
        Happening::Expire { at } => format!("{} cancels by itself", place(at)),
        Happening::Horizon { at } => {
            format!("{} learns that the transaction lies before the horizon, and drops its row", place(at))
        }
        Happening::Sync => "the log syncs".to_owned(),
        Happening::Crash { kept } => {
            format!("the coordinator dies and starts again; unsynced writes that survive: {kept}")
        }
        Happening::Resume => "it goes on with the oldest transaction that it took back".to_owned(),
        Happening::Jump => "time passes until something is due".to_owned(),
        Happening::Pass { ms } => format!("{ms} ms pass"),
        Happening::WallClock { hours } => format!("the wall clock jumps by {hours:+} h"),
        Happening::Fire => "the coordinator sees to what is due".to_owned(),
        Happening::Wake { at } => format!("{} is back", participant(at.branch)),
        Happening::Resolve { at, committed } => {
            let said = if committed { "committed" } else { "rolled back" };
            format!("an operator settles {} as {said}", place(at))
        }
        Happening::Retry { tx } => format!("an operator wants the calls of t{} made now", tx + 1),
        Happening::Forget { tx } => format!("an operator forgets t{}", tx + 1),
    }
}

/// What a step says, for people.
pub fn note(step: &Step, trail: &mut Vec<String>) {
    for write in &step.log {
        trail.push(match write {
            LogWrite::Put { value, .. } => {
                let how = match step.durability {
                    Durability::Lazy => "lazy",
                    Durability::Forced => "forced",
                };
                let records = Record::decode_all(value).flatten().map(|record| record_word(&record.what));
                format!("log, {how}: {}", records.collect::<Vec<_>>().join(", "))
            }
            LogWrite::Remove { .. } => "log: dropped".to_owned(),
        });
    }
    for action in &step.then {
        trail.push(match action {
            Action::Call(call) => format!("call {}: {}", call.participant, word(call.operation)),
            Action::Answer { answer, .. } => format!("answer: {}", told(answer)),
            Action::Publish(_) => "publish".to_owned(),
        });
    }
}

fn told(answer: &Answer) -> String {
    match answer {
        Answer::Begun { .. } => "begun".to_owned(),
        Answer::Enlisted { .. } => "enlisted".to_owned(),
        Answer::Ended(result) => {
            let outcome = result.outcome.map_or("not known", outcome_word);
            format!("{outcome}{}", if result.complete { ", complete" } else { "" })
        }
        Answer::Inquiry(answer) => answer_word(*answer).to_owned(),
        Answer::Transaction(_) => "the transaction".to_owned(),
        Answer::Retried { calls } => format!("{calls} calls made"),
        Answer::Forgotten => "forgotten".to_owned(),
        Answer::Rejected(Rejection::NotFound { .. }) => "no such transaction".to_owned(),
        Answer::Rejected(rejection) => rejection.to_string(),
    }
}

fn record_word(what: &What) -> String {
    match what {
        What::Begun { .. } => "begun".to_owned(),
        What::Enlisted(enlisted) => format!("{} enlisted", enlisted.participant),
        What::Voted { branch, vote, .. } => format!("{} voted {}", of(branch.0), vote_word(*vote)),
        What::Delegated => "delegated".to_owned(),
        What::DelegationDeclined => "delegation declined".to_owned(),
        What::Decided { decision, .. } => format!("decided {decision:?}").to_lowercase(),
        What::Unreached { branch } => format!("{} never reached", of(branch.0)),
        What::Acknowledged { branch } => format!("{} acknowledged", of(branch.0)),
        What::Heuristic { branch, completion, .. } => format!("{} {completion:?}", of(branch.0)),
        What::Resolved { branch, .. } => format!("{} settled", of(branch.0)),
        What::Ended { outcome } => format!("ended {}", outcome_word(*outcome)),
        What::Doubted { .. } => "doubted".to_owned(),
    }
}

/// The n-th branch that was enlisted, which need not be the plan's n-th.
fn of(index: u16) -> String {
    format!("branch {}", index + 1)
}

fn place(at: At) -> String {
    if at.tx == 0 {
        return participant(at.branch).to_owned();
    }
    format!("{} of t{}", participant(at.branch), at.tx + 1)
}

fn word(operation: Operation) -> &'static str {
    match operation {
        Operation::PhaseOne => "phase one",
        Operation::Commit => "commit",
        Operation::Rollback => "rollback",
        Operation::CommitOnePhase => "commit in one phase",
    }
}

fn vote_word(vote: Vote) -> &'static str {
    match vote {
        Vote::Prepared => "yes",
        Vote::ReadOnly => "yes, and it only read",
        Vote::Refused => "no",
    }
}

fn said_word(said: Said) -> String {
    match said {
        Said::Vote(vote) => vote_word(vote).to_owned(),
        Said::Completed(Completion::Done) => "done".to_owned(),
        Said::Completed(completion) => format!("{completion:?}"),
        Said::Unimplemented => "not offered".to_owned(),
    }
}

fn answer_word(answer: InquiryAnswer) -> &'static str {
    match answer {
        InquiryAnswer::Commit => "commit",
        InquiryAnswer::Abort => "abort",
        InquiryAnswer::Pending => "not decided",
        InquiryAnswer::Foreign => "foreign",
    }
}

fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Committed => "committed",
        Outcome::Aborted => "aborted",
        Outcome::Mixed => "mixed",
        Outcome::Hazard => "hazard",
    }
}
