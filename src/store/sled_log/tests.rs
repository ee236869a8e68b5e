//! Damage that only a hand inside the database can make, and writes that are cut off at every place.

use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::core::Shard;

#[test]
fn flipped_bit_that_sled_misses_is_refused_by_name() {
    let dir = filled();
    let key = Key::Head(tx(2)).encode();
    tamper(&dir, |log| {
        let mut frame = log.tree.get(&key).unwrap().unwrap().to_vec();
        *frame.last_mut().unwrap() ^= 1;
        log.tree.insert(&key, frame).unwrap();
    });
    let damage = refused_for_damage(&dir);
    assert_eq!(damage, Damage::Checksum(format!("the value of transaction {}", tx(2))));
}

#[test]
fn value_under_another_key_is_refused() {
    let dir = filled();
    tamper(&dir, |log| {
        let frame = log.tree.get(Key::Head(tx(1)).encode()).unwrap().unwrap();
        log.tree.insert(Key::Head(tx(2)).encode(), frame).unwrap();
    });
    assert!(matches!(refused_for_damage(&dir), Damage::Checksum(_)));
}

#[test]
fn value_of_a_newer_format_is_refused_with_both_versions() {
    let dir = filled();
    let key = Key::Head(tx(1)).encode();
    tamper(&dir, |log| {
        let mut frame = log.tree.get(&key).unwrap().unwrap().to_vec();
        frame[0] = 9;
        log.tree.insert(&key, frame).unwrap();
    });
    let error = open(&dir).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 9, supported: 1, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("format version 9") && text.contains("up to version 1"), "{text}");
}

#[test]
fn lost_value_is_refused() {
    for key in [Key::Head(tx(1)), Key::Life(Epoch(1)), Key::Cluster] {
        let dir = filled();
        tamper(&dir, |log| assert!(log.tree.remove(key.encode()).unwrap().is_some()));
        assert!(matches!(refused_for_damage(&dir), Damage::Totals { .. }), "{key}");
    }
}

#[test]
fn older_value_that_is_back_is_refused() {
    let dir = filled();
    tamper(&dir, |log| {
        let key = Key::Head(tx(1)).encode();
        let older = log.tree.get(&key).unwrap().unwrap();
        log.append(&[put(1, 10)], Durability::Forced).unwrap();
        log.tree.insert(&key, older).unwrap();
    });
    assert!(matches!(refused_for_damage(&dir), Damage::Totals { .. }));
}

#[test]
fn long_value_with_a_lost_part_is_refused() {
    let dir = filled();
    tamper(&dir, |log| {
        let part = Key::Part(PartKey { tx: tx(3), number: 1, slot: 0 });
        assert!(log.tree.remove(part.encode()).unwrap().is_some());
    });
    let damage = refused_for_damage(&dir);
    assert!(matches!(damage, Damage::Incomplete { want: 9_000, .. }), "{damage}");
}

#[test]
fn unknown_key_is_refused() {
    let dir = filled();
    tamper(&dir, |log| {
        log.tree.insert([1, 2, 255], vec![0; 20]).unwrap();
    });
    assert_eq!(refused_for_damage(&dir), Damage::UnknownKey("key 0102ff".to_owned()));
}

#[test]
fn lost_marker_is_refused() {
    let dir = filled();
    tamper(&dir, |log| assert!(log.marker.remove(MARKER_KEY).unwrap().is_some()));
    let error = open(&dir).unwrap_err();
    assert!(matches!(error, OpenError::Refused { why: Refusal::TailLost { found: 0, .. }, .. }), "{error}");
}

#[test]
fn parts_that_no_list_names_are_swept() {
    let dir = filled();
    let (mut log, opened) = open(&dir).unwrap();
    // As if the process had died before the list was written.
    log.begin_group().unwrap();
    log.put_part(tx(3), 0, b"next", None).unwrap();
    let left = PartKey { tx: tx(3), number: 0, slot: 1 };
    log.insert(&Key::Part(left).encode(), b"next").unwrap();
    let stray = PartKey { tx: tx(9), number: 0, slot: 0 };
    log.insert(&Key::Part(stray).encode(), b"next").unwrap();
    // Overwriting what is in force is what the two slots are there to avoid, so undo it.
    log.insert(&Key::Part(PartKey { tx: tx(3), number: 0, slot: 0 }).encode(), &[3; BODY]).unwrap();
    log.db.flush().unwrap();
    drop(log);
    let (mut log, again) = open(&dir).unwrap();
    assert_eq!(again.cut_off.map(|cut| cut.last_begun - cut.last_whole), Some(1));
    assert_eq!(again.epoch, Epoch(opened.epoch.0 + 1));
    for part in [left, stray] {
        assert_eq!(log.tree.get(Key::Part(part).encode()).unwrap(), None);
    }
    assert_eq!(values(&mut log), initial());
    assert_eq!(scan(&log.tree, &mut |_, _| Ok(())).unwrap().totals, log.totals);
}

/// A torn last record is cut off and reported; everything before it survives.
#[test]
fn group_cut_off_anywhere_leaves_each_value_as_it_was_or_as_it_should_be() {
    let mixed = [put(3, 13_000), remove(1), put(2, 9_500), put(4, 5), put(3, 100), remove(2), put(1, 30)];
    let seen = cut_off_everywhere(&mixed);
    assert!(seen.iter().filter(|seen| **seen > 0).count() >= 6, "the cuts hit too little: {seen:?}");
}

#[test]
fn group_of_removals_cut_off_anywhere_is_no_damage() {
    let seen = cut_off_everywhere(&[remove(1), remove(3), remove(2)]);
    assert!(seen.iter().filter(|seen| **seen > 0).count() >= 3, "the cuts hit too little: {seen:?}");
}

/// Tears the log at many places within `batch`, opens it, and counts which of the states between its writes were found.
fn cut_off_everywhere(batch: &[LogWrite]) -> Vec<usize> {
    let steps = states(initial(), batch);
    let dir = filled();
    let (mut log, _) = open(&dir).unwrap();
    let before = copy(&dir);
    log.append(batch, Durability::Lazy).unwrap();
    log.db.flush().unwrap();
    let after = copy(&dir);
    drop(log);

    let [old, new] = [&before, &after].map(|dir| fs::read(dir.path().join("sled/db")).unwrap());
    let differs = |at: &usize| old.get(*at) != new.get(*at);
    let first = (0..new.len()).find(differs).unwrap();
    let end = (0..new.len()).rfind(differs).unwrap() + 1;
    let mut seen = vec![0; steps.len()];
    for cut in (first..end).step_by(((end - first) / 300).max(1)).chain([end]) {
        let torn = copy(&after);
        let rest = old.get(cut..).unwrap_or_default();
        fs::write(torn.path().join("sled/db"), [&new[..cut], rest].concat()).unwrap();
        let (mut log, opened) = open(&torn).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        let found = values(&mut log);
        let step = steps.iter().position(|state| *state == found);
        seen[step.unwrap_or_else(|| panic!("cut at {cut}: no state that the writes lead to"))] += 1;
        assert_eq!(opened.cut_off.is_none(), cut == end, "cut at {cut}");
    }
    seen
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
    let witness = Witness::create(&dir.path().join("witness")).unwrap();
    let cluster = witness.claim().cluster;
    let (log, opened) = open(&dir).unwrap();
    assert_eq!((opened.cluster, opened.epoch), (cluster, Epoch(1)));
    drop(log);
    // sled's directory too, but nothing of the first group.
    let dir = tempfile::tempdir().unwrap();
    Witness::create(&dir.path().join("witness")).unwrap();
    drop(sled::open(dir.path().join("sled")).unwrap());
    assert_eq!(open(&dir).unwrap().1.epoch, Epoch(1));
}

#[test]
fn unused_witness_does_not_vouch_for_a_used_log() {
    let dir = filled();
    fs::remove_file(dir.path().join("witness")).unwrap();
    Witness::create(&dir.path().join("witness")).unwrap();
    let error = open(&dir).unwrap_err();
    assert!(matches!(error, OpenError::Refused { why: Refusal::Mismatch(_), .. }), "{error}");
}

#[test]
fn parts_that_did_not_change_are_not_written_again() {
    let dir = filled();
    let (mut log, _) = open(&dir).unwrap();
    let group_of = |log: &SledLog, number| {
        let key = Key::Part(PartKey { tx: tx(3), number, slot: 0 }).encode();
        unseal(&key, &log.tree.get(&key).unwrap().unwrap()).unwrap().group
    };
    let first = group_of(&log, 0);
    log.append(&[put(3, 13_000)], Durability::Lazy).unwrap();
    assert_eq!([group_of(&log, 0), group_of(&log, 1)], [first, first]);
    let all = log.tree.iter().count();
    // Part 2 was too short before, so it went to its other slot; part 3 is new.
    log.append(&[put(3, 9_000)], Durability::Lazy).unwrap();
    assert_eq!(log.tree.iter().count(), all - 1);
    log.append(&[put(3, 10)], Durability::Lazy).unwrap();
    assert_eq!(log.tree.iter().count(), all - 4);
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

#[test]
fn no_epoch_is_left_after_the_last() {
    let dir = filled();
    tamper(&dir, |log| {
        log.begin_group().unwrap();
        log.insert(&Key::Life(Epoch::MAX).encode(), &[0; 4]).unwrap();
        log.end_group().unwrap();
        log.sync().unwrap();
    });
    assert!(matches!(open(&dir), Err(OpenError::EpochsUsedUp { .. })));
}

const BODY: usize = frame::BODY_BYTES_MAX;

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
    states(BTreeMap::new(), &[put(1, 20), put(2, 20), put(3, 9_000)]).pop().unwrap()
}

/// What the log holds before, between and after some writes.
fn states(mut state: BTreeMap<TxId, Vec<u8>>, batch: &[LogWrite]) -> Vec<BTreeMap<TxId, Vec<u8>>> {
    let mut states = vec![state.clone()];
    for write in batch {
        match write {
            LogWrite::Put { tx, value } => state.insert(*tx, value.to_vec()),
            LogWrite::Remove { tx } => state.remove(tx),
        };
        states.push(state.clone());
    }
    states
}

/// Changes a closed log behind its back.
fn tamper(dir: &TempDir, change: impl FnOnce(&mut SledLog)) {
    let (mut log, _) = open(dir).unwrap();
    change(&mut log);
    log.db.flush().unwrap();
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
