//! What goes wrong in a run: chosen by the seed before it begins, carried out at its time.

use std::task::Waker;

use crate::machines::{Machine, Purpose};
use crate::network;
use crate::rng::Rng;
use crate::world::{Crash, HostId, with};

/// Every kind. A campaign that has not seen one of these has not tested it.
pub const KINDS: [&str; 17] = [
    "clock drifts",
    "connection broken",
    "connection held",
    "crash at an effect",
    "database out of order",
    "disk full",
    "disk slow",
    "kill",
    "link cut one way",
    "link slow",
    "partition",
    "power loss",
    "stop",
    "sync fails",
    "unsynced writes lost",
    "wall clock jumps",
    "witness torn",
];

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill(HostId),
    PowerLoss(HostId),
    CrashAtEffect(HostId, u64, Crash),
    Stop(HostId),
    Partition(HostId, HostId, u64),
    CutOneWay(HostId, HostId, u64),
    Isolate(HostId, u64),
    SlowLink(HostId, HostId, u64, u64),
    HoldConnection(u64, u64),
    BreakConnection(u64),
    SyncFails,
    DiskFull(u64),
    DiskSlow(u64, u64),
    DatabaseOutOfOrder(&'static str, u64),
    WallJump(HostId, i64),
}

/// Faults with their times, the last first.
#[derive(Debug)]
pub struct Plan {
    rest: Vec<(u64, Fault)>,
    /// When the disk has room again, and is fast again.
    disk_well_ms: u64,
    rng: Rng,
}

/// The coordinator's host.
const COORDINATOR: HostId = HostId(0);

impl Plan {
    /// Faults for `hosts` hosts from the first to the last millisecond.
    pub fn draw(mut rng: Rng, hosts: usize, from_ms: u64, to_ms: u64) -> Plan {
        // How much goes wrong differs from run to run: with too much nothing gets far.
        let count = rng.within(2, 40);
        let mut rest: Vec<_> =
            (0..count).map(|_| (rng.within(from_ms, to_ms), draw(&mut rng, hosts as u64))).collect();
        rest.sort_by_key(|(at_ms, _)| std::cmp::Reverse(*at_ms));
        Plan { rest, disk_well_ms: u64::MAX, rng }
    }

    /// When the next thing happens.
    pub fn next_ms(&self) -> u64 {
        self.rest.last().map_or(u64::MAX, |(at_ms, _)| *at_ms).min(self.disk_well_ms)
    }

    /// Carries out what is due.
    pub fn carry_out(&mut self, now_ms: u64, machines: &mut [Machine]) {
        if self.disk_well_ms <= now_ms {
            self.mend_disk(machines);
        }
        while let Some((_, fault)) = self.rest.pop_if(|(at_ms, _)| *at_ms <= now_ms) {
            self.inflict(fault, now_ms, machines);
        }
    }

    /// From now on all is well.
    pub fn end(&mut self, machines: &mut [Machine]) {
        self.rest.clear();
        self.mend_disk(machines);
        with(|world| {
            world.heal();
            world.judge.mend();
            for host in 0..world.hosts.len() {
                world.forget_crash(HostId(host));
            }
        });
    }

    fn mend_disk(&mut self, machines: &[Machine]) {
        self.disk_well_ms = u64::MAX;
        if let Purpose::Coordinator { disk, .. } = &machines[COORDINATOR.0].purpose {
            disk.set_full(false);
            disk.set_slow(0);
            disk.set_failing(false);
        }
    }

    fn inflict(&mut self, fault: Fault, now_ms: u64, machines: &mut [Machine]) {
        match fault {
            Fault::Kill(host) => take_down(&mut machines[host.0], Crash::Kill, &mut self.rng, now_ms),
            Fault::PowerLoss(host) => {
                take_down(&mut machines[host.0], Crash::PowerLoss, &mut self.rng, now_ms);
            }
            Fault::CrashAtEffect(host, nth, crash) => with(|world| world.crash_at_effect(host, nth, crash)),
            Fault::Stop(host) => {
                if machines[host.0].is_up() && !matches!(machines[host.0].purpose, Purpose::Initiator { .. })
                {
                    with(|world| {
                        let name = world.host(host).name;
                        world.fault("stop", name, None);
                    });
                    machines[host.0].stop();
                }
            }
            Fault::SyncFails | Fault::DiskFull(_) | Fault::DiskSlow(..) => {
                self.break_disk(fault, now_ms, machines);
            }
            other => harm_world(other, now_ms),
        }
    }

    fn break_disk(&mut self, fault: Fault, now_ms: u64, machines: &[Machine]) {
        let Purpose::Coordinator { disk, .. } = &machines[COORDINATOR.0].purpose else { return };
        match fault {
            Fault::SyncFails => {
                with(|world| world.fault("sync fails", "the next", None));
                disk.set_failing(true);
            }
            Fault::DiskFull(ms) => {
                with(|world| world.fault("disk full", format_args!("for {ms} ms"), None));
                disk.set_full(true);
                self.disk_well_ms = now_ms + ms;
            }
            Fault::DiskSlow(ms, by_ms) => {
                with(|world| world.fault("disk slow", format_args!("by {by_ms} ms for {ms} ms"), None));
                disk.set_slow(by_ms);
                self.disk_well_ms = now_ms + ms;
            }
            _not_of_the_disk => {}
        }
    }
}

fn draw(rng: &mut Rng, hosts: u64) -> Fault {
    let host = |rng: &mut Rng| {
        let any = usize::try_from(rng.below(hosts)).expect("a place in memory");
        HostId(if rng.percent(35) { COORDINATOR.0 } else { any })
    };
    let (one, other) = (host(rng), host(rng));
    // Longer than keep-alive takes to notice, now and then.
    let ms = rng.skewed(50, 40_000);
    let crash = if rng.percent(50) { Crash::Kill } else { Crash::PowerLoss };
    match rng.below(20) {
        0 | 1 => Fault::Kill(one),
        2 => Fault::PowerLoss(one),
        3..=7 => Fault::CrashAtEffect(one, rng.skewed(1, 600), crash),
        8 => Fault::Stop(one),
        9 => Fault::Partition(one, other, ms),
        10 => Fault::CutOneWay(one, other, ms),
        11 => Fault::Isolate(one, ms),
        12 => Fault::SlowLink(one, other, ms, rng.skewed(10, 3_000)),
        13 => Fault::HoldConnection(rng.next(), ms),
        14 => Fault::BreakConnection(rng.next()),
        15 => Fault::SyncFails,
        16 => Fault::DiskFull(rng.skewed(50, 15_000)),
        17 => Fault::DiskSlow(ms, rng.skewed(10, 3_000)),
        18 => Fault::DatabaseOutOfOrder(["a", "b", "c", "d", "e"][one.0 % 5], ms),
        _ => Fault::WallJump(one, *rng.pick(&[-3_600_000, -1_000, 1_000, 3_600_000])),
    }
}

fn harm_world(fault: Fault, now_ms: u64) {
    let wakers = with(|world| {
        let all = world.hosts.len();
        let name = |host: HostId| world.hosts[host.0].name;
        match fault {
            Fault::Partition(one, other, ms) => {
                let what = format!("{} and {} for {ms} ms", name(one), name(other));
                world.fault("partition", what, None);
                world.cut(one, other, now_ms + ms);
                world.cut(other, one, now_ms + ms);
            }
            Fault::CutOneWay(one, other, ms) => {
                let what = format!("{} to {} for {ms} ms", name(one), name(other));
                world.fault("link cut one way", what, None);
                world.cut(one, other, now_ms + ms);
            }
            Fault::Isolate(one, ms) => {
                let what = format!("{} from all for {ms} ms", name(one));
                world.fault("partition", what, None);
                for other in (0..all).map(HostId).filter(|other| *other != one) {
                    world.cut(one, other, now_ms + ms);
                    world.cut(other, one, now_ms + ms);
                }
            }
            Fault::SlowLink(one, other, ms, more_ms) => {
                let what = format!("{} to {} by {more_ms} ms for {ms} ms", name(one), name(other));
                world.fault("link slow", what, None);
                world.slow_down(one, other, now_ms + ms, more_ms);
                world.slow_down(other, one, now_ms + ms, more_ms);
            }
            Fault::HoldConnection(which, ms) => {
                if let Some((id, name)) = some(&world.connections(), which) {
                    world.fault("connection held", format_args!("{name} for {ms} ms"), None);
                    world.hold(id, now_ms + ms);
                }
            }
            Fault::BreakConnection(which) => {
                if let Some((id, name)) = some(&world.connections(), which) {
                    world.fault("connection broken", name, None);
                    return world.reset(id);
                }
            }
            Fault::DatabaseOutOfOrder(set, ms) => {
                world.fault("database out of order", format_args!("{set} for {ms} ms"), None);
                world.judge.put_out_of_order(set, now_ms + ms);
            }
            Fault::WallJump(host, ms) => {
                let what = format!("{} by {ms} ms", name(host));
                world.fault("wall clock jumps", what, None);
                world.host(host).wall_off_ms += ms;
            }
            Fault::Kill(_)
            | Fault::PowerLoss(_)
            | Fault::CrashAtEffect(..)
            | Fault::Stop(_)
            | Fault::SyncFails
            | Fault::DiskFull(_)
            | Fault::DiskSlow(..) => {}
        }
        Vec::new()
    });
    wakers.into_iter().for_each(Waker::wake);
}

fn some(from: &[(u64, String)], which: u64) -> Option<(u64, String)> {
    let at = usize::try_from(which % (from.len() as u64).max(1)).expect("a place in memory");
    from.get(at).cloned()
}

/// Crashes a process, to be started again some time later.
pub fn take_down(machine: &mut Machine, crash: Crash, rng: &mut Rng, now_ms: u64) {
    if !machine.is_up() {
        return;
    }
    let kind = match crash {
        Crash::Kill => "kill",
        Crash::PowerLoss => "power loss",
    };
    with(|world| {
        let name = world.host(machine.host).name;
        world.fault(kind, name, Some(machine.host));
    });
    machine.down(crash);
    machine.restart_ms = Some(now_ms + rng.skewed(20, 15_000));
    machine.crash_at_start = rng.percent(20).then(|| (rng.within(1, 40), crash));
    network::deliver();
}
