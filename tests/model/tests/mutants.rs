//! Each way to break the core is found, and found to break what it should.

use std::process::Command;

#[path = "../mutants.rs"]
#[expect(dead_code, reason = "the build script reads the edits")]
mod list;

macro_rules! mutants {
    ($($name:ident)+) => {
        const TESTED: &[&str] = &[$(stringify!($name)),+];
        $(
            #[test]
            fn $name() {
                is_found(stringify!($name));
            }
        )+
    };
}

mutants! {
    commit_is_told_before_it_is_durable
    driver_lets_later_steps_overtake_the_decision
    commit_is_decided_without_all_votes
    refusal_does_not_count
    transaction_ends_with_its_first_acknowledgement
    decided_transaction_is_forgotten_before_every_branch_has_acknowledged
    restart_presumes_abort_of_what_was_decided
    restart_leaves_the_undecided_as_it_is
    restart_does_not_go_on_with_the_decided
    late_vote_is_taken_after_the_decision
    branch_is_enlisted_after_the_decision
    rollback_before_phase_one_leaves_no_tombstone
    phase_one_after_its_rollback_is_done
    phase_one_before_the_horizon_is_done
    committed_branch_is_rolled_back
    lost_reply_in_one_phase_is_called_an_abort
    refusal_in_one_phase_is_believed_while_another_call_is_on_its_way
    delegation_with_a_request_id_is_not_written_down
    request_ids_are_forgotten_by_a_restart
    expired_inquiry_is_told_abort_and_nothing_is_decided
    autonomous_reservation_is_confirmed_past_its_time
    branch_that_never_asks_is_enlisted_without_a_forced_write
    branch_that_is_being_called_is_not_rolled_back
    heuristic_outcome_is_told_before_it_is_durable
    heuristic_outcome_is_forgotten_like_any_other
    horizon_passes_what_is_decided_and_has_not_ended
    calls_are_given_up_after_the_second_attempt
    wait_between_attempts_is_not_watched_after_the_fifth
    deadline_of_a_new_transaction_is_not_watched
    those_who_wait_are_not_told_of_the_end
    inquiry_about_the_undecided_is_told_commit
}

#[test]
fn every_mutant_has_its_test() {
    let names: Vec<_> = list::MUTANTS.iter().map(|mutant| mutant.name).collect();
    assert_eq!(TESTED, names);
}

fn is_found(name: &str) {
    let mutant = list::MUTANTS.iter().find(|mutant| mutant.name == name).expect("it is in the list");
    let output = Command::new(env!("CARGO_BIN_EXE_assent-mutants")).arg(name).output();
    let output = output.expect("the program can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    let found = format!("broken: {}\n", mutant.breaks);
    assert!(said.starts_with(&found), "{:?} should break {}, but:\n{said}", mutant, mutant.breaks);
}
