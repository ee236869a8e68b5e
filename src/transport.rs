//! Carries calls to participants and brings back what they answer.
//!
//! A call never waits here: it is on its way, in a bounded queue, or refused at once. A refusal and a lost connection are
//! reports like any other, and the core calls again.

mod dial;
mod lane;
mod session;

use std::collections::BTreeMap;
use std::sync::Arc;

use smol_str::SmolStr;

pub use self::dial::{DialSettings, Dialer};
pub use self::lane::{LaneView, SessionView};
pub use self::session::{SessionService, Sessions};
use crate::config::Endpoint;
use crate::core::{Call, Event, FailureKind, ParticipantName, Report};

/// All ways to reach participants.
#[derive(Clone, Debug)]
pub struct Transport {
    sessions: Sessions,
    dialer: Dialer,
    endpoints: Arc<BTreeMap<ParticipantName, Endpoint>>,
}

impl Transport {
    /// `endpoints`: the participants that are dialled, and where; all others come by themselves.
    pub fn new(
        sessions: Sessions,
        dialer: Dialer,
        endpoints: BTreeMap<ParticipantName, Endpoint>,
    ) -> Transport {
        Transport { sessions, dialer, endpoints: Arc::new(endpoints) }
    }

    /// Sends a call on its way. `Some`: it could not be sent, and this is the report of that.
    #[must_use = "a call that could not be sent must be reported"]
    pub fn call(&self, call: Call) -> Option<Event> {
        if self.sessions.is_paused(&call.participant) {
            return Some(not_sent(call, "calls to it are paused by an operator"));
        }
        let endpoint = call
            .endpoint
            .clone()
            .or_else(|| self.endpoints.get(&call.participant).map(|to| SmolStr::new(to.to_string())));
        match endpoint {
            Some(endpoint) => self.dialer.call(&endpoint, call),
            None => self.sessions.call(call),
        }
    }

    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Where the configuration says that a participant is dialled.
    pub fn endpoints(&self) -> &BTreeMap<ParticipantName, Endpoint> {
        &self.endpoints
    }
}

fn not_sent(call: Call, error: &'static str) -> Event {
    failed(call, SmolStr::new_static(error), FailureKind::NotSent)
}

fn failed(call: Call, error: SmolStr, kind: FailureKind) -> Event {
    let Call { tx, branch, operation, .. } = call;
    Event::Reported { tx, branch, operation, report: Report::Failed { error, kind } }
}
