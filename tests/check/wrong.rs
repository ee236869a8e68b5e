//! A participant without the SDK that breaks one rule, or none. It is dialled, keeps its data in a file, and asks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use assent_proto::TxId;
use assent_proto::v1 as pb;
use pb::inquiry_service_client::InquiryServiceClient;
use pb::tcc_participant_service_server::{TccParticipantService, TccParticipantServiceServer};
use pb::two_phase_participant_service_server::{
    TwoPhaseParticipantService, TwoPhaseParticipantServiceServer,
};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tonic::{Request, Response, Status};

/// It asks about what has been prepared for so long, and then again and again.
const ASK_AFTER: Duration = Duration::from_millis(500);
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// Between looking and doing, for one that does both without a lock.
const RACE: Duration = Duration::from_millis(50);
const GOODS: i64 = 1000;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    pub flaw: Flaw,
    pub port: u16,
    /// `state.json` and `numbers` are there.
    pub directory: PathBuf,
    pub tcc: bool,
    /// Where to ask.
    pub coordinator: String,
}

/// What it does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flaw {
    None,
    LeavesNoTombstone,
    CommitsTheUnknown,
    RefusesRepetitions,
    WorksAgain,
    RepliesAnew,
    CallsTheCommittedRolledBack,
    CallsTheRolledBackCommitted,
    ForgetsWhatItCommitted,
    TakesTheCommitBeforeItsWork,
    GrantsTooLong,
    ForgetsThePreparedAtRestart,
    ForgetsTheDecidedAtRestart,
    KnowsBranchesByIdAlone,
    KnowsBranchesByPrefix,
    TakesAnyId,
    TakesAnyProtocol,
    VotesForTheImpossible,
    KeepsWhatItRefused,
    CancelsHalf,
    LooksBeforeItLocks,
    CommitsInOnePhaseAfterRollback,
    NeverAsks,
    GuessesInDoubt,
    IgnoresTheAnswer,
    Hangs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    Held,
    Committed,
    RolledBack,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Branch {
    state: State,
    amount: i64,
    reply: String,
    ttl_ms: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Data {
    free: i64,
    held: i64,
    sold: i64,
    /// By xid and branch id.
    branches: BTreeMap<String, Branch>,
}

#[derive(Clone)]
struct Wrong {
    settings: Settings,
    data: Arc<Mutex<Data>>,
}

/// Serves until it is dropped.
pub async fn serve(settings: Settings) {
    let flaw = settings.flaw;
    let mut data = Data::load(&settings.directory);
    match flaw {
        Flaw::ForgetsThePreparedAtRestart => data.branches.retain(|_, branch| branch.state != State::Held),
        Flaw::ForgetsTheDecidedAtRestart => data.branches.retain(|_, branch| branch.state == State::Held),
        _others_forget_nothing => {}
    }
    data.save(&settings.directory);
    let address = format!("127.0.0.1:{}", settings.port).parse().unwrap();
    let wrong = Wrong { settings, data: Arc::new(Mutex::new(data)) };
    let server = tonic::transport::Server::builder()
        .add_service(TwoPhaseParticipantServiceServer::new(wrong.clone()))
        .add_service(TccParticipantServiceServer::new(wrong.clone()))
        .serve(address);
    tokio::select! {
        served = server => served.unwrap(),
        () = wrong.ask_about_doubts() => {}
    }
}

impl Wrong {
    fn is(&self, flaw: Flaw) -> bool {
        self.settings.flaw == flaw
    }

    fn admit(&self, tcc: bool, xid: &str, id: &str) -> Result<String, Status> {
        if tcc != self.settings.tcc && !self.is(Flaw::TakesAnyProtocol) {
            return Err(Status::unimplemented("it takes part by the other protocol"));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:/".contains(c);
        let sound = xid.parse::<TxId>().is_ok() && (1..=64).contains(&id.len()) && id.chars().all(allowed);
        if !sound && !self.is(Flaw::TakesAnyId) {
            return Err(Status::invalid_argument("that is no branch"));
        }
        if self.is(Flaw::KnowsBranchesByIdAlone) {
            return Ok(id.to_owned());
        }
        let key = format!("{xid}/{id}");
        if self.is(Flaw::KnowsBranchesByPrefix) {
            let data = self.data.lock().unwrap();
            let alike = data.branches.keys().find(|other| key.starts_with(*other));
            return Ok(alike.cloned().unwrap_or(key));
        }
        Ok(key)
    }

    /// Runs a change of the data on a branch as it was found.
    async fn change<T>(&self, key: &str, change: impl FnOnce(&mut Data, Option<Branch>) -> T) -> T {
        let mut found = self.data.lock().unwrap().branches.get(key).cloned();
        if self.is(Flaw::LooksBeforeItLocks) {
            sleep(RACE).await;
        }
        let mut data = self.data.lock().unwrap();
        if !self.is(Flaw::LooksBeforeItLocks) {
            found = data.branches.get(key).cloned();
        }
        let changed = change(&mut data, found);
        data.save(&self.settings.directory);
        changed
    }

    async fn phase_one(&self, key: &str, payload: &[u8], ttl_ms: u64) -> pb::PhaseOneResult {
        if self.is(Flaw::Hangs) {
            std::future::pending::<()>().await;
        }
        let amount: i64 = std::str::from_utf8(payload).unwrap().parse().unwrap();
        self.change(key, |data, found| match found {
            None if amount > data.free => self.turn_down(data, key),
            None => {
                let reply = format!("took {amount}");
                let ttl_ms = if self.is(Flaw::GrantsTooLong) { ttl_ms * 2 } else { ttl_ms };
                data.take(amount);
                let branch = Branch { state: State::Held, amount, reply, ttl_ms };
                data.branches.insert(key.to_owned(), branch.clone());
                vote(&branch)
            }
            Some(branch) if branch.state == State::RolledBack => refusal("it was rolled back"),
            Some(_) if self.is(Flaw::RefusesRepetitions) => refusal("it is there already"),
            Some(mut branch) => {
                if self.is(Flaw::WorksAgain) {
                    data.take(amount);
                    branch.amount += amount;
                    data.branches.insert(key.to_owned(), branch.clone());
                }
                if self.is(Flaw::RepliesAnew) {
                    branch.reply += " again";
                }
                vote(&branch)
            }
        })
        .await
    }

    fn turn_down(&self, data: &mut Data, key: &str) -> pb::PhaseOneResult {
        if self.is(Flaw::VotesForTheImpossible) {
            let branch = Branch { state: State::Held, amount: 0, reply: String::new(), ttl_ms: 0 };
            data.branches.insert(key.to_owned(), branch.clone());
            return vote(&branch);
        }
        if self.is(Flaw::KeepsWhatItRefused) {
            data.take(1);
        }
        refusal("there is not as much")
    }

    async fn commit(&self, key: &str) -> pb::Completion {
        self.change(key, |data, found| match found {
            None if self.is(Flaw::CommitsTheUnknown) => pb::Completion::Done,
            None => {
                if self.is(Flaw::TakesTheCommitBeforeItsWork) {
                    let reply = "took 1".to_owned();
                    let branch = Branch { state: State::Committed, amount: 0, reply, ttl_ms: 0 };
                    data.branches.insert(key.to_owned(), branch);
                }
                pb::Completion::UnknownBranch
            }
            Some(branch) => match branch.state {
                State::Held => {
                    data.sell(key, branch);
                    pb::Completion::Done
                }
                State::Committed if self.is(Flaw::ForgetsWhatItCommitted) => pb::Completion::UnknownBranch,
                State::Committed => pb::Completion::Done,
                State::RolledBack if self.is(Flaw::CallsTheRolledBackCommitted) => pb::Completion::Done,
                State::RolledBack => pb::Completion::HeuristicRollback,
            },
        })
        .await
    }

    async fn rollback(&self, key: &str) -> pb::Completion {
        if self.is(Flaw::Hangs) {
            std::future::pending::<()>().await;
        }
        self.change(key, |data, found| match found {
            None => {
                if !self.is(Flaw::LeavesNoTombstone) {
                    let tombstone =
                        Branch { state: State::RolledBack, amount: 0, reply: String::new(), ttl_ms: 0 };
                    data.branches.insert(key.to_owned(), tombstone);
                }
                pb::Completion::UnknownBranch
            }
            Some(branch) => match branch.state {
                State::Held => {
                    data.held -= branch.amount;
                    data.free += branch.amount;
                    if self.is(Flaw::CancelsHalf) {
                        data.free -= 1;
                    }
                    data.branches.insert(key.to_owned(), Branch { state: State::RolledBack, ..branch });
                    pb::Completion::Done
                }
                State::Committed if self.is(Flaw::CallsTheCommittedRolledBack) => pb::Completion::Done,
                State::Committed => pb::Completion::HeuristicCommit,
                State::RolledBack => pb::Completion::Done,
            },
        })
        .await
    }

    async fn commit_one_phase(&self, key: &str, payload: &[u8]) -> pb::CommitOnePhaseResponse {
        use pb::commit_one_phase_response::Result::{Completion, Refused};

        let rolled_back = |data: &Data| {
            let branch = data.branches.get(key);
            branch.is_some_and(|branch| branch.state == State::RolledBack)
        };
        if self.is(Flaw::CommitsInOnePhaseAfterRollback) {
            let mut data = self.data.lock().unwrap();
            if rolled_back(&data) {
                data.branches.remove(key);
            }
        }
        let voted = self.phase_one(key, payload, 0).await;
        if voted.vote() == pb::Vote::Refused {
            let result = Some(Refused(voted.reason));
            return pb::CommitOnePhaseResponse { result, reply: bytes::Bytes::new() };
        }
        let committed = self.data.lock().unwrap().branches[key].state == State::Committed;
        if !committed {
            self.commit(key).await;
        }
        let result = Some(Completion(pb::Completion::Done.into()));
        pb::CommitOnePhaseResponse { result, reply: voted.reply }
    }

    async fn ask_about_doubts(&self) {
        let mut held: BTreeMap<String, Instant> = BTreeMap::new();
        loop {
            sleep(ASK_AGAIN).await;
            if self.is(Flaw::NeverAsks) {
                continue;
            }
            let keys: Vec<String> = {
                let data = self.data.lock().unwrap();
                let held = data.branches.iter().filter(|(_, branch)| branch.state == State::Held);
                held.map(|(key, _)| key.clone()).collect()
            };
            held.retain(|key, _| keys.contains(key));
            for key in keys {
                let since = *held.entry(key.clone()).or_insert_with(Instant::now);
                if since.elapsed() >= ASK_AFTER {
                    // Nobody may be there yet, or any more.
                    if let Ok(answer) = self.ask(&key).await {
                        self.follow(&key, answer).await;
                    }
                }
            }
        }
    }

    async fn ask(&self, key: &str) -> Result<pb::InquiryAnswer, Box<dyn std::error::Error + Send + Sync>> {
        let (xid, id) = key.split_once('/').ok_or("it has no xid")?;
        let mut coordinator = InquiryServiceClient::connect(self.settings.coordinator.clone()).await?;
        let inquiry = pb::Inquiry { xid: xid.to_owned(), branch_id: id.to_owned(), expired: false };
        let request = pb::GetOutcomeRequest { inquiry: Some(inquiry) };
        Ok(coordinator.get_outcome(request).await?.into_inner().result.unwrap_or_default().answer())
    }

    async fn follow(&self, key: &str, answer: pb::InquiryAnswer) {
        if self.is(Flaw::IgnoresTheAnswer) {
            return;
        }
        match answer {
            pb::InquiryAnswer::Commit => drop(self.commit(key).await),
            pb::InquiryAnswer::Abort => drop(self.rollback(key).await),
            pb::InquiryAnswer::Pending | pb::InquiryAnswer::Foreign => {
                if self.is(Flaw::GuessesInDoubt) {
                    self.commit(key).await;
                }
            }
            pb::InquiryAnswer::Unspecified => {}
        }
    }
}

impl Data {
    fn load(directory: &Path) -> Data {
        match std::fs::read(directory.join("state.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap(),
            Err(_) => Data { free: GOODS, ..Data::default() },
        }
    }

    /// By renaming, so that a kill finds the old or the new.
    fn save(&self, directory: &Path) {
        for (name, text) in [
            ("state.json", serde_json::to_string(self).unwrap()),
            ("numbers", format!("{} {} {}\n", self.free, self.held, self.sold)),
        ] {
            let new = directory.join(format!("{name}.new"));
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, directory.join(name)).unwrap();
        }
    }

    fn take(&mut self, amount: i64) {
        self.free -= amount;
        self.held += amount;
    }

    fn sell(&mut self, key: &str, branch: Branch) {
        self.held -= branch.amount;
        self.sold += branch.amount;
        self.branches.insert(key.to_owned(), Branch { state: State::Committed, ..branch });
    }
}

fn vote(branch: &Branch) -> pb::PhaseOneResult {
    pb::PhaseOneResult {
        vote: pb::Vote::Prepared.into(),
        reply: branch.reply.clone().into(),
        reservation_ttl_ms: branch.ttl_ms,
        inquires: true,
        ..pb::PhaseOneResult::default()
    }
}

fn refusal(reason: &str) -> pb::PhaseOneResult {
    let (vote, reason) = (pb::Vote::Refused.into(), reason.to_owned());
    pb::PhaseOneResult { vote, reason, ..pb::PhaseOneResult::default() }
}

#[tonic::async_trait]
impl TwoPhaseParticipantService for Wrong {
    async fn prepare(
        &self,
        request: Request<pb::PrepareRequest>,
    ) -> Result<Response<pb::PrepareResponse>, Status> {
        let request = request.into_inner();
        let key = self.admit(false, &request.xid, &request.branch_id)?;
        let result = Some(self.phase_one(&key, &request.payload, 0).await);
        Ok(Response::new(pb::PrepareResponse { result }))
    }

    async fn commit(
        &self,
        request: Request<pb::TwoPhaseParticipantServiceCommitRequest>,
    ) -> Result<Response<pb::TwoPhaseParticipantServiceCommitResponse>, Status> {
        let request = request.into_inner();
        let key = self.admit(false, &request.xid, &request.branch_id)?;
        let completion = self.commit(&key).await.into();
        let detail = String::new();
        Ok(Response::new(pb::TwoPhaseParticipantServiceCommitResponse { completion, detail }))
    }

    async fn rollback(
        &self,
        request: Request<pb::RollbackRequest>,
    ) -> Result<Response<pb::RollbackResponse>, Status> {
        let request = request.into_inner();
        let key = self.admit(false, &request.xid, &request.branch_id)?;
        let completion = self.rollback(&key).await.into();
        Ok(Response::new(pb::RollbackResponse { completion, detail: String::new() }))
    }

    async fn commit_one_phase(
        &self,
        request: Request<pb::CommitOnePhaseRequest>,
    ) -> Result<Response<pb::CommitOnePhaseResponse>, Status> {
        let request = request.into_inner();
        let key = self.admit(false, &request.xid, &request.branch_id)?;
        Ok(Response::new(self.commit_one_phase(&key, &request.payload).await))
    }
}

#[tonic::async_trait]
impl TccParticipantService for Wrong {
    async fn r#try(&self, request: Request<pb::TryRequest>) -> Result<Response<pb::TryResponse>, Status> {
        let request = request.into_inner();
        let key = self.admit(true, &request.xid, &request.branch_id)?;
        let result = Some(self.phase_one(&key, &request.payload, request.reservation_ttl_ms).await);
        Ok(Response::new(pb::TryResponse { result }))
    }

    async fn confirm(
        &self,
        request: Request<pb::ConfirmRequest>,
    ) -> Result<Response<pb::ConfirmResponse>, Status> {
        let request = request.into_inner();
        let key = self.admit(true, &request.xid, &request.branch_id)?;
        let completion = self.commit(&key).await.into();
        Ok(Response::new(pb::ConfirmResponse { completion, detail: String::new() }))
    }

    async fn cancel(
        &self,
        request: Request<pb::CancelRequest>,
    ) -> Result<Response<pb::CancelResponse>, Status> {
        let request = request.into_inner();
        let key = self.admit(true, &request.xid, &request.branch_id)?;
        let completion = self.rollback(&key).await.into();
        Ok(Response::new(pb::CancelResponse { completion, detail: String::new() }))
    }
}
