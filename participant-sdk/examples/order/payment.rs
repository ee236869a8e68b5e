//! `shop/payment`, by TCC, for a partner that nothing is known of but its HTTP API. No database of ours stands behind it, so
//! this is a [`Resource`] rather than a handler.
//!
//! What the table in `assent_sdk::barrier` asks for, the partner keeps, as any should: under one key it does a thing once,
//! however often it is asked, and a hold that was voided before it came is refused when it comes. The key is the branch's.

use std::time::Duration;

use assent_sdk::resource::{Cleaned, Granted, InDoubt, OnePhase, PhaseOne};
use assent_sdk::{
    Branch, ClusterId, Completion, Failure, Horizon, ParticipantName, Protocol, Resource, Result, Vote,
    refuse,
};
use bytes::Bytes;
use reqwest::{Client, StatusCode, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How long the partner is waited for when it is to do something. Then the call comes again.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same when it is asked for a list, which nobody waits for.
const PATIENCE_READING: Duration = Duration::from_secs(10);

#[derive(Clone, Serialize, Deserialize)]
pub struct Charge {
    pub customer: String,
    /// In whole coins.
    pub amount: u32,
}

#[derive(Clone)]
pub struct Payment {
    http: Client,
    /// `http://host:port`
    partner: String,
}

impl Resource for Payment {
    /// A partner cannot prepare. It can hold money for a while, and then capture or void it, which is TCC.
    fn protocol(&self) -> Protocol {
        Protocol::Tcc
    }

    /// The partner holds until it is told to capture or to void. When the time that was asked for is up, the SDK asks the
    /// coordinator which.
    async fn phase_one(&self, call: PhaseOne) -> Result<Granted> {
        let reservation = call.reservation;
        match self.post(&call.branch, "", call.request).await? {
            (StatusCode::OK, _) => Ok(Granted { vote: Vote::Prepared(Bytes::new()), reservation }),
            (StatusCode::PAYMENT_REQUIRED | StatusCode::CONFLICT, why) => Err(refuse(why)),
            (status, why) => Err(unexpected(status, &why)),
        }
    }

    async fn commit(&self, branch: &Branch) -> Result<Completion> {
        match self.post(branch, "/capture", Bytes::new()).await? {
            (StatusCode::OK, _) => Ok(Completion::Done),
            (StatusCode::CONFLICT, _) => Ok(Completion::HeuristicRollback),
            (StatusCode::NOT_FOUND, _) => Ok(Completion::UnknownBranch),
            (status, why) => Err(unexpected(status, &why)),
        }
    }

    async fn rollback(&self, branch: &Branch, _: &ClusterId) -> Result<Completion> {
        match self.post(branch, "/void", Bytes::new()).await? {
            (StatusCode::OK, _) => Ok(Completion::Done),
            (StatusCode::CONFLICT, _) => Ok(Completion::HeuristicCommit),
            (StatusCode::NOT_FOUND, _) => Ok(Completion::UnknownBranch),
            (status, why) => Err(unexpected(status, &why)),
        }
    }

    /// As both calls are harmless when they come again, one after the other is as good as one.
    async fn commit_one_phase(&self, call: PhaseOne) -> Result<OnePhase> {
        let branch = call.branch.clone();
        self.phase_one(call).await?;
        Ok(OnePhase { completion: self.commit(&branch).await?, reply: Bytes::new() })
    }

    /// The partner lists what it holds for us. So a service that was killed asks about each when it is back, also where
    /// the coordinator has lost track of the transaction.
    async fn in_doubt(&self, participant: &ParticipantName) -> Result<Vec<InDoubt>> {
        let in_doubt = |key: String| {
            let (xid, id) =
                key.split_once('/').ok_or_else(|| Failure::again(format!("{key} is no branch's key")))?;
            let branch = Branch::new(xid.parse()?, id.parse()?, participant.clone());
            Ok(InDoubt { branch, reservation: None })
        };
        self.get::<Vec<String>>("/holds").await?.into_iter().map(in_doubt).collect()
    }

    /// Nothing is kept here, and the partner keeps its keys.
    async fn forget_before(&self, _: &Horizon) -> Result<Cleaned> {
        Ok(Cleaned::Wholly)
    }
}

impl Payment {
    pub fn new(partner: &str) -> Payment {
        Payment { http: Client::new(), partner: partner.to_owned() }
    }

    /// Has the partner do something about the branch's hold. If no answer comes, it is not known whether that was done.
    async fn post(&self, branch: &Branch, what: &str, body: Bytes) -> Result<(StatusCode, String)> {
        let key = branch.key().replace('/', "%2F");
        let request = self.http.post(format!("{}/holds/{key}{what}", self.partner)).timeout(PATIENCE);
        let answer = request.header(header::CONTENT_TYPE, "application/json").body(body).send().await?;
        Ok((answer.status(), answer.text().await?))
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let request = self.http.get(format!("{}{path}", self.partner)).timeout(PATIENCE_READING);
        let answer = request.send().await?.error_for_status()?.bytes().await?;
        Ok(serde_json::from_slice(&answer)?)
    }
}

/// Neither a yes nor a no, a 503 say: what the partner did is not known, and the call comes again.
fn unexpected(status: StatusCode, why: &str) -> Failure {
    Failure::again(format!("the partner answered {status}: {why}"))
}
