//! The plans that are explored.

use crate::core::{Vote, Wait};
use crate::plan::{Limits, Nature, Plan, Style, Times, TxPlan};

const NO_TROUBLE: Limits = Limits { crashes: 0, failures: 0, unsent: 0, repeats: 0, aborts: 0, operator: 0 };
const ONE_CRASH: Limits = Limits { crashes: 1, ..NO_TROUBLE };

const READS_OR_WRITES: &[Vote] = &[Vote::Prepared, Vote::ReadOnly];
const ANY_VOTE: &[Vote] = &[Vote::Prepared, Vote::ReadOnly, Vote::Refused];

/// What CI explores.
pub fn small() -> Vec<Plan> {
    let (database, reserving, holding) = (Nature::database(), Nature::reserving(), Nature::holding());
    let willing = database.clone().willing();
    let two_phases = willing.clone().two_phases_only();
    vec![
        plan("one branch, one phase")
            .run([database.clone()])
            .again()
            .limits(Limits { repeats: 1, ..ONE_CRASH }),
        plan("one branch, one phase, cut off").run([database.clone()]).limits(Limits {
            failures: 1,
            unsent: 1,
            crashes: 2,
            ..NO_TROUBLE
        }),
        plan("one branch, one phase, silent, operator").run([database.clone().silent()]).limits(Limits {
            failures: 1,
            operator: 1,
            ..ONE_CRASH
        }),
        plan("one branch, two phases")
            .run([two_phases.clone()])
            .again()
            .limits(Limits { repeats: 1, ..NO_TROUBLE }),
        plan("2pc").run([database.clone(), willing.clone()]).limits(ONE_CRASH),
        plan("2pc, told at the decision")
            .run([willing.clone(), willing.clone()])
            .wait(Wait::Decision)
            .limits(ONE_CRASH),
        plan("2pc, deadline first")
            .run([willing.clone(), willing.clone()])
            .times(Times::DEADLINE_FIRST)
            .limits(ONE_CRASH),
        plan("2pc, nothing retained")
            .run([willing.clone(), willing.clone()])
            .times(Times::CALLS_FIRST.without_retention())
            .limits(ONE_CRASH),
        plan("2pc, silent").run([database.clone().silent(), willing.clone().silent()]).limits(ONE_CRASH),
        plan("2pc, cut off")
            .run([willing.clone().silent(), willing.clone()])
            .limits(Limits { unsent: 1, ..NO_TROUBLE }),
        plan("2pc, reading")
            .run([database.clone().voting(ANY_VOTE), willing.clone().voting(READS_OR_WRITES)])
            .limits(NO_TROUBLE),
        plan("2pc, operator").run([two_phases.clone()]).limits(Limits { operator: 2, ..ONE_CRASH }),
        plan("2pc, three branches")
            .run([willing.clone(), willing.clone(), willing.clone()])
            .limits(NO_TROUBLE),
        plan("2pc, interactive").interactive([database.clone(), willing.clone()]).limits(Limits {
            repeats: 1,
            aborts: 1,
            ..NO_TROUBLE
        }),
        plan("2pc, interactive, silent")
            .interactive([willing.clone().silent()])
            .limits(Limits { aborts: 1, ..ONE_CRASH }),
        plan("tcc").run([reserving.clone().willing(), holding.clone().willing()]).limits(ONE_CRASH),
        plan("tcc, autonomous")
            .run([Nature::impatient().willing(), holding.clone().willing()])
            .limits(NO_TROUBLE),
        plan("tcc, silent").run([holding.clone().silent(), holding.clone().willing()]).limits(ONE_CRASH),
        plan("tcc, interactive, autonomous")
            .interactive([Nature::impatient().willing()])
            .limits(Limits { aborts: 1, ..ONE_CRASH }),
        plan("mixed").run([willing.clone(), reserving.clone()]).limits(NO_TROUBLE),
    ]
}

/// What takes a machine to itself for a quarter of an hour.
pub fn large() -> Vec<Plan> {
    let (database, reserving, holding) = (Nature::database(), Nature::reserving(), Nature::holding());
    let willing = database.clone().willing();
    let two_phases = willing.clone().two_phases_only();
    vec![
        plan("large: two transactions").run([two_phases.clone()]).run([two_phases]).limits(NO_TROUBLE),
        plan("large: 2pc, operator")
            .run([willing.clone(), willing.clone()])
            .limits(Limits { operator: 1, ..NO_TROUBLE }),
        plan("large: 2pc, interactive")
            .interactive([willing.clone(), willing.clone().silent()])
            .limits(ONE_CRASH),
        plan("large: 2pc, two crashes").run([database.clone(), willing.clone()]).limits(Limits {
            crashes: 2,
            failures: 1,
            ..NO_TROUBLE
        }),
        plan("large: tcc, interactive, autonomous")
            .interactive([Nature::impatient().willing(), holding.clone().willing()])
            .limits(NO_TROUBLE),
        plan("large: mixed").run([database.clone(), reserving.clone()]).limits(ONE_CRASH),
        plan("large: 2pc, three branches").run([willing.clone(), willing.clone(), willing]).limits(ONE_CRASH),
    ]
}

fn plan(name: &'static str) -> Plan {
    Plan { name, transactions: Vec::new(), limits: NO_TROUBLE, times: Times::CALLS_FIRST }
}

impl Plan {
    fn run<const N: usize>(self, branches: [Nature; N]) -> Plan {
        self.transaction(Style::Run, branches.into())
    }

    fn interactive<const N: usize>(self, branches: [Nature; N]) -> Plan {
        self.transaction(Style::Interactive, branches.into())
    }

    fn transaction(mut self, style: Style, branches: Vec<Nature>) -> Plan {
        self.transactions.push(TxPlan { style, wait: Wait::Completion, with_request: false, branches });
        self
    }

    /// Its transactions have request ids.
    fn again(mut self) -> Plan {
        self.transactions.iter_mut().for_each(|tx| tx.with_request = true);
        self
    }

    fn wait(mut self, wait: Wait) -> Plan {
        self.transactions.iter_mut().for_each(|tx| tx.wait = wait);
        self
    }

    fn limits(self, limits: Limits) -> Plan {
        Plan { limits, ..self }
    }

    fn times(self, times: Times) -> Plan {
        Plan { times, ..self }
    }
}
