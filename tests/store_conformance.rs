//! What every decision log must do, shown on each; and what the sled log does when it is killed or damaged.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "store/damage.rs"]
mod damage;
#[path = "store/every_byte.rs"]
mod every_byte;
#[path = "store/kill.rs"]
mod kill;
#[path = "store/support.rs"]
mod support;
#[path = "store/writer.rs"]
mod writer;

use std::collections::BTreeMap;

use assent::core::{Epoch, Shard, TxId};
use assent::store::{AppendError, Damage, DecisionLog, Durability, MemoryLog, Opened, ReplayError};
use tempfile::TempDir;

use crate::support::{contents, copy_dir, open_sled, put, remove, tx};

/// A log that can be opened again and again.
trait Harness {
    /// Takes the next life of the log.
    fn open(&mut self) -> (Box<dyn DecisionLog>, Opened);
    /// Ends a life as a crash does, with no chance to write anything more.
    fn crash(&mut self, log: Box<dyn DecisionLog>);
}

#[test]
fn memory_log_conforms() {
    conformance(|| Box::new(MemoryHarness(MemoryLog::new())));
}

#[test]
fn sled_log_conforms() {
    conformance(|| Box::new(SledHarness { dir: tempfile::tempdir().unwrap() }));
}

struct MemoryHarness(MemoryLog);

impl Harness for MemoryHarness {
    fn open(&mut self) -> (Box<dyn DecisionLog>, Opened) {
        (Box::new(self.0.clone()), self.0.open())
    }

    fn crash(&mut self, log: Box<dyn DecisionLog>) {
        drop(log);
        self.0.crash();
    }
}

struct SledHarness {
    dir: TempDir,
}

impl Harness for SledHarness {
    fn open(&mut self) -> (Box<dyn DecisionLog>, Opened) {
        let (log, opened) = open_sled(self.dir.path()).unwrap();
        (Box::new(log), opened)
    }

    /// What a kill leaves is what the files hold while the log is still open.
    fn crash(&mut self, log: Box<dyn DecisionLog>) {
        let after = tempfile::tempdir().unwrap();
        copy_dir(self.dir.path(), after.path());
        drop(log);
        self.dir = after;
    }
}

fn conformance(new: impl Fn() -> Box<dyn Harness>) {
    empty_log_replays_nothing(&mut *new());
    forced_writes_survive_a_crash(&mut *new());
    forcing_nothing_forces_what_came_before(&mut *new());
    clean_end_keeps_lazy_writes(&mut *new());
    replay_goes_by_id(&mut *new());
    later_write_wins(&mut *new());
    long_values_grow_shrink_and_go(&mut *new());
    ids_that_differ_in_one_bit_are_kept_apart(&mut *new());
    other_epochs_are_fenced_off(&mut *new());
    every_life_is_remembered(&mut *new());
    reader_can_stop_the_replay(&mut *new());
    churn_leaves_nothing(&mut *new());
}

fn empty_log_replays_nothing(harness: &mut dyn Harness) {
    let (mut log, opened) = harness.open();
    assert_eq!(contents(&mut *log), BTreeMap::new());
    assert_eq!((opened.epoch, opened.lives.len(), opened.cut_off), (Epoch(1), 1, None));
}

fn forced_writes_survive_a_crash(harness: &mut dyn Harness) {
    let (mut log, opened) = harness.open();
    log.append_batch(opened.epoch, &[put(1, b"lazy")], Durability::Lazy).unwrap();
    log.append_batch(opened.epoch, &[put(2, b"forced"), put(3, b"")], Durability::Forced).unwrap();
    let before = contents(&mut *log);
    harness.crash(log);
    let (mut log, _) = harness.open();
    assert_eq!(contents(&mut *log), before);
    assert_eq!(before.len(), 3);
}

fn forcing_nothing_forces_what_came_before(harness: &mut dyn Harness) {
    let (mut log, opened) = harness.open();
    log.append_batch(opened.epoch, &[put(1, b"lazy")], Durability::Lazy).unwrap();
    log.append_batch(opened.epoch, &[], Durability::Forced).unwrap();
    harness.crash(log);
    let (mut log, _) = harness.open();
    assert_eq!(contents(&mut *log), BTreeMap::from([(tx(1), b"lazy".to_vec())]));
}

fn clean_end_keeps_lazy_writes(harness: &mut dyn Harness) {
    let (mut log, opened) = harness.open();
    log.append_batch(opened.epoch, &[put(1, b"lazy")], Durability::Lazy).unwrap();
    log.close().unwrap();
    let (mut log, opened) = harness.open();
    assert_eq!(contents(&mut *log), BTreeMap::from([(tx(1), b"lazy".to_vec())]));
    assert_eq!(opened.cut_off, None);
}

fn replay_goes_by_id(harness: &mut dyn Harness) {
    let (mut log, opened) = harness.open();
    let batch: Vec<_> = (0..100).map(|n| put(n * 7919 % 100, &n.to_le_bytes())).collect();
    log.append_batch(opened.epoch, &batch, Durability::Forced).unwrap();
    let mut seen = Vec::new();
    log.replay(&mut |tx, _| {
        seen.push(tx);
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, (0..100).map(tx).collect::<Vec<_>>());
}

fn later_write_wins(harness: &mut dyn Harness) {
    let (mut log, opened) = harness.open();
    log.append_batch(opened.epoch, &[put(1, b"a"), put(2, b"a"), put(3, b"a")], Durability::Forced).unwrap();
    log.append_batch(opened.epoch, &[put(1, b"ab"), remove(2)], Durability::Forced).unwrap();
    let batch = [remove(3), put(3, b"b"), put(4, b"c"), remove(4), remove(5)];
    log.append_batch(opened.epoch, &batch, Durability::Forced).unwrap();
    harness.crash(log);
    let (mut log, _) = harness.open();
    assert_eq!(contents(&mut *log), BTreeMap::from([(tx(1), b"ab".to_vec()), (tx(3), b"b".to_vec())]));
}

fn long_values_grow_shrink_and_go(harness: &mut dyn Harness) {
    let noise: Vec<u8> = (0_u32..75 << 10).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_be_bytes()).collect();
    let mut changed = noise.clone();
    changed[5_000] ^= 1;
    let steps: [&[u8]; 10] = [
        &noise[..4_082],
        &noise[..4_083],
        &noise[..9_000],
        &noise[..9_001],
        &noise,
        &changed,
        &noise[..20_000],
        &changed[..20_000],
        b"short",
        &noise[..100_000],
    ];
    for step in steps {
        let (mut log, opened) = harness.open();
        // A neighbour on either side, and one with parts of its own.
        let batch = [put(1, b"one"), put(2, step), put(3, &noise[..10_000])];
        log.append_batch(opened.epoch, &batch, Durability::Forced).unwrap();
        harness.crash(log);
        let (mut log, _) = harness.open();
        let values = contents(&mut *log);
        assert!(values[&tx(2)] == step, "{} bytes", step.len());
        assert!(values[&tx(3)] == noise[..10_000]);
        log.close().unwrap();
    }
    let (mut log, opened) = harness.open();
    log.append_batch(opened.epoch, &[remove(2)], Durability::Forced).unwrap();
    harness.crash(log);
    let (mut log, _) = harness.open();
    assert_eq!(contents(&mut *log).keys().copied().collect::<Vec<_>>(), [tx(1), tx(3)]);
}

fn ids_that_differ_in_one_bit_are_kept_apart(harness: &mut dyn Harness) {
    let base = TxId::new(0, 0, Epoch(0), Shard(0), 0);
    let ids = (0..128)
        .filter_map(|bit| TxId::from_bytes((u128::from_be_bytes(base.to_bytes()) ^ 1 << bit).to_be_bytes()));
    let expected: BTreeMap<_, _> = ids.chain([base]).map(|id| (id, id.to_string().into_bytes())).collect();
    assert_eq!(expected.len(), 128 - 6 + 1);
    let (mut log, opened) = harness.open();
    let batch: Vec<_> = expected.iter().map(|(id, value)| support::put_id(*id, value)).collect();
    log.append_batch(opened.epoch, &batch, Durability::Forced).unwrap();
    assert_eq!(contents(&mut *log), expected);
}

fn other_epochs_are_fenced_off(harness: &mut dyn Harness) {
    let (mut log, opened) = harness.open();
    assert_eq!(opened.epoch, Epoch(1));
    let error = log.append_batch(Epoch(2), &[put(1, b"x")], Durability::Forced).unwrap_err();
    assert_eq!(error, AppendError::Fenced { ours: Epoch(2), theirs: Epoch(1) });
    assert_eq!(contents(&mut *log), BTreeMap::new());
    log.append_batch(Epoch(1), &[put(1, b"x")], Durability::Forced).unwrap();
    harness.crash(log);
    let (mut log, opened) = harness.open();
    let error = log.append_batch(Epoch(1), &[remove(1)], Durability::Forced).unwrap_err();
    assert_eq!(error, AppendError::Fenced { ours: Epoch(1), theirs: opened.epoch });
    assert_eq!(contents(&mut *log).len(), 1);
}

fn every_life_is_remembered(harness: &mut dyn Harness) {
    let mut born = Vec::new();
    let mut cluster = None;
    for life in 1..=4 {
        let (log, opened) = harness.open();
        assert_eq!(opened.epoch, Epoch(life));
        assert_eq!(*cluster.get_or_insert(opened.cluster), opened.cluster);
        born.push(TxId::new(0, 0, opened.epoch, Shard(0), opened.life_tag));
        assert_eq!(opened.lives.len(), born.len());
        assert!(born.iter().all(|tx| opened.lives.contains(*tx)));
        let stranger = TxId::new(0, 0, opened.epoch, Shard(0), opened.life_tag ^ 1);
        assert!(!opened.lives.contains(stranger));
        // A crash right after opening must not bring an epoch back, nor may a clean end.
        if life % 2 == 0 { harness.crash(log) } else { log.close().unwrap() }
    }
}

fn reader_can_stop_the_replay(harness: &mut dyn Harness) {
    let (mut log, opened) = harness.open();
    log.append_batch(opened.epoch, &[put(1, b"x"), put(2, b"y")], Durability::Forced).unwrap();
    let refusal = ReplayError::Rejected { tx: tx(1), reason: "no such kind".to_owned() };
    let mut calls = 0;
    let result = log.replay(&mut |_, _| {
        calls += 1;
        Err(refusal.clone())
    });
    assert_eq!((result, calls), (Err(refusal), 1));
    let damage = log.replay(&mut |_, _| Err(Damage::Engine("so it says".to_owned()).into()));
    assert!(matches!(damage, Err(ReplayError::Damaged(_))));
}

fn churn_leaves_nothing(harness: &mut dyn Harness) {
    let (mut log, opened) = harness.open();
    for n in 0..1000_u64 {
        let value = vec![n.to_le_bytes()[0]; usize::try_from(n % 10).unwrap() * 1000];
        log.append_batch(opened.epoch, &[put(n, b"begun")], Durability::Lazy).unwrap();
        log.append_batch(opened.epoch, &[put(n, &value)], Durability::Lazy).unwrap();
        log.append_batch(opened.epoch, &[remove(n)], Durability::Lazy).unwrap();
    }
    log.append_batch(opened.epoch, &[], Durability::Forced).unwrap();
    assert_eq!(contents(&mut *log), BTreeMap::new());
    harness.crash(log);
    let (mut log, _) = harness.open();
    assert_eq!(contents(&mut *log), BTreeMap::new());
}
