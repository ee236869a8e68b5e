//! What the resources over SQL servers share: connections, names of branches, what an operator is shown.

pub(crate) mod handler;
pub(crate) mod name;
pub(crate) mod pool;

use assent_proto::TxId;

pub use self::handler::{AsyncTcc, Prepare, SqlDatabase};
pub use self::pool::Lease;
use crate::branch::BranchId;

/// Whether the barrier's tables are created where they are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tables {
    /// They are.
    #[default]
    Create,
    /// They are only checked: you create them yourself, from `SCHEMA` or with `assent participant ddl`.
    Check,
}

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
    /// By a prepared transaction, with its locks.
    Prepared,
    /// By a row of the barrier: a reservation.
    Reserved,
}
