//! The rules that a participant must keep.

mod apart;
mod crash;
mod doubt;
mod order;
mod repeats;
mod single;

use assent_proto::v1::{Completion, PhaseOneResult, Protocol, Vote};

use super::bench::{Bench, Checking, Stop, described};

/// The rule without which no other can be judged.
const FIRST: &str = "phase-one-is-voted";
/// What the first rule comes after.
pub const NO_RULE: &str = "";
/// The rule without which no other about doubt can be judged.
const ASKS: &str = "in-doubt-asks";

/// One rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Kebab-case, and the same for ever.
    pub name: &'static str,
    pub about: &'static str,
    pub needs: Needs,
    /// The rule that must have passed.
    pub after: &'static str,
    /// None: both.
    pub only: Option<Protocol>,
    pub check: fn(&Bench) -> Checking<'_>,
}

/// What a plan must have for a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    Refusal,
    Run,
    Observe,
    Desk,
    OneProtocol,
}

/// The rules of a protocol, in the order in which they are looked at.
pub fn all(protocol: Protocol) -> Vec<Rule> {
    let rules = [
        rule(FIRST, "good work is voted PREPARED (or READ_ONLY)", |b| Box::pin(repeats::phase_one(b)))
            .after(NO_RULE),
        rule("observed-effect", "a commit changes the data, each the same", |b| Box::pin(repeats::effect(b)))
            .needs(Needs::Observe),
        rule("phase-one-repeated", "a repeated phase one has the first answer", |b| {
            Box::pin(repeats::phase_one_repeated(b))
        }),
        rule("commit-repeated", "a commit is DONE, however often it comes", |b| Box::pin(repeats::commit(b))),
        rule("rollback-repeated", "a rollback is DONE, however often it comes", |b| {
            Box::pin(repeats::rollback(b))
        }),
        rule("phase-one-after-commit", "a phase one repeated after the commit has the first answer", |b| {
            Box::pin(repeats::phase_one_after_commit(b))
        }),
        rule("phase-one-at-once", "phase one made several times at once is done once", |b| {
            Box::pin(repeats::phase_one_at_once(b))
        }),
        rule("commit-at-once", "a commit made several times at once is done once", |b| {
            Box::pin(repeats::commit_at_once(b))
        }),
        rule("rollback-at-once", "a rollback made several times at once is done once", |b| {
            Box::pin(repeats::rollback_at_once(b))
        }),
        rule("rollback-first", "a phase one that comes after its rollback is refused", |b| {
            Box::pin(order::rollback_first(b))
        }),
        rule("commit-of-unknown", "a commit of an unknown branch is UNKNOWN_BRANCH", |b| {
            Box::pin(order::commit_of_unknown(b))
        }),
        rule("commit-first", "a commit that comes before its phase one does no harm", |b| {
            Box::pin(order::commit_first(b))
        }),
        rule("commit-after-rollback", "a commit after the rollback is not DONE", |b| {
            Box::pin(order::commit_after_rollback(b))
        }),
        rule("rollback-after-commit", "a rollback after the commit is HEURISTIC_COMMIT", |b| {
            Box::pin(order::rollback_after_commit(b))
        }),
        rule("prefixes-apart", "branch ids that begin alike are different branches", |b| {
            Box::pin(apart::prefixes(b))
        }),
        rule("transactions-apart", "a branch id in another transaction is another branch", |b| {
            Box::pin(apart::transactions(b))
        }),
        rule("malformed-ids", "malformed ids are turned down, and it goes on", |b| {
            Box::pin(apart::malformed(b))
        }),
        rule("wrong-protocol", "phase one of the other protocol is turned down", |b| {
            Box::pin(apart::wrong_protocol(b))
        })
        .needs(Needs::OneProtocol),
        rule("refusal", "what is refused leaves nothing behind", |b| Box::pin(single::refusal(b)))
            .needs(Needs::Refusal),
        rule("one-phase", "a commit in one phase is done once, and for good", |b| {
            Box::pin(single::one_phase(b))
        })
        .only(Protocol::TwoPhase),
        rule("one-phase-after-rollback", "a commit in one phase after the rollback is refused", |b| {
            Box::pin(single::one_phase_after_rollback(b))
        })
        .only(Protocol::TwoPhase),
        rule("reservation", "no reservation is granted for longer than was asked", |b| {
            Box::pin(single::reservation(b))
        })
        .only(Protocol::Tcc),
        rule(ASKS, "who says that it inquires asks about what it holds", |b| Box::pin(doubt::asks(b)))
            .needs(Needs::Desk),
        rule("in-doubt-commit", "told COMMIT, it commits", |b| Box::pin(doubt::commit(b)))
            .needs(Needs::Desk)
            .after(ASKS),
        rule("in-doubt-abort", "told ABORT, it rolls back", |b| Box::pin(doubt::abort(b)))
            .needs(Needs::Desk)
            .after(ASKS),
        rule("in-doubt-pending", "told PENDING, it holds on", |b| Box::pin(doubt::pending(b)))
            .needs(Needs::Desk)
            .after(ASKS),
        rule("in-doubt-foreign", "told FOREIGN, it holds on", |b| Box::pin(doubt::foreign(b)))
            .needs(Needs::Desk)
            .after(ASKS),
        rule("killed-prepared", "what is prepared survives kill -9, for either decision", |b| {
            Box::pin(crash::prepared(b))
        })
        .needs(Needs::Run),
        rule("killed-decided", "what was committed or rolled back survives kill -9", |b| {
            Box::pin(crash::decided(b))
        })
        .needs(Needs::Run),
    ];
    rules.into_iter().filter(|rule| rule.only.is_none_or(|only| only == protocol)).collect()
}

fn rule(name: &'static str, about: &'static str, check: fn(&Bench) -> Checking<'_>) -> Rule {
    Rule { name, about, needs: Needs::Nothing, after: FIRST, only: None, check }
}

impl Rule {
    fn needs(self, needs: Needs) -> Rule {
        Rule { needs, ..self }
    }

    fn after(self, after: &'static str) -> Rule {
        Rule { after, ..self }
    }

    fn only(self, protocol: Protocol) -> Rule {
        Rule { only: Some(protocol), ..self }
    }
}

/// A breach: what was seen, what was expected, and what that breaks.
fn broken(seen: &str, expected: &str, breaks: &str) -> Stop {
    Stop::Failed(format!("{seen}; expected {expected}: {breaks}"))
}

/// The completion must be one of these.
fn expect(what: &str, seen: Completion, allowed: &[Completion], breaks: &str) -> Result<(), Stop> {
    if allowed.contains(&seen) {
        return Ok(());
    }
    let allowed: Vec<_> = allowed.iter().copied().map(word).collect();
    Err(broken(&format!("{what} was answered {}", word(seen)), &allowed.join(" or "), breaks))
}

/// The completion must not say that the effect is there.
fn expect_not_committed(what: &str, seen: Completion, breaks: &str) -> Result<(), Stop> {
    match seen {
        Completion::Done | Completion::HeuristicCommit | Completion::Unspecified => Err(broken(
            &format!("{what} was answered {}", word(seen)),
            "HEURISTIC_ROLLBACK or UNKNOWN_BRANCH",
            breaks,
        )),
        Completion::UnknownBranch | Completion::HeuristicRollback | Completion::HeuristicHazard => Ok(()),
    }
}

fn expect_refused(what: &str, seen: &PhaseOneResult, breaks: &str) -> Result<(), Stop> {
    if seen.vote() == Vote::Refused {
        return Ok(());
    }
    Err(broken(&format!("{what} was voted {}", described(seen)), "REFUSED", breaks))
}

/// A repeated call has the first answer. A reason is for people, and may be said in other words.
fn expect_same(what: &str, first: &PhaseOneResult, seen: &PhaseOneResult) -> Result<(), Stop> {
    let breaks = "a vote may be lost on its way, and so the repetition must say the same";
    if seen.vote() != first.vote() {
        return Err(broken(&format!("{what} was voted {}", described(seen)), &described(first), breaks));
    }
    if seen.reply != first.reply {
        let shown = |reply: &[u8]| format!("{:?}", String::from_utf8_lossy(reply));
        let text = format!("{what} had the reply {}", shown(&seen.reply));
        return Err(broken(&text, &shown(&first.reply), breaks));
    }
    if seen.reservation_ttl_ms != first.reservation_ttl_ms
        || seen.reservation_class != first.reservation_class
    {
        let shown = |vote: &PhaseOneResult| {
            format!("{} ms, {}", vote.reservation_ttl_ms, vote.reservation_class().as_str_name())
        };
        return Err(broken(&format!("{what} granted {}", shown(seen)), &shown(first), breaks));
    }
    Ok(())
}

fn word(completion: Completion) -> &'static str {
    let name = completion.as_str_name();
    name.strip_prefix("COMPLETION_").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn rules_have_names_of_their_own_and_follow_what_they_build_on() {
        for protocol in [Protocol::TwoPhase, Protocol::Tcc] {
            let mut seen = BTreeSet::from([NO_RULE]);
            for rule in all(protocol) {
                assert!(seen.contains(rule.after), "{} comes before {}", rule.name, rule.after);
                assert!(seen.insert(rule.name), "{} is there twice", rule.name);
                assert!(rule.name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{}", rule.name);
            }
        }
    }
}
