//! Damage that only a hand inside the database can make, and writes that are cut off at every place.

mod salvaging;

use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::core::Shard;

#[test]
fn flipped_bit_that_sled_misses_is_refused_by_name() {
    let dir = filled();
    tamper(&dir, |log| {
        let mut frame = frame(log, FILLED);
        *frame.last_mut().unwrap() ^= 1;
        log.medium.db.insert(FILLED.encode(), frame).unwrap();
    });
    assert_eq!(refused_for_damage(&dir), Damage::Checksum("part 0 of group 2".to_owned()));
}

#[test]
fn frame_under_another_key_is_refused() {
    let dir = filled();
    tamper(&dir, |log| {
        log.medium.db.insert(Key { chunk: 1, ..FILLED }.encode(), frame(log, FILLED)).unwrap();
    });
    assert_eq!(refused_for_damage(&dir), Damage::Checksum("part 1 of group 2".to_owned()));
}

#[test]
fn group_of_another_format_is_refused_with_both_versions() {
    for (version, or_newer) in [(9, true), (1, false)] {
        let dir = filled();
        tamper(&dir, |log| {
            let mut frame = frame(log, FILLED);
            frame[0] = version;
            log.medium.db.insert(FILLED.encode(), frame).unwrap();
        });
        let error = open(&dir).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("format version {version}, and this assent reads version 2")),
            "{text}"
        );
        assert_eq!(text.contains("or a newer one"), or_newer, "{text}");
    }
}

#[test]
fn lost_frame_is_refused() {
    for key in [Key { group: 1, chunk: 0 }, FILLED, Key { chunk: 1, ..FILLED }] {
        let dir = filled();
        tamper(&dir, |log| assert!(log.medium.db.remove(key.encode()).unwrap().is_some()));
        let Key { group, chunk } = key;
        assert_eq!(refused_for_damage(&dir), Damage::Missing { group, chunk });
    }
    let dir = filled();
    tamper(&dir, |log| assert!(log.medium.db.remove(Key { group: 3, chunk: 0 }.encode()).unwrap().is_some()));
    let error = open(&dir).unwrap_err();
    assert!(
        matches!(error, OpenError::Refused { why: Refusal::TailLost { durable: 3, found: 2 }, .. }),
        "{error}"
    );
}

#[test]
fn group_that_is_not_the_one_that_was_written_is_refused() {
    let header = |log: &SledLog| {
        let content = scan::content(&log.medium, 2).unwrap();
        group::open(&content).unwrap().0
    };
    // In the midst the next group tells, at the end the witness.
    let dir = filled();
    tamper(&dir, |log| replace(log, 2, header(log)));
    assert_eq!(refused_for_damage(&dir), Damage::Chain { group: 3 });
    let dir = filled();
    tamper(&dir, |log| replace(log, 3, Header { previous: log.sum, ..header(log) }));
    assert_eq!(refused_for_damage(&dir), Damage::Chain { group: 3 });
    let dir = filled();
    tamper(&dir, |log| {
        let content = scan::content(&log.medium, 3).unwrap();
        replace(log, 3, group::open(&content).unwrap().0);
    });
    let error = open(&dir).unwrap_err();
    assert!(matches!(error, OpenError::Refused { why: Refusal::Mismatch(_), .. }), "{error}");
}

#[test]
fn unknown_key_is_refused() {
    for key in [&[1, 2, 255][..], &[b'g', 0, 0], b"z", &[&FILLED.encode()[..], &[0]].concat()] {
        let dir = filled();
        tamper(&dir, |log| drop(log.medium.db.insert(key, vec![0; 20]).unwrap()));
        let damage = refused_for_damage(&dir);
        assert!(matches!(damage, Damage::UnknownKey(_)), "{damage}");
    }
}

/// A torn last record is cut off and reported; everything before it survives.
#[test]
fn group_cut_off_anywhere_is_there_as_a_whole_or_not_at_all() {
    let mixed = [put(3, 13_000), remove(1), put(2, 9_500), put(4, 5), put(3, 100), remove(2), put(1, 30)];
    cut_off_everywhere(&mixed);
    cut_off_everywhere(&[remove(1), remove(3), remove(2)]);
}

/// Tears the log at many places within `batch`, opens it, and goes on with it.
fn cut_off_everywhere(batch: &[LogWrite]) {
    let (without, with) = (initial(), state(initial(), batch));
    let dir = filled();
    let (mut log, _) = open(&dir).unwrap();
    let before = copy(&dir);
    log.append(batch, Durability::Lazy).unwrap();
    log.medium.db.flush().unwrap();
    let after = copy(&dir);
    drop(log);

    let [old, new] = [&before, &after].map(|dir| fs::read(dir.path().join("sled/db")).unwrap());
    let differs = |at: &usize| old.get(*at) != new.get(*at);
    let first = (0..new.len()).find(differs).unwrap();
    let end = (0..new.len()).rfind(differs).unwrap() + 1;
    for cut in (first..end).step_by(((end - first) / 300).max(1)).chain([end]) {
        let torn = copy(&after);
        let rest = old.get(cut..).unwrap_or_default();
        fs::write(torn.path().join("sled/db"), [&new[..cut], rest].concat()).unwrap();
        let (mut log, opened) = open(&torn).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        let expected = if cut == end { &with } else { &without };
        assert!(values(&mut log) == *expected, "cut at {cut}");
        assert_eq!(opened.cut_off.is_none(), cut == end, "cut at {cut}");
        // Its number was taken again, by the group that began this life.
        assert_eq!(log.newest, if cut == end { 5 } else { 4 }, "cut at {cut}");
        let second = Key { group: 4, chunk: 1 }.encode();
        assert!(
            cut == end || !log.medium.db.contains_key(second).unwrap(),
            "cut at {cut}: a part of the group is left"
        );
        log.append(&[put(5, 50)], Durability::Forced).unwrap();
        drop(log);
        let (mut log, _) = open(&torn).unwrap();
        assert!(values(&mut log) == state(expected.clone(), &[put(5, 50)]), "after cut at {cut}");
    }
}

#[test]
fn log_stays_short_and_keeps_what_is_in_force() {
    let dir = filled();
    let (mut log, opened) = open(&dir).unwrap();
    let mut expected = initial();
    for round in 0..600 {
        // One that stays, and others that come and go.
        let mut batch = vec![put(1_000 + round, 1_000)];
        batch.extend((0..50).map(|n| put(100_000 + 50 * round + n, 1_000)));
        if round > 0 {
            batch.extend((0..50).map(|n| remove(100_000 + 50 * (round - 1) + n)));
        }
        log.append_batch(opened.epoch, &batch, Durability::Forced).unwrap();
        expected = state(expected, &batch);
        // A crash at any time.
        if round % 100 == 99 {
            let crashed = copy(&dir);
            let (mut log, again) = open(&crashed).unwrap();
            assert!(values(&mut log) == expected, "round {round}");
            assert!(again.lives.contains(TxId::new(0, 0, opened.epoch, Shard(0), opened.life_tag)));
            assert_eq!(again.cut_off, None);
        }
    }
    assert!(log.ledger.oldest() > 300, "nothing was dropped: {}", log.ledger.oldest());
    let first = Key::decode(&log.medium.db.first().unwrap().unwrap().0).unwrap();
    assert_eq!(first, Key { group: log.ledger.oldest(), chunk: 0 }, "frames were left behind");
    drop(log);
    let (mut log, again) = open(&dir).unwrap();
    assert!(values(&mut log) == expected);
    assert!(again.lives.len() == 3, "a life was forgotten");
    let kept: usize = log.medium.db.iter().map(|entry| entry.unwrap().1.len()).sum();
    assert!(kept < 12 << 20, "{kept} bytes are kept, and 0.7 MB are in force");
}

/// The group that makes room bears the old value of a transaction, brought along, and the new one, just written.
#[test]
fn value_that_is_replaced_in_the_group_that_brings_it_along_stays_replaced() {
    let dir = filled();
    let (mut log, opened) = open(&dir).unwrap();
    log.ledger.waste_bytes_max = 0;
    // The oldest groups are wasteful, and this one makes room: it brings 1 along, and overwrites it.
    log.append_batch(opened.epoch, &[put(3, 10), put(2, 10)], Durability::Lazy).unwrap();
    log.append_batch(opened.epoch, &[put(1, 40), put(1, 30)], Durability::Forced).unwrap();
    let expected = state(initial(), &[put(3, 10), put(2, 10), put(1, 30)]);
    let replaced_in = log.newest;
    while log.ledger.oldest() <= replaced_in {
        log.append_batch(opened.epoch, &[put(9, 100)], Durability::Forced).unwrap();
    }
    let expected = state(expected, &[put(9, 100)]);
    assert!(values(&mut log) == expected);
    drop(log);
    assert!(values(&mut open(&dir).unwrap().0) == expected);
}

#[test]
fn whatever_is_put_replaced_and_removed_is_there_after_room_was_made() {
    let mut random = 1_u64;
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for _history in 0..20 {
        let dir = filled();
        let mut expected = initial();
        let mut dropped = 0;
        for _life in 0..4 {
            let (mut log, opened) = open(&dir).unwrap();
            assert!(values(&mut log) == expected);
            log.ledger.waste_bytes_max = 2_000;
            for _ in 0..40 {
                let mut write = |_| match draw(3) {
                    0 => remove(draw(12)),
                    _ => put(draw(12), usize::try_from(1 + draw(700)).unwrap()),
                };
                let batch: Vec<_> = (0..6).map(&mut write).collect();
                let durability = [Durability::Lazy, Durability::Forced][usize::try_from(draw(2)).unwrap()];
                log.append_batch(opened.epoch, &batch, durability).unwrap();
                expected = state(expected, &batch);
                assert!(values(&mut log) == expected);
            }
            dropped += log.ledger.oldest();
            Box::new(log).close().unwrap();
        }
        assert!(dropped > 100, "hardly any room was made: {dropped}");
    }
}

/// A disk that is nearly full gets no more writes but these.
#[test]
fn log_gets_short_by_removals_alone() {
    let dir = filled();
    let (mut log, opened) = open(&dir).unwrap();
    for thousand in 0..20 {
        let batch: Vec<_> = (0..1_000).map(|n| put(1_000 * thousand + n, 1_000)).collect();
        log.append_batch(opened.epoch, &batch, Durability::Forced).unwrap();
    }
    for thousand in 0..20 {
        let batch: Vec<_> = (0..1_000).map(|n| remove(1_000 * thousand + n)).collect();
        log.append_batch(opened.epoch, &batch, Durability::Forced).unwrap();
    }
    log.append_batch(opened.epoch, &[], Durability::Forced).unwrap();
    let kept: usize = log.medium.db.iter().map(|entry| entry.unwrap().1.len()).sum();
    assert!(kept < 10 << 20, "{kept} bytes are kept of 20 MB that are not in force");
}

#[test]
fn frames_of_groups_that_do_not_count_are_removed_once_that_is_durable() {
    let dir = filled();
    let (mut log, opened) = open(&dir).unwrap();
    let epoch = opened.epoch;
    while log.stale.is_empty() {
        log.append_batch(epoch, &[put(9, 1 << 20)], Durability::Lazy).unwrap();
    }
    let stale = log.stale[0];
    assert!(log.medium.db.contains_key(stale.encode()).unwrap(), "removed too early");
    log.medium.db.flush().unwrap();
    // A crash now: they are found, and removed later.
    let crashed = copy(&dir);
    let (mut again, _) = open(&crashed).unwrap();
    assert!(values(&mut again) == values(&mut log));
    assert!(!again.medium.db.contains_key(stale.encode()).unwrap());
    log.append_batch(epoch, &[], Durability::Forced).unwrap();
    assert!(!log.medium.db.contains_key(stale.encode()).unwrap());
}

#[test]
fn witness_from_before_a_power_loss_is_a_lower_bound() {
    let dir = filled();
    let (mut log, _) = open(&dir).unwrap();
    let stale = fs::read(dir.path().join("witness")).unwrap();
    log.append(&[put(7, 70)], Durability::Forced).unwrap();
    drop(log);
    fs::write(dir.path().join("witness"), stale).unwrap();
    let (mut log, opened) = open(&dir).unwrap();
    assert!(values(&mut log).contains_key(&tx(7)));
    assert_eq!(opened.cut_off, None);
}

#[test]
fn first_opening_that_was_cut_off_is_done_again() {
    // The witness alone, as it is made before anything else.
    let dir = tempfile::tempdir().unwrap();
    let witness = Witness::make(&dir.path().join("witness")).unwrap();
    let cluster = witness.claim().cluster;
    let (log, opened) = open(&dir).unwrap();
    assert_eq!((opened.cluster, opened.epoch), (cluster, Epoch(1)));
    drop(log);
    // sled's directory too, but nothing of the first group.
    let dir = tempfile::tempdir().unwrap();
    Witness::make(&dir.path().join("witness")).unwrap();
    drop(sled::open(dir.path().join("sled")).unwrap());
    assert_eq!(open(&dir).unwrap().1.epoch, Epoch(1));
    // Of that, only a half of its configuration.
    let dir = tempfile::tempdir().unwrap();
    Witness::make(&dir.path().join("witness")).unwrap();
    fs::create_dir(dir.path().join("sled")).unwrap();
    fs::write(dir.path().join("sled/conf"), b"segment_size: 5242").unwrap();
    assert_eq!(open(&dir).unwrap().1.epoch, Epoch(1));
}

#[test]
fn unused_witness_does_not_vouch_for_a_used_log() {
    let dir = filled();
    fs::remove_file(dir.path().join("witness")).unwrap();
    Witness::make(&dir.path().join("witness")).unwrap();
    let error = open(&dir).unwrap_err();
    assert!(matches!(error, OpenError::Refused { why: Refusal::Mismatch(_), .. }), "{error}");
}

#[test]
fn nothing_is_kept_outside_the_file_that_is_synced() {
    let dir = filled();
    let (mut log, _) = open(&dir).unwrap();
    let long: Vec<_> = (10..40).map(|n| put(n, 300 << 10)).collect();
    log.append(&long, Durability::Forced).unwrap();
    assert_eq!(fs::read_dir(dir.path().join("sled/blobs")).unwrap().count(), 0);
}

#[test]
fn value_over_the_limit_is_refused_before_anything_is_written() {
    let dir = filled();
    let (mut log, opened) = open(&dir).unwrap();
    let batch = [put(8, 1), put(9, VALUE_BYTES_MAX + 1)];
    let error = log.append_batch(opened.epoch, &batch, Durability::Forced).unwrap_err();
    assert!(error.to_string().contains("67108865 bytes; the limit is 67108864"), "{error}");
    assert_eq!(values(&mut log), initial());
    let error = log.append_batch(opened.epoch, &[put(8, 1)], Durability::Forced).unwrap_err();
    assert!(error.to_string().contains("an earlier write failed"), "{error}");
}

/// sled's own would corrupt the heap now and then.
#[test]
fn no_thread_but_ours_flushes() {
    let dir = filled();
    let (_log, _) = open(&dir).unwrap();
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let names: Vec<_> =
        threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("comm")).ok()).collect();
    assert!(!names.is_empty());
    assert!(!names.iter().any(|name| name.trim() == "log flusher"), "{names:?}");
}

#[test]
fn no_epoch_is_left_after_the_last() {
    let dir = filled();
    tamper(&dir, |log| {
        log.write_group(&[Entry::Life { epoch: Epoch::MAX, tag: 0 }]).unwrap();
        log.sync().unwrap();
    });
    assert!(matches!(open(&dir), Err(OpenError::EpochsUsedUp { .. })));
}

/// The first frame of the group that filled the log. The one before it began its first life.
const FILLED: Key = Key { group: 2, chunk: 0 };

/// A closed log with two short values and a long one.
fn filled() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, opened) = open(&dir).unwrap();
    let batch = [put(1, 20), put(2, 20), put(3, 9_000)];
    log.append_batch(opened.epoch, &batch, Durability::Forced).unwrap();
    Box::new(log).close().unwrap();
    dir
}

/// What is in it.
fn initial() -> BTreeMap<TxId, Vec<u8>> {
    state(BTreeMap::new(), &[put(1, 20), put(2, 20), put(3, 9_000)])
}

/// What the log holds after some writes.
fn state(mut state: BTreeMap<TxId, Vec<u8>>, batch: &[LogWrite]) -> BTreeMap<TxId, Vec<u8>> {
    for write in batch {
        match write {
            LogWrite::Put { tx, value } => state.insert(*tx, value.to_vec()),
            LogWrite::Remove { tx } => state.remove(tx),
        };
    }
    state
}

fn frame(log: &SledLog, key: Key) -> Vec<u8> {
    log.medium.db.get(key.encode()).unwrap().unwrap().to_vec()
}

/// Puts a sound group with one value in the place of another.
fn replace(log: &SledLog, group: u64, header: Header) {
    for frame in
        log.medium.db.range(Key { group, chunk: 0 }.encode()..Key { group: group + 1, chunk: 0 }.encode())
    {
        log.medium.db.remove(frame.unwrap().0).unwrap();
    }
    let mut content = Content::default();
    content.begin(header);
    content.push(&Entry::Put { tx: tx(1), value: b"other" });
    for (key, frame) in content.frames(group, content.sum()) {
        log.medium.db.insert(key.encode(), frame).unwrap();
    }
}

/// Changes a closed log behind its back.
fn tamper(dir: &TempDir, change: impl FnOnce(&mut SledLog)) {
    let (mut log, _) = open(dir).unwrap();
    change(&mut log);
    log.medium.db.flush().unwrap();
}

fn refused_for_damage(dir: &TempDir) -> Damage {
    match open(dir) {
        Err(OpenError::Refused { why: Refusal::Damaged(damage), .. }) => damage,
        other => panic!("not refused for damage: {other:?}"),
    }
}

fn open(dir: &TempDir) -> Result<(SledLog, Opened), OpenError> {
    SledLog::open(dir.path(), &SledOptions { ballast_bytes: 0, ..SledOptions::default() })
}

fn copy(dir: &TempDir) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir_all(copy.path().join("sled/blobs")).unwrap();
    for part in ["", "sled"] {
        for entry in fs::read_dir(dir.path().join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, copy.path().join(part).join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    copy
}

fn values(log: &mut SledLog) -> BTreeMap<TxId, Vec<u8>> {
    let mut values = BTreeMap::new();
    log.replay(&mut |tx, value| {
        values.insert(tx, value);
        Ok(())
    })
    .unwrap();
    values
}

fn tx(n: u64) -> TxId {
    TxId::new(n, 0, Epoch(1), Shard(0), 0)
}

/// Values of one transaction agree in all but their last byte.
fn put(n: u64, length: usize) -> LogWrite {
    let mut value = vec![n.to_le_bytes()[0]; length];
    value[length - 1] = 100 + u8::try_from(length % 100).unwrap();
    LogWrite::Put { tx: tx(n), value: Bytes::from(value) }
}

fn remove(n: u64) -> LogWrite {
    LogWrite::Remove { tx: tx(n) }
}
