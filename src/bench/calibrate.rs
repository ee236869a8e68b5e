//! What this machine does without a coordinator: plain calls, and plain writes.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use assent_proto::v1 as pb;
use pb::two_phase_participant_service_client::TwoPhaseParticipantServiceClient;
use pb::two_phase_participant_service_server::{
    TwoPhaseParticipantService, TwoPhaseParticipantServiceServer,
};
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio::task::{JoinSet, spawn_blocking};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use super::stage::Stage;
use super::{Error, Options};
use crate::process::Process;

/// How long calls are made for, at the beginning and at the end.
const ECHO_FOR: Duration = Duration::from_secs(2);
/// How often a single call, and a single write, is made.
const SINGLES: usize = 1_000;
/// What a decision takes in a log, about.
const WRITE_BYTES: usize = 200;

/// Makes the calls and writes.
pub(super) struct Calibrator {
    _echo: Process,
    channels: Vec<Channel>,
    in_flight: u32,
    payload_bytes: usize,
    /// Where the log of the coordinator is.
    directory: std::path::PathBuf,
}

/// What it saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Calibration {
    /// Unary calls a second, with the same payload, connections and calls in flight as the load.
    pub echo_calls_per_second: f64,
    /// One call alone, half of them faster.
    pub call_us: f64,
    /// Appending to a file and syncing it, half of them faster.
    pub sync_us: f64,
}

impl Calibrator {
    pub(super) async fn new(options: &Options, stage: &Stage) -> Result<Calibrator, Error> {
        let (echo, url) = stage.start_echo().await?;
        let endpoint = || Endpoint::from_shared(url.clone()).map(|endpoint| endpoint.tcp_nodelay(true));
        let mut channels = Vec::new();
        for _ in 0..options.connections {
            let connecting = async { endpoint()?.connect().await };
            channels.push(connecting.await.map_err(|source| Error::Connect { url: url.clone(), source })?);
        }
        let directory = stage.directory.path().to_owned();
        let (in_flight, payload_bytes) = (options.in_flight, options.payload_bytes as usize);
        Ok(Calibrator { _echo: echo, channels, in_flight, payload_bytes, directory })
    }

    pub(super) async fn measure(&self) -> Result<Calibration, Error> {
        Ok(Calibration {
            echo_calls_per_second: self.echo().await?,
            call_us: self.call_alone().await?,
            sync_us: {
                let directory = self.directory.clone();
                spawn_blocking(move || sync_alone(&directory)).await.map_err(io::Error::other)??
            },
        })
    }

    async fn echo(&self) -> Result<f64, Error> {
        let started = Instant::now();
        let mut running = JoinSet::new();
        let payload: bytes::Bytes = vec![0; self.payload_bytes].into();
        for index in 0..self.in_flight as usize {
            let channel = self.channels[index % self.channels.len()].clone();
            let payload = payload.clone();
            running.spawn(async move {
                let mut client = TwoPhaseParticipantServiceClient::new(channel);
                let mut made = 0_u32;
                while started.elapsed() < ECHO_FOR {
                    client.prepare(request(&payload)).await?;
                    made += 1;
                }
                Ok::<_, Status>(made)
            });
        }
        let mut made = 0.0;
        while let Some(one) = running.join_next().await {
            made += f64::from(one.map_err(io::Error::other)??);
        }
        Ok(made / started.elapsed().as_secs_f64())
    }

    async fn call_alone(&self) -> Result<f64, Error> {
        let mut client = TwoPhaseParticipantServiceClient::new(self.channels[0].clone());
        let payload: bytes::Bytes = vec![0; self.payload_bytes].into();
        let mut took = Vec::with_capacity(SINGLES);
        for _ in 0..SINGLES {
            let began = Instant::now();
            client.prepare(request(&payload)).await?;
            took.push(began.elapsed());
        }
        Ok(median_us(took))
    }
}

impl Calibration {
    pub(super) fn mean(all: &[Calibration]) -> Option<Calibration> {
        let count = f64::from(u32::try_from(all.len()).ok().filter(|count| *count > 0)?);
        let mean = |of: fn(&Calibration) -> f64| all.iter().map(of).sum::<f64>() / count;
        Some(Calibration {
            echo_calls_per_second: mean(|one| one.echo_calls_per_second),
            call_us: mean(|one| one.call_us),
            sync_us: mean(|one| one.sync_us),
        })
    }
}

/// Answers Prepare with what it brought. Any unary method would do; this one has a payload both ways.
#[derive(Debug)]
struct Echo;

#[tonic::async_trait]
impl TwoPhaseParticipantService for Echo {
    async fn prepare(
        &self,
        request: Request<pb::PrepareRequest>,
    ) -> Result<Response<pb::PrepareResponse>, Status> {
        let reply = request.into_inner().payload;
        let result = pb::PhaseOneResult { reply, ..pb::PhaseOneResult::default() };
        Ok(Response::new(pb::PrepareResponse { result: Some(result) }))
    }

    async fn commit(
        &self,
        _: Request<pb::TwoPhaseParticipantServiceCommitRequest>,
    ) -> Result<Response<pb::TwoPhaseParticipantServiceCommitResponse>, Status> {
        Ok(Response::new(pb::TwoPhaseParticipantServiceCommitResponse::default()))
    }

    async fn rollback(
        &self,
        _: Request<pb::RollbackRequest>,
    ) -> Result<Response<pb::RollbackResponse>, Status> {
        Ok(Response::new(pb::RollbackResponse::default()))
    }

    async fn commit_one_phase(
        &self,
        _: Request<pb::CommitOnePhaseRequest>,
    ) -> Result<Response<pb::CommitOnePhaseResponse>, Status> {
        Ok(Response::new(pb::CommitOnePhaseResponse::default()))
    }
}

/// Is the process that echoes: says on one line where it listens.
///
/// # Errors
/// When it cannot listen. Otherwise it goes on until the process is killed.
pub async fn echo() -> Result<(), Error> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    writeln!(io::stdout(), "{url}")?;
    Server::builder()
        .add_service(TwoPhaseParticipantServiceServer::from_arc(Arc::new(Echo)))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await
        .map_err(|source| Error::Connect { url, source })
}

fn sync_alone(directory: &Path) -> io::Result<f64> {
    let mut file = NamedTempFile::new_in(directory)?;
    let file: &mut File = file.as_file_mut();
    let mut took = Vec::with_capacity(SINGLES);
    for _ in 0..SINGLES {
        let began = Instant::now();
        file.write_all(&[0; WRITE_BYTES])?;
        file.sync_data()?;
        took.push(began.elapsed());
    }
    Ok(median_us(took))
}

fn request(payload: &bytes::Bytes) -> pb::PrepareRequest {
    pb::PrepareRequest { payload: payload.clone(), ..pb::PrepareRequest::default() }
}

fn median_us(mut took: Vec<Duration>) -> f64 {
    took.sort();
    took.get(took.len() / 2).map_or(0.0, |median| median.as_secs_f64() * 1e6)
}
