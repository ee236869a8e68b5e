// Ways to break the core, each with the property that must then be found broken. `build.rs` makes a copy of the sources in
// which each of these edits can be switched on; `src/mutants.rs` compiles the same model over it.

/// An edit: within one file, a text that occurs there exactly once, and what stands there instead, where `ON` says whether
/// the core is to be broken in this way.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    pub name: &'static str,
    /// What must be found broken.
    pub breaks: &'static str,
    /// The configuration that shows it, or `simulation`.
    pub shown_by: &'static str,
    pub file: &'static str,
    pub original: &'static str,
    pub replacement: &'static str,
}

const ENGINE: &str = "src/core/engine.rs";
const TURN: &str = "src/core/engine/turn.rs";
const ASKED: &str = "src/core/engine/turn/asked.rs";
const ANSWERED: &str = "src/core/engine/turn/answered.rs";
const DUE: &str = "src/core/engine/turn/due.rs";
const TRANSACTION: &str = "src/core/transaction.rs";
const HARNESS: &str = "src/core/harness.rs";
const BARRIER: &str = "participant-sdk/src/barrier.rs";

/// An assertion that is left out of the copy: it would find most mutants before a promise is broken.
pub const LEFT_OUT: (&str, &str) = (
    TRANSACTION,
    "debug_assert_eq!(self.contradiction(&what), None, \"{} could not be read back\", self.id);",
);

pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "commit_is_told_before_it_is_durable",
        breaks: "stability",
        shown_by: "2pc",
        file: TURN,
        original: "|| self.tx.branches.iter().any(|branch| branch.state == BranchState::Committing)",
        replacement: "|| (!ON && self.tx.branches.iter().any(|branch| branch.state == BranchState::Committing))",
    },
    Mutant {
        name: "driver_lets_later_steps_overtake_the_decision",
        breaks: "stability",
        shown_by: "2pc",
        file: HARNESS,
        original: "let fence = step.subject",
        replacement: "let fence = step.subject.filter(|_| !ON || step.durability == Durability::Forced)",
    },
    Mutant {
        name: "commit_is_decided_without_all_votes",
        breaks: "validity",
        shown_by: "2pc",
        file: TURN,
        original: "matches!(branch.state, BranchState::Enlisted | BranchState::Preparing);",
        replacement: "!ON && matches!(branch.state, BranchState::Enlisted | BranchState::Preparing);",
    },
    Mutant {
        name: "refusal_does_not_count",
        breaks: "validity",
        shown_by: "2pc",
        file: TURN,
        original: "branch.state == BranchState::Refused)?",
        replacement: "!ON && branch.state == BranchState::Refused)?",
    },
    Mutant {
        name: "transaction_ends_with_its_first_acknowledgement",
        breaks: "consistency",
        shown_by: "2pc",
        file: TURN,
        original: "|| !self.tx.branches.iter().all(|branch| branch.state.is_finished())",
        replacement: "|| !self.tx.branches.iter().any(|branch| branch.state.is_finished())
              || !(ON || self.tx.branches.iter().all(|branch| branch.state.is_finished()))",
    },
    Mutant {
        name: "decided_transaction_is_forgotten_before_every_branch_has_acknowledged",
        breaks: "atomicity",
        shown_by: "2pc, nothing retained",
        file: ENGINE,
        original: "let after = transaction.outcome;",
        replacement: "let after = transaction.outcome;
            if ON && transaction.branches.iter().any(|branch| branch.state == super::BranchState::Committed) {
                step.log.push(LogWrite::Remove { tx });
            }",
    },
    Mutant {
        name: "restart_presumes_abort_of_what_was_decided",
        breaks: "atomicity",
        shown_by: "2pc",
        file: ENGINE,
        original: "transaction.live.asleep = transaction.outcome.is_none();",
        replacement: "transaction.live.asleep = transaction.outcome.is_none();
            if ON && transaction.outcome.is_none() && transaction.decision.is_some() {
                self.desk.active -= 1;
                return Ok(());
            }",
    },
    Mutant {
        name: "restart_leaves_the_undecided_as_it_is",
        breaks: "termination",
        shown_by: "2pc, silent",
        file: DUE,
        original: r#"self.abort("the coordinator restarted before a decision".into());"#,
        replacement: r#"if !ON { self.abort("the coordinator restarted before a decision".into()); }"#,
    },
    Mutant {
        name: "restart_does_not_go_on_with_the_decided",
        breaks: "termination",
        shown_by: "2pc",
        file: DUE,
        original: "self.call_pending();",
        replacement: "if !ON { self.call_pending(); }",
    },
    Mutant {
        name: "late_vote_is_taken_after_the_decision",
        breaks: "consistency",
        shown_by: "2pc",
        file: ANSWERED,
        original: "if pending != Some(operation) => {}",
        replacement: "if pending != Some(operation) && !(ON && pending.is_some()) => {}",
    },
    Mutant {
        name: "branch_is_enlisted_after_the_decision",
        breaks: "termination",
        shown_by: "2pc, interactive",
        file: ASKED,
        original: "if self.tx.state() != State::Active {",
        replacement: "if self.tx.state() != State::Active && !(ON && self.tx.outcome.is_none()) {",
    },
    Mutant {
        name: "rollback_before_phase_one_leaves_no_tombstone",
        breaks: "exactly once",
        shown_by: "2pc",
        file: BARRIER,
        original: "State::Absent => RollbackStep::Tombstone,",
        replacement: "State::Absent if ON => RollbackStep::Answer(Completion::UnknownBranch),
        State::Absent => RollbackStep::Tombstone,",
    },
    Mutant {
        name: "phase_one_after_its_rollback_is_done",
        breaks: "exactly once",
        shown_by: "tcc",
        file: BARRIER,
        original: "State::RolledBack => PhaseOneStep::Refuse(Late::RolledBack),",
        replacement: "State::RolledBack if ON => PhaseOneStep::Work,
        State::RolledBack => PhaseOneStep::Refuse(Late::RolledBack),",
    },
    Mutant {
        name: "phase_one_before_the_horizon_is_done",
        breaks: "exactly once",
        shown_by: "2pc",
        file: BARRIER,
        original: "State::BeforeHorizon => PhaseOneStep::Refuse(Late::BeforeHorizon),",
        replacement: "State::BeforeHorizon if ON => PhaseOneStep::Work,
        State::BeforeHorizon => PhaseOneStep::Refuse(Late::BeforeHorizon),",
    },
    Mutant {
        name: "committed_branch_is_rolled_back",
        breaks: "exactly once",
        shown_by: "one branch, one phase, cut off",
        file: BARRIER,
        original: "State::Committed => RollbackStep::Answer(Completion::HeuristicCommit),",
        replacement: "State::Committed if ON => RollbackStep::Work,
        State::Committed => RollbackStep::Answer(Completion::HeuristicCommit),",
    },
    Mutant {
        name: "lost_reply_in_one_phase_is_called_an_abort",
        breaks: "honesty",
        shown_by: "one branch, one phase, cut off",
        file: DUE,
        original: "            } else {
                self.answer_waiters(|_any| true);
            }",
        replacement: "            } else if ON {
                self.abort(SmolStr::default());
            } else {
                self.answer_waiters(|_any| true);
            }",
    },
    Mutant {
        name: "refusal_in_one_phase_is_believed_while_another_call_is_on_its_way",
        breaks: "honesty",
        shown_by: "one branch, one phase, cut off",
        file: TRANSACTION,
        original: "self.first_called.is_none() || (self.attempts > 1 && !self.untouched)",
        replacement: "!ON && (self.first_called.is_none() || (self.attempts > 1 && !self.untouched))",
    },
    Mutant {
        name: "delegation_with_a_request_id_is_not_written_down",
        breaks: "exactly once",
        shown_by: "one branch, one phase",
        file: TURN,
        original: "if self.tx.request.is_some() || self.tx.live.stored {",
        replacement: "if !ON && (self.tx.request.is_some() || self.tx.live.stored) {",
    },
    Mutant {
        name: "request_ids_are_forgotten_by_a_restart",
        breaks: "exactly once",
        shown_by: "one branch, one phase",
        file: ENGINE,
        original: "if let Some(request) = &transaction.request\n",
        replacement: "if let Some(request) = transaction.request.as_ref().filter(|_| !ON)\n",
    },
    Mutant {
        name: "expired_inquiry_is_told_abort_and_nothing_is_decided",
        breaks: "validity",
        shown_by: "tcc",
        file: ANSWERED,
        original: "        if expired && undecided {",
        replacement: "        if ON && expired && undecided {
            return self.answer(waiter, Answer::Inquiry(InquiryAnswer::Abort));
        }
        if expired && undecided {",
    },
    Mutant {
        name: "autonomous_reservation_is_confirmed_past_its_time",
        breaks: "validity",
        shown_by: "tcc, autonomous",
        file: TURN,
        original: "Some((deadline, index)) if self.now.mono >= deadline => {",
        replacement: "Some((deadline, index)) if !ON && self.now.mono >= deadline => {",
    },
    Mutant {
        name: "branch_that_never_asks_is_enlisted_without_a_forced_write",
        breaks: "termination",
        shown_by: "2pc, silent",
        file: ASKED,
        original: "if !(inquires && self.tx.branch(index).inquires) {",
        replacement: "if !ON && !(inquires && self.tx.branch(index).inquires) {",
    },
    Mutant {
        name: "branch_that_is_being_called_is_not_rolled_back",
        breaks: "honesty",
        shown_by: "2pc, silent",
        file: TRANSACTION,
        original: "self.untouched && !matches!(self.call, CallState::InFlight { .. })",
        replacement: "self.untouched && (ON || !matches!(self.call, CallState::InFlight { .. }))",
    },
    Mutant {
        name: "heuristic_outcome_is_told_before_it_is_durable",
        breaks: "stability",
        shown_by: "tcc, autonomous",
        file: TURN,
        original: "if outcome.is_heuristic() {
            self.persist(Durability::Forced);",
        replacement: "if outcome.is_heuristic() {
            if ON { self.persist = None; return; }
            self.persist(Durability::Forced);",
    },
    Mutant {
        name: "heuristic_outcome_is_forgotten_like_any_other",
        breaks: "atomicity",
        shown_by: "tcc, autonomous",
        file: ENGINE,
        original: "    !outcome.is_heuristic()
}",
        replacement: "    ON || !outcome.is_heuristic()
}",
    },
    Mutant {
        name: "horizon_passes_what_is_decided_and_has_not_ended",
        breaks: "honesty",
        shown_by: "2pc",
        file: ENGINE,
        original: "self.transactions.get(id).is_none_or(|tx| !tx.holds_horizon())",
        replacement: "self.transactions.get(id).is_none_or(|tx| !tx.holds_horizon() || (ON && tx.decision.is_some()))",
    },
    Mutant {
        name: "calls_are_given_up_after_the_second_attempt",
        breaks: "termination",
        shown_by: "2pc",
        file: ANSWERED,
        original: "branch.call = CallState::Waiting { until };",
        replacement: "if ON && branch.attempts > 1 { branch.call = CallState::Idle; return; }
        branch.call = CallState::Waiting { until };",
    },
    Mutant {
        name: "wait_between_attempts_is_not_watched_after_the_fifth",
        breaks: "termination",
        shown_by: "simulation",
        file: DUE,
        original: "            self.desk.arm(self.tx, next);",
        replacement: "            if !(ON && self.tx.branches.iter().any(|branch| branch.attempts > 5)) {
                self.desk.arm(self.tx, next);
            }",
    },
    Mutant {
        name: "deadline_of_a_new_transaction_is_not_watched",
        breaks: "termination",
        shown_by: "2pc, interactive",
        file: ASKED,
        original: "self.desk.arm(self.tx, self.tx.live.deadline);",
        replacement: "if !ON { self.desk.arm(self.tx, self.tx.live.deadline); }",
    },
    Mutant {
        name: "those_who_wait_are_not_told_of_the_end",
        breaks: "termination",
        shown_by: "2pc",
        file: TURN,
        original: "self.answer_waiters(|_any| true);",
        replacement: "if !ON { self.answer_waiters(|_any| true); }",
    },
    Mutant {
        name: "inquiry_about_the_undecided_is_told_commit",
        breaks: "stability",
        shown_by: "2pc",
        file: ANSWERED,
        original: "(None, _) => InquiryAnswer::Pending,",
        replacement: "(None, _) if ON => InquiryAnswer::Commit,
            (None, _) => InquiryAnswer::Pending,",
    },
];
