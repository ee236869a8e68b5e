//! The task that watches the schedule of doubts: it asks the coordinator, and lets autonomous reservations expire.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use assent_proto::v1 as pb;
use assent_proto::v1::inquiry_service_client::InquiryServiceClient;
use tokio::sync::Semaphore;
use tonic::transport::Channel;

use super::doubts::Due;
use super::engine::{Decision, Engine};
use super::link::Link;
use crate::crash_point;

/// Inquiries in one message; the protocol's limit.
pub(super) const INQUIRIES_MAX: usize = 1000;

/// Unary inquiries on their way at once. While all are, further doubts wait for their next turn.
const ASKING_MAX: usize = 4;

const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a dialled participant asks although nothing is in doubt, to learn the horizon.
const HORIZON_INTERVAL: Duration = Duration::from_mins(1);

/// A shorter interval would keep the resource busy with being asked.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(500);

/// Whom to ask.
pub(super) enum Asker {
    /// Over the session, when there is one.
    Session(Arc<Link>),
    /// By `InquiryService`.
    Unary { client: InquiryServiceClient<Channel>, asking: Arc<Semaphore> },
    /// Nobody: then only autonomous reservations are watched.
    Nobody,
}

pub(super) async fn run(engine: Arc<Engine>, asker: Asker) {
    let mut horizon = tokio::time::interval(HORIZON_INTERVAL);
    loop {
        let mut inquiries = Vec::new();
        for due in engine.take_due(INQUIRIES_MAX) {
            match due {
                Due::Cancel(branch) => engine.finish(branch, Decision::Expire),
                Due::Ask { branch, expired } => {
                    crash_point!("reservation-expired", if expired);
                    inquiries.push(pb::Inquiry {
                        xid: branch.xid().to_string(),
                        branch_id: branch.id().to_string(),
                        expired,
                    });
                }
            }
        }
        if !inquiries.is_empty() {
            asker.ask(&engine, inquiries);
            crash_point!("inquiries-queued");
        }
        tokio::select! {
            () = engine.until_due() => {}
            _ = horizon.tick() => asker.ask_for_horizon(&engine),
        }
    }
}

/// Looks now and then for branches in doubt that nobody here knows of. What was in doubt when the participant started or its
/// session opened is known; but since then a call may have prepared a branch and got no answer from the resource, or a
/// replica may have prepared one and be gone for good.
pub(super) async fn look_for_doubts(engine: Arc<Engine>, interval: Duration) {
    let mut seen = HashSet::new();
    loop {
        tokio::time::sleep(interval.max(LOOK_INTERVAL_MIN)).await;
        if let Err(failure) = engine.load_lingering_doubts(&mut seen).await {
            tracing::debug!(error = %failure, "no look at the branches in doubt");
        }
    }
}

impl Asker {
    pub(super) fn unary(channel: Channel) -> Asker {
        let client = InquiryServiceClient::new(channel).max_decoding_message_size(super::MESSAGE_BYTES_MAX);
        Asker::Unary { client, asking: Arc::new(Semaphore::new(ASKING_MAX)) }
    }

    /// Sends and does not wait. What is lost comes due again by itself.
    fn ask(&self, engine: &Arc<Engine>, inquiries: Vec<pb::Inquiry>) {
        match self {
            Asker::Session(link) => link.inquire(inquiries),
            Asker::Unary { client, asking } => {
                let Ok(turn) = Arc::clone(asking).try_acquire_owned() else { return };
                let (mut client, engine) = (client.clone(), Arc::clone(engine));
                tokio::spawn(async move {
                    let _turn = turn;
                    let mut request = tonic::Request::new(pb::BatchGetOutcomesRequest { inquiries });
                    request.set_timeout(ASK_TIMEOUT);
                    match tokio::time::timeout(ASK_TIMEOUT, client.batch_get_outcomes(request)).await {
                        Ok(Ok(response)) => {
                            let response = response.into_inner();
                            if let Some(horizon) = &response.horizon {
                                engine.learn_horizon(horizon);
                            }
                            engine.answered(response.results);
                        }
                        Ok(Err(status)) => tracing::debug!(%status, "inquiry failed"),
                        Err(_) => tracing::debug!("inquiry timed out"),
                    }
                });
            }
            Asker::Nobody => {}
        }
    }

    /// A session is told the horizon unasked.
    fn ask_for_horizon(&self, engine: &Arc<Engine>) {
        match self {
            Asker::Unary { .. } => self.ask(engine, Vec::new()),
            Asker::Session(_) | Asker::Nobody => {}
        }
    }
}
