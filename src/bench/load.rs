//! Initiators: so many that have a transaction under way each, one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use assent_sdk::client::{NewBranch, NewTransaction};
use assent_sdk::participant::Handle;
use assent_sdk::{Client, Error as SdkError, Protocol, Wait};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use super::participant::REFUSE;
use super::stage::Stage;
use super::{Error, Mode, Options};

/// Latencies are told apart to one in a thousand, from a microsecond to an hour.
const DIGITS: u8 = 3;
const LONGEST_US: u64 = 3_600_000_000;

const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// All that an initiator needs.
pub(super) struct Load {
    maker: Arc<Maker>,
    in_flight: u32,
    rate: Option<f64>,
}

struct Maker {
    clients: Vec<Client>,
    handles: Vec<Handle>,
    branches: Vec<NewBranch>,
    /// The same, but that the last is refused.
    refused: Vec<NewBranch>,
    abort_percent: u64,
    mode: Mode,
    wait: Wait,
    payload: Bytes,
    /// What a participant refuses.
    refused_payload: Bytes,
    begun: AtomicU64,
}

/// How transactions ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    pub committed: u64,
    pub aborted: u64,
    /// Without an answer, or heuristic.
    pub unknown: u64,
    /// Not begun: the coordinator was full, or not there.
    pub refused: u64,
}

/// What a stretch of load came to.
pub(super) struct Played {
    pub outcomes: Outcomes,
    /// Of those that committed or aborted.
    pub latency_us: Histogram<u64>,
    pub elapsed: Duration,
    last_error: Option<String>,
}

/// What one initiator came to.
struct Share {
    outcomes: Outcomes,
    latency_us: Histogram<u64>,
    last_error: Option<String>,
}

impl Load {
    pub(super) fn new(options: &Options, stage: &Stage) -> Result<Load, Error> {
        let clients = (0..options.connections).map(|_| Client::connect(stage.url.clone()));
        let payload = vec![0; options.payload_bytes as usize];
        let mut refused_payload = payload.clone();
        match refused_payload.first_mut() {
            Some(first) => *first = REFUSE,
            None => refused_payload.push(REFUSE),
        }
        let (payload, refused_payload) = (Bytes::from(payload), Bytes::from(refused_payload));
        let branch = |(index, protocol): (usize, &Protocol), payload: &Bytes| {
            let branch = NewBranch::of(&stage.names[index], payload).protocol(*protocol);
            match stage.endpoints.get(index) {
                Some(endpoint) => branch.endpoint(endpoint),
                None => branch,
            }
        };
        let protocols = options.protocols.iter().cycle();
        let branches: Vec<_> = (0..stage.names.len()).zip(protocols).collect();
        let mut refused: Vec<_> = branches.iter().map(|one| branch(*one, &payload)).collect();
        let accepted = refused.clone();
        if let (Some(last), Some(one)) = (refused.last_mut(), branches.last()) {
            *last = branch(*one, &refused_payload);
        }
        let maker = Maker {
            clients: clients.collect::<Result<_, _>>()?,
            handles: stage.handles(),
            branches: accepted,
            refused,
            abort_percent: options.abort_percent.into(),
            mode: options.mode,
            wait: options.wait,
            payload,
            refused_payload,
            begun: AtomicU64::new(0),
        };
        Ok(Load { maker: Arc::new(maker), in_flight: options.in_flight, rate: options.rate })
    }

    /// Goes on for so long, and then until all that was begun has ended.
    pub(super) async fn play(
        &self,
        duration: Duration,
        watch: &mut dyn FnMut(Duration, u64),
    ) -> Result<Played, Error> {
        let started = Instant::now();
        let pace = Arc::new(Pace {
            started,
            until: started + duration,
            rate: self.rate,
            next: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        });
        let mut running = JoinSet::new();
        for index in 0..self.in_flight as usize {
            let (maker, pace) = (Arc::clone(&self.maker), Arc::clone(&pace));
            running.spawn(async move { maker.play(index, &pace).await });
        }
        let mut total = Share::new();
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        loop {
            tokio::select! {
                share = running.join_next() => match share {
                    None => break,
                    Some(share) => total.add(share.map_err(std::io::Error::other)?),
                },
                _ = look.tick() => watch(started.elapsed().min(duration), pace.ended.load(Ordering::Relaxed)),
            }
        }
        let Share { outcomes, latency_us, last_error } = total;
        // The last of them end after the time is up. They are few where it is long.
        Ok(Played { outcomes, latency_us, elapsed: started.elapsed(), last_error })
    }
}

impl Played {
    /// Itself, unless nothing was measured.
    pub(super) fn of_use(self) -> Result<Played, Error> {
        let Outcomes { committed, aborted, unknown, refused } = self.outcomes;
        match self.last_error {
            _ if committed + aborted > 0 => Ok(self),
            Some(error) => Err(Error::NothingDone(unknown + refused, error)),
            None => Err(Error::NothingEnded(self.elapsed)),
        }
    }
}

/// When transactions begin.
struct Pace {
    started: Instant,
    until: Instant,
    rate: Option<f64>,
    next: AtomicU64,
    ended: AtomicU64,
}

impl Pace {
    /// Waits for the next one's time, and answers with the time from which its latency counts; `None` at the end. Where
    /// all initiators are busy when it should begin, it counts from when it should have: else a coordinator that hangs
    /// would look good ("coordinated omission").
    async fn next(&self) -> Option<Instant> {
        let now = Instant::now();
        let Some(rate) = self.rate else { return (now < self.until).then_some(now) };
        #[expect(clippy::cast_precision_loss, reason = "2^53 transactions take a while")]
        let number = self.next.fetch_add(1, Ordering::Relaxed) as f64;
        let due = self.started + Duration::from_secs_f64(number / rate);
        if due >= self.until {
            return None;
        }
        if due <= now {
            return Some(due);
        }
        tokio::time::sleep_until(due.into()).await;
        Some(Instant::now())
    }
}

impl Maker {
    async fn play(&self, index: usize, pace: &Pace) -> Share {
        let mut share = Share::new();
        let client = &self.clients[index % self.clients.len()];
        while let Some(began) = pace.next().await {
            let result = self.transaction(client).await;
            let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            share.count(result, us);
            pace.ended.fetch_add(1, Ordering::Relaxed);
        }
        share
    }

    async fn transaction(&self, client: &Client) -> Result<(), SdkError> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        // Spread evenly: the 37th multiples modulo 100 are all numbers below it.
        let refused = number * 37 % 100 < self.abort_percent;
        let new = client.transaction("bench").wait(self.wait);
        match self.mode {
            Mode::Run => {
                let branches = if refused { &self.refused } else { &self.branches };
                new.branches(branches.iter().cloned()).execute().await.map(drop)
            }
            Mode::Interactive => self.interactive(new, refused).await,
        }
    }

    async fn interactive(&self, new: NewTransaction<'_>, refused: bool) -> Result<(), SdkError> {
        let transaction = new.begin().await?;
        let last = self.handles.len() - 1;
        for (index, handle) in self.handles.iter().enumerate() {
            let payload = if refused && index == last { &self.refused_payload } else { &self.payload };
            let join = handle.join(transaction.xid(), format!("branch:{index}"));
            match join.ballot(payload).await {
                Ok((_, ballot)) => transaction.carry(&ballot)?,
                Err(SdkError::Refused { reason }) => {
                    let xid = transaction.xid();
                    transaction.abort(reason.clone()).await?;
                    return Err(SdkError::Aborted { xid, reason, source: None });
                }
                Err(trouble) => {
                    transaction.abort(trouble.to_string()).await?;
                    return Err(trouble);
                }
            }
        }
        transaction.commit().await.map(drop)
    }
}

impl Share {
    fn new() -> Share {
        let latency_us = Histogram::new_with_max(LONGEST_US, DIGITS).expect("the bounds are sound");
        Share { outcomes: Outcomes::default(), latency_us, last_error: None }
    }

    fn count(&mut self, result: Result<(), SdkError>, us: u64) {
        let outcomes = &mut self.outcomes;
        let counted = match &result {
            Ok(()) => &mut outcomes.committed,
            Err(SdkError::Aborted { .. }) => &mut outcomes.aborted,
            Err(SdkError::Unknown { .. } | SdkError::Heuristic { .. }) => &mut outcomes.unknown,
            Err(_) => &mut outcomes.refused,
        };
        *counted += 1;
        if matches!(result, Ok(()) | Err(SdkError::Aborted { .. })) {
            self.latency_us.saturating_record(us);
        }
        if let Err(error) = result {
            self.last_error = Some(error.to_string());
        }
    }

    fn add(&mut self, other: Share) {
        let (to, from) = (&mut self.outcomes, other.outcomes);
        to.committed += from.committed;
        to.aborted += from.aborted;
        to.unknown += from.unknown;
        to.refused += from.refused;
        self.latency_us.add(&other.latency_us).expect("all have the same bounds");
        self.last_error = self.last_error.take().or(other.last_error);
    }
}
