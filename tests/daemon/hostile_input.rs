//! Whatever is sent, the answer is a clear status, and the next one is served as if nothing had been.

mod bytes;
mod fields;
mod misbehaviour;
mod sessions;

use std::time::Duration;

use assent_proto::v1 as pb;
use pb::admin_service_client::AdminServiceClient;
use pb::inquiry_service_client::InquiryServiceClient;
use pb::transaction_service_client::TransactionServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::coordinator::Coordinator;
use crate::session;

/// Nothing here takes anywhere near as long.
const PATIENCE: Duration = Duration::from_mins(1);

/// A coordinator under attack.
struct Target {
    coordinator: Coordinator,
    channel: Channel,
}

impl Target {
    async fn start() -> Target {
        Target::start_with(&[]).await
    }

    async fn start_with(args: &[&str]) -> Target {
        let coordinator = Coordinator::start(&[&["--set", "participants.retry_max=200ms"], args].concat());
        let channel = Channel::from_shared(coordinator.url()).unwrap().connect().await.unwrap();
        Target { coordinator, channel }
    }

    fn transactions(&self) -> TransactionServiceClient<Channel> {
        TransactionServiceClient::new(self.channel.clone())
    }

    fn inquiries(&self) -> InquiryServiceClient<Channel> {
        InquiryServiceClient::new(self.channel.clone())
    }

    fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone())
    }

    async fn begin(&self) -> String {
        self.transactions().begin(pb::BeginRequest::default()).await.unwrap().into_inner().xid
    }

    async fn run(&self, branches: Vec<pb::BranchSpec>) -> Result<pb::TransactionResult, Status> {
        let request = pb::RunRequest { branches, ..pb::RunRequest::default() };
        Ok(self.transactions().run(request).await?.into_inner().result.unwrap())
    }

    async fn get(&self, xid: &str) -> pb::Transaction {
        let key = Some(pb::get_request::Key::Xid(xid.to_owned()));
        self.transactions().get(pb::GetRequest { key }).await.unwrap().into_inner().transaction.unwrap()
    }

    /// An honest transaction commits, over a new connection.
    async fn still_commits(&self) {
        let channel = connect(self).await;
        for participant in ["honest/stock", "honest/ledger"] {
            session::willing(&channel, participant).await;
        }
        let result = self.run(vec![branch("honest/stock"), branch("honest/ledger")]).await.unwrap();
        assert_eq!(result.outcome(), pb::Outcome::Committed, "{}", result.reason);
        let log = self.coordinator.log();
        assert!(!log.contains("panicked"), "something panicked:\n{log}");
    }
}

/// A connection of its own.
async fn connect(target: &Target) -> Channel {
    Channel::from_shared(target.coordinator.url()).unwrap().connect().await.unwrap()
}

/// Waits for what must come.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it comes in time")
}

fn branch(participant: &str) -> pb::BranchSpec {
    pb::BranchSpec { participant: participant.to_owned(), ..pb::BranchSpec::default() }
}

/// The status is of this code, carries our `ErrorInfo`, and its message has these fragments.
#[track_caller]
fn assert_refused(status: &Status, code: Code, fragments: &[&str]) {
    assert_eq!(status.code(), code, "{status}");
    assert_says(status.message(), fragments);
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status}"));
    assert_eq!(info.domain, "assent");
    assert!(status.message().len() < 1024, "the message has {} bytes", status.message().len());
}

#[track_caller]
fn assert_says(message: &str, fragments: &[&str]) {
    for fragment in fragments {
        assert!(message.contains(fragment), "{message:?} does not say {fragment:?}");
    }
}
