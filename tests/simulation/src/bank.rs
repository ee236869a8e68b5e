//! What participants work on: a set of accounts, in a database that survives all crashes.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::judge::Flaw;
use crate::world::{effect_or_end, with};
use assent_history::{Balances, Effect, Saw};
use assent_sdk::memory::Memory;
use assent_sdk::resource::{Cleaned, Granted, InDoubt, OnePhase, PhaseOne};
use assent_sdk::{Branch, Completion, Json, Protocol, Resource, Tcc, TwoPhase, Vote, refuse};
use assent_sdk::{ClusterId, Failure, Horizon, ParticipantName, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// How many accounts a set has, and what stands on each at first.
pub const ACCOUNTS: u64 = 4;
const OPENING: i64 = 1_000;

/// The moves of a transfer in one set, as its participant is asked for them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Work {
    pub transfer: String,
    /// By how much each account changes.
    pub moves: BTreeMap<String, i64>,
}

/// A set of accounts.
#[derive(Clone, Debug)]
pub struct Bank {
    set: &'static str,
    balances: Balances,
    effects: Vec<Effect>,
    held: BTreeMap<String, Work>,
}

impl Bank {
    pub fn new(set: &'static str) -> Bank {
        let balances = (1..=ACCOUNTS).map(|account| (account.to_string(), OPENING)).collect();
        Bank { set, balances, effects: Vec::new(), held: BTreeMap::new() }
    }

    pub fn balances(&self) -> Balances {
        self.balances.clone()
    }

    /// What a look at the whole of it shows.
    pub fn show(&self) -> Saw {
        let mut held: Vec<_> = self.held.values().map(|work| work.transfer.clone()).collect();
        held.sort();
        Saw { effects: self.effects.clone(), balances: self.balances.clone(), held }
    }

    fn hold(&mut self, branch: &Branch, work: Work) -> Result<Vote<Json<i64>>> {
        let mut free = self.balances.clone();
        for (account, amount) in self.held.values().flat_map(|held| &held.moves).filter(|(_, it)| **it < 0) {
            *free.entry(account.clone()).or_default() += amount;
        }
        let least = work.moves.iter().map(|(account, it)| free.get(account).map(|free| free + it.min(&0)));
        let Some(least) = least.collect::<Option<Vec<_>>>().and_then(|left| left.into_iter().min()) else {
            return Err(refuse("there is no such account"));
        };
        if work.moves.values().all(|amount| *amount == 0) {
            return Ok(Vote::ReadOnly(Json(least)));
        }
        if least < 0 {
            return Err(refuse(format!("{} are missing", -least)));
        }
        self.held.insert(branch.to_string(), work);
        Ok(Vote::Prepared(Json(least)))
    }

    fn finish(&mut self, branch: &Branch) {
        let Some(Work { transfer, moves }) = self.held.remove(&branch.to_string()) else {
            with(|world| world.breach(format!("{branch} was committed and is not held")));
            return;
        };
        with(|world| world.committed(&transfer, branch.xid(), self.set));
        for (account, amount) in moves {
            *self.balances.entry(account.clone()).or_default() += amount;
            self.effects.push(Effect { id: transfer.clone(), account, amount });
        }
    }

    fn release(&mut self, branch: &Branch) {
        if let Some(work) = self.held.remove(&branch.to_string()) {
            with(|world| world.rolled_back(&work.transfer, branch.xid(), self.set));
        }
    }
}

/// The service: it holds, and then does or releases, by either protocol.
#[derive(Clone, Copy, Debug)]
pub struct Teller;

impl TwoPhase<Memory<Bank>> for Teller {
    type Request = Json<Work>;
    type Reply = Json<i64>;

    fn prepare(&self, bank: &mut Bank, branch: &Branch, Json(work): Json<Work>) -> Result<Vote<Json<i64>>> {
        bank.hold(branch, work)
    }

    fn commit(&self, bank: &mut Bank, branch: &Branch, _: Json<Work>) -> Result<()> {
        bank.finish(branch);
        Ok(())
    }

    fn rollback(&self, bank: &mut Bank, branch: &Branch, _: Json<Work>) -> Result<()> {
        bank.release(branch);
        Ok(())
    }
}

impl Tcc<Memory<Bank>> for Teller {
    type Request = Json<Work>;
    type Reply = Json<i64>;

    fn reserve(&self, bank: &mut Bank, branch: &Branch, Json(work): Json<Work>) -> Result<Vote<Json<i64>>> {
        bank.hold(branch, work)
    }

    fn confirm(&self, bank: &mut Bank, branch: &Branch, _: Json<Work>) -> Result<()> {
        bank.finish(branch);
        Ok(())
    }

    fn cancel(&self, bank: &mut Bank, branch: &Branch, _: Json<Work>) -> Result<()> {
        bank.release(branch);
        Ok(())
    }
}

/// A resource on a database that takes its time, can be out of order, and is cut off when its host crashes.
#[derive(Debug)]
pub struct Slow<R> {
    pub inner: R,
    pub set: &'static str,
    pub inquires: bool,
}

impl<R: Resource> Slow<R> {
    async fn before(&self) -> Result<()> {
        let (ms, trouble) = with(|world| {
            let trouble = world.judge.is_out_of_order(self.set, world.now_ms);
            (world.rng.skewed(0, 30), trouble)
        });
        tokio::time::sleep(Duration::from_millis(ms)).await;
        effect_or_end().await;
        if trouble { Err(Failure::again("the database is out of order")) } else { Ok(()) }
    }

    async fn after<T>(&self, result: T) -> T {
        let ms = with(|world| world.rng.skewed(0, 10));
        tokio::time::sleep(Duration::from_millis(ms)).await;
        result
    }
}

impl<R: Resource> Resource for Slow<R> {
    fn protocol(&self) -> Protocol {
        self.inner.protocol()
    }

    fn inquires(&self) -> bool {
        self.inquires
    }

    async fn phase_one(&self, call: PhaseOne) -> Result<Granted> {
        self.before().await?;
        if with(|world| world.judge.flaw == Flaw::VotesAndForgets && world.rng.percent(5)) {
            return Ok(Granted { vote: Vote::Prepared(Bytes::new()), reservation: call.reservation });
        }
        self.after(self.inner.phase_one(call).await).await
    }

    async fn commit(&self, branch: &Branch) -> Result<Completion> {
        self.before().await?;
        self.after(self.inner.commit(branch).await).await
    }

    async fn rollback(&self, branch: &Branch, cluster: &ClusterId) -> Result<Completion> {
        self.before().await?;
        self.after(self.inner.rollback(branch, cluster).await).await
    }

    async fn commit_one_phase(&self, call: PhaseOne) -> Result<OnePhase> {
        self.before().await?;
        self.after(self.inner.commit_one_phase(call).await).await
    }

    async fn in_doubt(&self, participant: &ParticipantName) -> Result<Vec<InDoubt>> {
        self.before().await?;
        if with(|world| world.judge.flaw == Flaw::ForgetsDoubts) {
            return Ok(Vec::new());
        }
        self.inner.in_doubt(participant).await
    }

    async fn forget_before(&self, horizon: &Horizon) -> Result<Cleaned> {
        self.before().await?;
        self.inner.forget_before(horizon).await
    }
}
