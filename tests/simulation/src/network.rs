//! The network: connections as TCP has them, between hosts that crash, over links that fail.
//!
//! A connection keeps its order; different ones overtake each other. A link that is cut delivers nothing: what was written
//! arrives when it is whole again, as TCP repeats it, but the news that a connection was reset is lost, and so a connection
//! can be half open. Nobody but the peer's keep-alive finds that out.

mod socket;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::task::Waker;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::sync::oneshot;

pub use self::socket::{Listener, Socket, channel, dial, participants_network};
use crate::world::{HostId, Power, World, with};

/// What a sender may have under way on one connection.
const WINDOW_BYTES: usize = 256 * 1024;

/// How long after a dial that was not answered it is tried again.
const DIAL_AGAIN_MS: u64 = 1_000;

#[derive(Debug, Default)]
pub struct Network {
    connections: BTreeMap<u64, Connection>,
    listeners: BTreeMap<(HostId, u16), Accepting>,
    dials: Vec<Dial>,
    numbers: u64,
    /// From and to, with the end of the cut.
    cuts: BTreeMap<(HostId, HostId), u64>,
    /// Links on which everything takes so much longer, until then.
    slow: BTreeMap<(HostId, HostId), (u64, u64)>,
    pub dialled: u64,
    pub delivered: u64,
}

#[derive(Debug)]
struct Connection {
    ends: [End; 2],
    /// What is under way to each end.
    flights: [VecDeque<Segment>; 2],
    /// Nothing arrives before that.
    held_until_ms: u64,
}

#[derive(Debug)]
struct End {
    host: HostId,
    /// Nobody is there any more: the socket is closed, or its process gone.
    gone: bool,
    reset: bool,
    arrived: BytesMut,
    ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug)]
struct Segment {
    due_ms: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Bytes(Bytes),
    End,
    Reset,
}

#[derive(Debug, Default)]
struct Accepting {
    queue: VecDeque<u64>,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Dial {
    due_ms: u64,
    from: HostId,
    to: (HostId, u16),
    done: oneshot::Sender<io::Result<Socket>>,
}

impl End {
    fn new(host: HostId) -> End {
        End {
            host,
            gone: false,
            reset: false,
            arrived: BytesMut::new(),
            ended: false,
            reader: None,
            writer: None,
        }
    }

    fn wakers(&mut self) -> impl Iterator<Item = Waker> + use<> {
        [self.reader.take(), self.writer.take()].into_iter().flatten()
    }
}

impl World {
    /// How long something takes from one host to the other, this time.
    fn latency_ms(&mut self, from: HostId, to: HostId) -> u64 {
        let now_ms = self.now_ms;
        let slow = self.network.slow.get(&(from, to)).filter(|(until_ms, _)| *until_ms > now_ms);
        let more_ms = slow.map_or(0, |(_, more_ms)| *more_ms);
        self.rng.skewed(1, 20) + self.rng.below(more_ms + 1)
    }

    fn is_cut(&self, from: HostId, to: HostId) -> bool {
        self.network.cuts.get(&(from, to)).is_some_and(|until_ms| *until_ms > self.now_ms)
    }

    /// Nothing gets from one host to the other until then.
    pub fn cut(&mut self, from: HostId, to: HostId, until_ms: u64) {
        self.network.cuts.insert((from, to), until_ms);
    }

    /// Everything takes longer, by up to so much, until then.
    pub fn slow_down(&mut self, from: HostId, to: HostId, until_ms: u64, more_ms: u64) {
        self.network.slow.insert((from, to), (until_ms, more_ms));
    }

    pub fn connections(&self) -> Vec<(u64, String)> {
        let name = |end: &End| self.hosts[end.host.0].name;
        let all = self.network.connections.iter();
        all.map(|(id, it)| (*id, format!("#{id} {}-{}", name(&it.ends[0]), name(&it.ends[1])))).collect()
    }

    /// Holds all that is under way on a connection.
    pub fn hold(&mut self, connection: u64, until_ms: u64) {
        if let Some(it) = self.network.connections.get_mut(&connection) {
            it.held_until_ms = until_ms;
        }
    }

    /// Mends every link.
    pub fn heal(&mut self) {
        self.network.cuts.clear();
        self.network.slow.clear();
        for connection in self.network.connections.values_mut() {
            connection.held_until_ms = 0;
        }
    }

    /// Puts something on its way to the other end.
    fn send(&mut self, id: u64, from: usize, what: What) {
        let Some(it) = self.network.connections.get(&id) else { return };
        let (from_host, to_host) = (it.ends[from].host, it.ends[1 - from].host);
        let due_ms = self.now_ms + self.latency_ms(from_host, to_host);
        let Some(it) = self.network.connections.get_mut(&id) else { return };
        let flight = &mut it.flights[1 - from];
        let due_ms = flight.back().map_or(due_ms, |last| last.due_ms.max(due_ms));
        flight.push_back(Segment { due_ms, what });
    }

    /// The sockets of a host are gone.
    pub fn close_sockets(&mut self, host: HostId, tell: bool) {
        self.network.listeners.retain(|(at, _), _| *at != host);
        self.network.dials.retain(|dial| dial.from != host);
        let mut lost = Vec::new();
        for (id, it) in &mut self.network.connections {
            for (at, end) in it.ends.iter_mut().enumerate().filter(|(_, end)| end.host == host && !end.gone) {
                end.gone = true;
                (end.reader, end.writer) = (None, None);
                lost.push((*id, at));
            }
        }
        for (id, at) in lost {
            if tell {
                self.send(id, at, What::Reset);
            }
        }
    }

    /// Breaks a connection at both ends. The wakers are to be woken.
    #[must_use]
    pub fn reset(&mut self, connection: u64) -> Vec<Waker> {
        let Some(it) = self.network.connections.get_mut(&connection) else { return Vec::new() };
        for end in &mut it.ends {
            end.reset = true;
            self.hosts[end.host.0].touched = true;
        }
        it.ends.iter_mut().flat_map(End::wakers).collect()
    }

    /// Delivers what is due to one end of a connection.
    fn deliver(&mut self, id: u64, to: usize, wakers: &mut Vec<Waker>) {
        let Some(it) = self.network.connections.get(&id) else { return };
        let (from_host, to_host) = (it.ends[1 - to].host, it.ends[to].host);
        let cut = self.is_cut(from_host, to_host) || it.held_until_ms > self.now_ms;
        loop {
            let now_ms = self.now_ms;
            let off = self.hosts[to_host.0].power == Power::Off;
            let Some(it) = self.network.connections.get_mut(&id) else { return };
            let due = it.flights[to].front().is_some_and(|next| next.due_ms <= now_ms);
            if !due {
                return;
            }
            let is_reset = it.flights[to].front().is_some_and(|next| matches!(next.what, What::Reset));
            if cut && !is_reset {
                return;
            }
            let Some(Segment { what, .. }) = it.flights[to].pop_front() else { return };
            if cut || off {
                continue;
            }
            self.network.delivered += 1;
            self.hosts[to_host.0].touched = true;
            let end = &mut it.ends[to];
            match what {
                What::Bytes(_) if end.gone => self.send(id, to, What::Reset),
                What::End if end.gone => {}
                What::Bytes(bytes) => {
                    let (at, sum) = (end.arrived.len(), sum(&bytes));
                    end.arrived.extend_from_slice(&bytes);
                    wakers.extend(end.reader.take());
                    let to = self.hosts[to_host.0].name;
                    self.note(format_args!("net #{id} to {to}: {} bytes at {at}, {sum:016x}", bytes.len()));
                }
                What::End => {
                    end.ended = true;
                    wakers.extend(end.reader.take());
                    let to = self.hosts[to_host.0].name;
                    self.note(format_args!("net #{id} to {to}: end"));
                }
                What::Reset => {
                    end.reset = true;
                    wakers.extend(end.wakers());
                    it.ends[1 - to].gone = true;
                    it.flights[to].clear();
                    let to = self.hosts[to_host.0].name;
                    self.note(format_args!("net #{id} to {to}: reset"));
                }
            }
        }
    }

    /// Answers the dials that are due.
    fn answer_dials(&mut self, wakers: &mut Vec<Waker>) -> Vec<(Dial, Option<(u64, HostId)>)> {
        let mut answered = Vec::new();
        for mut dial in std::mem::take(&mut self.network.dials) {
            let to = dial.to.0;
            let lost = self.is_cut(dial.from, to)
                || self.is_cut(to, dial.from)
                || self.hosts[to.0].power == Power::Off;
            if dial.due_ms > self.now_ms {
                self.network.dials.push(dial);
            } else if lost {
                dial.due_ms = self.now_ms + DIAL_AGAIN_MS;
                self.network.dials.push(dial);
            } else {
                answered.push(dial);
            }
        }
        let mut results = Vec::new();
        for dial in answered {
            self.hosts[dial.from.0].touched = true;
            self.hosts[dial.to.0.0].touched = true;
            let number = self.network.numbers + 1;
            let (from, to) = (self.hosts[dial.from.0].name, self.hosts[dial.to.0.0].name);
            let Some(listener) = self.network.listeners.get_mut(&dial.to) else {
                self.note(format_args!("net {from} dials {to}: refused"));
                results.push((dial, None));
                continue;
            };
            listener.queue.push_back(number);
            wakers.extend(listener.waker.take());
            self.network.numbers = number;
            self.network.dialled += 1;
            let ends = [End::new(dial.from), End::new(dial.to.0)];
            let connection = Connection { ends, flights: Default::default(), held_until_ms: 0 };
            self.network.connections.insert(number, connection);
            self.note(format_args!("net {from} dials {to}: #{number}"));
            let from = dial.from;
            results.push((dial, Some((number, from))));
        }
        results
    }
}

/// Lets everything arrive that is due.
pub fn deliver() {
    let mut wakers = Vec::new();
    let answered = with(|world| {
        let ids: Vec<_> = world.network.connections.keys().copied().collect();
        for id in ids {
            world.deliver(id, 0, &mut wakers);
            world.deliver(id, 1, &mut wakers);
        }
        world.network.connections.retain(|_, it| !it.ends.iter().all(|end| end.gone));
        world.answer_dials(&mut wakers)
    });
    for (dial, connected) in answered {
        // A dialler that gave up drops the socket, and so closes it.
        let _ = dial.done.send(match connected {
            Some((id, host)) => Ok(Socket::new(id, 0, host)),
            None => Err(io::ErrorKind::ConnectionRefused.into()),
        });
    }
    wakers.into_iter().for_each(Waker::wake);
}

/// FNV-1a.
fn sum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Network {
    /// When the next thing arrives. What is held back does not count.
    pub fn next_ms(&self, now_ms: u64) -> u64 {
        let flights = self.connections.values().flat_map(|it| &it.flights);
        let segments = flights.filter_map(|flight| flight.front()).map(|segment| segment.due_ms);
        let dials = self.dials.iter().map(|dial| dial.due_ms);
        segments.chain(dials).filter(|due_ms| *due_ms > now_ms).min().unwrap_or(u64::MAX)
    }

    fn under_way(&self, id: u64, from: usize) -> usize {
        let Some(it) = self.connections.get(&id) else { return 0 };
        let flight = it.flights[1 - from].iter().map(|segment| match &segment.what {
            What::Bytes(bytes) => bytes.remaining(),
            What::End | What::Reset => 0,
        });
        flight.sum::<usize>() + it.ends[1 - from].arrived.len()
    }
}
