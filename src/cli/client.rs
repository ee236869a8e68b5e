//! Calls to the server, and what their errors mean.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use assent_proto::v1::admin_service_client::AdminServiceClient;
use assent_proto::v1::inquiry_service_client::InquiryServiceClient;
use assent_proto::v1::transaction_service_client::TransactionServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use super::exit::{Exit, Failure};
use super::{DEFAULT_SERVER, Global};
use crate::config::{Endpoint, Span};

/// How long to wait for the server where nothing is said.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Keeps a connection that died silently from being waited on for ever.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Room for a full page of transactions, or for the replies of many branches.
const RESPONSE_MAX_BYTES: usize = 64 << 20;

/// A connection to the server.
pub struct Client {
    channel: Channel,
    server: Endpoint,
    timeout: Option<Duration>,
}

impl Client {
    pub async fn connect(global: &Global) -> Result<Client, Failure> {
        let server = global.server.clone();
        let timeout = global.timeout.map(Duration::from);
        let wait = timeout.unwrap_or(DEFAULT_TIMEOUT);
        let endpoint = Channel::from_shared(server.to_string())
            .expect("an endpoint is a URI")
            .connect_timeout(wait)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        match tokio::time::timeout(wait, endpoint.connect()).await {
            Ok(Ok(channel)) => Ok(Client { channel, server, timeout }),
            Ok(Err(error)) => Err(unreachable(&server, &innermost(&error))),
            Err(_) => Err(unreachable(&server, &format!("no connection within {}", Span(wait)))),
        }
    }

    pub fn transactions(&self) -> TransactionServiceClient<Channel> {
        TransactionServiceClient::new(self.channel.clone()).max_decoding_message_size(RESPONSE_MAX_BYTES)
    }

    pub fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone()).max_decoding_message_size(RESPONSE_MAX_BYTES)
    }

    pub fn inquiries(&self) -> InquiryServiceClient<Channel> {
        InquiryServiceClient::new(self.channel.clone())
    }

    pub fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel.clone())
    }

    /// The `--timeout` of the command line.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Awaits the answer to a call, for as long as the command line says.
    pub async fn call<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        self.call_within(self.timeout.unwrap_or(DEFAULT_TIMEOUT), call).await
    }

    /// Awaits the answer to a call, for so long.
    pub async fn call_within<T>(
        &self,
        wait: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(wait, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.failure(&status)),
            Err(_) => {
                let message = format!("{} did not answer within {}", self.server, Span(wait));
                Err(Failure::new(Exit::Unreachable, message).with_hint("--timeout waits longer"))
            }
        }
    }

    /// What a status means for the person who typed the command.
    pub fn failure(&self, status: &Status) -> Failure {
        if is_from_transport(status) {
            return unreachable(&self.server, &innermost(status));
        }
        let reason = status.get_details_error_info().map(|info| info.reason);
        match (status.code(), reason.as_deref()) {
            (Code::NotFound, _) => Failure::new(Exit::NotFound, told(status)),
            (Code::Unavailable, Some("RECOVERING")) => Failure::new(Exit::NotReady, told(status))
                .with_hint("it reads its log; try again in a moment"),
            (Code::Unavailable, Some("DRAINING")) => Failure::new(Exit::NotReady, told(status))
                .with_hint("it is about to end; try again once it is back"),
            (Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled, _) => {
                Failure::new(Exit::Unreachable, told(status))
            }
            (Code::Unimplemented, _) => Failure::new(Exit::Error, told(status)).with_hint(
                "the server may be of another version; see `assent status` and `assent --version`",
            ),
            _ => {
                let failure = Failure::new(Exit::Error, told(status));
                match status.get_details_retry_info().and_then(|info| info.retry_delay) {
                    Some(delay) => failure.with_hint(format!("try again in {}", super::time::brief(delay))),
                    None => failure,
                }
            }
        }
    }
}

fn unreachable(server: &Endpoint, why: &str) -> Failure {
    let failure = Failure::new(Exit::Unreachable, format!("cannot reach {server}: {why}"));
    if server.to_string() == DEFAULT_SERVER {
        failure
            .with_hint("is the daemon running? `assent serve`; if it is elsewhere: --server or ASSENT_SERVER")
    } else {
        failure.with_hint("is the daemon running there? see `assent serve`, --server and ASSENT_SERVER")
    }
}

/// Tells a status that our own side made, because the connection failed, from one that the server sent.
fn is_from_transport(status: &Status) -> bool {
    // Only a status made here has a source.
    status.source().is_some()
}

fn told(status: &Status) -> String {
    match status.message() {
        "" => format!("the server answered: {}", status.code()),
        message => message.to_owned(),
    }
}

/// What went wrong at the bottom: "connection refused" says more than "transport error".
fn innermost(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
