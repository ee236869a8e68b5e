//! The barrier: what a participant does with each call, given what it remembers of the branch.
//!
//! Calls come twice, late and in the wrong order. The barrier is one row for each branch, written in the same local
//! transaction as the handler's work, and these four functions over it. They are pure: every resource loads the row,
//! asks here what is to be done, does it, and writes the row.
//!
//! | | phase one | commit | rollback | commit in one phase |
//! |---|---|---|---|---|
//! | nothing known | do it | unknown branch | leave a tombstone, unknown branch | do it |
//! | before the horizon | refuse | unknown branch | unknown branch | refuse |
//! | prepared | same answer | do it | do it | commit what is prepared |
//! | committed | same answer | done | heuristic commit | same answer |
//! | rolled back | refuse | heuristic rollback | done | refuse |

/// What is remembered of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No row.
    Absent,
    /// No row, and its transaction lies before the horizon: it has ended, whatever comes now is late.
    BeforeHorizon,
    /// Phase one is done, the decision is not known.
    Prepared,
    /// Committed or confirmed.
    Committed,
    /// Rolled back or cancelled; also the tombstone of a branch whose rollback came first.
    RolledBack,
}

/// How phase two ended for a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// The effect is there, now or since an earlier call.
    Done,
    /// There is no trace of the branch. To a rollback that is as good as done.
    UnknownBranch,
    /// It had been committed.
    HeuristicCommit,
    /// It had been rolled back.
    HeuristicRollback,
    /// It cannot be told what happened. The barrier never says so; a resource of another kind may have to.
    Hazard,
}

/// What to do with a Prepare or a Try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhaseOneStep {
    /// Do the work and write a prepared row.
    Work,
    /// Give the stored answer again.
    Repeat,
    /// Say no.
    Refuse(Late),
}

/// What to do with a Commit or a Confirm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitStep {
    /// Do the work and mark the row committed.
    Work,
    /// Nothing but answer.
    Answer(Completion),
}

/// What to do with a Rollback or a Cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RollbackStep {
    /// Undo the work and mark the row rolled back.
    Work,
    /// Write a rolled-back row, so that a late phase one is refused; answer that the branch is unknown.
    Tombstone,
    /// Nothing but answer.
    Answer(Completion),
}

/// What to do with a commit in one phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnePhaseStep {
    /// Do the work of phase one and of commit, and write a committed row.
    Work,
    /// Commit what is prepared already.
    Commit,
    /// Give the stored answer again.
    Repeat,
    /// Say no.
    Refuse(Late),
}

/// Why a phase one came too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Late {
    /// After its own rollback.
    #[error("the branch was rolled back already")]
    RolledBack,
    /// After its transaction ended.
    #[error("the transaction ended long ago")]
    BeforeHorizon,
}

/// Decides a Prepare or a Try.
pub fn phase_one(state: State) -> PhaseOneStep {
    match state {
        State::Absent => PhaseOneStep::Work,
        State::Prepared | State::Committed => PhaseOneStep::Repeat,
        State::BeforeHorizon => PhaseOneStep::Refuse(Late::BeforeHorizon),
        State::RolledBack => PhaseOneStep::Refuse(Late::RolledBack),
    }
}

/// Decides a Commit or a Confirm.
pub fn commit(state: State) -> CommitStep {
    match state {
        State::Prepared => CommitStep::Work,
        State::Committed => CommitStep::Answer(Completion::Done),
        State::Absent | State::BeforeHorizon => CommitStep::Answer(Completion::UnknownBranch),
        State::RolledBack => CommitStep::Answer(Completion::HeuristicRollback),
    }
}

/// Decides a Rollback or a Cancel.
pub fn rollback(state: State) -> RollbackStep {
    match state {
        State::Prepared => RollbackStep::Work,
        State::Absent => RollbackStep::Tombstone,
        // The horizon refuses a late phase one as well as a tombstone would.
        State::BeforeHorizon => RollbackStep::Answer(Completion::UnknownBranch),
        State::Committed => RollbackStep::Answer(Completion::HeuristicCommit),
        State::RolledBack => RollbackStep::Answer(Completion::Done),
    }
}

/// Decides a commit in one phase.
pub fn commit_one_phase(state: State) -> OnePhaseStep {
    match state {
        State::Absent => OnePhaseStep::Work,
        State::Prepared => OnePhaseStep::Commit,
        State::Committed => OnePhaseStep::Repeat,
        State::BeforeHorizon => OnePhaseStep::Refuse(Late::BeforeHorizon),
        State::RolledBack => OnePhaseStep::Refuse(Late::RolledBack),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All states × all calls, in the words of the table above.
    #[test]
    fn every_call_in_every_state() {
        let table = "
            absent          phase-one  work
            absent          commit     unknown branch
            absent          rollback   tombstone, unknown branch
            absent          one-phase  work
            before-horizon  phase-one  refuse: the transaction ended long ago
            before-horizon  commit     unknown branch
            before-horizon  rollback   unknown branch
            before-horizon  one-phase  refuse: the transaction ended long ago
            prepared        phase-one  same answer
            prepared        commit     work
            prepared        rollback   work
            prepared        one-phase  commit
            committed       phase-one  same answer
            committed       commit     done
            committed       rollback   heuristic commit
            committed       one-phase  same answer
            rolled-back     phase-one  refuse: the branch was rolled back already
            rolled-back     commit     heuristic rollback
            rolled-back     rollback   done
            rolled-back     one-phase  refuse: the branch was rolled back already
        ";
        let mut seen = 0;
        for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut words = line.splitn(2, ' ');
            let state = state(words.next().unwrap());
            let (call, expected) = words.next().unwrap().trim().split_once(' ').unwrap();
            assert_eq!(decided(state, call), expected.trim(), "{line}");
            seen += 1;
        }
        assert_eq!(seen, 20);
    }

    fn state(word: &str) -> State {
        match word {
            "absent" => State::Absent,
            "before-horizon" => State::BeforeHorizon,
            "prepared" => State::Prepared,
            "committed" => State::Committed,
            "rolled-back" => State::RolledBack,
            other => panic!("no state {other}"),
        }
    }

    fn decided(state: State, call: &str) -> String {
        match call {
            "phase-one" => match phase_one(state) {
                PhaseOneStep::Work => "work".into(),
                PhaseOneStep::Repeat => "same answer".into(),
                PhaseOneStep::Refuse(late) => format!("refuse: {late}"),
            },
            "commit" => match commit(state) {
                CommitStep::Work => "work".into(),
                CommitStep::Answer(completion) => said(completion),
            },
            "rollback" => match rollback(state) {
                RollbackStep::Work => "work".into(),
                RollbackStep::Tombstone => "tombstone, unknown branch".into(),
                RollbackStep::Answer(completion) => said(completion),
            },
            "one-phase" => match commit_one_phase(state) {
                OnePhaseStep::Work => "work".into(),
                OnePhaseStep::Commit => "commit".into(),
                OnePhaseStep::Repeat => "same answer".into(),
                OnePhaseStep::Refuse(late) => format!("refuse: {late}"),
            },
            other => panic!("no call {other}"),
        }
    }

    fn said(completion: Completion) -> String {
        match completion {
            Completion::Done => "done",
            Completion::UnknownBranch => "unknown branch",
            Completion::HeuristicCommit => "heuristic commit",
            Completion::HeuristicRollback => "heuristic rollback",
            Completion::Hazard => "hazard",
        }
        .into()
    }
}
