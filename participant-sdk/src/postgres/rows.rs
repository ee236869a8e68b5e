//! What stands in the database, as SQL text. Everything in it is of a grammar that needs no quoting; payloads are
//! hexadecimal.

use std::fmt::Write as _;

use bytes::Bytes;
use sqlx::postgres::{PgDatabaseError, PgRow};
use sqlx::{PgConnection, Row as _};

use super::send;
use crate::barrier::State;
use crate::branch::{Branch, ClusterId, Horizon, ParticipantName};
use crate::error::{Failure, Result};
use crate::local::{Row, Status, key, reservation_columns, reservation_from_columns};
use crate::resource::{Cleaned, InDoubt};
use crate::sql::name::{quotable, shortened};
use crate::sql::{Held, HeldBranch, HeldBy};

pub(super) const UNIQUE_VIOLATION: &str = "23505";
pub(super) const NO_TRANSACTION: &str = "25P01";
pub(super) const FAILED_TRANSACTION: &str = "25P02";
pub(super) const UNDEFINED_COLUMN: &str = "42703";
pub(super) const UNDEFINED_OBJECT: &str = "42704";
pub(super) const UNDEFINED_TABLE: &str = "42P01";
pub(super) const LOCK_TIMEOUT: &str = "55P03";

/// Begins an explicit transaction; the barrier relies on seeing what was committed meanwhile.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; ";

/// Fails unless a transaction is open and sound. Without it COMMIT and PREPARE TRANSACTION answer like a success where
/// there is none, because a statement failed, and the handler went on, or because the handler ended it.
pub(super) const CHECK: &str = "SAVEPOINT assent; RELEASE assent; ";

/// Names of what is prepared here begin with this; the digit is the version of their format.
const GID_FORMAT: &str = "assent1";
const GID_PREFIX: &str = "assent";

/// The server's limit is 199 bytes. Format, xid, the longest branch id and three commas leave this.
const GID_PARTICIPANT_BYTES_MAX: usize = 199 - 7 - 36 - 64 - 3;

/// Rows cleared in one transaction, so that the locks on them are short.
const CLEAN_ROWS_MAX: usize = 500;

/// What the database knows of a branch that takes part by two-phase commit.
pub(super) struct Trace {
    pub(super) state: State,
    /// Of phase one; empty where there was none.
    pub(super) reply: Bytes,
}

/// What the server calls a prepared branch: `assent1,<xid>,<branch>,<participant>`. No part has a comma in it.
pub(super) fn gid(branch: &Branch) -> String {
    let participant = shortened(branch.participant().as_str(), GID_PARTICIPANT_BYTES_MAX);
    format!("{GID_FORMAT},{},{},{participant}", branch.xid(), branch.id())
}

fn read_gid(gid: &str) -> Option<HeldBranch> {
    let mut parts = gid.split(',');
    let mut next = || parts.next();
    let (format, xid, id, participant) = (next()?, next()?, next()?, next()?);
    if format != GID_FORMAT || parts.next().is_some() {
        return None;
    }
    Some(HeldBranch { xid: xid.parse().ok()?, id: id.parse().ok()?, participant: participant.to_owned() })
}

/// A row of the barrier. Fails where there is one, and waits for whoever is about to write one.
pub(super) fn insert(branch: &Branch, cluster: &str, row: &Row) -> String {
    let (ttl_ms, class) = reservation_columns(row.reservation);
    format!(
        "INSERT INTO assent_barrier
         (tx_order, xid, branch, participant, cluster, status, request, reply, ttl_ms, class)
         VALUES ({}, '{cluster}', '{}', {}, {}, {}, {}); ",
        key_values(branch),
        row.status.to_text(),
        bytea(&row.request),
        bytea(&row.reply),
        ttl_ms.map_or("NULL".into(), |ttl_ms| ttl_ms.to_string()),
        class.map_or("NULL".into(), |class| format!("'{class}'")),
    )
}

/// The request is not needed any more; the reply is, for calls that are repeated.
pub(super) fn finish(branch: &Branch, status: Status) -> String {
    let (status, key) = (status.to_text(), key_is(branch));
    format!("UPDATE assent_barrier SET status = '{status}', request = '' WHERE {key}; ")
}

/// A tombstone, unless the horizon covers the branch. Answers with a row if it was written.
pub(super) fn insert_tombstone(branch: &Branch, cluster: &str) -> String {
    format!(
        "INSERT INTO assent_barrier (tx_order, xid, branch, participant, cluster, status, request, reply)
         SELECT {}, '{cluster}', 'rolled_back', '', '' WHERE NOT {} RETURNING true",
        key_values(branch),
        is_before_horizon(branch, cluster),
    )
}

pub(super) fn upsert_reply(branch: &Branch, cluster: &str, reply: &Bytes) -> String {
    format!(
        "INSERT INTO assent_reply (tx_order, xid, branch, participant, cluster, reply)
         VALUES ({}, '{cluster}', {})
         ON CONFLICT (tx_order, xid, branch, participant) DO UPDATE SET reply = excluded.reply; ",
        key_values(branch),
        bytea(reply),
    )
}

pub(super) fn has_reply(branch: &Branch) -> String {
    format!("EXISTS (SELECT FROM assent_reply WHERE {})", key_is(branch))
}

pub(super) fn is_before_horizon(branch: &Branch, cluster: &str) -> String {
    let order = branch.xid().order();
    format!("EXISTS (SELECT FROM assent_horizon WHERE cluster = '{cluster}' AND before > '{order}')")
}

/// What there is of a branch. Whether it is prepared is looked at first: if it is committed meanwhile, the row is seen.
pub(super) async fn look(db: &mut PgConnection, branch: &Branch, cluster: &str) -> Result<Trace> {
    let (gid, key) = (gid(branch), key_is(branch));
    let statements = format!(
        "SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = '{gid}' AND database = current_database());
         SELECT (SELECT status FROM assent_barrier WHERE {key}), (SELECT reply FROM assent_reply WHERE {key}), {}",
        is_before_horizon(branch, cluster),
    );
    let rows = send(db, statements).await?;
    let [prepared, row] = &rows[..] else { return Err(sqlx::Error::RowNotFound.into()) };
    let status: Option<&str> = row.try_get(0)?;
    let state = match status.map(Status::from_text) {
        Some(Status::Committed) => State::Committed,
        Some(Status::RolledBack) => State::RolledBack,
        Some(Status::Prepared) => {
            let participant = branch.participant();
            return Err(Failure::again(format!(
                "{participant} has reserved {branch} by TCC, not prepared it"
            )));
        }
        None if prepared.try_get(0)? => State::Prepared,
        None if row.try_get(2)? => State::BeforeHorizon,
        None => State::Absent,
    };
    let reply: Option<Vec<u8>> = row.try_get(1)?;
    Ok(Trace { state, reply: reply.unwrap_or_default().into() })
}

/// What is prepared for a participant, and how many prepared transactions look like the SDK's, but cannot be read.
pub(super) async fn prepared(
    db: &mut PgConnection,
    participant: &ParticipantName,
) -> Result<(Vec<InDoubt>, usize)> {
    let in_gids = shortened(participant.as_str(), GID_PARTICIPANT_BYTES_MAX);
    let statement = format!("{ALL_PREPARED} AND starts_with(gid, '{GID_PREFIX}')");
    let (mut in_doubt, mut unreadable) = (Vec::new(), 0);
    for row in send(db, statement).await? {
        match read_gid(row.try_get(0)?) {
            None => unreadable += 1,
            Some(held) if held.participant == in_gids => {
                let branch = Branch::new(held.xid, held.id, participant.clone());
                in_doubt.push(InDoubt { branch, reservation: None });
            }
            Some(_) => {}
        }
    }
    Ok((in_doubt, unreadable))
}

const ALL_PREPARED: &str = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()";

pub(super) async fn reserved(db: &mut PgConnection, participant: &ParticipantName) -> Result<Vec<InDoubt>> {
    let statement = format!(
        "SELECT xid, branch, ttl_ms, class FROM assent_barrier
         WHERE participant = '{participant}' AND status = 'prepared'"
    );
    let in_doubt = |row: &PgRow| {
        let (xid, id) = (row.try_get::<&str, _>(0)?.parse()?, row.try_get::<&str, _>(1)?.parse()?);
        let reservation = reservation_from_columns(row.try_get(2)?, row.try_get(3)?);
        Ok(InDoubt { branch: Branch::new(xid, id, participant.clone()), reservation })
    };
    send(db, statement).await?.iter().map(in_doubt).collect()
}

/// All that is held here, by whomever. The tables may be missing.
pub(super) async fn held(db: &mut PgConnection) -> sqlx::Result<Vec<Held>> {
    let mut all = Vec::new();
    for row in send(db, ALL_PREPARED).await? {
        let name: String = row.try_get(0)?;
        all.push(Held { branch: read_gid(&name), name, by: HeldBy::Prepared });
    }
    let there = send(db, "SELECT to_regclass('assent_barrier') IS NOT NULL").await?;
    if !there.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)? {
        return Ok(all);
    }
    let statement = "SELECT xid, branch, participant FROM assent_barrier WHERE status = 'prepared'";
    for row in send(db, statement).await? {
        let (xid, id): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        let participant: String = row.try_get(2)?;
        let name = format!("{GID_FORMAT},{xid},{id},{participant}");
        all.push(Held { branch: read_gid(&name), name, by: HeldBy::Reserved });
    }
    Ok(all)
}

/// Remembers the horizon, then clears a batch of rows. What others work on is left to them.
pub(super) async fn forget_before(db: &mut PgConnection, horizon: &Horizon) -> Result<Cleaned> {
    let (cluster, before) = (quotable(&horizon.cluster)?, horizon.before);
    // Committed before any row is deleted: whoever finds no row finds the horizon. It only ever moves forward.
    let remember = format!(
        "INSERT INTO assent_horizon (cluster, before) VALUES ('{cluster}', '{before}')
         ON CONFLICT (cluster) DO UPDATE SET before = excluded.before WHERE assent_horizon.before < excluded.before"
    );
    send(db, remember).await?;
    let batch = |table: &str, finished: &str| {
        format!(
            "WITH cleared AS (DELETE FROM {table} WHERE ctid = ANY (ARRAY (
                 SELECT ctid FROM {table} WHERE tx_order < '{before}' AND cluster = '{cluster}' AND {finished}
                 LIMIT {CLEAN_ROWS_MAX} FOR UPDATE SKIP LOCKED)) RETURNING 1)
             SELECT count(*) FROM cleared; "
        )
    };
    // A row that comes back after a crash is cleared the next time, so nobody waits for the disk.
    let clear = format!(
        "{BEGIN} SET LOCAL synchronous_commit = off; {} {} COMMIT",
        batch("assent_barrier", "status <> 'prepared'"),
        batch(
            "assent_reply",
            "xid NOT IN (SELECT split_part(gid, ',', 2) FROM pg_prepared_xacts
                 WHERE database = current_database() AND starts_with(gid, 'assent'))"
        ),
    );
    let full = i64::try_from(CLEAN_ROWS_MAX).expect("a small constant");
    for row in send(db, clear).await? {
        if row.try_get::<i64, _>(0)? == full {
            return Ok(Cleaned::Partly);
        }
    }
    Ok(Cleaned::Wholly)
}

/// Reads what `SELECT status, cluster, request, reply, ttl_ms, class` gives.
pub(super) fn read(row: &PgRow) -> Result<Row> {
    Ok(Row {
        status: Status::from_text(row.try_get(0)?),
        cluster: ClusterId::from(row.try_get::<&str, _>(1)?),
        request: row.try_get::<Vec<u8>, _>(2)?.into(),
        reply: row.try_get::<Vec<u8>, _>(3)?.into(),
        reservation: reservation_from_columns(row.try_get(4)?, row.try_get(5)?),
    })
}

pub(super) fn key_is(branch: &Branch) -> String {
    let [tx_order, xid, id, participant] = key(branch);
    format!("tx_order = '{tx_order}' AND xid = '{xid}' AND branch = '{id}' AND participant = '{participant}'")
}

fn key_values(branch: &Branch) -> String {
    let [tx_order, xid, id, participant] = key(branch);
    format!("'{tx_order}', '{xid}', '{id}', '{participant}'")
}

fn bytea(bytes: &Bytes) -> String {
    let mut text = String::with_capacity(2 * bytes.len() + 16);
    text.push_str("decode('");
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes all");
    }
    text.push_str("', 'hex')");
    text
}

/// The server's code for what went wrong, if it was the server.
pub(super) fn code(error: &sqlx::Error) -> Option<&str> {
    Some(error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?.code())
}

/// Trouble, with what the server advises.
pub(super) fn trouble(error: sqlx::Error) -> Failure {
    let own = |error: &sqlx::Error| {
        let hint = error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?.hint()?;
        Some(format!("{error}\nhint: {hint}"))
    };
    match code(&error) {
        Some(FAILED_TRANSACTION) => Failure::again(
            "a statement of the handler had failed, and the handler went on; nothing can be kept\nhint: return the \
             error, or use a savepoint",
        ),
        Some(NO_TRANSACTION) => Failure::again(
            "the handler has ended the transaction, with COMMIT, ROLLBACK or sqlx's `begin`; that is the resource's to \
             do\nhint: use SAVEPOINT and ROLLBACK TO to undo a part",
        ),
        Some(_) | None => own(&error).map_or_else(|| error.into(), Failure::again),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gids_fit_and_are_read_back() {
        let longest = |letter: char, bytes| String::from(letter).repeat(bytes);
        let xid = "00000000-0000-8000-8000-004000000000".parse().unwrap();
        let branch =
            |id: &str, participant: &str| Branch::new(xid, id.parse().unwrap(), participant.parse().unwrap());
        let long = gid(&branch(&longest('b', 64), &longest('p', 128)));
        assert_eq!(long.len(), 199);
        assert_eq!(read_gid(&long).unwrap().id.as_str(), longest('b', 64));
        let short = branch("line-1", "shop/stock");
        assert_eq!(gid(&short), "assent1,00000000-0000-8000-8000-004000000000,line-1,shop/stock");
        let held = read_gid(&gid(&short)).unwrap();
        assert_eq!((held.xid, &held.id, &*held.participant), (xid, short.id(), "shop/stock"));
        let others = ["", "assent1", "assent1,x,y,z", "order-1", &gid(&short).replace('1', "2")];
        for other in others.into_iter().chain([&*format!("{},more", gid(&short))]) {
            assert_eq!(read_gid(other), None, "{other}");
        }
    }
}
