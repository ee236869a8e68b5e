//! What tells one driver from another.

use std::hash::Hash;
use std::mem::discriminant;

use super::{Harness, Held, Log, Promises};
use crate::core::digest::Digest;
use crate::core::{Action, Answer, LogWrite};

impl Harness {
    pub(crate) fn digest(&self, digest: &mut Digest) {
        let Harness { engine, settings: _, now, epoch, log, held, fences, promises } = self;
        engine.digest(*now, digest);
        let Log { durable, unsynced, synced } = log;
        epoch.hash(digest);
        for (tx, value) in durable {
            digest.stored(*tx, value);
        }
        // To write the same again changes nothing, so such writes count as one.
        let mut places = vec![0];
        for (at, write) in unsynced.iter().enumerate() {
            let again = at > 0 && unsynced[at - 1] == *write;
            places.push(places[at] + usize::from(!again));
            match write {
                _ if again => {}
                LogWrite::Put { tx, value } => digest.stored(*tx, value),
                LogWrite::Remove { tx } => tx.hash(digest),
            }
        }
        places.last().hash(digest);
        let place = |fence: u64| {
            let behind = usize::try_from(fence.saturating_sub(*synced)).expect("a few writes");
            places[behind]
        };
        // What is held is let go of together. Calls that are repeated meanwhile, and questions, may be many.
        let mut actions: Vec<_> = held
            .iter()
            .map(|Held { fence, subject, decision, action }| {
                let mut digest = Digest::default();
                (place(*fence), subject, decision).hash(&mut digest);
                digest_action(action, &mut digest);
                digest.value()
            })
            .collect();
        actions.sort_unstable();
        let twice = |at: usize| at < 2 || actions[at] != actions[at - 2];
        for at in (0..actions.len()).filter(|at| twice(*at)) {
            actions[at].hash(digest);
        }
        for (tx, fence) in fences.iter().filter(|(_, fence)| *fence > synced) {
            (tx, place(*fence)).hash(digest);
        }
        let Promises { commit_durable, heuristic_durable, delegated, phase_two, outcomes } = promises;
        (commit_durable, heuristic_durable, delegated, phase_two, outcomes).hash(digest);
    }
}

fn digest_action(action: &Action, digest: &mut Digest) {
    match action {
        Action::Call(call) => (call.tx, &call.branch, call.operation).hash(digest),
        Action::Answer { waiter, answer } => {
            (waiter, discriminant(answer)).hash(digest);
            match answer {
                Answer::Ended(result) => {
                    (result.outcome, result.complete).hash(digest);
                    result.branches.iter().for_each(|branch| branch.state.hash(digest));
                }
                Answer::Inquiry(answer) => answer.hash(digest),
                Answer::Begun { .. }
                | Answer::Enlisted { .. }
                | Answer::Transaction(_)
                | Answer::Retried { .. }
                | Answer::Forgotten
                | Answer::Rejected(_) => {}
            }
        }
        Action::Publish(_) => {}
    }
}
