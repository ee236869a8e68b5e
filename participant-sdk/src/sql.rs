//! What the resources over SQL servers share: connections, names of branches, what an operator is shown.

pub(crate) mod handler;
pub(crate) mod name;
pub(crate) mod pool;

pub use self::handler::{AsyncTcc, Prepare, SqlDatabase};
pub use self::pool::Lease;
pub use crate::held::{Held, HeldBranch, HeldBy};

/// Whether the barrier's tables are created where they are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tables {
    /// They are.
    #[default]
    Create,
    /// They are only checked: you create them yourself, from `SCHEMA` or with `assent participant ddl`.
    Check,
}
