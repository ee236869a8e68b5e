//! What can go wrong, seen from each side: [`Failure`] for handlers, [`Error`] for everybody else.

use std::fmt;

use assent_proto::TxId;

/// The result of a handler.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Any error that can cross threads.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a handler did not do its work: a business no, or trouble that may pass.
///
/// `?` turns any error into trouble, which means *try again*: nothing is known, nothing is promised, the coordinator
/// repeats the call. A business no is said on purpose, with [`refuse`]. So an error that nobody thought of can never
/// abort a transaction for the wrong reason.
pub struct Failure(Kind);

enum Kind {
    Refused(String),
    Again(BoxError),
}

/// Says no: out of stock, no credit, account closed. The transaction aborts with this reason.
///
/// ```
/// # fn take(free: u32, wanted: u32) -> assent_sdk::Result<u32> {
/// if free < wanted {
///     return Err(assent_sdk::refuse(format!("{free} left, {wanted} wanted")));
/// }
/// # Ok(free - wanted) }
/// # assert_eq!(take(1, 2).unwrap_err().refusal(), Some("1 left, 2 wanted"));
/// ```
pub fn refuse(reason: impl Into<String>) -> Failure {
    Failure(Kind::Refused(reason.into()))
}

impl Failure {
    /// Trouble where `?` does not do: in words, or an error in a box or of `anyhow`.
    pub fn again(trouble: impl Into<BoxError>) -> Failure {
        Failure(Kind::Again(trouble.into()))
    }

    /// The reason, if this is a business no.
    pub fn refusal(&self) -> Option<&str> {
        match &self.0 {
            Kind::Refused(reason) => Some(reason),
            Kind::Again(_) => None,
        }
    }

    pub(crate) fn into_cause(self) -> Option<BoxError> {
        match self.0 {
            Kind::Refused(_) => None,
            Kind::Again(error) => Some(error),
        }
    }
}

// `Failure` is not itself an `Error`: that is what lets `?` turn every error into one.
impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure(Kind::Again(Box::new(error)))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Refused(reason) => f.write_str(reason),
            Kind::Again(error) => {
                write!(f, "{error}")?;
                let mut cause = error.source();
                while let Some(error) = cause {
                    write!(f, ": {error}")?;
                    cause = error.source();
                }
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Refused(reason) => f.debug_tuple("Refused").field(reason).finish(),
            Kind::Again(error) => f.debug_tuple("Again").field(error).finish(),
        }
    }
}

/// What the SDK answers when it cannot answer `Ok`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Every branch is, or will be, rolled back.
    #[error("transaction {xid} aborted: {reason}")]
    Aborted {
        /// Which transaction.
        xid: TxId,
        /// Why, for people.
        reason: String,
        /// The error that the initiator's own closure returned, where that was the reason.
        source: Option<BoxError>,
    },

    /// The answer was lost and cannot be had now: the transaction may have committed. Never treat it as an abort; ask
    /// the coordinator later, by xid or by request id.
    #[error("the outcome of transaction {} is not known", name(*xid, request_id))]
    Unknown {
        /// Which transaction; absent where the reply that would have told it was lost.
        xid: Option<TxId>,
        /// The request id that it was begun with; may be empty.
        request_id: String,
    },

    /// Some branch went against the decision, or of some branch it cannot be told: an operator must look.
    #[error("transaction {xid} ended {outcome}: {reason}")]
    Heuristic {
        /// Which transaction.
        xid: TxId,
        /// How it ended.
        outcome: Heuristic,
        /// Which branch did what, for people.
        reason: String,
    },

    /// The participant said no to its branch.
    #[error("refused: {reason}")]
    Refused {
        /// What the handler gave to [`refuse`].
        reason: String,
    },

    /// The coordinator does not take this call, and repeating it will not help.
    #[error("the coordinator answered {code:?}: {message}")]
    Rejected {
        /// The gRPC status code.
        code: tonic::Code,
        /// The machine-readable reason, in `UPPER_SNAKE_CASE`; may be empty.
        reason: String,
        /// For people.
        message: String,
    },

    /// The coordinator, or the participant's own resource, could not do it now. Nothing was committed.
    #[error("unavailable: {0}")]
    Unavailable(String),

    /// A value given to the SDK is not one that it can take.
    #[error("{0}")]
    Invalid(String),

    /// The resource could not be opened.
    #[error("the resource could not be opened")]
    Resource(#[source] BoxError),
}

/// An outcome that is neither committed nor aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heuristic {
    /// Some branches committed, others rolled back.
    Mixed,
    /// Of some branch it cannot be told what happened.
    Hazard,
}

impl fmt::Display for Heuristic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Heuristic::Mixed => "mixed",
            Heuristic::Hazard => "hazard",
        })
    }
}

fn name(xid: Option<TxId>, request_id: &str) -> String {
    match xid {
        Some(xid) => xid.to_string(),
        None => format!("with request id {request_id:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_mark_means_try_again_and_keeps_the_chain_of_causes() {
        fn handler() -> Result<()> {
            "x".parse::<u32>()?;
            Ok(())
        }
        let failure = handler().unwrap_err();
        assert_eq!(failure.refusal(), None);
        assert_eq!(failure.to_string(), "invalid digit found in string");
    }

    #[test]
    fn refuse_is_a_business_no() {
        assert_eq!(refuse("out of stock").refusal(), Some("out of stock"));
    }
}
