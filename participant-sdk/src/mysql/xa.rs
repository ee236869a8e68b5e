//! XA transactions by name.

use std::fmt;

use assent_proto::TxId;
use sqlx::mysql::{MySqlConnectOptions, MySqlRow};
use sqlx::{Connection as _, MySqlConnection, Row as _};

use super::{code, number, results, rows};
use crate::branch::{Branch, BranchId};
use crate::error::{Error, Result};
use crate::sql::name::shortened;
use crate::sql::{Held, HeldBranch, HeldBy};

/// "asnt". MariaDB with a binary log takes no more than four bytes.
const FORMAT: i64 = 0x6173_6E74;

/// An XA name may have 64 bytes in each of its parts; the first has the xid, a comma, and this.
const OWNER_BYTES_MAX: usize = 64 - XID_BYTES - 1;
const XID_BYTES: usize = 36;

/// Asks for all prepared transactions of the server.
pub(super) const RECOVER: &str = "XA RECOVER";

/// The name of an XA transaction, ours or another's. Printed as statements want it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct XaName {
    format: i64,
    gtrid: Vec<u8>,
    bqual: Vec<u8>,
}

/// Who a branch belongs to, as it stands in names: the participant and the database, because names belong to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner(String);

/// What a name of ours says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) xid: TxId,
    pub(super) id: BranchId,
    pub(super) owner: Owner,
}

impl XaName {
    pub(super) fn new(branch: &Branch, database: &str) -> XaName {
        let Owner(owner) = Owner::new(branch.participant().as_str(), database);
        XaName {
            format: FORMAT,
            gtrid: format!("{},{owner}", branch.xid()).into_bytes(),
            bqual: branch.id().as_str().into(),
        }
    }

    /// From a row of `XA RECOVER`, whose last column is both parts in one.
    pub(super) fn read(row: &MySqlRow) -> sqlx::Result<XaName> {
        let length = |column| {
            let length: i64 = row.try_get_unchecked(column)?;
            usize::try_from(length).map_err(|error| sqlx::Error::Decode(error.into()))
        };
        let mut gtrid: Vec<u8> = row.try_get_unchecked(3)?;
        let bqual = gtrid.split_off(length(1)?.min(gtrid.len()));
        Ok(XaName { format: row.try_get_unchecked(0)?, gtrid, bqual })
    }

    /// Whether it has our format id, so that somebody who uses it means one of ours.
    pub(super) fn has_our_format(&self) -> bool {
        self.format == FORMAT
    }

    /// What it says, if it is one of ours and of a make that this version knows.
    pub(super) fn parse(&self) -> Option<Named> {
        let (xid, owner) = std::str::from_utf8(&self.gtrid).ok()?.split_once(',')?;
        let id = std::str::from_utf8(&self.bqual).ok()?.parse().ok()?;
        let named = Named { xid: xid.parse().ok()?, id, owner: Owner(owner.to_owned()) };
        // Other spellings of an xid are not what we write.
        (self.has_our_format() && named.xid.to_string() == xid).then_some(named)
    }
}

impl fmt::Display for XaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", rows::bytes(&self.gtrid), rows::bytes(&self.bqual), self.format)
    }
}

impl Owner {
    pub(super) fn new(participant: &str, database: &str) -> Owner {
        Owner(shortened(&format!("{participant}@{database}"), OWNER_BYTES_MAX))
    }

    /// As much of the participant's name as is there; absent where it is another database's for certain.
    fn participant(self, database: &str) -> Option<String> {
        match self.0.split_once('@') {
            // A shortened name may end within that of the database.
            Some((participant, of)) => (of == database || of.contains('#')).then(|| participant.to_owned()),
            None => Some(self.0),
        }
    }
}

/// What this database holds, for an operator: every prepared transaction of the server that is not another database's for
/// certain, whether or not it is one of ours, and every reservation. Creates nothing, and needs no tables of the barrier.
///
/// # Errors
/// [`Error::Resource`] with what the server said, and [`Error::Invalid`] for a URL that names no database.
pub async fn held(url: &str) -> Result<Vec<Held>, Error> {
    let options: MySqlConnectOptions = super::connect::parse(url)?;
    let read = async {
        let mut db = MySqlConnection::connect_with(&options).await?;
        let mut held = prepared(&mut db, options.get_database().unwrap_or_default()).await?;
        held.extend(reserved(&mut db).await?);
        db.close().await?;
        Ok(held)
    };
    read.await.map_err(|error: sqlx::Error| Error::Resource(error.into()))
}

async fn prepared(db: &mut MySqlConnection, database: &str) -> sqlx::Result<Vec<Held>> {
    let mut held = Vec::new();
    for row in results(db, RECOVER.to_owned()).await?.into_iter().flatten() {
        let name = XaName::read(&row)?;
        let branch = match name.parse() {
            None => None,
            Some(Named { xid, id, owner }) => {
                let Some(participant) = owner.participant(database) else { continue };
                Some(HeldBranch { xid, id, participant })
            }
        };
        held.push(Held { name: name.to_string(), branch, by: HeldBy::Prepared });
    }
    Ok(held)
}

async fn reserved(db: &mut MySqlConnection) -> sqlx::Result<Vec<Held>> {
    let sql = "SELECT xid, branch, participant FROM assent_barrier WHERE status = 'prepared'";
    let rows = match results(db, sql.to_owned()).await {
        Ok(results) => results.into_iter().flatten(),
        Err(error) if number(&error) == Some(code::NO_SUCH_TABLE) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    rows.map(|row| {
        let (xid, id): (String, String) = (row.try_get_unchecked(0)?, row.try_get_unchecked(1)?);
        let participant = row.try_get_unchecked(2)?;
        let name = format!("{xid}/{id}");
        let branch = xid.parse().ok().zip(id.parse().ok());
        let branch = branch.map(|(xid, id)| HeldBranch { xid, id, participant });
        Ok(Held { name, branch, by: HeldBy::Reserved })
    })
    .collect()
}
