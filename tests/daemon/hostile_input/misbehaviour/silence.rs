//! Connections that are there and say nothing.

use std::net::SocketAddr;

use assent_proto::v1 as pb;
use tokio::io::copy;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::transport::Channel;

use super::super::sessions::start;
use super::{CULPRIT, Honest, until_sessions};
use crate::hostile_input::{Target, branch, soon};
use crate::session::{self, Session};

/// A way to the coordinator that can fall silent: nothing goes through any more, and nothing is closed.
struct Proxy {
    address: SocketAddr,
    silent: watch::Sender<bool>,
}

impl Proxy {
    async fn to(target: &Target) -> Proxy {
        let coordinator: SocketAddr = target.coordinator.url().trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (silent, told) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let mut told = told.clone();
                tokio::spawn(async move {
                    let far = TcpStream::connect(coordinator).await.unwrap();
                    let (mut from_near, mut to_near) = near.into_split();
                    let (mut from_far, mut to_far) = far.into_split();
                    tokio::select! {
                        _ = copy(&mut from_near, &mut to_far) => {}
                        _ = copy(&mut from_far, &mut to_near) => {}
                        () = async { drop(told.wait_for(|silent| *silent).await) } => {
                            // Both ends are kept, and nobody reads from them.
                            std::future::pending::<()>().await;
                        }
                    }
                });
            }
        });
        Proxy { address, silent }
    }

    async fn connect(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }
}

/// Keep-alive finds it out, and its calls go to another of its name.
#[tokio::test]
async fn a_session_that_falls_silent_is_ended_and_its_calls_go_to_others() {
    let target = Target::start_with(&["--set", "participants.call_timeout=1h"]).await;
    let honest = Honest::begin(&target).await;
    let proxy = Proxy::to(&target).await;
    let mut silent = Session::open(&proxy.connect().await, CULPRIT).await.unwrap();
    let running = start(&target, vec![branch(CULPRIT), branch("honest/stock")]);
    let _unanswered: pb::Call = soon(silent.call()).await;
    proxy.silent.send_replace(true);
    session::willing(&target.channel, CULPRIT).await;
    until_sessions(&target, CULPRIT, 1).await;
    assert_eq!(soon(running).await.unwrap().outcome(), pb::Outcome::Committed);
    honest.end(&target).await;
}

/// Its messages to the coordinator come, and it takes none: what waits for it is bounded, and it is ended.
#[tokio::test]
async fn a_socket_that_nobody_reads_is_ended() {
    let target = Target::start().await;
    let honest = Honest::begin(&target).await;
    let proxy = Proxy::to(&target).await;
    let session = Session::open(&proxy.connect().await, CULPRIT).await.unwrap();
    // More than sockets hold, so that the coordinator has something that it cannot be rid of.
    let payload = bytes::Bytes::from(vec![7; 1 << 20]);
    let large = pb::BranchSpec { payload, ..branch(CULPRIT) };
    proxy.silent.send_replace(true);
    let running: Vec<_> =
        (0..16).map(|_| start(&target, vec![large.clone(), branch("honest/stock")])).collect();
    until_sessions(&target, CULPRIT, 0).await;
    drop(session);
    running.iter().for_each(tokio::task::JoinHandle::abort);
    honest.end(&target).await;
}
