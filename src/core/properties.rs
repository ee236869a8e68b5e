//! Random histories: calls and answers lost, doubled, delayed and reordered; crashes that lose what was not durable;
//! time; inquiries; impatient initiators. Then the faults stop, and everything must end, and end well.
//!
//! The participants are models of a barrier: what a branch did last, and so what it answers. They panic when they are
//! told what the protocols promise never to tell them.

mod participant;
mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use self::participant::Nature;
use self::world::{Op, Plan, Style, World};
use super::{Protocol, ReservationClass, Vote, Wait};

/// Enough for every kind of ending to occur, and still a matter of seconds. `PROPTEST_CASES` asks for more.
const CASES: u32 = 3_000;

#[test]
fn whatever_fails_transactions_are_atomic_stable_and_end() {
    let cases = Config::default().cases.max(CASES);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let endings = RefCell::new(BTreeMap::<String, u32>::new());
    let outcome = TestRunner::new(config).run(&(plan(), vec(op(), 0..80)), |(plan, ops)| {
        let mut world = World::new(plan);
        for op in ops {
            world.take(op);
        }
        for ending in world.finish() {
            *endings.borrow_mut().entry(ending).or_default() += 1;
        }
        Ok(())
    });
    let endings = endings.into_inner();
    if let Err(failure) = outcome {
        panic!("{failure}\nendings so far: {endings:?}");
    }
    for wanted in ["committed", "aborted", "mixed", "committed, forgotten", "aborted, forgotten"] {
        let seen = endings.get(wanted).copied().unwrap_or(0);
        assert!(seen > 0, "no transaction ended {wanted}, so nothing is shown of that: {endings:?}");
    }
}

fn plan() -> impl Strategy<Value = Plan> {
    let style = prop_oneof![3 => Just(Style::Run), 2 => Just(Style::Interactive)];
    let wait = prop_oneof![Just(Wait::Decision), Just(Wait::Completion)];
    let retention = prop_oneof![1 => Just(Duration::ZERO), 3 => Just(Duration::from_hours(1))];
    let branches =
        prop_oneof![4 => vec(nature(), 1..=4), 1 => vec(impatient(), 2..=3), 1 => vec(nature(), 1..=1)];
    (style, wait, any::<bool>(), retention, branches, any::<Option<u16>>()).prop_map(
        |(style, wait, with_request, retention, branches, last_crash)| Plan {
            style,
            wait,
            with_request,
            retention,
            branches,
            last_crash,
        },
    )
}

fn nature() -> impl Strategy<Value = Nature> {
    let protocol = prop_oneof![Just(Protocol::TwoPhase), Just(Protocol::Tcc)];
    let vote = prop_oneof![10 => Just(Vote::Prepared), 1 => Just(Vote::ReadOnly), 1 => Just(Vote::Refused)];
    let class = prop_oneof![Just(ReservationClass::Cooperative), Just(ReservationClass::Autonomous)];
    let ttl = prop_oneof![1 => Just(0), 3 => 1_000..6_000_u64].prop_map(Duration::from_millis);
    let one_phase = prop::bool::weighted(0.7);
    (protocol, vote, class, ttl, prop::bool::weighted(0.6), one_phase).prop_map(
        |(protocol, vote, class, ttl, inquires, one_phase)| Nature {
            protocol,
            vote,
            class,
            ttl,
            inquires,
            one_phase,
        },
    )
}

/// A reservation that the participant soon cancels by itself.
fn impatient() -> impl Strategy<Value = Nature> {
    (2_000..4_000_u64).prop_map(|ttl_ms| Nature {
        protocol: Protocol::Tcc,
        vote: Vote::Prepared,
        class: ReservationClass::Autonomous,
        ttl: Duration::from_millis(ttl_ms),
        inquires: true,
        one_phase: false,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let at = any::<u16>;
    let span = prop_oneof![Just(1), Just(300), Just(600), Just(1_000), Just(3_000), Just(12_000)]
        .prop_map(Duration::from_millis);
    prop_oneof![
        30 => at().prop_map(Op::Deliver),
        30 => at().prop_map(Op::Report),
        15 => Just(Op::Sync),
        6 => at().prop_map(Op::Repeat),
        10 => at().prop_map(Op::Work),
        5 => span.clone().prop_map(Op::Pass),
        2 => span.prop_map(Op::PassUnnoticed),
        4 => at().prop_map(Op::Lose),
        4 => at().prop_map(Op::Fail),
        4 => at().prop_map(Op::Inquire),
        6 => at().prop_map(Op::Commit),
        2 => at().prop_map(Op::Crash),
        2 => at().prop_map(Op::Wake),
        2 => Just(Op::Again),
        1 => Just(Op::Abort),
        1 => Just(Op::Look),
    ]
}
