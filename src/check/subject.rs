//! The participant that is checked, whichever way it is reached.

mod dialled;

use std::net::SocketAddr;
use std::time::Duration;

use assent_proto::v1 as pb;
use pb::call_reply;

use super::Error;
use super::desk::Desk;
use super::process::Launch;
use crate::core::ParticipantName;
pub use dialled::Dialled;

/// How long the other replies to a burst may take once there is one. Replies name the branch and not the call, so a
/// session may answer several calls with one reply.
const BURST_GRACE: Duration = Duration::from_secs(2);

/// How the participant is reached.
#[derive(Clone, Debug)]
pub enum Subject {
    Dialled(Dialled),
    Session { desk: Desk, participant: ParticipantName, at: SocketAddr },
}

/// A call that was not answered with a vote or a completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// What happened is not known; the call is to be repeated.
    Again(String),
    /// A gRPC UNIMPLEMENTED.
    Unimplemented(String),
    /// No answer in this time.
    Silent(Duration),
}

impl Subject {
    /// Makes one call, and gives it so long.
    pub async fn call(&self, call: pb::Call, wait: Duration) -> Result<call_reply::Result, Trouble> {
        let answer = async {
            match self {
                Subject::Dialled(dialled) => dialled.call(call).await,
                Subject::Session { desk, .. } => desk.call(call).await,
            }
        };
        tokio::time::timeout(wait, answer).await.unwrap_or(Err(Trouble::Silent(wait)))
    }

    /// Waits until it can be called; its process, where the kit started that, must live on meanwhile.
    pub async fn ready(&self, wait: Duration, launch: Option<&Launch>) -> Result<(), Error> {
        let there = async {
            match self {
                Subject::Dialled(dialled) => dialled.ready(wait, launch.is_some()).await,
                Subject::Session { desk, participant, at } => {
                    desk.ready(wait).await.map_err(|turned_away| Error::NoSession {
                        participant: participant.clone(),
                        at: *at,
                        waited: wait,
                        turned_away: turned_away.map_or_else(String::new, |why| format!("; {why}")),
                    })
                }
            }
        };
        match launch {
            None => there.await,
            Some(launch) => tokio::select! {
                ready = there => ready,
                ended = launch.ended() => Err(ended),
            },
        }
    }

    /// How long the rest of a burst may take after the first answer. `None`: as long as any call.
    pub fn burst_grace(&self) -> Option<Duration> {
        match self {
            Subject::Dialled(_) => None,
            Subject::Session { .. } => Some(BURST_GRACE),
        }
    }
}
