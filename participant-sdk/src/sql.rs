//! What the resources over SQL servers share: connections, names of branches, what an operator is shown.

pub(crate) mod handler;
pub(crate) mod name;
pub(crate) mod pool;

use std::time::Duration;

pub use self::handler::{AsyncTcc, Prepare, SqlDatabase};
pub use self::pool::Lease;
pub use crate::held::{Held, HeldBranch, HeldBy};

/// How long a call may take, besides one wait for a lock. A connection whose server has lost its power may stay silent for
/// ever: nothing arrives on it that would say so.
pub(crate) const CALL_MAX: Duration = Duration::from_mins(5);

/// Whether the barrier's tables are created where they are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tables {
    /// They are.
    #[default]
    Create,
    /// They are only checked: you create them yourself, from `SCHEMA` or with `assent participant ddl`.
    Check,
}
