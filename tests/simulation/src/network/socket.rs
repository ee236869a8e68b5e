//! What a host holds of the network.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use assent_sdk::network::Network as SdkNetwork;
use bytes::{Buf as _, Bytes};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio_stream::Stream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};

use super::{Accepting, Dial, WINDOW_BYTES, What};
use crate::judge::Flaw;
use crate::world::{HostId, effect, running, with};

/// One end of a connection.
#[derive(Debug)]
pub struct Socket {
    connection: u64,
    end: usize,
    host: HostId,
}

/// A port that is open.
#[derive(Debug)]
pub struct Listener {
    at: (HostId, u16),
}

/// Dials another host.
pub async fn dial(to: &str, port: u16) -> io::Result<Socket> {
    let from = running();
    if !effect() {
        return std::future::pending().await;
    }
    let (done, connected) = oneshot::channel();
    with(|world| {
        let to = world.find(to).ok_or(io::ErrorKind::HostUnreachable)?;
        let due_ms = world.now_ms + 2 * world.latency_ms(from, to);
        world.network.dials.push(Dial { due_ms, from, to: (to, port), done });
        Ok::<_, io::Error>(())
    })?;
    connected.await.unwrap_or_else(|_| Err(io::ErrorKind::ConnectionAborted.into()))
}

/// [`dial`], as tonic wants it.
fn dialler() -> impl Service<Uri, Response = TokioIo<Socket>, Error = io::Error, Future: Send> + Send + Clone
{
    tower::service_fn(|uri: Uri| async move {
        let host = uri.host().unwrap_or_default();
        dial(host, uri.port_u16().unwrap_or(80)).await.map(TokioIo::new)
    })
}

/// The network as the SDK takes it.
pub fn participants_network() -> SdkNetwork {
    SdkNetwork {
        connect: |endpoint| {
            Box::pin(async move { checked(&endpoint).connect_with_connector(dialler()).await })
        },
        connect_lazy: channel,
    }
}

/// The network as the coordinator takes it.
pub fn channel(endpoint: &Endpoint) -> Channel {
    checked(endpoint).connect_with_connector_lazy(dialler())
}

/// With its keep-alive, unless that is what is wrong.
fn checked(endpoint: &Endpoint) -> Endpoint {
    let endpoint = endpoint.clone();
    if with(|world| world.judge.flaw == Flaw::NoKeepAlive) {
        endpoint.http2_keep_alive_interval(NEVER).keep_alive_timeout(NEVER)
    } else {
        endpoint
    }
}

const NEVER: Duration = Duration::from_hours(365 * 24);

impl Listener {
    /// Opens a port of the host whose turn it is.
    pub fn open(port: u16) -> Listener {
        let at = (running(), port);
        with(|world| world.network.listeners.insert(at, Accepting::default()));
        Listener { at }
    }
}

impl Stream for Listener {
    type Item = io::Result<Socket>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Socket>>> {
        let (host, _) = self.at;
        with(|world| {
            let Some(listener) = world.network.listeners.get_mut(&self.at) else { return Poll::Pending };
            let Some(connection) = listener.queue.pop_front() else {
                listener.waker = Some(context.waker().clone());
                return Poll::Pending;
            };
            Poll::Ready(Some(Ok(Socket::new(connection, 1, host))))
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        with(|world| {
            let Some(accepting) = world.network.listeners.remove(&self.at) else { return };
            for connection in accepting.queue {
                world.close(connection, 1);
            }
        });
    }
}

impl Socket {
    pub(super) fn new(connection: u64, end: usize, host: HostId) -> Socket {
        Socket { connection, end, host }
    }
}

impl crate::world::World {
    /// A socket was dropped.
    fn close(&mut self, connection: u64, end: usize) {
        let open = self.network.connections.get_mut(&connection).filter(|it| !it.ends[end].gone);
        let Some(it) = open else { return };
        it.ends[end].gone = true;
        self.send(connection, end, What::End);
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut waker = None;
        let polled = with(|world| {
            if !world.is_alive(self.host) {
                return Poll::Pending;
            }
            let Some(it) = world.network.connections.get_mut(&self.connection) else {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            };
            let end = &mut it.ends[self.end];
            if end.reset {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            let length = end.arrived.len().min(to.remaining());
            if length > 0 {
                to.put_slice(&end.arrived[..length]);
                end.arrived.advance(length);
                waker = it.ends[1 - self.end].writer.take();
                return Poll::Ready(Ok(()));
            }
            if end.ended {
                return Poll::Ready(Ok(()));
            }
            end.reader = Some(context.waker().clone());
            Poll::Pending
        });
        waker.into_iter().for_each(std::task::Waker::wake);
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        with(|world| {
            if !world.is_alive(self.host) {
                return Poll::Pending;
            }
            let under_way = world.network.under_way(self.connection, self.end);
            let Some(it) = world.network.connections.get_mut(&self.connection) else {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            };
            let end = &mut it.ends[self.end];
            if end.reset {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if under_way >= WINDOW_BYTES {
                end.writer = Some(context.waker().clone());
                return Poll::Pending;
            }
            if !world.effect(self.host) {
                return Poll::Pending;
            }
            let length = bytes.len().min(WINDOW_BYTES);
            world.send(self.connection, self.end, What::Bytes(Bytes::copy_from_slice(&bytes[..length])));
            Poll::Ready(Ok(length))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        with(|world| {
            if !world.effect(self.host) {
                return Poll::Pending;
            }
            world.send(self.connection, self.end, What::End);
            Poll::Ready(Ok(()))
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        with(|world| {
            // What a dying process drops is seen to by its crash.
            if world.is_alive(self.host) {
                world.close(self.connection, self.end);
            }
        });
    }
}

impl Connected for Socket {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}
