//! A coordinator, the participants of a benchmark, and what they have spent.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Stdio};

use assent_proto::v1 as pb;
use pb::admin_service_client::AdminServiceClient;
use tonic::transport::Channel;

use crate::coordinator::{Coordinator, assent};

/// A coordinator, and participants that vote and do nothing (`bench/1` and so on), in processes of their own.
pub struct Lab {
    pub coordinator: Coordinator,
    participants: Option<Participants>,
}

struct Participants(Child);

impl Lab {
    /// With so many participants, and these settings of the coordinator, each `key=value`.
    pub fn start(participants: u32, settings: &[&str]) -> Lab {
        let own = ["storage.ballast=0 B", "storage.min_free=0 B"];
        let args: Vec<_> = own.iter().chain(settings).flat_map(|setting| ["--set", setting]).collect();
        let mut lab = Lab { coordinator: Coordinator::start(&args), participants: None };
        lab.start_participants(participants);
        lab
    }

    pub fn start_participants(&mut self, count: u32) {
        let mut process = assent()
            .args(["bench", "participants", "--protocol", "2pc", "--transport", "session"])
            .args(["--server", &self.url(), "--branches", &count.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = process.stdout.take().expect("it was asked for");
        self.participants = Some(Participants(process));
        // A line says that they are ready.
        let read = BufReader::new(stdout).read_line(&mut String::new()).unwrap();
        assert!(read > 0, "the participants ended");
    }

    pub fn end_participants(&mut self) {
        self.participants = None;
    }

    fn url(&self) -> String {
        self.coordinator.url()
    }

    pub async fn status(&self) -> pb::GetServerStatusResponse {
        status(&self.connect().await).await
    }

    pub async fn connect(&self) -> Channel {
        Channel::from_shared(self.url()).unwrap().tcp_nodelay(true).connect().await.unwrap()
    }

    /// What the coordinator has had of the processors, in user and in system mode, in µs.
    pub fn cpu_us(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.coordinator.pid())).unwrap();
        // What follows the name, which may have anything in it: state, 10 others, ticks in user mode, in system mode.
        let fields = stat.rsplit(") ").next().unwrap().split(' ').skip(11).take(2);
        let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
        ticks as f64 * 1e6 / rustix::param::clock_ticks_per_second() as f64
    }

    /// What the coordinator has in memory now.
    pub fn rss(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most that it ever had.
    pub fn rss_max(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.coordinator.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
    }

    /// What its data take on the disk.
    pub fn disk(&self) -> u64 {
        allocated(&self.coordinator.data_dir())
    }
}

impl Drop for Participants {
    fn drop(&mut self) {
        // They may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub async fn status(channel: &Channel) -> pb::GetServerStatusResponse {
    let mut admin = AdminServiceClient::new(channel.clone());
    admin.get_server_status(pb::GetServerStatusRequest {}).await.unwrap().into_inner()
}

fn allocated(path: &Path) -> u64 {
    // A file may go while one looks.
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    if metadata.is_dir() {
        fs::read_dir(path).into_iter().flatten().flatten().map(|entry| allocated(&entry.path())).sum()
    } else {
        metadata.blocks() * 512
    }
}
