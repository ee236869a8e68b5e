//! What an operator is shown of a database.

use assent_proto::TxId;

use crate::branch::BranchId;

/// A branch that a database holds, for people: prepared, or reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What the database calls it: the gid, or the parts of the XA name in hexadecimal.
    pub name: String,
    /// The branch; absent where the name is of no format that is known here, so that it is somebody else's.
    pub branch: Option<HeldBranch>,
    /// By what it is held.
    pub by: HeldBy,
}

/// Which branch is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBranch {
    /// The transaction.
    pub xid: TxId,
    /// The branch within it.
    pub id: BranchId,
    /// Whose it is: the participant's name, or the beginning of a long one and `#` and a hash of it.
    pub participant: String,
}

/// How a database holds a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldBy {
    /// It is prepared: by a transaction of the database, with its locks, or by the service's own rows.
    Prepared,
    /// By a row of the barrier: a reservation.
    Reserved,
}
