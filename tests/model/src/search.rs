//! Every history of a plan, breadth first: so the first breach that is found is one that needs the fewest steps.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;

use crate::core::digest::Digest;
use crate::plan::Plan;
use crate::property::{Breach, observe};
use crate::story;
use crate::world::{Happening, World};

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub states: usize,
    pub threads: usize,
    /// Look at the engine's own accounts in every state.
    pub accounts: bool,
}

/// What was found.
#[derive(Debug)]
pub struct Findings {
    pub states: usize,
    pub transitions: usize,
    pub depth: u32,
    pub took: Duration,
    /// Every state was reached that can be.
    pub exhausted: bool,
    pub breach: Option<(Breach, String)>,
}

/// A state that was reached: by which step from which other, and where it goes without faults.
struct Node {
    parent: u64,
    step: Happening,
    depth: u32,
}

/// A breach, and the steps that lead to it from a state.
type Found = (u64, Vec<Happening>, Breach);

const SHARDS: usize = 64;
const CHUNK: usize = 256;

type Shard = Mutex<HashMap<u64, Node, FixedState>>;

struct Search<'a> {
    visited: Vec<Shard>,
    bounds: &'a Bounds,
    stop: AtomicBool,
}

/// What one thread brings home from a level.
#[derive(Default)]
struct Harvest {
    next: Vec<(u64, World)>,
    transitions: usize,
    /// Where states go without faults; itself, where nothing is left to do.
    onward: Vec<(u64, u64)>,
    breaches: Vec<Found>,
}

/// Explores a plan.
pub fn explore(plan: &Arc<Plan>, bounds: &Bounds) -> Findings {
    let started = Instant::now();
    let search = Search {
        visited: (0..SHARDS).map(|_| Shard::default()).collect(),
        bounds,
        stop: AtomicBool::new(false),
    };
    let world = World::new(plan);
    let root = world.fingerprint(&mut Digest::default());
    search.reach(root, Node { parent: root, step: Happening::Sync, depth: 0 });
    let (mut level, mut onward) = (vec![(root, world)], Vec::new());
    let (mut transitions, mut depth) = (0, 0);
    let mut breach: Option<Found> = None;
    while !level.is_empty() && breach.is_none() && search.states() < bounds.states {
        depth += 1;
        let harvests = search.level(&level, depth);
        level.clear();
        for harvest in harvests {
            level.extend(harvest.next);
            transitions += harvest.transitions;
            onward.extend(harvest.onward);
            // Of several that need as many steps, the same one in every run.
            breach = breach
                .into_iter()
                .chain(harvest.breaches)
                .min_by_key(|(from, _, it)| (*from, it.text.clone()));
        }
    }
    let exhausted = level.is_empty();
    if breach.is_none() && exhausted {
        breach = search.endless(&onward);
    }
    let breach = breach.map(|(from, steps, breach): Found| {
        let mut history = search.history(from);
        history.extend(steps);
        let story = story::tell(&mut World::new(plan), &history);
        (breach, story)
    });
    let states = search.states();
    Findings { states, transitions, depth, took: started.elapsed(), exhausted, breach }
}

impl Search<'_> {
    /// Takes one more step from every state of a level.
    fn level(&self, level: &[(u64, World)], depth: u32) -> Vec<Harvest> {
        let chunks = Mutex::new(level.chunks(CHUNK));
        let work = || {
            let mut harvest = Harvest::default();
            let mut digest = Digest::default();
            while let Some(chunk) = { chunks.lock().expect("nobody panics with it").next() } {
                for (from, world) in chunk {
                    self.expand(*from, world, depth, &mut digest, &mut harvest);
                }
                if self.stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            harvest
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..self.bounds.threads).map(|_| scope.spawn(work)).collect();
            let mut harvests = vec![work()];
            harvests.extend(others.into_iter().map(|other| other.join().expect("breaches are caught")));
            harvests
        })
    }

    fn expand(&self, from: u64, world: &World, depth: u32, digest: &mut Digest, harvest: &mut Harvest) {
        for step in world.possible() {
            harvest.transitions += 1;
            let mut after = world.clone();
            if let Err(breach) = observe(|| after.take(step)) {
                harvest.breaches.push((from, vec![step], breach));
                self.stop.store(true, Ordering::Relaxed);
                continue;
            }
            let to = after.fingerprint(digest);
            if !self.reach(to, Node { parent: from, step, depth }) {
                continue;
            }
            if self.bounds.accounts
                && let Err(breach) = observe(|| after.judge_accounts())
            {
                harvest.breaches.push((from, vec![step], breach));
            }
            harvest.next.push((to, after));
        }
        let mut steps = Vec::new();
        let onward = observe(|| {
            steps = world.next_without_faults();
            let mut after = world.clone();
            if steps.is_empty() {
                after.judge_end();
            }
            for step in &steps {
                after.take(*step);
            }
            after
        });
        match onward {
            Ok(after) => {
                let to = after.fingerprint(digest);
                if to == from && !steps.is_empty() {
                    let text = "termination: what is left to do here changes nothing, for ever".to_owned();
                    harvest.breaches.push((from, steps, Breach::new(text)));
                } else {
                    harvest.onward.push((from, to));
                }
            }
            Err(breach) => harvest.breaches.push((from, steps, breach)),
        }
    }

    /// Whether it is new.
    fn reach(&self, state: u64, node: Node) -> bool {
        match self.shard(state).lock().expect("nobody panics with it").entry(state) {
            Entry::Vacant(place) => {
                place.insert(node);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    fn shard(&self, state: u64) -> &Shard {
        &self.visited[usize::try_from(state >> 58).expect("six bits")]
    }

    fn states(&self) -> usize {
        self.visited.iter().map(|shard| shard.lock().expect("nobody panics with it").len()).sum()
    }

    /// The steps that lead there.
    fn history(&self, mut state: u64) -> Vec<Happening> {
        let mut steps = Vec::new();
        loop {
            let shard = self.shard(state).lock().expect("nobody panics with it");
            let node = &shard[&state];
            if node.depth == 0 {
                steps.reverse();
                return steps;
            }
            steps.push(node.step);
            state = node.parent;
        }
    }

    /// Termination: a state from which things go round for ever although nothing goes wrong any more.
    fn endless(&self, onward: &[(u64, u64)]) -> Option<Found> {
        let onward: HashMap<u64, u64, FixedState> = onward.iter().copied().collect();
        let mut ends: HashMap<u64, bool, FixedState> = HashMap::default();
        for &start in onward.keys() {
            let (mut at, mut path) = (start, Vec::new());
            let end = loop {
                if let Some(known) = ends.get(&at) {
                    break *known;
                }
                // Seen on this very path: round it goes.
                ends.insert(at, false);
                path.push(at);
                let next = onward[&at];
                if next == at {
                    break true;
                }
                at = next;
            };
            ends.extend(path.into_iter().map(|state| (state, end)));
        }
        let depth = |state: &u64| self.shard(*state).lock().expect("nobody panics with it")[state].depth;
        let worst = ends.into_iter().filter(|(_, end)| !end).map(|(state, _)| state);
        let (_, state) = worst.map(|state| (depth(&state), state)).min()?;
        let text = "termination: from here on it goes round for ever".to_owned();
        Some((state, Vec::new(), Breach::new(text)))
    }
}
