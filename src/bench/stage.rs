//! The processes of a benchmark, and what they have spent.

use std::fs;
use std::path::Path;
use std::time::Duration;

use assent_proto::v1::GetServerStatusRequest;
use assent_proto::v1::admin_service_client::AdminServiceClient;
use assent_sdk::{Participant, Protocol};
use clap::ValueEnum as _;
use rustix::process::Pid;
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::{Error, Options, Participants, Whose, participant};
use crate::process::{Process, Spawner};

/// How long the coordinator, and a session with it, may take until they are ready.
pub(super) const READY_TIMEOUT: Duration = Duration::from_mins(1);

/// Everything that the load is put on. All processes are gone when it is dropped.
pub(super) struct Stage {
    pub(super) url: String,
    /// Of the branches, in order.
    pub(super) names: Vec<String>,
    /// Where they are dialled; empty where they are not.
    pub(super) endpoints: Vec<String>,
    admin: AdminServiceClient<Channel>,
    coordinator: Option<Process>,
    participants: Vec<Participant>,
    participants_process: Option<Process>,
    spawner: Spawner,
    /// The last to be dropped: processes write into it as long as they run.
    pub(super) directory: TempDir,
}

/// What the coordinator has spent since it started.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent {
    pub forced_writes: u64,
    pub log_syncs: u64,
    pub log_bytes: u64,
    /// None where it is not a process of ours.
    pub cpu: Option<Duration>,
    pub peak_rss_bytes: Option<u64>,
}

impl Stage {
    pub(super) async fn set_up(options: &Options) -> Result<Stage, Error> {
        let below = match &options.coordinator {
            Whose::Own { below, .. } => below.clone(),
            Whose::Running(_) => std::env::temp_dir(),
        };
        let directory = tempfile::Builder::new().prefix("assent-bench-").tempdir_in(below)?;
        let spawner =
            Spawner { executable: options.executable.clone(), directory: directory.path().to_owned() };
        let (coordinator, url) = match &options.coordinator {
            Whose::Running(url) => (None, url.clone()),
            Whose::Own { settings, .. } => {
                let (process, url) = start_coordinator(&spawner, settings).await?;
                (Some(process), url)
            }
        };
        let mut admin = AdminServiceClient::connect(url.clone())
            .await
            .map_err(|source| Error::Connect { url: url.clone(), source })?;
        wait_until_ready(&mut admin).await?;
        let mut stage = Stage {
            url,
            names: (0..options.branches).map(participant::name).collect(),
            endpoints: Vec::new(),
            admin,
            coordinator,
            participants: Vec::new(),
            participants_process: None,
            spawner,
            directory,
        };
        stage.start_participants(options).await?;
        Ok(stage)
    }

    async fn start_participants(&mut self, options: &Options) -> Result<(), Error> {
        let Options { protocols, branches, transport, .. } = options;
        match &options.participants {
            Participants::Given(names) => self.names.clone_from(names),
            Participants::InProcess => {
                let started = participant::start(&self.url, protocols, *branches, *transport).await?;
                self.endpoints = participant::endpoints(&started);
                self.participants = started;
            }
            Participants::Process => {
                let protocols =
                    protocols.iter().map(|protocol| word(*protocol)).collect::<Vec<_>>().join(",");
                let transport = transport.to_possible_value().expect("no variant is skipped");
                let branches = branches.to_string();
                let mut arguments = vec!["bench", "participants", "--server", &self.url];
                arguments.extend([
                    "--protocol",
                    &protocols,
                    "--branches",
                    &branches,
                    "--transport",
                    transport.get_name(),
                ]);
                let (process, line) = self.spawner.spawn("participants", arguments).await?;
                self.endpoints = line.split_whitespace().map(str::to_owned).collect();
                self.participants_process = Some(process);
            }
        }
        Ok(())
    }

    /// Starts a process that echoes calls, and says where.
    pub(super) async fn start_echo(&self) -> Result<(Process, String), Error> {
        Ok(self.spawner.spawn("echo", ["bench", "echo"]).await?)
    }

    pub(super) fn handles(&self) -> Vec<assent_sdk::participant::Handle> {
        self.participants.iter().map(Participant::handle).collect()
    }

    pub(super) async fn spent(&mut self) -> Result<Spent, Error> {
        let status = self.admin.get_server_status(GetServerStatusRequest {}).await?.into_inner();
        let pid = self.coordinator.as_ref().map(Process::pid);
        Ok(Spent {
            forced_writes: status.forced_writes,
            log_syncs: status.log_syncs,
            log_bytes: status.log_bytes,
            cpu: pid.map(cpu).transpose()?,
            peak_rss_bytes: pid.map(peak_rss_bytes).transpose()?,
        })
    }
}

async fn start_coordinator(spawner: &Spawner, settings: &[String]) -> Result<(Process, String), Error> {
    let config = spawner.directory.join("assent.toml");
    // Of its own, so that a file in the usual place has no say.
    fs::write(&config, "")?;
    let data = spawner.directory.join("data");
    let mut arguments = vec!["--config".into(), config.into_os_string(), "serve".into()];
    arguments.extend(["--listen", "127.0.0.1:0", "--data-dir"].map(Into::into));
    arguments.push(data.into_os_string());
    let own = ["participants.allowed_hosts=127.0.0.1", "storage.ballast=0 B", "storage.min_free=0 B"];
    for setting in own.iter().copied().chain(settings.iter().map(String::as_str)) {
        arguments.extend(["--set".into(), setting.into()]);
    }
    let (process, line) = spawner.spawn("coordinator", arguments).await?;
    match line.strip_prefix("listening on ") {
        Some(url) => Ok((process, url.to_owned())),
        None => Err(process.not_seen(format!("where it listens (instead: {line:?})")).into()),
    }
}

/// A log that is long takes its time to be read.
async fn wait_until_ready(admin: &mut AdminServiceClient<Channel>) -> Result<(), Error> {
    let waiting = async {
        while !admin.get_server_status(GetServerStatusRequest {}).await?.into_inner().ready {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    timeout(READY_TIMEOUT, waiting).await.unwrap_or(Err(Error::NotReady("the coordinator", READY_TIMEOUT)))
}

fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::TwoPhase => "2pc",
        Protocol::Tcc => "tcc",
    }
}

/// What a process has had of the processors, in user and in system mode.
fn cpu(pid: Pid) -> Result<Duration, Error> {
    let stat = fs::read_to_string(proc(pid).join("stat"))?;
    // What follows the name, which may have anything in it: state, 10 others, ticks in user mode, in system mode.
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
}

fn peak_rss_bytes(pid: Pid) -> Result<u64, Error> {
    let status = fs::read_to_string(proc(pid).join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.unwrap_or(0) * 1024)
}

fn proc(pid: Pid) -> std::path::PathBuf {
    Path::new("/proc").join(pid.as_raw_pid().to_string())
}
