//! A participant that misbehaves harms nobody else: whatever it does, two that behave go on committing, the coordinator needs
//! no more memory than it should, and its log complains of nobody but the one.

mod floods;
mod silence;
mod votes;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use assent_proto::v1 as pb;
use pb::transaction_service_client::TransactionServiceClient;
use tokio::task::JoinHandle;

use super::{Target, branch, connect, soon};
use crate::session;

/// All that misbehave are called so, and nobody else is.
const CULPRIT: &str = "shop/culprit";

/// Many times what a coordinator with a few transactions needs in a build for tests.
const MEMORY_MIB_MAX: u64 = 512;

/// A few, not one for each thing that is wrong.
const COMPLAINTS_MAX: usize = 1_000;

/// An initiator and two participants that behave, all the while.
struct Honest {
    stop: Arc<AtomicBool>,
    working: JoinHandle<u32>,
}

impl Honest {
    /// They have connections of their own, and go on until the end.
    async fn begin(target: &Target) -> Honest {
        let channel = connect(target).await;
        for participant in ["honest/stock", "honest/ledger"] {
            session::willing(&channel, participant).await;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let working = tokio::spawn(async move {
            let mut committed = 0;
            loop {
                let branches = vec![branch("honest/stock"), branch("honest/ledger")];
                let request = pb::RunRequest { branches, ..pb::RunRequest::default() };
                let ended = TransactionServiceClient::new(channel.clone()).run(request).await;
                let result = ended.expect("an honest transaction is taken").into_inner().result.unwrap();
                assert_eq!(result.outcome(), pb::Outcome::Committed, "{}", result.reason);
                committed += 1;
                if stopped.load(Ordering::Relaxed) {
                    return committed;
                }
            }
        });
        Honest { stop, working }
    }

    /// They committed all that they began, nothing was needed for it but what should be, and nobody else is complained of.
    async fn end(self, target: &Target) {
        self.end_with(target, MEMORY_MIB_MAX).await;
    }

    /// The same, where the coordinator may have needed more for a while.
    async fn end_with(self, target: &Target, memory_mib_max: u64) {
        self.stop.store(true, Ordering::Relaxed);
        assert!(soon(self.working).await.unwrap() > 0);
        let memory = memory_mib(target);
        assert!(memory < memory_mib_max, "the coordinator had {memory} MiB");
        let log = target.coordinator.log();
        let complaints = log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
        assert!(complaints.clone().count() < COMPLAINTS_MAX, "{:?}", complaints.clone().next());
        let others: Vec<_> = complaints.filter(|line| !line.contains(CULPRIT)).collect();
        assert!(others.is_empty(), "{others:#?}");
        target.still_commits().await;
    }
}

/// The most that the coordinator had in memory.
fn memory_mib(target: &Target) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", target.coordinator.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// How many sessions of this name are open.
async fn sessions(target: &Target, participant: &str) -> usize {
    let shown = soon(target.admin().list_participants(pb::ListParticipantsRequest {})).await.unwrap();
    let found = shown.into_inner().participants.into_iter().find(|it| it.name == participant);
    found.map_or(0, |participant| participant.sessions.len())
}

/// Waits until so many are.
async fn until_sessions(target: &Target, participant: &str, count: usize) {
    soon(async {
        while sessions(target, participant).await != count {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}
