//! One run: a world from a seed, faults and transfers for a while, then rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use assent_history::{Answer, Call, History, Record};
use assent_sdk::memory::Memory;
use serde::{Deserialize, Serialize};

use crate::bank::Bank;
use crate::coordinator;
use crate::disk::{Disk, Honesty};
use crate::faults::{Plan, take_down};
use crate::initiator::{self, Diary};
use crate::judge::Flaw;
use crate::machines::{End, Machine, Purpose, TURN_EVERY_MS};
use crate::network;
use crate::participant::ROLES;
use crate::rng::Rng;
use crate::world::{self, Crash, Host, HostId, World, with};

/// What a run is to be.
#[derive(Clone, Copy, Debug)]
pub struct Orders {
    pub seed: u64,
    /// Faults to the end, and only what holds at every moment is judged.
    pub safety_only: bool,
    pub flaw: Flaw,
}

/// What came of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub seed: u64,
    /// Of all that happened, in order.
    pub hash: String,
    pub breaches: Vec<String>,
    pub transfers: u64,
    pub told: BTreeMap<String, u64>,
    pub faults: BTreeMap<String, u64>,
    pub simulated_ms: u64,
    /// What the run needed to come to rest.
    pub rest_ms: u64,
    pub segments: u64,
}

/// How long everything may take to come to an end when nothing fails any more.
const REST_MS_MAX: u64 = 180_000;

/// How often the databases are looked at.
const LOOK_EVERY_MS: u64 = 500;

struct Run {
    machines: Vec<Machine>,
    databases: BTreeMap<&'static str, Memory<Bank>>,
    plan: Plan,
    rng: Rng,
    looked_ms: u64,
    looks: u64,
}

/// Carries out a run.
pub fn run(orders: Orders) -> Outcome {
    let mut run = Run::new(orders);
    let faults_end_ms = run.rng.within(5_000, 25_000);
    run.plan = Plan::draw(run.rng.fork(), run.machines.len(), 300, faults_end_ms);
    while now_ms() < faults_end_ms {
        run.step();
    }
    if !orders.safety_only {
        run.rest();
    }
    outcome(orders, faults_end_ms)
}

fn now_ms() -> u64 {
    with(|world| world.now_ms)
}

impl Run {
    fn new(orders: Orders) -> Run {
        let mut rng = Rng::new(orders.seed);
        let names = std::iter::once("coordinator").chain(ROLES.map(|role| role.host)).chain(initiator::HOSTS);
        let paces = names.map(|name| {
            let pace = if rng.percent(50) { rng.within(900, 1_100) } else { 1_000 };
            Host::new(name, pace)
        });
        let hosts: Vec<_> = paces.collect();
        let drifts = hosts.iter().filter(|host| host.pace != 1_000).count();
        let mut world = World::new(rng.next(), hosts);
        world.judge.flaw = orders.flaw;
        world.faults.insert("clock drifts", drifts as u64);
        let mut databases = BTreeMap::new();
        for role in &ROLES {
            databases.entry(role.set).or_insert_with(|| {
                let bank = Bank::new(role.set);
                world.record(Record::Open { set: role.set.to_owned(), balances: bank.balances() });
                Memory::new(bank)
            });
        }
        world::create(world);
        let honesty = if orders.flaw == Flaw::SyncsNothing { Honesty::SyncsNothing } else { Honesty::Honest };
        let settings = Arc::new(coordinator::settings(&mut rng));
        let disk = Disk::new(rng.fork(), honesty);
        let mut purposes = vec![Purpose::Coordinator { disk, settings }];
        for role in ROLES {
            purposes.push(Purpose::Participant { role, database: databases[role.set].clone() });
        }
        for host in initiator::HOSTS {
            purposes.push(Purpose::Initiator { diary: Diary::new(host, rng.fork()) });
        }
        let machines =
            purposes.into_iter().enumerate().map(|(at, purpose)| Machine::new(HostId(at), purpose));
        let plan = Plan::draw(rng.fork(), 1, 0, 0);
        Run { machines: machines.collect(), databases, plan, rng, looked_ms: 0, looks: 0 }
    }

    /// Lets a little time pass.
    fn step(&mut self) {
        let now_ms = now_ms();
        let starts = self.machines.iter().filter_map(|it| it.restart_ms);
        let arrives_ms = with(|world| world.network.next_ms(now_ms));
        let next_ms = starts.chain([self.plan.next_ms(), arrives_ms]).min().unwrap_or(u64::MAX);
        let step_ms = next_ms.clamp(now_ms + 1, now_ms + TURN_EVERY_MS) - now_ms;
        let now_ms = with(|world| {
            world.now_ms += step_ms;
            world.now_ms
        });
        network::deliver();
        self.plan.carry_out(now_ms, &mut self.machines);
        for machine in &mut self.machines {
            if machine.restart_ms.is_some_and(|at_ms| at_ms <= now_ms) {
                machine.start();
            }
            match machine.turn(now_ms) {
                None => {}
                Some(End::Crashed(crash)) => {
                    with(|world| *world.faults.entry("crash at an effect").or_default() += 1);
                    take_down(machine, crash, &mut self.rng, now_ms);
                }
                Some(End::Exited(result)) => {
                    exited(machine, result);
                    machine.restart_ms = Some(now_ms + self.rng.skewed(20, 5_000));
                }
            }
        }
        if now_ms >= self.looked_ms + LOOK_EVERY_MS {
            self.looked_ms = now_ms;
            self.look();
        }
    }

    /// Looks at every database.
    fn look(&mut self) {
        for (set, database) in &self.databases {
            self.looks += 1;
            let (process, op) = ("reader".to_owned(), self.looks);
            let saw = database.state().show();
            with(|world| {
                let call = Call::Read { set: (*set).to_owned(), of: None };
                world.history.push(Record::Begin { process: process.clone(), op, call });
                world.history.push(Record::End { process, op, answer: Answer::Saw(saw) });
            });
        }
    }

    /// Nothing fails any more: everything has to come to an end.
    fn rest(&mut self) {
        let from_ms = now_ms();
        self.plan.end(&mut self.machines);
        with(|world| {
            world.judge.served.clear();
            world.note("REST");
        });
        for machine in &mut self.machines {
            machine.restart_ms = machine.restart_ms.map(|at_ms| at_ms.min(from_ms));
            machine.crash_at_start = None;
        }
        while now_ms() < from_ms + REST_MS_MAX {
            for machine in &self.machines {
                if let Purpose::Initiator { .. } = machine.purpose {
                    machine.stop();
                }
            }
            self.step();
            if self.is_quiet(from_ms) {
                break;
            }
        }
        self.judge_rest(from_ms);
    }

    fn is_quiet(&self, from_ms: u64) -> bool {
        let answered = with(|world| {
            let asked =
                world.judge.active.is_some_and(|(active, at_ms)| active == 0 && at_ms > from_ms + 5_000);
            let served = initiator::HOSTS.len() == world.judge.served.len();
            world.judge.under_way.is_empty() && asked && served
        });
        answered && self.open_orders() == 0 && self.held().is_empty()
    }

    fn open_orders(&self) -> usize {
        let open = self.machines.iter().map(|machine| match &machine.purpose {
            Purpose::Initiator { diary } => diary.open(),
            Purpose::Coordinator { .. } | Purpose::Participant { .. } => 0,
        });
        open.sum()
    }

    fn held(&self) -> Vec<String> {
        let held = self.databases.iter().map(|(set, database)| (set, database.state().show().held));
        held.filter(|(_, held)| !held.is_empty()).map(|(set, held)| format!("{set}: {held:?}")).collect()
    }

    fn judge_rest(&mut self, from_ms: u64) {
        let quiet = self.is_quiet(from_ms);
        let (held, orders) = (self.held(), self.open_orders());
        with(|world| {
            world.note(format_args!("QUIET {quiet}"));
            if !quiet {
                let s = REST_MS_MAX / 1_000;
                let (under_way, active) = (world.judge.under_way.clone(), world.judge.active);
                let served = world.judge.served.len();
                world.breach(format!(
                    "not at rest {s} s after the last fault: held {held:?}, {orders} orders open, \
                     under way {under_way:?}, open transactions {active:?}, {served} initiators served"
                ));
            }
            world.record(Record::Quiet);
        });
        self.look();
        with(|world| {
            let history: History = std::mem::take(&mut world.history).into_iter().collect();
            for finding in assent_history::check(&history).findings {
                world.breach(finding.to_string());
            }
        });
    }
}

/// A process has ended by itself.
fn exited(machine: &mut Machine, result: Result<(), String>) {
    with(|world| {
        let name = world.host(machine.host).name;
        world.note(format_args!("{name} exits: {result:?}"));
        if let Err(error) = result {
            // A log that cannot be written ends the process, as it must; and without a database nobody serves.
            let expected = ["no space left", "input/output error", "the database is out of order"];
            if !expected.iter().any(|expected| error.contains(expected)) {
                world.breach(format!("{name} ended with: {error}"));
            }
        }
    });
    machine.down(Crash::Kill);
}

fn outcome(orders: Orders, faults_end_ms: u64) -> Outcome {
    with(|world| {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in world.trace.iter().flat_map(|line| line.bytes().chain([b'\n'])) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let owned = |counts: &BTreeMap<&'static str, u64>| {
            counts.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect()
        };
        Outcome {
            seed: orders.seed,
            hash: format!("{hash:016x}"),
            breaches: world.breaches.clone(),
            transfers: world.judge.transfers(),
            told: owned(&world.judge.told),
            faults: owned(&world.faults),
            simulated_ms: world.now_ms,
            rest_ms: world.now_ms.saturating_sub(faults_end_ms),
            segments: world.network.delivered,
        }
    })
}
