//! The service that each participant offers to its callers: one JSON line in, one JSON line out, over TCP. It stands for
//! whatever protocol a real service speaks; what matters is that the xid travels with the request, and that the work is
//! done through the participant's handle.

use std::net::SocketAddr;
use std::time::Duration;

use assent_sdk::participant::Handle;
use assent_sdk::{Failure, Json, refuse};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const LINE_BYTES_MAX: u64 = 64 << 10;
/// Callers are served one after the other, so none may keep the door for ever.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a caller asks who is told of trouble: a connection to a database that has restarted, say.
const ATTEMPTS_MAX: usize = 10;
const ATTEMPT_AGAIN: Duration = Duration::from_millis(50);

/// What a caller asks for, and within which transaction.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ask {
    pub xid: String,
    /// Names the work within its transaction.
    pub branch: String,
    /// How long a reservation is to hold.
    pub ttl_ms: Option<u64>,
    pub request: Value,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done(Value),
    Refused(String),
    Trouble(String),
}

/// Calls a service, and again where there is trouble: whatever came of the first call, the branch is the same, so its
/// effect is one.
///
/// # Errors
/// A refusal where the service refused; otherwise trouble.
pub async fn call(door: SocketAddr, ask: &Ask) -> Result<Value, Failure> {
    let mut attempts = 1;
    loop {
        match call_once(door, ask).await {
            Err(failure) if failure.refusal().is_none() && attempts < ATTEMPTS_MAX => {
                attempts += 1;
                tokio::time::sleep(ATTEMPT_AGAIN).await;
            }
            answer => return answer,
        }
    }
}

async fn call_once(door: SocketAddr, ask: &Ask) -> Result<Value, Failure> {
    let answer = timeout(CALL_TIMEOUT, async {
        let mut stream = TcpStream::connect(door).await?;
        write_line(&mut stream, ask).await?;
        read_line(&mut stream).await
    });
    match answer.await?? {
        Answer::Done(reply) => Ok(reply),
        Answer::Refused(reason) => Err(refuse(reason)),
        Answer::Trouble(trouble) => Err(Failure::again(trouble)),
    }
}

/// Answers callers until the listener fails.
pub(super) async fn serve(listener: &TcpListener, handle: &Handle) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        match timeout(CALL_TIMEOUT, answer(stream, handle)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "a caller could not be answered"),
            Err(_) => tracing::warn!("a caller took too long"),
        }
    }
}

async fn answer(mut stream: TcpStream, handle: &Handle) -> std::io::Result<()> {
    let answer = match read_line(&mut stream).await {
        Ok(ask) => work(handle, ask).await,
        Err(error) => Answer::Trouble(format!("the request cannot be read: {error}")),
    };
    write_line(&mut stream, &answer).await
}

/// Takes part in the caller's transaction: reserves or prepares, and enlists with the vote.
async fn work(handle: &Handle, ask: Ask) -> Answer {
    let xid = match ask.xid.parse() {
        Ok(xid) => xid,
        Err(error) => return Answer::Trouble(format!("{error}")),
    };
    let mut join = handle.join(xid, ask.branch);
    if let Some(ttl_ms) = ask.ttl_ms {
        join = join.ttl(Duration::from_millis(ttl_ms));
    }
    match join.with(&Json(ask.request)).await {
        Ok(joined) => Answer::Done(joined.reply().map_or(Value::Null, |Json(reply)| reply)),
        Err(assent_sdk::Error::Refused { reason }) => Answer::Refused(reason),
        Err(error) => Answer::Trouble(error.to_string()),
    }
}

async fn read_line<T: for<'de> Deserialize<'de>>(stream: &mut TcpStream) -> std::io::Result<T> {
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line).await?;
    Ok(serde_json::from_str(&line)?)
}

async fn write_line(stream: &mut TcpStream, value: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line).await
}
