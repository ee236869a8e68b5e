//! Random histories of large worlds: deep where the search is wide. One seed is one history, always the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::core::{Protocol, ReservationClass, Vote, Wait};
use crate::plan::{Limits, Nature, Plan, Style, Times, TxPlan};
use crate::property::{Breach, observe};
use crate::world::{Happening, World};

/// After so many steps without faults something hangs.
const CLOSING_MAX: usize = 20_000;

/// What became of one seed.
#[derive(Debug)]
pub struct Run {
    pub plan: Arc<Plan>,
    pub history: Vec<Happening>,
    /// How each transaction ended; or what was broken.
    pub outcome: Result<Vec<&'static str>, Breach>,
}

/// Whether the engine's own accounts are looked at after every step. They are no promise to anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accounts {
    Checked,
    Unchecked,
}

/// Plays one seed to its end.
pub fn run(seed: u64, accounts: Accounts) -> Run {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let plan = Arc::new(plan(&mut dice));
    let mut history = Vec::new();
    let outcome = observe(|| play(&plan, &mut dice, accounts, &mut history));
    Run { plan, history, outcome }
}

impl Run {
    /// The history, to be read aloud.
    pub fn story(&self) -> String {
        let names = self
            .plan
            .transactions
            .iter()
            .enumerate()
            .map(|(number, tx)| format!("transaction {}: {tx:?}\n", number + 1));
        let plan: String = names.collect();
        format!("{plan}{}", crate::story::tell(&mut World::new(&self.plan), &self.history))
    }
}

fn play(
    plan: &Arc<Plan>,
    dice: &mut Dice,
    accounts: Accounts,
    history: &mut Vec<Happening>,
) -> Vec<&'static str> {
    let mut world = World::new(plan);
    let steps = 30 + dice.below(170);
    let mut take = |world: &mut World, happening| {
        history.push(happening);
        world.take(happening);
    };
    for _ in 0..steps {
        let happening = choose(&world, dice);
        take(&mut world, happening);
        if accounts == Accounts::Checked {
            world.judge_accounts();
        }
    }
    for _ in 0..CLOSING_MAX {
        let next = world.next_without_faults();
        if next.is_empty() {
            world.judge_end();
            return world.endings();
        }
        for happening in next {
            take(&mut world, happening);
        }
    }
    panic!("termination: after {CLOSING_MAX} steps without faults it has not ended");
}

/// One of what can happen; kinds that matter more come up more often, however many of a kind there are.
fn choose(world: &World, dice: &mut Dice) -> Happening {
    let mut kinds: BTreeMap<u32, Vec<Happening>> = BTreeMap::new();
    for happening in world.possible() {
        kinds.entry(kind(happening)).or_default().push(happening);
    }
    let ms = [1, 300, 900, 3_000, 5_100, 12_000][dice.below(6)];
    kinds.entry(12).or_default().push(Happening::Pass { ms });
    let hours = [-1, 1][dice.below(2)];
    kinds.entry(13).or_default().push(Happening::WallClock { hours });
    let weights: Vec<_> = kinds.keys().map(|kind| WEIGHTS[*kind as usize]).collect();
    let mut at = dice.below(weights.iter().sum());
    for (weight, happenings) in weights.iter().zip(kinds.values()) {
        if at < *weight {
            return happenings[dice.below(happenings.len())];
        }
        at -= weight;
    }
    unreachable!("the weights are summed up")
}

const WEIGHTS: [usize; 16] = [10, 15, 25, 25, 3, 2, 8, 6, 3, 20, 2, 3, 6, 1, 15, 1];

fn kind(happening: Happening) -> u32 {
    match happening {
        Happening::Begin { .. } => 0,
        Happening::Work { .. } | Happening::Enlist { .. } | Happening::Commit { .. } => 1,
        Happening::Call { .. } => 2,
        Happening::Report { .. } => 3,
        Happening::Fail { .. } | Happening::Unsent { .. } => 4,
        Happening::Inquire { .. } => 5,
        Happening::Answer { .. } => 6,
        Happening::Expire { .. } => 7,
        Happening::Horizon { .. } => 8,
        Happening::Sync => 9,
        Happening::Crash { .. } => 10,
        Happening::Wake { .. } => 11,
        Happening::Pass { .. } | Happening::Jump => 12,
        Happening::WallClock { .. } => 13,
        Happening::Fire | Happening::Resume => 14,
        Happening::Abort { .. }
        | Happening::Resolve { .. }
        | Happening::Retry { .. }
        | Happening::Forget { .. } => 15,
    }
}

fn plan(dice: &mut Dice) -> Plan {
    let transactions = (0..=dice.below(3)).map(|_| tx_plan(dice)).collect();
    let limits = Limits {
        crashes: dice.small(5),
        failures: dice.small(6),
        unsent: dice.small(4),
        repeats: dice.small(4),
        aborts: dice.small(2),
        operator: if dice.below(4) == 0 { dice.small(3) } else { 0 },
    };
    let times = Times {
        timeout: Duration::from_secs(20),
        call_timeout: Duration::from_secs(5),
        margin: Duration::from_millis(500),
        retention: if dice.below(4) == 0 { Duration::ZERO } else { Duration::from_hours(1) },
        backoff: Duration::from_secs(1),
    };
    Plan { name: "simulation", transactions, limits, times }
}

fn tx_plan(dice: &mut Dice) -> TxPlan {
    let branches = match dice.below(4) {
        0 => 1,
        1 | 2 => 2 + dice.below(2),
        _ => 4 + dice.below(5),
    };
    TxPlan {
        style: [Style::Run, Style::Interactive][dice.below(2)],
        wait: [Wait::Completion, Wait::Decision][dice.below(2)],
        with_request: dice.below(2) == 0,
        branches: (0..branches).map(|_| nature(dice)).collect(),
    }
}

fn nature(dice: &mut Dice) -> Nature {
    let protocol = [Protocol::TwoPhase, Protocol::Tcc][dice.below(2)];
    let votes: [&[Vote]; 8] = [
        &[Vote::Prepared],
        &[Vote::Prepared],
        &[Vote::Prepared],
        &[Vote::Prepared],
        &[Vote::Prepared],
        &[Vote::Prepared],
        &[Vote::Prepared, Vote::ReadOnly],
        &[Vote::Prepared, Vote::Refused],
    ];
    let ttl = match protocol {
        Protocol::TwoPhase => 0,
        Protocol::Tcc => [0, 2_000, 4_000, 15_000][dice.below(4)],
    };
    Nature {
        protocol,
        votes: votes[dice.below(8)],
        asks: dice.below(3) > 0,
        one_phase: protocol == Protocol::TwoPhase && dice.below(4) > 0,
        class: [ReservationClass::Cooperative, ReservationClass::Autonomous][dice.below(2)],
        ttl: Duration::from_millis(ttl),
    }
}

/// splitmix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % end as u64).expect("it is below a usize")
    }

    fn small(&mut self, end: usize) -> u8 {
        u8::try_from(self.below(end)).expect("it is small")
    }
}
