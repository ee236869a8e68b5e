//! What operators call.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use assent_proto::v1 as pb;
use pb::admin_service_server::AdminService as Service;
use pb::retry_request::Target;
use tonic::{Request, Response, Status};
use tracing::info;

use super::status;
use crate::coordinator::{Coordinator, Phase, Stopped};
use crate::core::{
    Answer, BranchId, Counts, Event, ParticipantName, Rejection, RequestId, Timestamp, Transaction, TxId,
    WallTime, What,
};
use crate::store::LogStats;
use crate::transport::Transport;
use crate::wire::{self, History, Invalid};

/// The gRPC service `assent.v1.AdminService`.
#[derive(Clone)]
pub struct AdminService {
    coordinator: Coordinator,
    transport: Transport,
    data_dir: PathBuf,
    log_stats: LogStatsCell,
}

/// What the log has done since the start; set once it is open.
pub type LogStatsCell = Arc<OnceLock<Arc<LogStats>>>;

impl AdminService {
    pub fn new(
        coordinator: Coordinator,
        transport: Transport,
        data_dir: PathBuf,
        log_stats: LogStatsCell,
    ) -> AdminService {
        AdminService { coordinator, transport, data_dir, log_stats }
    }

    async fn ask(&self, event: impl FnOnce(crate::core::Waiter) -> Event + Send) -> Result<Answer, Status> {
        self.coordinator.ask(event).await.map_err(|Stopped| status::stopped())
    }

    /// Makes every waiting call to a participant due now, and says how many there were.
    async fn wake(&self, participant: ParticipantName) -> Result<u32, Status> {
        let (name, now) = (participant.clone(), self.coordinator.now().mono);
        let look = self.coordinator.read(None, move |engine| {
            let transactions = engine.waiting_for(&name);
            let waits = |branch: &&crate::core::Branch| {
                branch.participant == name && branch.next_attempt_in(now).is_some()
            };
            let found = transactions.iter().filter_map(|tx| engine.get(*tx));
            found.map(|tx| tx.branches.iter().filter(waits).count()).sum::<usize>()
        });
        let calls = look.await.map_err(|Stopped| status::stopped())?;
        self.coordinator.participant_up(participant).await.map_err(|Stopped| status::stopped())?;
        Ok(u32::try_from(calls).unwrap_or(u32::MAX))
    }

    async fn counts(&self) -> Option<Counts> {
        match self.coordinator.phase() {
            Phase::Serving | Phase::Draining => {
                self.coordinator.read(None, |engine| engine.counts()).await.ok()
            }
            // The driver does not answer yet, or not any more.
            Phase::Recovering | Phase::Stopped => None,
        }
    }

    /// By the wall clock of now: a clock that was wrong at the start has perhaps been set since.
    fn started_at(&self) -> WallTime {
        let now = self.coordinator.now();
        WallTime(now.wall.0.saturating_sub(wire::millis(now.mono.since(Timestamp::ZERO))))
    }
}

#[tonic::async_trait]
impl Service for AdminService {
    async fn resolve(
        &self,
        request: Request<pb::ResolveRequest>,
    ) -> Result<Response<pb::ResolveResponse>, Status> {
        status::serving(&self.coordinator)?;
        let Resolve { tx, branch, committed, reason, request_id } =
            Resolve::parse(&request.into_inner()).map_err(|wrong| status::invalid(&wrong))?;
        let known = self.coordinator.get(tx).await.map_err(|Stopped| status::stopped())?;
        let known = known.ok_or_else(|| status::rejected(&Rejection::NotFound { tx }))?;
        let transaction = if resolution(&known, &branch) == Some(committed) {
            Box::new(known)
        } else {
            let request_id = request_id.as_ref().map(RequestId::as_str);
            info!(xid = %tx, %branch, committed, %reason, request_id, "an operator settles a branch");
            let event = |waiter| Event::Resolve { waiter, tx, branch, committed, reason };
            match self.ask(event).await? {
                Answer::Transaction(transaction) => transaction,
                other => return Err(status::unanswered(&other)),
            }
        };
        let shown = wire::transaction_to_pb(&transaction, self.coordinator.now(), History::Shown);
        Ok(Response::new(pb::ResolveResponse { transaction: Some(shown) }))
    }

    async fn retry(&self, request: Request<pb::RetryRequest>) -> Result<Response<pb::RetryResponse>, Status> {
        status::serving(&self.coordinator)?;
        let calls = match request.into_inner().target {
            Some(Target::Xid(text)) => {
                let tx = wire::tx_id("xid", &text).map_err(|wrong| status::invalid(&wrong))?;
                match self.ask(|waiter| Event::Retry { waiter, tx }).await? {
                    Answer::Retried { calls } => calls,
                    other => return Err(status::unanswered(&other)),
                }
            }
            Some(Target::Participant(text)) => self.wake(participant(&text)?).await?,
            None => {
                let wrong = Invalid::new("target", "is not set; give xid or participant");
                return Err(status::invalid(&wrong));
            }
        };
        Ok(Response::new(pb::RetryResponse { calls }))
    }

    async fn pause(&self, request: Request<pb::PauseRequest>) -> Result<Response<pb::PauseResponse>, Status> {
        status::serving(&self.coordinator)?;
        let participant = participant(&request.into_inner().participant)?;
        info!(%participant, "an operator pauses the calls to a participant");
        self.transport.sessions().set_paused(&participant, true);
        Ok(Response::new(pb::PauseResponse {}))
    }

    async fn resume(
        &self,
        request: Request<pb::ResumeRequest>,
    ) -> Result<Response<pb::ResumeResponse>, Status> {
        status::serving(&self.coordinator)?;
        let participant = participant(&request.into_inner().participant)?;
        info!(%participant, "an operator resumes the calls to a participant");
        self.transport.sessions().set_paused(&participant, false);
        let calls = self.wake(participant).await?;
        Ok(Response::new(pb::ResumeResponse { calls }))
    }

    async fn forget(
        &self,
        request: Request<pb::ForgetRequest>,
    ) -> Result<Response<pb::ForgetResponse>, Status> {
        status::serving(&self.coordinator)?;
        let request = request.into_inner();
        let tx = wire::tx_id("xid", &request.xid).map_err(|wrong| status::invalid(&wrong))?;
        let reason = wire::given_reason(&request.reason).map_err(|wrong| status::invalid(&wrong))?;
        info!(xid = %tx, %reason, "an operator wants a transaction forgotten");
        match self.ask(|waiter| Event::Forget { waiter, tx }).await? {
            Answer::Forgotten => Ok(Response::new(pb::ForgetResponse {})),
            other => Err(status::unanswered(&other)),
        }
    }

    async fn list_participants(
        &self,
        _request: Request<pb::ListParticipantsRequest>,
    ) -> Result<Response<pb::ListParticipantsResponse>, Status> {
        status::serving(&self.coordinator)?;
        let participants = participants(&self.transport);
        Ok(Response::new(pb::ListParticipantsResponse { participants }))
    }

    /// Answered in every phase: it is the call that tells which.
    async fn get_server_status(
        &self,
        _request: Request<pb::GetServerStatusRequest>,
    ) -> Result<Response<pb::GetServerStatusResponse>, Status> {
        let phase = self.coordinator.phase();
        let counts = self.counts().await.unwrap_or(Counts { active: 0, retained: 0 });
        let (forced_writes, log_syncs, log_bytes) = self
            .log_stats
            .get()
            .map_or((0, 0, 0), |stats| (stats.forced_writes(), stats.syncs(), stats.bytes()));
        // It has none until its log is open.
        let identity = (phase != Phase::Recovering).then(|| self.coordinator.identity());
        Ok(Response::new(pb::GetServerStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: identity.map(|identity| identity.cluster.to_string()).unwrap_or_default(),
            epoch: identity.map_or(0, |identity| identity.epoch.0),
            start_time: Some(wire::timestamp(self.started_at())),
            ready: phase == Phase::Serving,
            phase: phase_word(phase).to_owned(),
            active_transactions: counts.active as u64,
            retained_transactions: counts.retained as u64,
            forced_writes,
            log_syncs,
            log_bytes,
            data_dir: self.data_dir.display().to_string(),
        }))
    }
}

impl fmt::Debug for AdminService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminService").field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

/// What an operator says of a branch.
#[derive(Debug)]
struct Resolve {
    tx: TxId,
    branch: BranchId,
    committed: bool,
    reason: smol_str::SmolStr,
    request_id: Option<RequestId>,
}

impl Resolve {
    fn parse(request: &pb::ResolveRequest) -> Result<Resolve, Invalid> {
        let (tx, branch) = wire::branch_key(&request.xid, &request.branch_id)?;
        let committed = match wire::known("resolution", request.resolution)? {
            pb::Resolution::Committed => true,
            pb::Resolution::RolledBack => false,
            pb::Resolution::Unspecified => return Err(Invalid::new("resolution", "is not set")),
        };
        let reason = wire::given_reason(&request.reason)?;
        Ok(Resolve { tx, branch, committed, reason, request_id: wire::request_id(&request.request_id)? })
    }
}

/// What an operator last said of a branch: committed, or not. To say so again changes nothing.
fn resolution(transaction: &Transaction, branch: &BranchId) -> Option<bool> {
    let resolutions = transaction.records().filter_map(|record| {
        if let What::Resolved { branch, committed, .. } = record.what {
            Some((branch, committed))
        } else {
            None
        }
    });
    resolutions
        .filter(|(at, _)| transaction.branches[usize::from(at.0)].id == *branch)
        .last()
        .map(|(_, committed)| committed)
}

fn participant(text: &str) -> Result<ParticipantName, Status> {
    wire::name("participant", text).map_err(|wrong| status::invalid(&wrong))
}

/// By name.
fn participants(transport: &Transport) -> Vec<pb::Participant> {
    let mut participants: BTreeMap<ParticipantName, pb::Participant> = BTreeMap::new();
    for (name, endpoint) in transport.endpoints() {
        participants.entry(name.clone()).or_default().endpoint = endpoint.to_string();
    }
    for (name, lane) in transport.sessions().view() {
        let participant = participants.entry(name).or_default();
        participant.paused = lane.paused;
        participant.in_flight = u32::try_from(lane.in_flight).unwrap_or(u32::MAX);
        participant.queued = u32::try_from(lane.queued).unwrap_or(u32::MAX);
        let sessions = lane.sessions.into_iter().map(|session| pb::ParticipantSession {
            instance_id: session.instance_id,
            agent: session.agent,
            peer: session.peer,
            connect_time: Some(wire::timestamp(session.connected_at)),
        });
        participant.sessions = sessions.collect();
    }
    let named = |(name, participant): (ParticipantName, pb::Participant)| pb::Participant {
        name: name.to_string(),
        ..participant
    };
    participants.into_iter().map(named).collect()
}

fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Recovering => "recovering",
        Phase::Serving => "serving",
        Phase::Draining => "draining",
        Phase::Stopped => "stopped",
    }
}

#[cfg(test)]
mod tests;
