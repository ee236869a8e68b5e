//! All transactions of one shard.

mod check;
#[cfg(model)]
mod digest;
mod turn;

use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use smol_str::SmolStr;

#[cfg(model)]
pub(super) use self::turn::COMPLETION_GRACE;
use self::turn::Turn;
use super::Map;
use super::event::{
    Action, Answer, BeginSpec, BranchSpec, Durability, Enlistment, Event, LogWrite, Rejection, Step, Waiter,
};
use super::id::{Epoch, ParticipantName, RequestId, Shard, TxId, TxIdSource, TxOrder};
use super::record::{DecodeError, Record, Request, What};
use super::retry::Backoff;
use super::time::{Now, Timestamp};
use super::transaction::{HISTORY_BYTES, Transaction};
use super::words::{InquiryAnswer, Outcome, Wait};

/// The state machines of all transactions: events in, steps out. See the [module](super) for how to drive it.
#[cfg_attr(any(test, model), derive(Clone))]
#[derive(Debug)]
pub struct Engine {
    ids: TxIdSource,
    /// Those that are open, or that an operator should look at.
    transactions: Map<TxId, Box<Transaction>>,
    /// Those that ended well, until they are forgotten: most of all, so only what happened to them is kept.
    ended: Map<TxId, Ended>,
    requests: Map<RequestId, TxId>,
    /// All that are known, in order; ids that are gone stay until the queue is swept.
    known: VecDeque<TxId>,
    /// The same for those that hold the horizon.
    open: VecDeque<TxId>,
    /// Ended, to be forgotten at that time.
    retained: VecDeque<(Timestamp, TxId)>,
    admission: Admission,
    desk: Desk,
}

/// A transaction of which nothing more is to come.
#[cfg_attr(any(test, model), derive(Clone))]
#[derive(Debug)]
struct Ended {
    history: Box<[u8]>,
    /// The log has a value for it.
    stored: bool,
}

/// What transactions share while they take their turns.
#[cfg_attr(any(test, model), derive(Clone))]
#[derive(Debug)]
struct Desk {
    settings: EngineSettings,
    timers: BTreeSet<(Timestamp, TxId)>,
    /// Transactions with a branch that waits for its next attempt, by participant.
    waiting: Map<ParticipantName, BTreeSet<TxId>>,
    active: usize,
    watched: bool,
}

/// What an engine is told about limits and times.
#[derive(Clone, Copy, Debug)]
pub struct EngineSettings {
    pub max_active: usize,
    pub max_branches: usize,
    pub call_timeout: Duration,
    pub backoff: Backoff,
    /// Autonomous reservations are confirmed only this long before they expire.
    pub reservation_margin: Duration,
    /// How long an ended transaction is kept. Zero: not at all.
    pub retention: Duration,
    /// How many are kept at most.
    pub retention_max: usize,
}

/// Whether new transactions are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admission {
    #[default]
    Open,
    DiskNearlyFull,
    Draining,
}

/// How many transactions there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub active: usize,
    pub retained: usize,
}

/// How many transactions one call of [`Engine::list`] looks at: bounded, because others wait meanwhile.
const LIST_SCAN_MAX: usize = 5_000;

/// How many transactions one call of [`Engine::evict`] forgets, for the same reason.
const EVICT_MAX: usize = 1_000;

impl Engine {
    pub fn new(settings: EngineSettings, epoch: Epoch, shard: Shard, life_tag: u32) -> Engine {
        Engine {
            ids: TxIdSource::new(epoch, shard, life_tag),
            transactions: Map::default(),
            ended: Map::default(),
            requests: Map::default(),
            known: VecDeque::new(),
            open: VecDeque::new(),
            retained: VecDeque::new(),
            admission: Admission::Open,
            desk: Desk {
                settings,
                timers: BTreeSet::new(),
                waiting: Map::default(),
                active: 0,
                watched: false,
            },
        }
    }

    /// Takes one event.
    pub fn handle(&mut self, now: Now, event: Event) -> Step {
        let mut step = Step::default();
        match event {
            Event::Begin { waiter, spec } => self.begin(now, waiter, spec, &mut step),
            Event::Run { waiter, spec, branches, wait } => {
                self.run(now, waiter, spec, branches, wait, &mut step);
            }
            Event::Enlist { waiter, tx, enlistment } => self.asked(now, waiter, tx, &mut step, |turn| {
                match turn.enlist(enlistment) {
                    Ok(branch) => turn.answer(waiter, Answer::Enlisted { branch }),
                    Err(rejection) => turn.answer(waiter, Answer::Rejected(rejection)),
                }
                turn.abort_if_refused();
            }),
            Event::Commit { waiter, tx, enlistments, wait } => {
                self.asked(now, waiter, tx, &mut step, |turn| turn.commit(waiter, enlistments, wait));
            }
            Event::Abort { waiter, tx, reason, wait } => {
                self.asked(now, waiter, tx, &mut step, |turn| turn.abort_asked(waiter, reason, wait));
            }
            Event::Reported { tx, branch, operation, report } => {
                self.turn(now, tx, &mut step, |turn| turn.reported(&branch, operation, report));
            }
            Event::Inquire { waiter, tx, branch, expired, known_life } => {
                let found = self.turn(now, tx, &mut step, |turn| turn.inquired(waiter, &branch, expired));
                if !found {
                    // Presumed abort: what this log lived through and does not know was not committed.
                    let answer = if known_life { InquiryAnswer::Abort } else { InquiryAnswer::Foreign };
                    step.then.push(Action::Answer { waiter, answer: Answer::Inquiry(answer) });
                }
            }
            Event::Due { tx } => {
                self.turn(now, tx, &mut step, |turn| {
                    turn.due();
                });
            }
            Event::Wake { tx, participant } => {
                self.turn(now, tx, &mut step, |turn| {
                    turn.wake(|branch| branch.participant == participant);
                });
            }
            // Every turn begins with that, where it is still to be done.
            Event::Resume { tx } => {
                self.turn(now, tx, &mut step, |_turn| {});
            }
            Event::Resolve { waiter, tx, branch, committed, reason } => {
                self.asked(now, waiter, tx, &mut step, |turn| {
                    turn.resolve(waiter, &branch, committed, reason);
                });
            }
            Event::Retry { waiter, tx } => self.asked(now, waiter, tx, &mut step, |turn| {
                let calls = turn.wake(|_any| true);
                turn.answer(waiter, Answer::Retried { calls });
            }),
            Event::Forget { waiter, tx } => self.forget(waiter, tx, &mut step),
        }
        step
    }

    /// When there is something to do without an event.
    pub fn next_due(&self) -> Option<Timestamp> {
        let timer = self.desk.timers.first().map(|(at, _)| *at);
        let too_many = self.retained.len() > self.desk.settings.retention_max;
        let eviction = self.retained.front().map(|(at, _)| if too_many { Timestamp::ZERO } else { *at });
        [timer, eviction].into_iter().flatten().min()
    }

    /// A transaction whose timer is due.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<TxId> {
        let (at, tx) = *self.desk.timers.first()?;
        if at > now {
            return None;
        }
        self.desk.timers.pop_first();
        let transaction = self.transactions.get_mut(&tx).expect("an ended transaction has no timer");
        transaction.live.timer = None;
        Some(tx)
    }

    /// Forgets ended transactions past their retention; if many, not all at once: then [`Engine::next_due`] is now.
    pub fn evict(&mut self, now: Timestamp) -> Step {
        let mut step = Step::default();
        for _ in 0..EVICT_MAX {
            let Some(&(at, tx)) = self.retained.front() else { break };
            if at > now && self.retained.len() <= self.desk.settings.retention_max {
                break;
            }
            self.retained.pop_front();
            self.drop_ended(tx, &mut step);
        }
        step
    }

    /// Transactions with a branch that waits for its next attempt to reach this participant.
    pub fn waiting_for(&self, participant: &ParticipantName) -> Vec<TxId> {
        self.desk.waiting.get(participant).into_iter().flatten().copied().collect()
    }

    /// Takes back a transaction from the log.
    pub fn replay(&mut self, now: Now, id: TxId, history: Vec<u8>) -> Result<(), DecodeError> {
        let mut transaction = Transaction::replay(id, history)?;
        if let Some(request) = &transaction.request
            && let Some(other) = self.requests.insert(request.id.clone(), id)
        {
            let problem = format!("its request {:?} began {other} too", request.id.as_str());
            return Err(DecodeError::Contradiction { number: 1, problem });
        }
        self.known.push_back(id);
        if transaction.outcome.is_some_and(is_clean) {
            let ended_at = transaction.ended_at().unwrap_or(transaction.begun_at);
            let age = Duration::from_millis(now.wall.0.saturating_sub(ended_at.0));
            let rest = self.desk.settings.retention.saturating_sub(age);
            self.retained.push_back((now.mono + rest, id));
            self.ended.insert(id, Ended::new(transaction));
            return Ok(());
        }
        if transaction.outcome.is_none() {
            self.desk.active += 1;
        }
        if transaction.holds_horizon() {
            self.open.push_back(id);
        }
        transaction.live.asleep = transaction.outcome.is_none();
        self.transactions.insert(id, Box::new(transaction));
        Ok(())
    }

    /// After the last [`Engine::replay`]: the transactions to go on with, oldest first.
    pub fn resumable(&mut self) -> Vec<TxId> {
        self.known.make_contiguous().sort_by_key(|id| id.order());
        self.open.make_contiguous().sort_by_key(|id| id.order());
        self.retained.make_contiguous().sort_by_key(|(at, _)| *at);
        let goes_on = |id: &TxId| self.transactions.get(id).is_some_and(|tx| tx.outcome.is_none());
        self.open.iter().copied().filter(goes_on).collect()
    }

    pub fn get(&self, tx: TxId) -> Option<Cow<'_, Transaction>> {
        match self.transactions.get(&tx) {
            Some(transaction) => Some(Cow::Borrowed(transaction)),
            None => self.ended.get(&tx).map(|ended| Cow::Owned(ended.open(tx))),
        }
    }

    pub fn get_by_request(&self, request: &RequestId) -> Option<Cow<'_, Transaction>> {
        self.requests.get(request).and_then(|tx| self.get(*tx))
    }

    /// Transactions that match, newest first, older than `before`; and where to go on, if there may be more. A page can
    /// be short, even empty, and not be the last.
    pub fn list(
        &self,
        before: Option<TxOrder>,
        limit: usize,
        matches: impl Fn(&Transaction) -> bool,
    ) -> (Vec<Cow<'_, Transaction>>, Option<TxOrder>) {
        let end =
            before.map_or(self.known.len(), |before| self.known.partition_point(|id| id.order() < before));
        let mut page = Vec::new();
        for (looked_at, id) in self.known.range(..end).rev().enumerate() {
            if page.len() == limit || looked_at == LIST_SCAN_MAX {
                let newer = self.known[end - looked_at];
                return (page, Some(newer.order()));
            }
            page.extend(self.get(*id).filter(|tx| matches(tx)));
        }
        (page, None)
    }

    /// Every transaction that began before this has ended, and is not in doubt.
    pub fn horizon(&mut self) -> TxOrder {
        while let Some(id) = self.open.front()
            && self.transactions.get(id).is_none_or(|tx| !tx.holds_horizon())
        {
            self.open.pop_front();
        }
        self.open.front().copied().unwrap_or_else(|| self.ids.peek()).order()
    }

    pub fn counts(&self) -> Counts {
        let all = self.transactions.len() + self.ended.len();
        Counts { active: self.desk.active, retained: all - self.desk.active }
    }

    pub fn set_admission(&mut self, admission: Admission) {
        self.admission = admission;
    }

    /// Whether steps publish what they changed.
    pub fn set_watched(&mut self, watched: bool) {
        self.desk.watched = watched;
    }

    fn begin(&mut self, now: Now, waiter: Waiter, spec: BeginSpec, step: &mut Step) {
        match self.admit(&spec) {
            Err(rejection) => {
                step.then.push(Action::Answer { waiter, answer: Answer::Rejected(rejection) });
            }
            Ok(Some(tx)) => {
                self.turn(now, tx, step, |turn| {
                    let timeout = turn.timeout();
                    turn.answer(waiter, Answer::Begun { tx, timeout });
                });
            }
            Ok(None) => {
                let tx = self.create(now, spec);
                self.turn(now, tx, step, |turn| {
                    let timeout = turn.begun();
                    turn.answer(waiter, Answer::Begun { tx, timeout });
                });
            }
        }
    }

    fn run(
        &mut self,
        now: Now,
        waiter: Waiter,
        spec: BeginSpec,
        branches: Vec<BranchSpec>,
        wait: Wait,
        step: &mut Step,
    ) {
        match self.admit(&spec) {
            Err(rejection) => {
                step.then.push(Action::Answer { waiter, answer: Answer::Rejected(rejection) });
            }
            Ok(Some(tx)) => {
                self.turn(now, tx, step, |turn| turn.attach(waiter, wait));
            }
            Ok(None) => {
                let tx = self.create(now, spec);
                let mut refused = false;
                self.turn(now, tx, step, |turn| {
                    let enlistments =
                        branches.into_iter().map(|branch| Enlistment { branch, vote: None }).collect();
                    refused = turn.run(waiter, enlistments, wait).is_err();
                });
                if refused {
                    // It never was: nothing of it is written or shown.
                    *step = Step { then: std::mem::take(&mut step.then), ..Step::default() };
                    step.then.retain(|action| matches!(action, Action::Answer { .. }));
                    self.desk.active -= 1;
                    self.remove(tx);
                }
            }
        }
    }

    /// Whether a transaction may begin; `Some` if it has begun already.
    fn admit(&self, spec: &BeginSpec) -> Result<Option<TxId>, Rejection> {
        if let Some(request) = &spec.request
            && let Some(&tx) = self.requests.get(&request.id)
        {
            let known = self.get(tx).and_then(|tx| tx.request.clone());
            return if known.as_deref() == Some(request) {
                Ok(Some(tx))
            } else {
                Err(Rejection::RequestReused { id: request.id.to_string(), tx })
            };
        }
        match self.admission {
            Admission::Open if self.desk.active >= self.desk.settings.max_active => {
                Err(Rejection::TooManyActive { limit: self.desk.settings.max_active })
            }
            Admission::Open => Ok(None),
            Admission::DiskNearlyFull => Err(Rejection::DiskNearlyFull),
            Admission::Draining => Err(Rejection::Draining),
        }
    }

    fn create(&mut self, now: Now, spec: BeginSpec) -> TxId {
        let id = self.ids.next(now.wall.0);
        if let Some(request) = &spec.request {
            self.requests.insert(request.id.clone(), id);
        }
        let mut transaction = Transaction::new(id);
        transaction.live.begun = now.mono;
        transaction.live.deadline = now.mono + spec.timeout;
        let BeginSpec { protocol, label, timeout, request } = spec;
        // Those with a request are begun and ended in one go, mostly; those without can be open by the million.
        transaction.history.reserve_exact(if request.is_some() { 2 * HISTORY_BYTES } else { HISTORY_BYTES });
        transaction.record(now.wall, What::Begun { protocol, label, timeout, request });
        self.transactions.insert(id, Box::new(transaction));
        self.desk.active += 1;
        self.known.push_back(id);
        self.open.push_back(id);
        while let Some(oldest) = self.known.front()
            && !self.transactions.contains_key(oldest)
            && !self.ended.contains_key(oldest)
        {
            self.known.pop_front();
        }
        // Sweep when most of a queue is gone: each id is then looked at a bounded number of times.
        if self.known.len() > 2 * (self.transactions.len() + self.ended.len()) + 1024 {
            self.known.retain(|id| self.transactions.contains_key(id) || self.ended.contains_key(id));
        }
        if self.open.len() > 2 * self.transactions.len() + 1024 {
            self.open.retain(|id| self.transactions.contains_key(id));
        }
        id
    }

    /// A turn that somebody asked for, who is told if there is no such transaction.
    fn asked(
        &mut self,
        now: Now,
        waiter: Waiter,
        tx: TxId,
        step: &mut Step,
        take: impl FnOnce(&mut Turn<'_>),
    ) {
        if !self.turn(now, tx, step, take) {
            let answer = Answer::Rejected(Rejection::NotFound { tx });
            step.then.push(Action::Answer { waiter, answer });
        }
    }

    /// Gives a transaction its turn; false if there is no such transaction.
    fn turn(&mut self, now: Now, tx: TxId, step: &mut Step, take: impl FnOnce(&mut Turn<'_>)) -> bool {
        let Some(transaction) = self.transactions.get_mut(&tx) else {
            return self.turn_of_ended(now, tx, step, take);
        };
        step.subject = Some(tx);
        let before = transaction.outcome;
        let mut turn = Turn { tx: transaction, desk: &mut self.desk, now, step, persist: None };
        if turn.tx.live.asleep {
            turn.resume();
        }
        take(&mut turn);
        let persist = turn.persist;
        let news = transaction.history.len() > transaction.live.logged;
        if let Some(durability) = persist
            && (news || durability == Durability::Forced)
        {
            transaction.live.logged = transaction.history.len();
            step.log.push(LogWrite::Put { tx, value: Bytes::copy_from_slice(&transaction.history) });
            step.durability = step.durability.max(durability);
        }
        if self.desk.watched {
            step.then.push(Action::Publish(transaction.clone()));
        }
        let after = transaction.outcome;
        if before.is_none() && after.is_some() {
            self.desk.active -= 1;
            step.ended = after;
        }
        // An operator may have settled what was heuristic.
        if !before.is_some_and(is_clean) && after.is_some_and(is_clean) {
            self.retain(now, tx, step);
        }
        true
    }

    /// It answers, and changes no more.
    fn turn_of_ended(
        &mut self,
        now: Now,
        tx: TxId,
        step: &mut Step,
        take: impl FnOnce(&mut Turn<'_>),
    ) -> bool {
        let Some(ended) = self.ended.get(&tx) else { return false };
        step.subject = Some(tx);
        let mut transaction = ended.open(tx);
        take(&mut Turn { tx: &mut transaction, desk: &mut self.desk, now, step, persist: None });
        debug_assert_eq!(transaction.history.len(), ended.history.len(), "{tx} has ended, and changed");
        true
    }

    fn retain(&mut self, now: Now, tx: TxId, step: &mut Step) {
        if self.desk.settings.retention.is_zero() {
            return self.drop_ended(tx, step);
        }
        self.retained.push_back((now.mono + self.desk.settings.retention, tx));
        if let Some(transaction) = self.transactions.remove(&tx) {
            self.ended.insert(tx, Ended::new(*transaction));
        }
    }

    fn forget(&mut self, waiter: Waiter, tx: TxId, step: &mut Step) {
        let answer = match self.get(tx).map(|tx| tx.state()) {
            None => Answer::Rejected(Rejection::NotFound { tx }),
            Some(super::State::Ended(_)) => {
                step.subject = Some(tx);
                self.retained.retain(|(_, id)| *id != tx);
                self.drop_ended(tx, step);
                if !step.log.is_empty() {
                    step.durability = Durability::Forced;
                }
                Answer::Forgotten
            }
            Some(state) => Answer::Rejected(Rejection::WrongState {
                tx,
                state,
                wanted: "only an ended transaction can be forgotten",
            }),
        };
        step.then.push(Action::Answer { waiter, answer });
    }

    fn drop_ended(&mut self, tx: TxId, step: &mut Step) {
        if self.remove(tx) {
            step.log.push(LogWrite::Remove { tx });
        }
    }

    /// Whether the log has a value for it.
    fn remove(&mut self, tx: TxId) -> bool {
        let (request, stored) = if let Some(transaction) = self.transactions.remove(&tx) {
            (transaction.request.map(|request| *request), transaction.live.stored)
        } else if let Some(ended) = self.ended.remove(&tx) {
            (ended.request(), ended.stored)
        } else {
            return false;
        };
        if let Some(request) = request {
            self.requests.remove(&request.id);
        }
        stored
    }
}

const DECODES: &str = "these records made a transaction before";

impl Ended {
    fn new(transaction: Transaction) -> Ended {
        Ended { stored: transaction.live.stored, history: transaction.history.into_boxed_slice() }
    }

    fn open(&self, id: TxId) -> Transaction {
        let mut transaction = Transaction::replay(id, self.history.to_vec()).expect(DECODES);
        transaction.live.stored = self.stored;
        transaction
    }

    fn request(&self) -> Option<Request> {
        match Record::decode_all(&self.history).next()?.expect(DECODES).what {
            What::Begun { request, .. } => request,
            _later => None,
        }
    }
}

impl Desk {
    /// Sees to it that the engine looks at the transaction at that time, or before.
    fn arm(&mut self, transaction: &mut Transaction, at: Timestamp) {
        if let Some(armed) = transaction.live.timer {
            if armed <= at {
                return;
            }
            self.timers.remove(&(armed, transaction.id));
        }
        self.timers.insert((at, transaction.id));
        transaction.live.timer = Some(at);
    }

    fn disarm(&mut self, transaction: &mut Transaction) {
        if let Some(armed) = transaction.live.timer.take() {
            self.timers.remove(&(armed, transaction.id));
        }
    }

    fn wait_for(&mut self, participant: &ParticipantName, tx: TxId) {
        if let Some(transactions) = self.waiting.get_mut(participant) {
            transactions.insert(tx);
        } else {
            self.waiting.insert(participant.clone(), BTreeSet::from([tx]));
        }
    }

    fn wait_no_more(&mut self, participant: &ParticipantName, tx: TxId) {
        if let Some(transactions) = self.waiting.get_mut(participant) {
            transactions.remove(&tx);
            if transactions.is_empty() {
                self.waiting.remove(participant);
            }
        }
    }
}

/// Nobody needs to look at it, so it is forgotten in time.
fn is_clean(outcome: Outcome) -> bool {
    !outcome.is_heuristic()
}

/// Why a reservation forbids to confirm.
fn expired_reason(tx: &Transaction, index: super::BranchIndex) -> SmolStr {
    let branch = tx.branch(index);
    smol_str::format_smolstr!(
        "the reservation of {} (branch {}) expired before the decision",
        branch.participant,
        branch.id
    )
}
