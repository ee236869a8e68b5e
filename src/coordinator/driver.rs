//! The task that owns the engine: drains its inbox, steps each event, hands one batch to the log, acts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use std::vec;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::gate::Gate;
use super::{Coordinator, Deliver, Input, Phase, Read, ReplyTo};
use crate::core::{
    Action, Admission, Answer, BranchId, Durability, Engine, Event, LogWrite, Map, Now, Outcome,
    ParticipantName, Step, Timestamp, TxId, TxOrder, Waiter,
};
use crate::crash_point;
use crate::store::{AppendError, LogWriter, Submission, WriterEvent};
use crate::transport::Transport;

/// How many inputs are taken in one go.
const BATCH_MAX: usize = 1_024;

/// How many transactions are gone on with in one go, when many are due, after a start or when a participant is back. Others take
/// their turns in between.
const PORTION: usize = 256;

/// How long after the last end of a transaction the log is synced for the horizon alone, where no decision was. Only then may
/// participants clear the rows of the last transactions before a quiet time.
const QUIET: Duration = Duration::from_secs(5);

/// Owns the engine; [`Driver::run`] is its life.
#[derive(Debug)]
pub struct Driver {
    coordinator: Coordinator,
    engine: Engine,
    inputs: mpsc::Receiver<Input>,
    writer: LogWriter,
    written: mpsc::UnboundedReceiver<WriterEvent>,
    transport: Transport,
    gate: Gate<Held>,
    waiters: Map<Waiter, ReplyTo>,
    /// The log writes of the current group.
    writes: Vec<LogWrite>,
    /// How many of them are forced.
    forced: u64,
    /// Forced groups under way, with the horizon that holds once they are durable.
    horizons: VecDeque<(u64, TxOrder)>,
    /// When to sync for the horizon alone: set by the first end of a transaction since the last forced group.
    quiet: Option<Instant>,
    /// Reports of calls that could not be sent.
    unsent: Vec<Event>,
    /// Transactions to be gone on with. One for each reason at most.
    backlog: VecDeque<Backlog>,
    draining: bool,
    /// When the batch at hand was taken up.
    now: Now,
}

/// What a driver is made of.
#[derive(Debug)]
pub struct DriverParts {
    pub coordinator: Coordinator,
    pub inputs: mpsc::Receiver<Input>,
    /// With the log replayed into it.
    pub engine: Engine,
    pub writer: LogWriter,
    /// What the writer reports. Unbounded, and short: there are never more than a few groups under way.
    pub written: mpsc::UnboundedReceiver<WriterEvent>,
    pub transport: Transport,
}

/// Why a driver ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error("{0}; what was written last may or may not be durable: stopping, and the next start finds out")]
    Log(#[from] AppendError),
    #[error("the log thread is gone")]
    LogThread,
}

/// Transactions that are gone on with by and by.
#[derive(Debug)]
struct Backlog {
    why: Why,
    transactions: vec::IntoIter<TxId>,
}

#[derive(Debug, PartialEq, Eq)]
enum Why {
    /// The last life left them open.
    Start,
    /// This participant is back, and they wait for it.
    Back(ParticipantName),
}

/// What waits for the log.
enum Held {
    Action(Action),
    Deliver(Deliver),
}

/// Whether to go on.
#[derive(PartialEq, Eq)]
enum Flow {
    GoOn,
    Stop,
}

impl Driver {
    pub fn new(parts: DriverParts) -> Driver {
        let DriverParts { coordinator, inputs, engine, writer, written, transport } = parts;
        Driver {
            coordinator,
            engine,
            inputs,
            writer,
            written,
            transport,
            gate: Gate::new(),
            waiters: Map::default(),
            writes: Vec::new(),
            forced: 0,
            horizons: VecDeque::new(),
            quiet: None,
            unsent: Vec::new(),
            backlog: VecDeque::new(),
            draining: false,
            now: Now::default(),
        }
    }

    /// Recovers, then serves until told to stop, or until it has drained.
    pub async fn run(mut self) -> Result<(), DriverError> {
        crash_point!("log-replayed");
        self.resume();
        self.set_phase(Phase::Serving);
        let result = self.serve().await;
        self.set_phase(Phase::Stopped);
        match result {
            Ok(()) => self.writer.finish().map_err(DriverError::Log),
            Err(failure) => Err(failure),
        }
    }

    fn resume(&mut self) {
        let open = self.engine.resumable();
        let retained = self.engine.counts().retained;
        self.now = self.coordinator.now();
        info!(open = open.len(), retained, "recovered the log");
        self.backlog.push_back(Backlog { why: Why::Start, transactions: open.into_iter() });
        // What had ended before the crash may never have been told.
        self.quiet = Some(Instant::now() + QUIET);
    }

    async fn serve(&mut self) -> Result<(), DriverError> {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            let due = self.engine.next_due();
            tokio::select! {
                biased;
                event = self.written.recv() => match event {
                    Some(WriterEvent::Durable { ticket }) => self.durable(ticket),
                    Some(WriterEvent::Failed(failure)) => return Err(failure.into()),
                    None => return Err(DriverError::LogThread),
                },
                _count = self.inputs.recv_many(&mut batch, BATCH_MAX) => {}
                () = sleep_until(&self.coordinator, due), if due.is_some() => {}
                () = until(self.quiet), if self.quiet.is_some() => {}
                () = tokio::task::yield_now(), if !self.backlog.is_empty() => {}
            }
            // One reading for all: two clocks for each event are dearer than some of what is done with them.
            self.now = self.coordinator.now();
            self.engine.set_watched(self.coordinator.shared.changes.receiver_count() > 0);
            self.handle_due();
            self.work_off();
            for input in batch.drain(..) {
                if self.input(input) == Flow::Stop {
                    self.finish_batch();
                    return Ok(());
                }
            }
            self.finish_batch();
            if self.draining && self.engine.counts().active == 0 && self.gate.is_empty() {
                return Ok(());
            }
        }
    }

    fn input(&mut self, input: Input) -> Flow {
        match input {
            Input::Events(events) => events.into_iter().for_each(|event| self.step(event)),
            Input::Ask { waiter, reply, event } => {
                self.waiters.insert(waiter, reply);
                let resolved = match &event {
                    Event::Resolve { tx, branch, .. } => Some((*tx, branch.clone())),
                    _not_by_an_operator => None,
                };
                self.step(event);
                if let Some((tx, branch)) = resolved {
                    self.give_up_calls(tx, &branch);
                }
            }
            Input::Read(Read { subject, look }) => {
                let deliver = look(&mut self.engine);
                if let Some(held) = self.gate.hold(subject, Held::Deliver(deliver)) {
                    self.act(held);
                }
            }
            Input::ParticipantUp(participant) => {
                let waiting = self.engine.waiting_for(&participant);
                let (count, why) = (waiting.len(), Why::Back(participant.clone()));
                self.backlog.retain(|older| older.why != why);
                if count > 0 {
                    info!(%participant, transactions = count, "a participant is back; making its calls now");
                    self.backlog.push_back(Backlog { why, transactions: waiting.into_iter() });
                }
            }
            Input::Admission(admission) => {
                if !self.draining {
                    self.engine.set_admission(admission);
                }
            }
            Input::Drain => {
                self.draining = true;
                self.engine.set_admission(Admission::Draining);
                self.set_phase(Phase::Draining);
                info!(active = self.engine.counts().active, "draining");
            }
            Input::Stop => return Flow::Stop,
        }
        Flow::GoOn
    }

    /// A branch that an operator has settled owes no answer any more.
    fn give_up_calls(&self, tx: TxId, branch: &BranchId) {
        let Some(transaction) = self.engine.get(tx) else { return };
        let found = transaction.branches.iter().find(|it| it.id == *branch);
        if let Some(found) = found.filter(|found| found.state.is_finished()) {
            self.transport.sessions().give_up(&found.participant, &(tx, branch.clone()));
        }
    }

    /// Not all at once, if many are due: what is left is due still.
    fn handle_due(&mut self) {
        let now = self.now;
        for _ in 0..PORTION {
            let Some(tx) = self.engine.pop_due(now.mono) else { break };
            self.step(Event::Due { tx });
        }
        let evicted = self.engine.evict(now.mono);
        self.writes.extend(evicted.log);
    }

    fn work_off(&mut self) {
        let Some(mut backlog) = self.backlog.pop_front() else { return };
        for tx in backlog.transactions.by_ref().take(PORTION) {
            self.step(match &backlog.why {
                Why::Start => Event::Resume { tx },
                Why::Back(participant) => Event::Wake { tx, participant: participant.clone() },
            });
            crash_point!("transaction-resumed", if backlog.why == Why::Start);
        }
        // The others have their turns first.
        if backlog.transactions.len() > 0 {
            self.backlog.push_back(backlog);
        }
    }

    fn step(&mut self, event: Event) {
        crash_point!("event-taken");
        crash_point!(
            "acknowledgement-taken",
            if matches!(event, Event::Reported { operation: crate::core::Operation::Commit, .. })
        );
        let Step { subject, log, durability, then, ended } = self.engine.handle(self.now, event);
        crash_point!("step-made");
        crash_point!("decision-made", if durability == Durability::Forced);
        crash_point!("all-acknowledged", if ended == Some(Outcome::Committed) && !log.is_empty());
        // Told here and not with the answer: most who asked have their answer before a branch is heuristic.
        if let (Some(tx), Some(outcome @ (Outcome::Mixed | Outcome::Hazard))) = (subject, ended) {
            let reason = self.engine.get(tx).map(|tx| tx.reason.clone()).unwrap_or_default();
            let reason = reason.as_str();
            error!(xid = %tx, ?outcome, reason, "a transaction ended heuristically; an operator must look at it");
        }
        self.writes.extend(log);
        if ended.is_some() {
            self.quiet.get_or_insert_with(|| Instant::now() + QUIET);
        }
        if durability == Durability::Forced {
            self.forced += 1;
            self.gate.mark(subject.expect("a step that writes is about a transaction"));
        }
        for action in then {
            if let Some(held) = self.gate.hold(subject, Held::Action(action)) {
                self.act(held);
            }
        }
    }

    /// Hands the writes of this batch to the log.
    fn finish_batch(&mut self) {
        // Each report leads to a wait or a decision, never straight to the same call, so this ends.
        while let Some(event) = self.unsent.pop() {
            self.step(event);
        }
        if self.quiet.is_some_and(|quiet| quiet <= Instant::now()) {
            self.forced += 1;
        }
        if self.writes.is_empty() && self.forced == 0 {
            return;
        }
        let ticket = self.gate.close_group();
        let forced = std::mem::take(&mut self.forced);
        if forced > 0 {
            self.quiet = None;
            self.horizons.push_back((ticket, self.engine.horizon()));
        }
        self.writer.submit(Submission { ticket, writes: std::mem::take(&mut self.writes), forced });
        crash_point!("group-submitted", if forced > 0);
    }

    fn durable(&mut self, ticket: u64) {
        crash_point!("group-to-be-released");
        for held in self.gate.open(ticket) {
            self.act(held);
        }
        let mut horizon = None;
        while let Some((forced, proved)) = self.horizons.front()
            && *forced <= ticket
        {
            horizon = Some(*proved);
            self.horizons.pop_front();
        }
        if let Some(horizon) = horizon {
            crash_point!("horizon-proved");
            self.coordinator.shared.horizon.send_if_modified(|told| {
                let later = horizon > *told;
                if later {
                    *told = horizon;
                }
                later
            });
            crash_point!("horizon-published");
        }
    }

    fn act(&mut self, held: Held) {
        match held {
            Held::Action(Action::Call(call)) => {
                crash_point!("commit-call-due", if call.operation == crate::core::Operation::Commit);
                self.unsent.extend(self.transport.call(call));
            }
            Held::Action(Action::Answer { waiter, answer }) => {
                log_end(&answer);
                crash_point!("end-to-be-answered", if matches!(answer, Answer::Ended(_)));
                if let Some(reply) = self.waiters.remove(&waiter) {
                    reply.send(answer);
                    crash_point!("answer-given");
                }
            }
            Held::Action(Action::Publish(transaction)) => {
                drop(self.coordinator.shared.changes.send(Arc::from(transaction)));
            }
            Held::Deliver(deliver) => deliver(),
        }
    }

    fn set_phase(&self, phase: Phase) {
        self.coordinator.shared.phase.send_replace(phase);
    }
}

async fn until(quiet: Option<Instant>) {
    if let Some(quiet) = quiet {
        tokio::time::sleep_until(quiet).await;
    }
}

async fn sleep_until(coordinator: &Coordinator, due: Option<Timestamp>) {
    if let Some(due) = due {
        tokio::time::sleep_until(coordinator.shared.clock.instant(due)).await;
    }
}

fn log_end(answer: &Answer) {
    if let Answer::Ended(result) = answer {
        match result.outcome {
            Some(Outcome::Mixed | Outcome::Hazard) => {}
            Some(Outcome::Aborted) => debug!(xid = %result.tx, reason = %result.reason, "aborted"),
            Some(Outcome::Committed) => debug!(xid = %result.tx, "committed"),
            None => {
                warn!(xid = %result.tx, "the decision was delegated and its answer is not here; asking on");
            }
        }
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Held::Action(action) => action.fmt(f),
            Held::Deliver(_) => f.write_str("Deliver"),
        }
    }
}

#[cfg(test)]
mod tests;
