//! What grows with what: cost and memory with many open transactions, with a long log, with many branches, with a dead
//! participant, and beyond what can be done at all.
//!
//! ```text
//! cargo bench --bench growth -- live [--counts 1k,1M] [--seconds 3] [--rounds 5]
//! cargo bench --bench growth -- restart [--count 1M]
//! cargo bench --bench growth -- disk [--count 10M]
//! cargo bench --bench growth -- branches [--seconds 3] [--rounds 5]
//! cargo bench --bench growth -- dead [--count 10k] [--rate R] [--seconds 3] [--rounds 5]
//! cargo bench --bench growth -- overload [--seconds 3] [--rounds 5]
//! ```
//!
//! Each prints one table. Coordinators are the real binary, in processes of their own, on logs in temporary directories;
//! so are the participants, which vote and do nothing. The load comes from this process. All share the processors of the
//! machine: what the generator and the participants take is not there for the coordinator. So what the coordinator
//! spends is read from the kernel, and where two things are compared they take turns, round by round, in one run; each
//! figure is the median of the rounds.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "it is a program that measures: a panic is its error"
)]

#[path = "../daemon/coordinator.rs"]
#[expect(dead_code, reason = "the tests of the daemon do more with it")]
mod coordinator;
#[path = "growth/lab.rs"]
mod lab;
#[path = "growth/load.rs"]
mod load;
#[path = "../daemon/session.rs"]
#[expect(dead_code, reason = "the tests of the daemon do more with it")]
mod session;

use std::time::{Duration, Instant};

use assent_proto::v1 as pb;
use pb::transaction_service_client::TransactionServiceClient;
use tokio::time::sleep;

use crate::lab::Lab;
use crate::load::{Inquires, Tally, closed, closed_for, decide, enlist, fill, run, voted};
use crate::session::Session;

/// Transactions under way where as many as possible are to end.
const IN_FLIGHT: usize = 256;
const MIB: f64 = (1 << 20) as f64;
const POLL_INTERVAL: Duration = Duration::from_millis(1);

struct Options {
    counts: Vec<u64>,
    count: Option<u64>,
    seconds: Duration,
    rounds: usize,
    rate: Option<f64>,
}

#[tokio::main]
async fn main() {
    // cargo adds `--bench`.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let Some(part) = arguments.next() else {
        println!("say which part: live, restart, disk, branches, dead or overload");
        return;
    };
    let options = Options::parse(arguments);
    match part.as_str() {
        "live" => live(&options).await,
        "restart" => restart(options.count.unwrap_or(1_000_000)).await,
        "disk" => disk(options.count.unwrap_or(10_000_000)).await,
        "branches" => branches(&options).await,
        "dead" => dead(&options).await,
        "overload" => overload(&options).await,
        other => panic!("{other}: there are live, restart, disk, branches, dead and overload"),
    }
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Options {
        let mut options = Options {
            counts: vec![1_000, 1_000_000],
            count: None,
            seconds: Duration::from_secs(3),
            rounds: 5,
            rate: None,
        };
        while let Some(name) = arguments.next() {
            let value = arguments.next().unwrap_or_else(|| panic!("{name} wants a value"));
            match name.as_str() {
                "--counts" => options.counts = value.split(',').map(number).collect(),
                "--count" => options.count = Some(number(&value)),
                "--seconds" => options.seconds = Duration::from_secs_f64(value.parse().unwrap()),
                "--rounds" => options.rounds = value.parse().unwrap(),
                "--rate" => options.rate = Some(number(&value) as f64),
                other => panic!("{other}: there are --counts, --count, --seconds, --rounds and --rate"),
            }
        }
        options
    }
}

/// `1000`, `1k` or `1M`.
fn number(text: &str) -> u64 {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1_000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        _digit => (text, 1),
    };
    digits.parse::<u64>().unwrap_or_else(|_| panic!("{text} is no number")) * unit
}

/// Cost and memory with many open transactions. Each has two branches that have voted, and is not decided: the votes are
/// brought by the initiator, as those of participants with a session, so nothing of it is in the log. Of few, the memory
/// is mostly that of the connections they came by.
async fn live(options: &Options) {
    let mut labs = Vec::new();
    for &count in &options.counts {
        let lab = Lab::start(2, &["limits.max_active=100000000"]);
        let before = lab.rss();
        let pause = fill(&lab, count, |xid| {
            ["open/1", "open/2"].map(|participant| enlist(xid, participant, Inquires::Yes)).into()
        })
        .await;
        let total = lab.rss();
        labs.push((lab, [count, before, total], pause, [const { Vec::new() }; 4]));
    }
    for round in 0..=options.rounds {
        for (lab, .., [rates, costs, p99s, slowest]) in &mut labs {
            let load = closed_for(lab, IN_FLIGHT, run(1, 2), options.seconds);
            let (tally, cost_us) = cost(lab, load).await;
            // The first round warms up.
            if round > 0 {
                rates.push(tally.per_second());
                costs.push(cost_us);
                p99s.push(tally.ms(0.99));
                slowest.push(tally.ms(1.0));
            }
        }
    }
    println!(
        "{:>9}  {:>9} {:>10} {:>13}  {:>7} {:>8}  {:>14} {:>8}  {:>9} {:>10}",
        "open",
        "RSS",
        "each",
        "longest pause",
        "tx/s",
        "against",
        "coordinator/tx",
        "against",
        "p99",
        "slowest"
    );
    let mut first = None;
    for (lab, [count, before, total], pause, [rates, costs, p99s, slowest]) in labs {
        assert_eq!(lab.status().await.active_transactions, count, "all of them are open to the end");
        let (rate, cost) = (median(rates), median(costs));
        let (first_rate, first_cost) = *first.get_or_insert((rate, cost));
        println!(
            "{count:>9}  {:>5.0} MiB {:>8.0} B {:>10.0} ms  {rate:>7.0} {:>7.2}x  {cost:>11.1} µs {:>7.2}x  \
             {:>6.1} ms {:>7.1} ms",
            total as f64 / MIB,
            total.saturating_sub(before) as f64 / count as f64,
            pause.as_secs_f64() * 1e3,
            rate / first_rate,
            cost / first_cost,
            median(p99s),
            slowest.into_iter().fold(0.0, f64::max),
        );
    }
}

/// A start on a long log, after `kill -9`. Of the transactions in it a quarter has ended and is retained; a quarter is
/// decided, and its two branches have not been told; half is undecided, with two branches whose participants do not ask,
/// which are therefore in the log, and are told to roll back after the start. First nobody is there, then all
/// participants come at once.
async fn restart(count: u64) {
    // Those that are not there are called seldom, lest the filling takes for ever.
    let mut lab = Lab::start(
        2,
        &[
            "limits.max_active=100000000",
            "storage.retention_max=10000000",
            "participants.retry_initial=1h",
            "participants.retry_max=1h",
        ],
    );
    let quarter = count / 4;
    let mut left = 0..quarter;
    let ended = closed(&lab, IN_FLIGHT, run(1, 2), || left.next().is_some()).await;
    assert_eq!(ended.committed, quarter);
    lab.end_participants();
    fill(&lab, quarter, |xid| vec![decide(xid, &["bench/1", "bench/2"])]).await;
    fill(&lab, 2 * quarter, |xid| {
        ["bench/1", "bench/2"].map(|participant| enlist(xid, participant, Inquires::No)).into()
    })
    .await;
    let (rss, log_bytes) = (lab.rss(), lab.status().await.log_bytes);
    lab.coordinator.kill9();
    let disk = lab.disk();

    let spawned = Instant::now();
    lab.coordinator.relaunch();
    let listens = spawned.elapsed();
    let channel = lab.connect().await;
    let mut silence = Duration::ZERO;
    let status = loop {
        let asked = Instant::now();
        let status = lab::status(&channel).await;
        silence = silence.max(asked.elapsed());
        if status.ready {
            break status;
        }
        sleep(POLL_INTERVAL).await;
    };
    let serves = spawned.elapsed();
    let mut transactions = TransactionServiceClient::new(channel.clone());
    let begun = transactions.begin(pb::BeginRequest::default()).await.unwrap().into_inner();
    let enlistments = ["bench/3", "bench/4"].map(|participant| voted(participant, Inquires::Yes)).into();
    let wait = pb::Wait::Decision.into();
    let commit = pb::CommitRequest { xid: begun.xid, enlistments, wait };
    let done = transactions.commit(commit).await.unwrap().into_inner().result.unwrap();
    assert_eq!(done.outcome(), pb::Outcome::Committed);
    let commits = spawned.elapsed();
    let rss_max = lab.rss_max();

    let back = Instant::now();
    lab.start_participants(4);
    let others = transactions.run(run(3, 2)).await.unwrap().into_inner().result.unwrap();
    assert!(others.complete);
    let completes = back.elapsed();
    while lab::status(&channel).await.active_transactions > 0 {
        sleep(POLL_INTERVAL).await;
    }
    let settled = back.elapsed();

    let row = |what: &str, value: String| println!("{what:<44} {value:>12}");
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    row("transactions in the log", (4 * quarter).to_string());
    row("records written for them", format!("{:.0} MiB", log_bytes as f64 / MIB));
    row("on the disk", format!("{:.0} MiB", disk as f64 / MIB));
    row("memory when killed", format!("{:.0} MiB", rss as f64 / MIB));
    row("started: listens after", seconds(listens));
    row("serves after", seconds(serves));
    row("a new transaction is committed after", seconds(commits));
    row("longest wait for its status meanwhile", seconds(silence));
    row("memory at most", format!("{:.0} MiB", rss_max as f64 / MIB));
    row("recovered open", status.active_transactions.to_string());
    row("recovered retained", status.retained_transactions.to_string());
    row("participants start: others complete after", seconds(completes));
    row("all that was recovered has ended after", seconds(settled));
    row("the same, a second", format!("{:.0}", (3 * quarter) as f64 / settled.as_secs_f64()));
}

/// What the log takes on the disk, and the coordinator of memory, when many transactions have ended and none is retained.
async fn disk(count: u64) {
    const ROWS: u64 = 10;
    let lab = Lab::start(2, &["storage.retention=0s"]);
    println!("{:>10}  {:>9} {:>9}  {:>7} {:>14}", "ended", "disk", "RSS", "tx/s", "coordinator/tx");
    for row in 1..=ROWS {
        let mut left = 0..count / ROWS;
        let load = closed(&lab, IN_FLIGHT, run(1, 2), || left.next().is_some());
        let (tally, cost_us) = cost(&lab, load).await;
        println!(
            "{:>10}  {:>5.0} MiB {:>5.0} MiB  {:>7.0} {:>11.1} µs",
            row * (count / ROWS),
            lab.disk() as f64 / MIB,
            lab.rss() as f64 / MIB,
            tally.per_second(),
            cost_us,
        );
    }
}

/// Transactions of few and of many branches, with as many branches under way.
async fn branches(options: &Options) {
    const UNDER_WAY: u32 = 512;
    let sizes = [2_u32, 4, 8, 16, 32, 64];
    let lab = Lab::start(64, &[]);
    let mut figures = sizes.map(|_| [const { Vec::new() }; 3]);
    for round in 0..=options.rounds {
        for (size, [rates, costs, latencies]) in sizes.into_iter().zip(&mut figures) {
            let load = closed_for(&lab, (UNDER_WAY / size) as usize, run(1, size), options.seconds);
            let (tally, cost_us) = cost(&lab, load).await;
            if round > 0 {
                rates.push(tally.per_second());
                costs.push(cost_us / f64::from(size));
                latencies.push(tally.ms(0.5));
            }
        }
    }
    println!(
        "{:>8} {:>9}  {:>7} {:>11}  {:>10}  {:>18}",
        "branches", "in flight", "tx/s", "branches/s", "p50", "coordinator/branch"
    );
    for (size, [rates, costs, latencies]) in sizes.into_iter().zip(figures) {
        let rate = median(rates);
        println!(
            "{size:>8} {:>9}  {rate:>7.0} {:>11.0}  {:>7.2} ms  {:>15.1} µs",
            UNDER_WAY / size,
            rate * f64::from(size),
            median(latencies),
            median(costs),
        );
    }
}

/// What others feel of a participant that is dead, with many branches to be committed. Four coordinators take turns: one
/// without any; one whose participant is not connected and does not come back; one where it is dialled and refuses
/// connections; one where it has a session, reads, and never answers.
async fn dead(options: &Options) {
    let count = options.count.unwrap_or(10_000);
    let refusing = "participants.endpoints.dead/1=http://127.0.0.1:1";
    let mut labs = Vec::new();
    for (name, settings) in [("none", None), ("gone", None), ("refuses", Some(refusing)), ("silent", None)] {
        let lab = Lab::start(2, settings.as_slice());
        if name == "silent" {
            let mut session = Session::open(&lab.connect().await, "dead/1").await.unwrap();
            tokio::spawn(
                async move { while let Ok(Some(_unanswered)) = session.responses.message().await {} },
            );
        }
        let pending = if name == "none" { 0 } else { count };
        fill(&lab, pending, |xid| vec![decide(xid, &["dead/1"])]).await;
        labs.push((name, lab, pending, [const { Vec::new() }; 4]));
    }
    let warm_up = closed_for(&labs[0].1, IN_FLIGHT, run(1, 2), options.seconds).await;
    let rate = options.rate.unwrap_or(warm_up.per_second() / 2.0);
    for round in 0..=options.rounds {
        for (_, lab, _, [p50s, p99s, slowest, costs]) in &mut labs {
            let (tally, cost_us) = cost(lab, load::open(lab, rate, run(1, 2), options.seconds)).await;
            if round > 0 {
                p50s.push(tally.ms(0.5));
                p99s.push(tally.ms(0.99));
                slowest.push(tally.ms(1.0));
                costs.push(cost_us);
            }
        }
    }
    println!(
        "{rate:.0} transactions/s of others, with {count} branches of a dead participant to be committed"
    );
    println!(
        "{:>8}  {:>10} {:>8}  {:>10} {:>8}  {:>10}  {:>14}",
        "dead one", "p50", "against", "p99", "against", "slowest", "coordinator/tx"
    );
    let mut first = None;
    for (name, lab, pending, [p50s, p99s, slowest, costs]) in labs {
        assert_eq!(lab.status().await.active_transactions, pending, "they pend to the end");
        let (p50, p99) = (median(p50s), median(p99s));
        let (first_p50, first_p99) = *first.get_or_insert((p50, p99));
        println!(
            "{name:>8}  {p50:>7.2} ms {:>7.2}x  {p99:>7.2} ms {:>7.2}x  {:>7.2} ms  {:>11.1} µs",
            p50 / first_p50,
            p99 / first_p99,
            slowest.into_iter().fold(0.0, f64::max),
            median(costs),
        );
    }
}

/// More than can be done, with at most 2000 transactions open and nobody who tries again what was refused. The generator
/// shares the processors with the coordinator: part of what is lost when more is offered is what the generator takes for
/// offering it.
async fn overload(options: &Options) {
    let factors = [0.5, 0.8, 1.0, 1.5, 2.0, 3.0];
    let lab = Lab::start(2, &["limits.max_active=2000"]);
    let run = run(1, 2);
    let mut peaks = Vec::new();
    let mut figures = factors.map(|_| [const { Vec::new() }; 6]);
    let mut unknown = factors.map(|_| 0);
    for round in 0..=options.rounds {
        let peak = closed_for(&lab, IN_FLIGHT, run.clone(), options.seconds).await.per_second();
        for ((factor, figures), unknown) in factors.into_iter().zip(&mut figures).zip(&mut unknown) {
            let tally = load::open(&lab, factor * peak, run.clone(), options.seconds).await;
            *unknown += tally.unknown + tally.aborted;
            if round > 0 {
                let Tally { committed, aborted, refused, unknown, .. } = tally;
                let offered = committed + aborted + refused + unknown;
                let new = [
                    offered as f64 / tally.offered_for.as_secs_f64(),
                    tally.per_second(),
                    refused as f64 / tally.elapsed.as_secs_f64(),
                    tally.ms(0.5),
                    tally.ms(0.99),
                    tally.per_second() / peak,
                ];
                figures.iter_mut().zip(new).for_each(|(figures, new)| figures.push(new));
            }
        }
        if round > 0 {
            peaks.push(peak);
        }
    }
    println!("{:.0} transactions/s at {IN_FLIGHT} in flight; against that:", median(peaks));
    println!(
        "{:>7}  {:>9} {:>11} {:>9}  {:>10} {:>10}  {:>11}  {:>18}",
        "offered", "offered/s", "committed/s", "refused/s", "p50", "p99", "committed", "unknown or aborted"
    );
    for ((factor, figures), unknown) in factors.into_iter().zip(figures).zip(unknown) {
        let [offered, committed, refused, p50, p99, against] = figures.map(median);
        println!(
            "{factor:>6.1}x  {offered:>9.0} {committed:>11.0} {refused:>9.0}  {p50:>7.2} ms {p99:>7.2} ms  \
             {against:>10.2}x  {unknown:>18}",
        );
    }
}

/// What comes of a load of transactions that can all commit, and what the coordinator spent on each, in µs.
async fn cost(lab: &Lab, load: impl Future<Output = Tally>) -> (Tally, f64) {
    let before = lab.cpu_us();
    let tally = load.await;
    assert_eq!(tally.aborted + tally.refused + tally.unknown, 0, "all of them commit");
    let cost = (lab.cpu_us() - before) / tally.committed as f64;
    (tally, cost)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
