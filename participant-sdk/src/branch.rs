//! The names that the SDK deals in: participants, branches, clusters, protocols.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use assent_proto::{TxId, TxOrder, v1 as pb};

use crate::error::Error;

/// One participant's part of one transaction: what every handler is told it works for.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Branch(Arc<Parts>);

#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Parts {
    xid: TxId,
    id: BranchId,
    participant: ParticipantName,
}

/// Names a branch within its transaction: 1 to 64 bytes of letters, digits and `-_.:/`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BranchId(Arc<str>);

/// Names a participant, such as `shop/stock`: 1 to 128 bytes of letters, digits and `-_.:/`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParticipantName(Arc<str>);

/// Which coordinator a transaction belongs to: a random id kept in the coordinator's log. Empty where it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(Arc<str>);

/// How a branch takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Prepare, then commit or roll back.
    TwoPhase,
    /// Try, then confirm or cancel; what was tried is a reservation that may expire.
    Tcc,
}

/// Every transaction of this cluster that began before the horizon has ended, with every acknowledgement in.
///
/// Its barrier rows are not needed any more, and a phase one from before it can only be a late one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// The cluster that it holds for.
    pub cluster: ClusterId,
    /// The first transaction that it does not cover.
    pub before: TxOrder,
}

const BRANCH_ID_BYTES_MAX: usize = 64;
const PARTICIPANT_BYTES_MAX: usize = 128;

impl Branch {
    /// Puts a branch together.
    pub fn new(xid: TxId, id: BranchId, participant: ParticipantName) -> Branch {
        Branch(Arc::new(Parts { xid, id, participant }))
    }

    /// The transaction.
    pub fn xid(&self) -> TxId {
        self.0.xid
    }

    /// The branch within it.
    pub fn id(&self) -> &BranchId {
        &self.0.id
    }

    /// Whose branch it is.
    pub fn participant(&self) -> &ParticipantName {
        &self.0.participant
    }

    /// One text for transaction and branch, the same at every repetition: a key for the author's own rows, or the
    /// idempotency key for a partner. At most 101 bytes.
    pub fn key(&self) -> String {
        self.to_string()
    }
}

impl fmt::Debug for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.xid(), self.id())
    }
}

impl ClusterId {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is known.
    pub fn is_known(&self) -> bool {
        !self.0.is_empty()
    }
}

impl From<&str> for ClusterId {
    fn from(text: &str) -> ClusterId {
        ClusterId(text.into())
    }
}

impl Protocol {
    pub(crate) fn to_pb(self) -> pb::Protocol {
        match self {
            Protocol::TwoPhase => pb::Protocol::TwoPhase,
            Protocol::Tcc => pb::Protocol::Tcc,
        }
    }

    /// A call names its protocol; an unnamed one is the default, two-phase.
    pub(crate) fn from_pb(protocol: pb::Protocol) -> Protocol {
        match protocol {
            pb::Protocol::Unspecified | pb::Protocol::TwoPhase => Protocol::TwoPhase,
            pb::Protocol::Tcc => Protocol::Tcc,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::TwoPhase => "two-phase commit",
            Protocol::Tcc => "TCC",
        })
    }
}

impl Horizon {
    /// Whether a transaction lies before the horizon.
    pub fn covers(&self, xid: TxId) -> bool {
        xid.order() < self.before
    }

    pub(crate) fn from_pb(horizon: &pb::Horizon) -> Option<Horizon> {
        let before = horizon.before.parse().ok()?;
        Some(Horizon { cluster: ClusterId::from(horizon.cluster_id.as_str()), before })
    }
}

/// The two names have one grammar; what differs is what they are called and how long they may be.
macro_rules! name {
    ($type:ident, $what:literal, $max:expr) => {
        impl $type {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<$type, Error> {
                check_name($what, text, $max)?;
                Ok($type(text.into()))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

name!(BranchId, "branch id", BRANCH_ID_BYTES_MAX);
name!(ParticipantName, "participant name", PARTICIPANT_BYTES_MAX);

fn check_name(what: &str, text: &str, bytes_max: usize) -> Result<(), Error> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    if (1..=bytes_max).contains(&text.len()) && text.bytes().all(good) {
        return Ok(());
    }
    let shown: String = text.chars().take(bytes_max).collect();
    Err(Error::Invalid(format!(
        "{shown:?} ({} bytes) is not a {what}: 1 to {bytes_max} bytes of letters, digits and -_.:/",
        text.len()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_grammar_are_refused_with_the_limit() {
        let long = "x".repeat(65);
        for text in ["", " ", "größe", "a b", "a\n", long.as_str()] {
            let error = text.parse::<BranchId>().unwrap_err().to_string();
            assert!(error.contains("1 to 64 bytes"), "{error}");
        }
        assert_eq!("order-1/line:2.a_b".parse::<BranchId>().unwrap().as_str(), "order-1/line:2.a_b");
        assert!("x".repeat(128).parse::<ParticipantName>().is_ok());
        assert!("x".repeat(129).parse::<ParticipantName>().is_err());
    }
}
