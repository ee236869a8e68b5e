//! The barrier's rows as SQL.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::Sqlite;
use crate::branch::{Branch, ClusterId, Horizon, ParticipantName};
use crate::error::Result;
use crate::handler::Handler;
use crate::held::{Held, HeldBranch, HeldBy};
use crate::local::{Local, Row, Status, key, reservation_columns, reservation_from_columns};
use crate::resource::{Cleaned, InDoubt, Vote};

/// The tables of the barrier, as statements that create them where they are missing; [`Sqlite::open`] runs them.
pub const SCHEMA: &str = "\
-- What assent's participants remember of their branches: one row each, deleted when the transaction is over everywhere.
-- The key begins with the transaction's place in the order of all transactions, so that clearing what lies before the
-- horizon is a range at the front. Rows of different participants are kept apart: several may share one file.
CREATE TABLE IF NOT EXISTS assent_barrier (
    tx_order TEXT NOT NULL,
    xid TEXT NOT NULL,
    branch TEXT NOT NULL,
    participant TEXT NOT NULL,
    cluster TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('prepared', 'committed', 'rolled_back')),
    request BLOB NOT NULL,
    reply BLOB NOT NULL,
    ttl_ms INTEGER,
    class TEXT CHECK (class IN ('cooperative', 'autonomous')),
    PRIMARY KEY (tx_order, xid, branch, participant)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS assent_in_doubt ON assent_barrier (participant) WHERE status = 'prepared';

-- Transactions of a cluster before this one are over; a call that comes for one of them is late.
CREATE TABLE IF NOT EXISTS assent_horizon (cluster TEXT PRIMARY KEY, before TEXT NOT NULL) WITHOUT ROWID;
";

/// Rows cleared in one local transaction, so that calls never wait long for housekeeping.
const CLEAN_ROWS_MAX: usize = 500;

/// An open SQLite transaction, with the handler.
pub(super) struct Open<'a> {
    pub(super) db: &'a Transaction<'a>,
    pub(super) handler: &'a dyn Handler<Sqlite>,
}

impl Local for Open<'_> {
    async fn row(&mut self, branch: &Branch) -> Result<Option<Row>> {
        let mut select = self.db.prepare_cached(
            "SELECT status, cluster, request, reply, ttl_ms, class FROM assent_barrier
             WHERE tx_order = ?1 AND xid = ?2 AND branch = ?3 AND participant = ?4",
        )?;
        Ok(select.query_row(key(branch), read_row).optional()?)
    }

    async fn insert(&mut self, branch: &Branch, row: Row) -> Result<()> {
        let [tx_order, xid, id, participant] = key(branch);
        let (ttl_ms, class) = reservation_columns(row.reservation);
        self.db
            .prepare_cached(
                "INSERT INTO assent_barrier
                 (tx_order, xid, branch, participant, cluster, status, request, reply, ttl_ms, class)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                tx_order,
                xid,
                id,
                participant,
                row.cluster.as_str(),
                row.status.to_text(),
                &*row.request,
                &*row.reply,
                ttl_ms,
                class
            ])?;
        Ok(())
    }

    async fn finish(&mut self, branch: &Branch, status: Status) -> Result<()> {
        let [tx_order, xid, id, participant] = key(branch);
        self.db
            .prepare_cached(
                "UPDATE assent_barrier SET status = ?5, request = x''
                 WHERE tx_order = ?1 AND xid = ?2 AND branch = ?3 AND participant = ?4",
            )?
            .execute(params![tx_order, xid, id, participant, status.to_text()])?;
        Ok(())
    }

    async fn horizon(&mut self, cluster: &ClusterId) -> Result<Option<Horizon>> {
        let before: Option<String> = self
            .db
            .prepare_cached("SELECT before FROM assent_horizon WHERE cluster = ?1")?
            .query_row([cluster.as_str()], |row| row.get(0))
            .optional()?;
        let Some(before) = before else { return Ok(None) };
        Ok(Some(Horizon { cluster: cluster.clone(), before: before.parse()? }))
    }

    async fn work(&mut self, branch: &Branch, request: Bytes) -> Result<Vote<Bytes>> {
        self.handler.work(self.db, branch, request)
    }

    async fn commit(&mut self, branch: &Branch, request: Bytes) -> Result<()> {
        self.handler.commit(self.db, branch, request)
    }

    async fn rollback(&mut self, branch: &Branch, request: Bytes) -> Result<()> {
        self.handler.rollback(self.db, branch, request)
    }
}

pub(super) fn in_doubt(db: &Transaction<'_>, participant: &ParticipantName) -> Result<Vec<InDoubt>> {
    let mut select = db.prepare_cached(
        "SELECT xid, branch, ttl_ms, class FROM assent_barrier WHERE participant = ?1 AND status = 'prepared'",
    )?;
    let rows = select.query_map([participant.as_str()], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, String>(1)?,
            row.get(2)?,
            row.get::<_, Option<String>>(3)?,
        ))
    })?;
    rows.map(|row| {
        let (xid, id, ttl_ms, class) = row?;
        let branch = Branch::new(xid.parse()?, id.parse()?, participant.clone());
        Ok(InDoubt { branch, reservation: reservation_from_columns(ttl_ms, class.as_deref()) })
    })
    .collect()
}

/// All that is held in a file, by whichever participant. The tables may be missing.
pub(super) fn held(db: &Connection) -> rusqlite::Result<Vec<Held>> {
    if !db.table_exists(None, "assent_barrier")? {
        return Ok(Vec::new());
    }
    let mut select =
        db.prepare("SELECT xid, branch, participant, ttl_ms FROM assent_barrier WHERE status = 'prepared'")?;
    let rows = select.query_map([], |row| {
        let (xid, id): (String, String) = (row.get(0)?, row.get(1)?);
        let by = if row.get::<_, Option<i64>>(3)?.is_some() { HeldBy::Reserved } else { HeldBy::Prepared };
        let participant = row.get(2)?;
        let branch = xid.parse().ok().zip(id.parse().ok());
        let branch = branch.map(|(xid, id)| HeldBranch { xid, id, participant });
        Ok(Held { name: format!("{xid}/{id}"), branch, by })
    })?;
    rows.collect()
}

pub(super) fn forget_before(db: &Transaction<'_>, horizon: &Horizon) -> Result<Cleaned> {
    let (cluster, before) = (horizon.cluster.as_str(), horizon.before.to_string());
    // The horizon only ever moves forward.
    db.execute(
        "INSERT INTO assent_horizon (cluster, before) VALUES (?1, ?2)
         ON CONFLICT (cluster) DO UPDATE SET before = max(before, excluded.before)",
        [cluster, &before],
    )?;
    let cleared = db.execute(
        "DELETE FROM assent_barrier WHERE (tx_order, xid, branch, participant) IN (
             SELECT tx_order, xid, branch, participant FROM assent_barrier
             WHERE tx_order < ?2 AND cluster = ?1 AND status <> 'prepared' LIMIT ?3)",
        params![cluster, before, i64::try_from(CLEAN_ROWS_MAX).expect("a small constant")],
    )?;
    Ok(if cleared < CLEAN_ROWS_MAX { Cleaned::Wholly } else { Cleaned::Partly })
}

fn read_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        status: Status::from_text(row.get_ref(0)?.as_str()?),
        cluster: ClusterId::from(row.get_ref(1)?.as_str()?),
        request: row.get::<_, Vec<u8>>(2)?.into(),
        reply: row.get::<_, Vec<u8>>(3)?.into(),
        reservation: reservation_from_columns(row.get(4)?, row.get_ref(5)?.as_str_or_null()?),
    })
}
