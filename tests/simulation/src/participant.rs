//! Participants: the SDK as it is, over a database of the simulation, reached by session or dialled.

use std::time::Duration;

use assent_sdk::memory::Memory;
use assent_sdk::participant::Handle;
use assent_sdk::{Error, Json, Participant, TxId};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio_stream::StreamExt as _;

use crate::bank::{Bank, Slow, Teller, Work};
use crate::coordinator;
use crate::network::{Listener, Socket, dial, participants_network};
use crate::world::note;

/// Where a dialled participant serves the coordinator, and every one its callers.
const DIALLED_PORT: u16 = 7000;
const SERVICE_PORT: u16 = 8000;

/// How a participant takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Session,
    /// It asks the coordinator, too.
    DialledAndAsking,
    Dialled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    TwoPhase,
    Tcc,
}

/// One process of a participant.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    pub host: &'static str,
    pub set: &'static str,
    /// The participant's name.
    pub name: &'static str,
    pub way: Way,
    pub by: By,
}

/// All of them. `bank/b` has two, over one database.
pub const ROLES: [Role; 6] = [
    Role { host: "bank-a", set: "a", name: "bank/a", way: Way::Session, by: By::TwoPhase },
    Role { host: "bank-b1", set: "b", name: "bank/b", way: Way::Session, by: By::TwoPhase },
    Role { host: "bank-b2", set: "b", name: "bank/b", way: Way::Session, by: By::TwoPhase },
    Role { host: "bank-c", set: "c", name: "bank/c", way: Way::Session, by: By::Tcc },
    Role { host: "bank-d", set: "d", name: "bank/d", way: Way::DialledAndAsking, by: By::Tcc },
    Role { host: "bank-e", set: "e", name: "bank/e", way: Way::Dialled, by: By::TwoPhase },
];

/// The sets of accounts, and whether the participant can be had to join by a caller.
pub const SETS: [(&str, bool); 5] = [("a", true), ("b", true), ("c", true), ("d", true), ("e", false)];

/// The life of the process.
pub async fn live(role: Role, database: Memory<Bank>, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let builder = Participant::builder(role.name);
    let inquires = role.way != Way::Dialled;
    let builder = match role.by {
        By::TwoPhase => builder.resource(Slow { inner: database.two_phase(Teller), set: role.set, inquires }),
        By::Tcc => builder.resource(Slow { inner: database.tcc(Teller), set: role.set, inquires }),
    };
    let builder = builder
        .network(participants_network())
        .instance_id(role.host)
        .inquire_after(Duration::from_secs(2))
        .drain_timeout(Duration::from_secs(2));
    let participant = match role.way {
        Way::Session => builder.connect(coordinator::URL).await?,
        Way::DialledAndAsking => {
            builder.inquire_at(coordinator::URL).serve_incoming(Listener::open(DIALLED_PORT)).await?
        }
        Way::Dialled => builder.serve_incoming(Listener::open(DIALLED_PORT)).await?,
    };
    let service = tokio::spawn(serve(participant.handle(), Listener::open(SERVICE_PORT)));
    let _ = stop.wait_for(|stop| *stop).await;
    note(format_args!("{} is told to stop", role.host));
    service.abort();
    participant.shutdown().await;
    Ok(())
}

/// What an initiator asks a service for, in a transaction.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ask {
    pub xid: String,
    pub branch: String,
    pub work: Work,
    /// The vote is to come back with the answer.
    pub ballot: bool,
    pub ttl_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Enlisted,
    Ballot(Vec<u8>),
    No(String),
}

/// Calls a participant's service.
pub async fn ask(host: &str, ask: &Ask) -> anyhow::Result<Answer> {
    let mut socket = dial(host, SERVICE_PORT).await?;
    write(&mut socket, ask).await?;
    read(&mut socket).await
}

async fn serve(handle: Handle, mut listener: Listener) {
    while let Some(Ok(mut socket)) = listener.next().await {
        let handle = handle.clone();
        tokio::spawn(async move {
            let asked: Ask = read(&mut socket).await?;
            let answer = join(&handle, &asked).await.unwrap_or_else(|error| Answer::No(error.to_string()));
            write(&mut socket, &answer).await
        });
    }
}

async fn join(handle: &Handle, asked: &Ask) -> Result<Answer, Error> {
    let xid: TxId = asked.xid.parse().map_err(|_| Error::Invalid("this is no xid".into()))?;
    let mut join = handle.join(xid, asked.branch.as_str());
    if let Some(ttl_ms) = asked.ttl_ms {
        join = join.ttl(Duration::from_millis(ttl_ms));
    }
    let work = Json(asked.work.clone());
    if asked.ballot {
        join.ballot(&work).await.map(|(_, ballot)| Answer::Ballot(ballot))
    } else {
        join.with(&work).await.map(|_| Answer::Enlisted)
    }
}

async fn write(socket: &mut Socket, message: &impl Serialize) -> anyhow::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    socket.write_u32(u32::try_from(bytes.len())?).await?;
    socket.write_all(&bytes).await?;
    Ok(())
}

async fn read<T: for<'a> Deserialize<'a>>(socket: &mut Socket) -> anyhow::Result<T> {
    let length = socket.read_u32().await?;
    let mut bytes = vec![0; usize::try_from(length)?];
    socket.read_exact(&mut bytes).await?;
    Ok(serde_json::from_slice(&bytes)?)
}
