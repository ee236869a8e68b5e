//! What may be said to the engine in a scenario.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::print;
use crate::core::harness::{Harness, SETTINGS};
use crate::core::{
    Action, Admission, BeginSpec, BranchId, BranchSpec, Completion, Durability, Enlistment, Epoch, Event,
    FailureKind, LogWrite, Operation, PhaseOne, Protocol, Replica, Report, Request, ReservationClass, Shard,
    Step, Timestamp, TxId, Vote, Wait, Waiter,
};

/// How many moments are shown at most of a time that passes.
const SHOWN_MAX: usize = 12;

/// An engine that is spoken to.
pub(super) struct Stage {
    harness: Harness,
    /// Transactions by the names that the scenario gives them.
    names: BTreeMap<String, TxId>,
    /// Who waits for an answer: the words of the question, by number.
    waiters: Vec<String>,
    /// What each branch was last called for: what a report is about unless it says so.
    called: HashMap<(TxId, BranchId), Operation>,
    /// How long each transaction's value in the log is.
    logged: HashMap<TxId, usize>,
    fate: Fate,
}

/// What becomes of the step that is made next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    /// The coordinator dies before anything of it is durable.
    Lost,
    /// The coordinator dies when its write is durable, before any action.
    OnlyLogged,
}

impl Stage {
    pub fn new() -> Stage {
        Stage {
            harness: Harness::new(SETTINGS),
            names: BTreeMap::new(),
            waiters: Vec::new(),
            called: HashMap::new(),
            logged: HashMap::new(),
            fate: Fate::Done,
        }
    }

    /// Does what is said and tells what followed:
    ///
    /// ```text
    /// begin A [2pc|tcc] [timeout=30s] [request=id] [content=n]      an initiator begins; A is its name from here on
    /// run A [..as begin] [wait=decision] stock payment(tcc,ttl=5s)  an initiator wants it all in one call
    /// enlist A stock(id=x,prepared)     commit A [wait=decision] [branches]    abort A [wait=decision] [because ..]
    /// A/1 votes prepared [granted=3s] [autonomous] [reply=x] [replica=7]      A/1 votes read-only      A/1 refuses: why
    /// A/1 done [reply=x]    A/1 unknown-branch    A/1 heuristic-commit|heuristic-rollback|hazard [: why]
    /// A/1 fails: why        A/1 does not offer it   A/1 cannot be reached       A/1 commit done        (about an operation other than the last)
    /// inquire A/1 [expired]       inquire known-life|foreign         wake stock
    /// resolve A/1 committed|rolled-back [because ..]     retry A     forget A
    /// +10s                        time passes            +10s unnoticed          and nobody looks at the timers yet
    /// wall +1h                    the wall clock jumps
    /// crash [keeping lazy]        power fails during: ..             power fails after the write of: ..
    /// state A    history A    list [limit=2] [before=A]    get request=id    horizon    counts    durable
    /// settings retention=0s max_active=2 ..                admission open|draining|disk-nearly-full
    /// ```
    ///
    /// A branch is `participant(..)` with any of `id=`, `2pc`, `tcc`, `ttl=`, `at=` (where it is dialled), `never-asks`, and a vote:
    /// `prepared`, `read-only` or `refused`, `granted=`, `autonomous`.
    pub fn say(&mut self, said: &str) -> Vec<String> {
        for (prefix, fate) in
            [("power fails during: ", Fate::Lost), ("power fails after the write of: ", Fate::OnlyLogged)]
        {
            if let Some(rest) = said.strip_prefix(prefix) {
                self.fate = fate;
                let mut lines = self.act(rest);
                lines.extend(self.crash(0));
                return self.named(lines);
            }
        }
        let lines = self.act(said);
        self.named(lines)
    }

    fn act(&mut self, said: &str) -> Vec<String> {
        let (first, rest) = said.split_once(' ').unwrap_or((said, ""));
        let words = Words(rest);
        match first {
            "begin" | "run" | "enlist" | "commit" | "abort" => self.initiator(first, words),
            "inquire" | "wake" | "resolve" | "retry" | "forget" => self.asks(first, words),
            "crash" if words.has("keeping") => self.crash(usize::MAX),
            "crash" => self.crash(0),
            "wall" => {
                let (sign, span) = rest.split_at(1);
                let millis = u64::try_from(duration(span).as_millis()).unwrap();
                let wall = &mut self.harness.now.wall.0;
                *wall = if sign == "-" { *wall - millis } else { *wall + millis };
                Vec::new()
            }
            "settings" => self.settings(words),
            "admission" => {
                self.harness.engine.set_admission(match rest {
                    "open" => Admission::Open,
                    "draining" => Admission::Draining,
                    "disk-nearly-full" => Admission::DiskNearlyFull,
                    other => panic!("admission {other}"),
                });
                Vec::new()
            }
            "state" | "history" | "list" | "get" | "horizon" | "counts" | "durable" => {
                self.looks(first, words)
            }
            _ if first.starts_with('+') && words.has("unnoticed") => {
                self.harness.pass(duration(&first[1..]));
                Vec::new()
            }
            _ if first.starts_with('+') => self.pass(duration(&first[1..])),
            _ if first.contains('/') => self.report(first, rest),
            _ => panic!("nobody understands {said:?}"),
        }
    }

    fn initiator(&mut self, verb: &str, words: Words<'_>) -> Vec<String> {
        let name = words.first();
        let waiter = self.waiter(&format!("{verb} {name}"));
        let wait = match words.option("wait") {
            Some("decision") => Wait::Decision,
            Some(other) => panic!("wait={other}"),
            None => Wait::Completion,
        };
        let branches =
            || words.rest().filter(|word| !word.contains('=') || word.contains('(')).map(enlistment);
        let event = match verb {
            "begin" => Event::Begin { waiter, spec: begin_spec(words) },
            "run" => {
                let plain = |word: &&str| {
                    !matches!(*word, "2pc" | "tcc") && (!word.contains('=') || word.contains('('))
                };
                let branches = words.rest().filter(plain).map(|word| enlistment(word).branch).collect();
                Event::Run { waiter, spec: begin_spec(words), branches, wait }
            }
            "enlist" => {
                let enlistment = branches().next().expect("a branch");
                Event::Enlist { waiter, tx: self.tx(name), enlistment }
            }
            "commit" => Event::Commit { waiter, tx: self.tx(name), enlistments: branches().collect(), wait },
            _abort => {
                let reason = words.after("because").into();
                Event::Abort { waiter, tx: self.tx(name), reason, wait }
            }
        };
        let new = matches!(verb, "begin" | "run").then(|| name.to_owned());
        self.play(event, new)
    }

    fn asks(&mut self, verb: &str, words: Words<'_>) -> Vec<String> {
        let object = words.first();
        let waiter = self.waiter(&format!("{verb} {object}"));
        let reason = words.after("because").into();
        let event = match (verb, object) {
            ("inquire", "known-life" | "foreign") => Event::Inquire {
                waiter,
                tx: TxId::new(1, 0, Epoch(1), Shard(0), 99),
                branch: BranchId::numbered(1),
                expired: false,
                known_life: object == "known-life",
            },
            ("inquire", _) => {
                let (tx, branch) = self.branch(object);
                Event::Inquire { waiter, tx, branch, expired: words.has("expired"), known_life: true }
            }
            ("resolve", _) => {
                let (tx, branch) = self.branch(object);
                Event::Resolve { waiter, tx, branch, committed: words.has("committed"), reason }
            }
            ("retry", _) => Event::Retry { waiter, tx: self.tx(object) },
            ("forget", _) => Event::Forget { waiter, tx: self.tx(object) },
            _wake => {
                let participant = object.parse().unwrap();
                let waiting = self.harness.engine.waiting_for(&participant);
                return waiting
                    .into_iter()
                    .flat_map(|tx| self.play(Event::Wake { tx, participant: participant.clone() }, None))
                    .collect();
            }
        };
        self.play(event, None)
    }

    fn report(&mut self, branch: &str, rest: &str) -> Vec<String> {
        let (tx, branch) = self.branch(branch);
        let (first, after) = rest.split_once(' ').unwrap_or((rest, ""));
        let named = match first {
            "prepare" | "try" => Some(Operation::PhaseOne),
            "commit" | "confirm" => Some(Operation::Commit),
            "rollback" | "cancel" => Some(Operation::Rollback),
            "one-phase" => Some(Operation::CommitOnePhase),
            _ => None,
        };
        let said = if named.is_some() { after } else { rest };
        let called = self.called.get(&(tx, branch.clone())).copied();
        let operation = named.or(called).unwrap_or(Operation::PhaseOne);
        self.play(Event::Reported { tx, branch, operation, report: report(said) }, None)
    }

    fn looks(&mut self, verb: &str, words: Words<'_>) -> Vec<String> {
        let now = self.harness.now.mono;
        let engine = &mut self.harness.engine;
        match verb {
            "horizon" => {
                let horizon = engine.horizon();
                let (old, _) = self.names.iter().partition::<Vec<_>, _>(|(_, tx)| tx.order() < horizon);
                let old: Vec<_> = old.into_iter().map(|(name, _)| name.as_str()).collect();
                vec![format!("passed: {}", print::or_none(&old.join(", ")))]
            }
            "counts" => vec![format!("{:?}", engine.counts())],
            "durable" => {
                let names = self.harness.durable().keys().map(ToString::to_string).collect::<Vec<_>>();
                vec![format!("in the log: {}", print::or_none(&names.join(", ")))]
            }
            "list" => {
                let before = words.option("before").map(|name| self.names[name].order());
                let limit = words.option("limit").map_or(100, |limit| limit.parse().unwrap());
                let (page, next) = engine.list(before, limit, |_any| true);
                let ids: Vec<_> = page.iter().map(|tx| tx.id.to_string()).collect();
                let next = next.and_then(|next| self.names.values().find(|tx| tx.order() == next));
                let next = next.map_or("that was all".into(), |tx| format!("go on before {tx}"));
                vec![format!("list: {}; {next}", print::or_none(&ids.join(", ")))]
            }
            "get" => {
                let request = words.option("request").expect("request=").parse().unwrap();
                let found = engine.get_by_request(&request).map(|tx| tx.id.to_string());
                vec![found.unwrap_or("not found".into())]
            }
            _state_or_history => match self.names.get(words.first()).and_then(|tx| engine.get(*tx)) {
                None => vec!["not found".into()],
                Some(tx) if verb == "history" => {
                    tx.records().map(|record| format!("  {}", print::what(&record.what))).collect()
                }
                Some(tx) => print::transaction(&tx, now),
            },
        }
    }

    fn settings(&mut self, words: Words<'_>) -> Vec<String> {
        let mut settings = self.harness.settings;
        for (key, value) in words.0.split_whitespace().map(|word| word.split_once('=').expect("key=value")) {
            match key {
                "retention" => settings.retention = duration(value),
                "retention_max" => settings.retention_max = value.parse().unwrap(),
                "max_active" => settings.max_active = value.parse().unwrap(),
                "max_branches" => settings.max_branches = value.parse().unwrap(),
                "call_timeout" => settings.call_timeout = duration(value),
                other => panic!("no setting {other}"),
            }
        }
        *self = Stage { harness: Harness::new(settings), ..Stage::new() };
        Vec::new()
    }

    fn pass(&mut self, span: Duration) -> Vec<String> {
        let target = self.harness.now.mono + span;
        let mut moments = Vec::new();
        while let Some(due) = self.harness.engine.next_due().filter(|due| *due <= target) {
            self.harness.pass(due.since(self.harness.now.mono));
            let mut happened = Vec::new();
            while let Some(step) = self.harness.due() {
                happened.extend(self.tell(&step));
            }
            if !happened.is_empty() {
                let at = print::millis(self.harness.now.mono.since(Timestamp::ZERO));
                happened.insert(0, format!("-- {at:?}"));
                moments.push(happened);
            }
        }
        self.harness.pass(target.since(self.harness.now.mono));
        let left_out = moments.len().saturating_sub(SHOWN_MAX);
        if left_out > 0 {
            let middle = SHOWN_MAX - 1..moments.len() - 1;
            moments.splice(middle, [vec![format!("-- .. {left_out} more times ..")]]);
        }
        moments.concat()
    }

    fn crash(&mut self, kept: usize) -> Vec<String> {
        self.fate = Fate::Done;
        let steps = self.harness.crash(kept);
        self.logged = self.harness.durable().iter().map(|(tx, value)| (*tx, value.len())).collect();
        self.called.clear();
        let mut lines: Vec<_> = steps.iter().flat_map(|step| self.tell_log(step)).collect();
        self.harness.sync();
        lines.extend(self.tell_actions());
        lines
    }

    fn play(&mut self, event: Event, new: Option<String>) -> Vec<String> {
        let step = self.harness.submit(event);
        if let (Some(name), Some(tx)) = (new, step.subject)
            && !self.names.values().any(|known| *known == tx)
        {
            assert!(self.names.insert(name.clone(), tx).is_none(), "the name {name} is taken");
        }
        self.tell(&step)
    }

    fn tell(&mut self, step: &Step) -> Vec<String> {
        let mut lines = self.tell_log(step);
        match self.fate {
            Fate::Done => {
                if step.durability == Durability::Forced {
                    self.harness.sync();
                }
                lines.extend(self.tell_actions());
            }
            Fate::Lost => lines.iter_mut().for_each(|line| line.push_str(" -- lost")),
            Fate::OnlyLogged => self.harness.sync(),
        }
        lines
    }

    fn tell_log(&mut self, step: &Step) -> Vec<String> {
        let word = match step.durability {
            Durability::Lazy => "lazy",
            Durability::Forced => "forced",
        };
        let mut lines = Vec::new();
        for write in &step.log {
            lines.push(match write {
                LogWrite::Remove { tx } => format!("log {word}: remove {tx}"),
                LogWrite::Put { tx, value } => {
                    let known = self.logged.insert(*tx, value.len()).unwrap_or(0);
                    format!("log {word} {tx}: {}", print::records(&value[known..]))
                }
            });
        }
        if step.log.is_empty() && step.durability == Durability::Forced {
            lines.push("log forced, with nothing".into());
        }
        lines
    }

    fn tell_actions(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for action in self.harness.released() {
            lines.push(match action {
                Action::Call(call) => {
                    self.called.insert((call.tx, call.branch.clone()), call.operation);
                    print::call(&call)
                }
                Action::Answer { waiter, answer } => {
                    let number = usize::try_from(waiter.0).unwrap();
                    format!("answer to {}: {}", self.waiters[number], print::answer(&answer))
                }
                Action::Publish(tx) => format!("publish {}", tx.id),
            });
        }
        lines
    }

    fn waiter(&mut self, words: &str) -> Waiter {
        let before = self.waiters.iter().filter(|known| known.split('#').next() == Some(words)).count();
        let words = if before == 0 { words.to_owned() } else { format!("{words}#{}", before + 1) };
        self.waiters.push(words);
        Waiter(self.waiters.len() as u64 - 1)
    }

    /// With ids replaced by names.
    fn named(&self, lines: Vec<String>) -> Vec<String> {
        let name = |line: String| {
            self.names.iter().fold(line, |line, (name, tx)| line.replace(&tx.to_string(), name))
        };
        lines.into_iter().map(name).collect()
    }

    fn tx(&self, name: &str) -> TxId {
        *self.names.get(name).unwrap_or_else(|| panic!("no transaction {name}"))
    }

    fn branch(&self, text: &str) -> (TxId, BranchId) {
        let (tx, branch) = text.split_once('/').expect("transaction/branch");
        (self.tx(tx), branch.parse().unwrap())
    }
}

/// The words after the verb.
#[derive(Clone, Copy)]
struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    fn first(self) -> &'a str {
        self.0.split_whitespace().next().expect("an object")
    }

    fn rest(self) -> impl Iterator<Item = &'a str> {
        self.0.split_whitespace().skip(1)
    }

    fn has(self, word: &str) -> bool {
        self.0.split_whitespace().any(|known| known == word)
    }

    fn option(self, key: &str) -> Option<&'a str> {
        self.0.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    fn after(self, word: &str) -> &'a str {
        self.0.split_once(word).map_or("", |(_, after)| after.trim())
    }
}

fn begin_spec(words: Words<'_>) -> BeginSpec {
    let content = words.option("content").map_or(0, |content| content.parse().unwrap());
    BeginSpec {
        protocol: if words.has("tcc") { Protocol::Tcc } else { Protocol::TwoPhase },
        label: words.option("label").unwrap_or("").parse().unwrap(),
        timeout: words.option("timeout").map_or(Duration::from_secs(30), duration),
        request: words
            .option("request")
            .map(|id| Request { id: id.parse().unwrap(), fingerprint: [content; 16] }),
    }
}

fn enlistment(text: &str) -> Enlistment {
    let (participant, options) = text.trim_end_matches(')').split_once('(').unwrap_or((text, ""));
    let options = options.replace(',', " ");
    let options = Words(&options);
    let flag = |name: &str| options.has(name);
    let vote = [("prepared", Vote::Prepared), ("read-only", Vote::ReadOnly), ("refused", Vote::Refused)];
    let vote = vote.into_iter().find(|(name, _)| flag(name)).map(|(_, vote)| vote);
    let protocols = [("2pc", Protocol::TwoPhase), ("tcc", Protocol::Tcc)];
    Enlistment {
        branch: BranchSpec {
            id: options.option("id").map(|id| id.parse().unwrap()),
            participant: participant.parse().unwrap(),
            endpoint: options.option("at").map(Into::into),
            protocol: protocols.into_iter().find(|(name, _)| flag(name)).map(|(_, protocol)| protocol),
            payload: options.option("payload").unwrap_or("").to_owned().into(),
            reservation_ttl: options.option("ttl").map(duration),
            inquires: !flag("never-asks"),
        },
        vote: vote.map(|vote| phase_one(vote, options)),
    }
}

fn phase_one(vote: Vote, words: Words<'_>) -> PhaseOne {
    PhaseOne {
        vote,
        reason: "".into(),
        reply: words.option("reply").unwrap_or("").to_owned().into(),
        reservation_ttl: words.option("granted").map_or(Duration::ZERO, duration),
        class: if words.has("autonomous") {
            ReservationClass::Autonomous
        } else {
            ReservationClass::Cooperative
        },
    }
}

fn report(said: &str) -> Report {
    let (head, detail) = said.split_once(": ").unwrap_or((said, ""));
    let words = Words(head);
    let voted = |vote| Report::Voted {
        result: PhaseOne { reason: detail.into(), ..phase_one(vote, words) },
        replica: words.option("replica").map(|replica| Replica(replica.parse().unwrap())),
    };
    let completed = |completion| Report::Completed {
        completion,
        detail: detail.into(),
        reply: words.option("reply").unwrap_or("").to_owned().into(),
    };
    match words.first() {
        "votes" if words.has("prepared") => voted(Vote::Prepared),
        "votes" if words.has("read-only") => voted(Vote::ReadOnly),
        "refuses" => voted(Vote::Refused),
        "done" => completed(Completion::Done),
        "unknown-branch" => completed(Completion::UnknownBranch),
        "heuristic-commit" => completed(Completion::HeuristicCommit),
        "heuristic-rollback" => completed(Completion::HeuristicRollback),
        "hazard" => completed(Completion::HeuristicHazard),
        "fails" => Report::Failed { error: detail.into(), kind: FailureKind::Unknown },
        "cannot" => Report::Failed { error: "it is not connected".into(), kind: FailureKind::NotSent },
        "does" => Report::Failed { error: "unimplemented".into(), kind: FailureKind::Unimplemented },
        other => panic!("a branch does not say {other:?}"),
    }
}

fn duration(text: &str) -> Duration {
    humantime::parse_duration(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}
