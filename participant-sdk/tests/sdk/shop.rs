//! One shop for all tests: stock that is free, held and sold, by TCC and by two-phase commit, in memory and in SQLite.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use assent_sdk::memory::{Memory, MemoryResource};
use assent_sdk::proto::{Epoch, Shard};
use assent_sdk::sqlite::{Sqlite, SqliteResource};
use assent_sdk::{Branch, Failure, Json, Result, Tcc, TwoPhase, TxId, Vote, refuse};
use rusqlite::Transaction;
use serde::{Deserialize, Serialize};

/// Makes the next handler of its kind fail after it has written.
#[derive(Debug, Default)]
pub struct Faults {
    pub after_reserve: AtomicBool,
    pub after_confirm: AtomicBool,
    pub panic_in_reserve: AtomicBool,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Take {
    pub count: i64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    pub left: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shelf {
    pub free: i64,
    pub held: i64,
    pub sold: i64,
}

pub const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS shelf (free INTEGER NOT NULL CHECK (free >= 0), held INTEGER NOT NULL, sold INTEGER NOT NULL);
    INSERT INTO shelf SELECT 10, 0, 0 WHERE NOT EXISTS (SELECT * FROM shelf);
";

/// A shelf with ten apples.
pub fn shelf() -> Shelf {
    Shelf { free: 10, ..Shelf::default() }
}

pub fn at(free: i64, held: i64, sold: i64) -> Shelf {
    Shelf { free, held, sold }
}

pub fn take(count: i64) -> Json<Take> {
    Json(Take { count })
}

thread_local! {
    /// The life of the coordinator that `tx` gives transactions of. A test sets another where it shares a server whose names
    /// for what is prepared are one space.
    pub static LIFE: Cell<u32> = const { Cell::new(7) };
}

/// The `n`th transaction of the first epoch.
pub fn tx(n: u64) -> TxId {
    TxId::new(1_000 + n, 0, Epoch(1), Shard(0), LIFE.get())
}

pub fn branch(n: u64, id: &str) -> Branch {
    Branch::new(tx(n), id.parse().unwrap(), "shop/stock".parse().unwrap())
}

#[derive(Debug, Default)]
pub struct Stock(pub std::sync::Arc<Faults>);

impl Stock {
    pub fn fail(fault: &AtomicBool) -> Result<()> {
        if fault.swap(false, Ordering::SeqCst) {
            return Err(Failure::again("the disk wobbled"));
        }
        Ok(())
    }
}

impl Tcc<Memory<Shelf>> for Stock {
    type Request = Json<Take>;
    type Reply = Json<Taken>;

    fn reserve(&self, shelf: &mut Shelf, _: &Branch, Json(take): Json<Take>) -> Result<Vote<Json<Taken>>> {
        if take.count == 0 {
            shelf.free = -1;
            return Ok(Vote::ReadOnly(Json(Taken { left: 10 })));
        }
        shelf.free -= take.count;
        shelf.held += take.count;
        Stock::fail(&self.0.after_reserve)?;
        assert!(!self.0.panic_in_reserve.swap(false, Ordering::SeqCst), "a fault was asked for");
        if shelf.free < 0 {
            return Err(refuse("out of stock"));
        }
        Ok(Vote::Prepared(Json(Taken { left: shelf.free })))
    }

    fn confirm(&self, shelf: &mut Shelf, _: &Branch, Json(take): Json<Take>) -> Result<()> {
        shelf.held -= take.count;
        shelf.sold += take.count;
        Stock::fail(&self.0.after_confirm)
    }

    fn cancel(&self, shelf: &mut Shelf, _: &Branch, Json(take): Json<Take>) -> Result<()> {
        shelf.held -= take.count;
        shelf.free += take.count;
        Ok(())
    }
}

impl Tcc<Sqlite> for Stock {
    type Request = Json<Take>;
    type Reply = Json<Taken>;

    fn reserve(&self, db: &Transaction<'_>, _: &Branch, Json(take): Json<Take>) -> Result<Vote<Json<Taken>>> {
        if take.count == 0 {
            db.execute("UPDATE shelf SET sold = 99", [])?;
            return Ok(Vote::ReadOnly(Json(Taken { left: 10 })));
        }
        // The write comes first, so that a refusal has something to leave behind if it could.
        db.execute("UPDATE shelf SET held = held + ?1", [take.count])?;
        Stock::fail(&self.0.after_reserve)?;
        assert!(!self.0.panic_in_reserve.swap(false, Ordering::SeqCst), "a fault was asked for");
        let changed = db.execute("UPDATE shelf SET free = free - ?1 WHERE free >= ?1", [take.count])?;
        if changed == 0 {
            return Err(refuse("out of stock"));
        }
        let left = db.query_row("SELECT free FROM shelf", [], |row| row.get(0))?;
        Ok(Vote::Prepared(Json(Taken { left })))
    }

    fn confirm(&self, db: &Transaction<'_>, _: &Branch, Json(take): Json<Take>) -> Result<()> {
        db.execute("UPDATE shelf SET held = held - ?1, sold = sold + ?1", [take.count])?;
        Stock::fail(&self.0.after_confirm)
    }

    fn cancel(&self, db: &Transaction<'_>, _: &Branch, Json(take): Json<Take>) -> Result<()> {
        db.execute("UPDATE shelf SET held = held - ?1, free = free + ?1", [take.count])?;
        Ok(())
    }
}

/// The same business by two-phase commit.
impl TwoPhase<Memory<Shelf>> for Stock {
    type Request = Json<Take>;
    type Reply = Json<Taken>;

    fn prepare(&self, shelf: &mut Shelf, branch: &Branch, take: Json<Take>) -> Result<Vote<Json<Taken>>> {
        Tcc::<Memory<Shelf>>::reserve(self, shelf, branch, take)
    }

    fn commit(&self, shelf: &mut Shelf, branch: &Branch, take: Json<Take>) -> Result<()> {
        Tcc::<Memory<Shelf>>::confirm(self, shelf, branch, take)
    }

    fn rollback(&self, shelf: &mut Shelf, branch: &Branch, take: Json<Take>) -> Result<()> {
        Tcc::<Memory<Shelf>>::cancel(self, shelf, branch, take)
    }
}

impl TwoPhase<Sqlite> for Stock {
    type Request = Json<Take>;
    type Reply = Json<Taken>;

    fn prepare(&self, db: &Transaction<'_>, branch: &Branch, take: Json<Take>) -> Result<Vote<Json<Taken>>> {
        Tcc::<Sqlite>::reserve(self, db, branch, take)
    }

    fn commit(&self, db: &Transaction<'_>, branch: &Branch, take: Json<Take>) -> Result<()> {
        Tcc::<Sqlite>::confirm(self, db, branch, take)
    }

    fn rollback(&self, db: &Transaction<'_>, branch: &Branch, take: Json<Take>) -> Result<()> {
        Tcc::<Sqlite>::cancel(self, db, branch, take)
    }
}

/// A shop that can be looked into.
pub trait Shop {
    type Tcc: assent_sdk::Resource;
    type TwoPhase: assent_sdk::Resource;

    fn tcc(&self, stock: Stock) -> Self::Tcc;
    fn two_phase(&self, stock: Stock) -> Self::TwoPhase;
    async fn shelf(&self) -> Shelf;
}

impl Shop for Memory<Shelf> {
    type Tcc = MemoryResource<Shelf>;
    type TwoPhase = MemoryResource<Shelf>;

    fn tcc(&self, stock: Stock) -> MemoryResource<Shelf> {
        self.clone().tcc(stock)
    }

    fn two_phase(&self, stock: Stock) -> MemoryResource<Shelf> {
        self.clone().two_phase(stock)
    }

    async fn shelf(&self) -> Shelf {
        self.state()
    }
}

impl Shop for Sqlite {
    type Tcc = SqliteResource;
    type TwoPhase = SqliteResource;

    fn tcc(&self, stock: Stock) -> SqliteResource {
        self.clone().tcc(stock)
    }

    fn two_phase(&self, stock: Stock) -> SqliteResource {
        self.clone().two_phase(stock)
    }

    async fn shelf(&self) -> Shelf {
        self.run(|db| {
            Ok(db.query_row("SELECT free, held, sold FROM shelf", [], |row| {
                Ok(Shelf { free: row.get(0)?, held: row.get(1)?, sold: row.get(2)? })
            })?)
        })
        .await
        .unwrap()
    }
}
