//! How a transaction ended, as its initiator is told.

use assent_proto::{TxId, v1 as pb};
use bytes::Bytes;

use crate::error::{Error, Heuristic};
use crate::payload::Decode;

/// A committed transaction.
#[derive(Clone, Debug)]
pub struct Completed {
    /// Which transaction.
    pub xid: TxId,
    /// Every branch has acknowledged. False where [`Wait::Decision`](super::Wait) was asked for, or where a participant
    /// cannot be reached: the coordinator goes on until it can.
    pub complete: bool,
    /// In the order of enlistment.
    pub branches: Vec<CompletedBranch>,
}

/// A branch of a committed transaction.
#[derive(Clone, Debug)]
pub struct CompletedBranch {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub participant: String,
    reply: Bytes,
}

impl Completed {
    /// The reply of a branch, named by its id or by its participant.
    ///
    /// # Errors
    /// [`Error::Invalid`] where no branch or several bear the name, or where the reply is of another type.
    pub fn reply<T: Decode>(&self, name: &str) -> Result<T, Error> {
        self.branch(name)?.reply()
    }

    /// The branch with this id, or else the only one of this participant.
    fn branch(&self, name: &str) -> Result<&CompletedBranch, Error> {
        if let Some(branch) = self.branches.iter().find(|branch| branch.id == name) {
            return Ok(branch);
        }
        let mut named = self.branches.iter().filter(|branch| branch.participant == name);
        match (named.next(), named.next()) {
            (Some(branch), None) => Ok(branch),
            (None, _) => Err(Error::Invalid(format!("transaction {} has no branch {name:?}", self.xid))),
            (Some(_), Some(_)) => {
                Err(Error::Invalid(format!("{name:?} has several branches; name one by its id")))
            }
        }
    }
}

impl CompletedBranch {
    /// What the participant replied. Empty where the outcome was asked for a second time: replies are told once.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it is of another type.
    pub fn reply<T: Decode>(&self) -> Result<T, Error> {
        T::from_bytes(self.reply.clone()).map_err(|error| {
            Error::Invalid(format!("the reply of {} cannot be read: {error}", self.participant))
        })
    }
}

/// Only a committed transaction is `Ok`.
pub(super) fn conclude(
    result: Option<pb::TransactionResult>,
    known: Option<TxId>,
    request_id: &str,
) -> Result<Completed, Error> {
    let unknown = |xid| Error::Unknown { xid, request_id: request_id.to_owned() };
    let result = result.ok_or_else(|| unknown(known))?;
    let xid = match (result.xid.parse().ok(), known) {
        // What became of another one says nothing of this one.
        (Some(told), Some(asked)) if told != asked => return Err(unknown(known)),
        (told, known) => told.or(known).ok_or_else(|| unknown(None))?,
    };
    let outcome = result.outcome();
    let reason = result.reason;
    match outcome {
        pb::Outcome::Committed => Ok(Completed {
            xid,
            complete: result.complete,
            branches: result
                .branches
                .into_iter()
                .map(|branch| CompletedBranch {
                    id: branch.branch_id,
                    participant: branch.participant,
                    reply: branch.reply,
                })
                .collect(),
        }),
        pb::Outcome::Aborted => Err(Error::Aborted { xid, reason, source: None }),
        pb::Outcome::Mixed => Err(Error::Heuristic { xid, outcome: Heuristic::Mixed, reason }),
        pb::Outcome::Hazard => Err(Error::Heuristic { xid, outcome: Heuristic::Hazard, reason }),
        pb::Outcome::Unknown | pb::Outcome::Unspecified => Err(unknown(Some(xid))),
    }
}
