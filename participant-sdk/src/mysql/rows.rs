//! The barrier's rows as SQL.
//!
//! Values stand in the statements as literals: several statements then go in one message, and XA goes by text only. What
//! comes from outside is written in hexadecimal, names have a grammar without quotes.

use std::fmt::Write as _;

use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, Row as _};

use super::{results, run};
use crate::branch::{Branch, ClusterId, Horizon, ParticipantName};
use crate::error::Result;
use crate::local::{Row, Status, key, reservation_columns, reservation_from_columns};
use crate::resource::{Cleaned, InDoubt};
use crate::sql::name::quotable;

/// Answers no rows, and fails where a table or a column is missing.
pub(super) const CHECK: &str = "\
    SELECT tx_order, xid, branch, participant, cluster, status, request, reply, ttl_ms, class
    FROM assent_barrier LIMIT 0;
    SELECT cluster, `before` FROM assent_horizon LIMIT 0";

/// Rows cleared in one local transaction, so that calls never wait long for housekeeping.
const CLEAN_ROWS_MAX: usize = 500;

/// Any bytes as a literal.
pub(super) fn bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2 + 3);
    text.push_str("X'");
    for byte in bytes {
        write!(text, "{byte:02X}").expect("writing to a string cannot fail");
    }
    text.push('\'');
    text
}

pub(super) fn insert(branch: &Branch, row: &Row) -> Result<String> {
    let (ttl_ms, class) = reservation_columns(row.reservation);
    Ok(format!(
        "INSERT INTO assent_barrier
         (tx_order, xid, branch, participant, cluster, status, request, reply, ttl_ms, class)
         VALUES ('{}', '{}', '{}', '{}', '{}', '{}', {}, {}, {}, {})",
        branch.xid().order(),
        branch.xid(),
        branch.id(),
        branch.participant(),
        quotable(&row.cluster)?,
        row.status.to_text(),
        bytes(&row.request),
        bytes(&row.reply),
        ttl_ms.map_or("NULL".to_owned(), |ttl_ms| ttl_ms.to_string()),
        class.map_or("NULL".to_owned(), |class| format!("'{class}'")),
    ))
}

/// `suffix` may lock the row.
pub(super) fn select(branch: &Branch, suffix: &str) -> String {
    let this = this(branch);
    format!("SELECT status, cluster, request, reply, ttl_ms, class FROM assent_barrier WHERE {this} {suffix}")
}

pub(super) fn read(row: &MySqlRow) -> sqlx::Result<Row> {
    let (status, cluster): (&str, &str) = (row.try_get_unchecked(0)?, row.try_get_unchecked(1)?);
    let (request, reply): (Vec<u8>, Vec<u8>) = (row.try_get_unchecked(2)?, row.try_get_unchecked(3)?);
    Ok(Row {
        status: Status::from_text(status),
        cluster: cluster.into(),
        request: request.into(),
        reply: reply.into(),
        reservation: reservation_from_columns(row.try_get_unchecked(4)?, row.try_get_unchecked(5)?),
    })
}

/// The request is not needed any more; the reply stays, for calls that are repeated.
pub(super) fn finish(branch: &Branch, status: Status) -> String {
    format!("UPDATE assent_barrier SET status = '{}', request = '' WHERE {}", status.to_text(), this(branch))
}

pub(super) fn set_reply(branch: &Branch, reply: &[u8]) -> String {
    format!("UPDATE assent_barrier SET reply = {} WHERE {}", bytes(reply), this(branch))
}

pub(super) fn select_horizon(cluster: &str) -> String {
    format!("SELECT `before` FROM assent_horizon WHERE cluster = '{cluster}'")
}

/// Reads what [`select_horizon`] answered.
pub(super) fn read_horizon(rows: &[MySqlRow], cluster: &ClusterId) -> Result<Option<Horizon>> {
    let Some(row) = rows.first() else { return Ok(None) };
    let before: &str = row.try_get_unchecked(0)?;
    Ok(Some(Horizon { cluster: cluster.clone(), before: before.parse()? }))
}

/// The reservations of a participant that wait for a decision.
pub(super) async fn in_doubt(
    db: &mut MySqlConnection,
    participant: &ParticipantName,
) -> Result<Vec<InDoubt>> {
    let sql = format!(
        "SELECT xid, branch, ttl_ms, class FROM assent_barrier
         WHERE status = 'prepared' AND participant = '{participant}'"
    );
    let rows = results(db, sql).await?.into_iter().flatten();
    rows.map(|row| {
        let (xid, id): (&str, &str) = (row.try_get_unchecked(0)?, row.try_get_unchecked(1)?);
        let branch = Branch::new(xid.parse()?, id.parse()?, participant.clone());
        let reservation = reservation_from_columns(row.try_get_unchecked(2)?, row.try_get_unchecked(3)?);
        Ok(InDoubt { branch, reservation })
    })
    .collect()
}

/// Moves the horizon, and only then deletes: whoever still finds no row finds the horizon.
///
/// The rows are picked without a lock and deleted by their keys, so this never waits for a branch that is under way.
pub(super) async fn forget_before(db: &mut MySqlConnection, horizon: &Horizon) -> Result<Cleaned> {
    let (cluster, before) = (quotable(&horizon.cluster)?, horizon.before);
    // The horizon only ever moves forward.
    let sql = format!(
        "INSERT INTO assent_horizon (cluster, `before`) VALUES ('{cluster}', '{before}')
         ON DUPLICATE KEY UPDATE `before` = GREATEST(`before`, '{before}');
         SELECT tx_order, xid, branch, participant FROM assent_barrier
         WHERE tx_order < '{before}' AND cluster = '{cluster}' AND status <> 'prepared'
         ORDER BY tx_order, xid, branch, participant LIMIT {CLEAN_ROWS_MAX}"
    );
    let over: Vec<MySqlRow> = results(db, sql).await?.into_iter().flatten().collect();
    if !over.is_empty() {
        let mut sql = "START TRANSACTION".to_owned();
        for row in &over {
            let key: [&str; 4] = [
                row.try_get_unchecked(0)?,
                row.try_get_unchecked(1)?,
                row.try_get_unchecked(2)?,
                row.try_get_unchecked(3)?,
            ];
            let _ = write!(sql, "; DELETE FROM assent_barrier WHERE {}", at(key));
        }
        sql.push_str("; COMMIT");
        run(db, sql).await?;
    }
    Ok(if over.len() < CLEAN_ROWS_MAX { Cleaned::Wholly } else { Cleaned::Partly })
}

fn this(branch: &Branch) -> String {
    at(key(branch).each_ref().map(String::as_str))
}

fn at([tx_order, xid, id, participant]: [&str; 4]) -> String {
    format!("tx_order = '{tx_order}' AND xid = '{xid}' AND branch = '{id}' AND participant = '{participant}'")
}
