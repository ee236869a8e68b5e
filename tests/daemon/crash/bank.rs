//! The participants: four sets of accounts, each a SQLite file with a process of its own. Two prepare, two reserve.

use std::io::{Read as _, stdin};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use assent_history::{Effect, Saw};
use assent_sdk::sqlite::Sqlite;
use assent_sdk::{Branch, Json, Participant, Protocol, Result, Tcc, TwoPhase, Vote, refuse};
use rusqlite::{Connection, OpenFlags, Transaction};
use serde::{Deserialize, Serialize};

/// Says to this very test program that it is to be a participant: name, protocol, coordinator, file.
const ROLE: &str = "ASSENT_TEST_PARTICIPANT";

/// The sets of accounts; participants bear their names.
pub const SETS: [(&str, Protocol); 4] = [
    ("bank/a", Protocol::TwoPhase),
    ("bank/b", Protocol::TwoPhase),
    ("shop/c", Protocol::Tcc),
    ("shop/d", Protocol::Tcc),
];

/// Those of each set.
pub const ACCOUNTS: [&str; 2] = ["x", "y"];

/// A participant that is away while there is load, and comes back when things are to settle. It has no accounts.
pub const AWAY: &str = "shop/away";

/// How long anybody waits for a lock on a file.
const BUSY: Duration = Duration::from_mins(1);

const SCHEMA: &str = "
    create table if not exists accounts (name text primary key, balance integer not null);
    insert or ignore into accounts values ('x', 1000000), ('y', 1000000);
    create table if not exists staged (branch text not null, id text not null, account text not null, amount integer not null);
    create table if not exists effects
        (number integer primary key autoincrement, id text not null, account text not null, amount integer not null);
    create index if not exists effects_of on effects (id);";

/// What a branch is asked to do: all of a transfer that concerns its set.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Work {
    pub id: String,
    pub moves: Vec<(String, i64)>,
    pub refuse: bool,
}

/// Is a participant when told to be one; as a test of its own it has nothing to show.
#[tokio::test(flavor = "multi_thread")]
async fn participant_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let [name, coordinator, file] = role.split('|').collect::<Vec<_>>().try_into().unwrap();
    end_with_parent();
    let participant = participant(name, coordinator, Path::new(file)).await;
    std::future::pending::<()>().await;
    drop(participant);
}

/// A participant in this process.
pub async fn participant(name: &str, coordinator: &str, file: &Path) -> Participant {
    let database = Sqlite::open(file).unwrap().setup(SCHEMA).unwrap();
    let tcc = SETS.iter().any(|(set, protocol)| *set == name && *protocol == Protocol::Tcc);
    let resource = if tcc { database.tcc(Ledger) } else { database.two_phase(Ledger) };
    let participant = Participant::builder(name).resource(resource).inquire_after(Duration::from_millis(300));
    participant.connect(coordinator).await.unwrap()
}

/// Starts the participant of a set. Without `crash_at` nothing in its environment is about assent.
pub fn start(set: usize, coordinator: &str, directory: &Path, crash_at: Option<&str>) -> Child {
    let file = file(directory, set);
    let log = std::fs::File::options().create(true).append(true).open(file.with_extension("log")).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "crash::bank::participant_process", "--nocapture"])
        .env(ROLE, format!("{}|{coordinator}|{}", SETS[set].0, file.display()))
        .envs(crash_at.map(|at| ("ASSENT_CRASH_AT", at)))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log);
    command.spawn().unwrap()
}

/// Ends this process when whoever started it is gone: then the other end of its standard input is closed.
pub fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
}

pub fn file(directory: &Path, set: usize) -> PathBuf {
    directory.join(SETS[set].0.replace('/', "-")).with_extension("db")
}

/// A way to look at a set from outside.
#[derive(Debug)]
pub struct Reader {
    database: Connection,
    /// Effects up to this number are of former times, and not shown.
    base: u64,
}

impl Reader {
    pub fn open(directory: &Path, set: usize, base: u64) -> Reader {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = Connection::open_with_flags(file(directory, set), flags).unwrap();
        database.busy_timeout(BUSY).unwrap();
        Reader { database, base }
    }

    /// Looks at all of it, or at one transfer, in one transaction.
    pub fn look(&mut self, of: Option<&str>) -> Saw {
        let base = self.base;
        let view = self.database.transaction().unwrap();
        let effect = |row: &rusqlite::Row<'_>| {
            Ok(Effect { id: row.get(0)?, account: row.get(1)?, amount: row.get(2)? })
        };
        let columns = "select id, account, amount from effects";
        let Some(of) = of else {
            let before: u64 = one(&view, &format!("select count(*) from effects where number <= {base}"));
            assert_eq!(before, base, "effects of former times are gone");
            let sql = format!("{columns} where number > {base} order by number");
            return Saw {
                effects: all(&view, &sql, effect),
                balances: all(&view, "select name, balance from accounts", |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .into_iter()
                .collect(),
                held: all(&view, "select distinct id from staged", |row| row.get(0)),
            };
        };
        let mut select = view.prepare_cached(&format!("{columns} where id = ?1")).unwrap();
        let effects = select.query_map([of], effect).unwrap().collect::<rusqlite::Result<_>>().unwrap();
        Saw { effects, ..Saw::default() }
    }

    pub fn held(&mut self) -> u64 {
        one(&self.database, "select count(*) from staged")
    }

    /// The number of the last effect.
    pub fn newest(&mut self) -> u64 {
        one(&self.database, "select coalesce(max(number), 0) from effects")
    }
}

fn one(database: &Connection, sql: &str) -> u64 {
    database.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn all<T>(
    database: &Connection,
    sql: &str,
    row: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Vec<T> {
    let mut statement = database.prepare_cached(sql).unwrap();
    statement.query_map([], row).unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

struct Ledger;

impl Ledger {
    fn stage(db: &Transaction<'_>, branch: &Branch, work: &Work) -> Result<Vote<()>> {
        for (account, amount) in &work.moves {
            db.execute(
                "insert into staged values (?1, ?2, ?3, ?4)",
                (branch.key(), &work.id, account, amount),
            )?;
        }
        if work.refuse { Err(refuse("it was asked to")) } else { Ok(Vote::Prepared(())) }
    }

    fn apply(db: &Transaction<'_>, branch: &Branch, work: &Work) -> Result<()> {
        Ledger::unstage(db, branch, work)?;
        for (account, amount) in &work.moves {
            db.execute(
                "insert into effects (id, account, amount) values (?1, ?2, ?3)",
                (&work.id, account, amount),
            )?;
            db.execute("update accounts set balance = balance + ?2 where name = ?1", (account, amount))?;
        }
        Ok(())
    }

    fn unstage(db: &Transaction<'_>, branch: &Branch, work: &Work) -> Result<()> {
        let gone = db.execute("delete from staged where branch = ?1", [branch.key()])?;
        assert_eq!(gone, work.moves.len(), "{branch}");
        Ok(())
    }
}

impl TwoPhase<Sqlite> for Ledger {
    type Request = Json<Work>;
    type Reply = ();

    fn prepare(&self, db: &Transaction<'_>, branch: &Branch, Json(work): Json<Work>) -> Result<Vote<()>> {
        Ledger::stage(db, branch, &work)
    }

    fn commit(&self, db: &Transaction<'_>, branch: &Branch, Json(work): Json<Work>) -> Result<()> {
        Ledger::apply(db, branch, &work)
    }

    fn rollback(&self, db: &Transaction<'_>, branch: &Branch, Json(work): Json<Work>) -> Result<()> {
        Ledger::unstage(db, branch, &work)
    }
}

impl Tcc<Sqlite> for Ledger {
    type Request = Json<Work>;
    type Reply = ();

    fn reserve(&self, db: &Transaction<'_>, branch: &Branch, Json(work): Json<Work>) -> Result<Vote<()>> {
        Ledger::stage(db, branch, &work)
    }

    fn confirm(&self, db: &Transaction<'_>, branch: &Branch, Json(work): Json<Work>) -> Result<()> {
        Ledger::apply(db, branch, &work)
    }

    fn cancel(&self, db: &Transaction<'_>, branch: &Branch, Json(work): Json<Work>) -> Result<()> {
        Ledger::unstage(db, branch, &work)
    }
}
