//! Participants that vote and do nothing. They keep nothing, either: what is durable in a benchmark is the coordinator's
//! log.

use std::io::{self, Write as _};

use assent_sdk::resource::{Cleaned, Completion, Granted, InDoubt, OnePhase, PhaseOne, Resource};
use assent_sdk::{Branch, ClusterId, Horizon, Participant, ParticipantName, Protocol, Result, Vote, refuse};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::stage::READY_TIMEOUT;
use super::{Error, Transport};

/// The first byte of a payload that is to be refused.
pub(super) const REFUSE: u8 = 1;

/// More than any load has in flight for one participant.
const CALLS_MAX: u32 = 1 << 16;

/// A store of nothing.
#[derive(Debug)]
struct Weightless {
    protocol: Protocol,
}

impl Resource for Weightless {
    fn protocol(&self) -> Protocol {
        self.protocol
    }

    async fn phase_one(&self, call: PhaseOne) -> Result<Granted> {
        if call.request.first() == Some(&REFUSE) {
            return Err(refuse("this transaction was to abort"));
        }
        Ok(Granted { vote: Vote::Prepared(Bytes::new()), reservation: call.reservation })
    }

    async fn commit(&self, _: &Branch) -> Result<Completion> {
        Ok(Completion::Done)
    }

    async fn rollback(&self, _: &Branch, _: &ClusterId) -> Result<Completion> {
        Ok(Completion::Done)
    }

    async fn commit_one_phase(&self, call: PhaseOne) -> Result<OnePhase> {
        let Granted { vote, .. } = self.phase_one(call).await?;
        Ok(OnePhase { completion: Completion::Done, reply: vote.reply().clone() })
    }

    async fn in_doubt(&self, _: &ParticipantName) -> Result<Vec<InDoubt>> {
        Ok(Vec::new())
    }

    async fn forget_before(&self, _: &Horizon) -> Result<Cleaned> {
        Ok(Cleaned::Wholly)
    }
}

/// The name of the participant of a branch, the first being 0.
pub(super) fn name(branch: u32) -> String {
    format!("bench/{}", branch + 1)
}

/// Starts one participant a branch.
pub(super) async fn start(
    coordinator: &str,
    protocols: &[Protocol],
    branches: u32,
    transport: Transport,
) -> Result<Vec<Participant>, Error> {
    let mut started = Vec::new();
    for (branch, protocol) in (0..branches).zip(protocols.iter().copied().cycle()) {
        let builder = Participant::builder(name(branch)).resource(Weightless { protocol });
        let builder = builder.max_in_flight(CALLS_MAX);
        let participant = match transport {
            Transport::Session => builder.connect(coordinator).await?,
            Transport::Dial => {
                let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
                builder.inquire_at(coordinator).serve(listener).await?
            }
        };
        if timeout(READY_TIMEOUT, participant.ready()).await.is_err() {
            return Err(Error::NotReady("a session with the coordinator", READY_TIMEOUT));
        }
        started.push(participant);
    }
    Ok(started)
}

/// Where participants listen that are dialled.
pub(super) fn endpoints(participants: &[Participant]) -> Vec<String> {
    let addresses = participants.iter().filter_map(Participant::local_addr);
    addresses.map(|address| format!("http://{address}")).collect()
}

/// Is the participants' process: starts them, and says on one line where they listen.
///
/// # Errors
/// When they cannot be started. Otherwise it goes on until the process is killed.
pub async fn serve(
    coordinator: &str,
    protocols: &[Protocol],
    branches: u32,
    transport: Transport,
) -> Result<(), Error> {
    let participants = start(coordinator, protocols, branches, transport).await?;
    writeln!(io::stdout(), "{}", endpoints(&participants).join(" "))?;
    std::future::pending().await
}
