//! A participant that is always willing: it keeps a session and says yes to every call.

use std::collections::VecDeque;

use assent_proto::v1 as pb;
use pb::call_reply::Result as Told;
use pb::participant_session_service_client::ParticipantSessionServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Room for every answer.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// One open session, by hand.
#[derive(Debug)]
pub struct Session {
    pub requests: mpsc::UnboundedSender<pb::SessionRequest>,
    pub responses: Streaming<pb::SessionResponse>,
    /// Calls that came in one message with the last one taken.
    calls: VecDeque<pb::Call>,
}

impl Session {
    /// Opens a session and takes the welcome.
    pub async fn open(channel: &Channel, participant: &str) -> Result<Session, Status> {
        let mut session = Session::open_with(channel, hello(participant)).await?;
        let first = session.responses.message().await?.expect("a session does not end at once");
        assert!(first.welcome.is_some(), "the first message has no welcome");
        Ok(session)
    }

    /// Opens a session with this first request.
    pub async fn open_with(channel: &Channel, first: pb::SessionRequest) -> Result<Session, Status> {
        let (requests, sent) = mpsc::unbounded_channel();
        requests.send(first).expect("the other half is here");
        let mut client = ParticipantSessionServiceClient::new(channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let responses = client.session(UnboundedReceiverStream::new(sent)).await?.into_inner();
        Ok(Session { requests, responses, calls: VecDeque::new() })
    }

    pub fn send(&self, request: pb::SessionRequest) {
        // Where the stream has ended, what is received says so.
        let _ = self.requests.send(request);
    }

    pub fn reply(&self, call: &pb::Call, result: Told) {
        let reply = pb::CallReply {
            xid: call.xid.clone(),
            branch_id: call.branch_id.clone(),
            operation: call.operation,
            result: Some(result),
        };
        self.send(pb::SessionRequest { replies: vec![reply], ..pb::SessionRequest::default() });
    }

    /// The next call that comes.
    pub async fn call(&mut self) -> pb::Call {
        loop {
            if let Some(call) = self.calls.pop_front() {
                return call;
            }
            let response = self.responses.message().await.expect("the session goes on");
            self.calls.extend(response.expect("the session goes on").calls);
        }
    }

    /// Answers every call as it should be answered, until the session ends.
    pub async fn be_willing(mut self) {
        loop {
            for call in std::mem::take(&mut self.calls) {
                self.reply(&call, yes(call.operation()));
            }
            match self.responses.message().await {
                Ok(Some(response)) => self.calls.extend(response.calls),
                Ok(None) | Err(_) => return,
            }
        }
    }
}

/// Opens a session that says yes to everything from now on.
pub async fn willing(channel: &Channel, participant: &str) {
    let session = Session::open(channel, participant).await.expect("a session opens");
    tokio::spawn(session.be_willing());
}

pub fn hello(participant: &str) -> pb::SessionRequest {
    let hello = pb::Hello { participant: participant.to_owned(), ..pb::Hello::default() };
    pb::SessionRequest { hello: Some(hello), ..pb::SessionRequest::default() }
}

pub fn yes(operation: pb::Operation) -> Told {
    match operation {
        pb::Operation::PhaseOne => Told::Vote(vote(pb::Vote::Prepared)),
        pb::Operation::Commit | pb::Operation::Rollback | pb::Operation::CommitOnePhase => {
            let completion = pb::Completion::Done.into();
            Told::Completion(pb::PhaseTwoResult { completion, ..pb::PhaseTwoResult::default() })
        }
        pb::Operation::Unspecified => panic!("a call that asks for nothing"),
    }
}

pub fn vote(vote: pb::Vote) -> pb::PhaseOneResult {
    pb::PhaseOneResult { vote: vote.into(), inquires: true, ..pb::PhaseOneResult::default() }
}
