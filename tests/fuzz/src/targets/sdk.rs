//! A coordinator that lies: what it says on the session of a participant, and in the pipeline of an initiator.

mod coordinator;
mod initiator;
mod participant;

use arbitrary::Unstructured;

use crate::{lab, panics};

pub fn run(input: &[u8]) {
    // A handler's panic is caught by the participant, which goes on.
    panics::watch();
    let before = panics::count();
    let mut u = Unstructured::new(input);
    lab::runtime().block_on(async {
        // What is missing at the end of an input is made up, and the input ends there.
        if u.arbitrary().unwrap_or(false) {
            let _ = participant::attempt(&mut u).await;
        } else {
            let _ = initiator::attempt(&mut u).await;
        }
    });
    assert_eq!(panics::count(), before, "something panicked");
}
