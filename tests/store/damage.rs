//! What a damaged, lost, swapped or foreign data directory leads to: exactly what was there, or a refusal.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use assent::core::{Shard, TxId};
use assent::store::{DecisionLog, Durability, OpenError, Opened, Refusal};
use tempfile::TempDir;

use crate::support::{contents, copy_dir, open_sled, put, remove};

#[test]
fn second_open_of_a_live_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open_sled(dir.path()).unwrap();
    let error = open_sled(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(dir.path().to_str().unwrap()), "{text}");
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    drop(log);
    open_sled(dir.path()).unwrap();
}

#[test]
fn witness_of_another_format_is_refused_with_both_versions() {
    let filled = Filled::closed();
    let file = File::options().write(true).open(filled.path().join("witness")).unwrap();
    for slot in [0, 4096] {
        file.write_all_at(&7_u32.to_le_bytes(), slot + 8).unwrap();
    }
    let error = open_sled(filled.path()).unwrap_err();
    assert!(matches!(error, OpenError::OtherVersion { found: 7, supported: 2, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("format version 7") && text.contains("reads version 2"), "{text}");
}

/// One damaged number does not make it another format.
#[test]
fn witness_with_one_slot_of_another_format_is_gone_by_the_other() {
    for slot in [0, 4096] {
        let filled = Filled::closed();
        let file = File::options().write(true).open(filled.path().join("witness")).unwrap();
        file.write_all_at(&7_u32.to_le_bytes(), slot + 8).unwrap();
        open_sled(filled.path()).unwrap();
    }
}

#[test]
fn emptied_log_is_refused() {
    let filled = Filled::closed();
    File::options().write(true).open(filled.path().join("sled/db")).unwrap().set_len(0).unwrap();
    filled.assert_refused();
    // The attempt must not have made it good.
    filled.assert_refused();
}

#[test]
fn emptied_log_is_refused_when_sled_forgot_it_too() {
    let filled = Filled::closed();
    for entry in fs::read_dir(filled.path().join("sled")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            File::options().write(true).open(path).unwrap().set_len(0).unwrap();
        }
    }
    filled.assert_refused();
    fs::remove_dir_all(filled.path().join("sled")).unwrap();
    fs::create_dir(filled.path().join("sled")).unwrap();
    File::create(filled.path().join("sled/db")).unwrap();
    let why = filled.assert_refused();
    assert!(matches!(why, Refusal::TailLost { found: 0, .. }), "{why}");
}

/// What a kill or a full disk leaves while the log is opened. sled alone would refuse it for ever.
#[test]
fn snapshot_that_was_not_finished_is_no_damage() {
    let filled = Filled::closed();
    fs::write(filled.path().join("sled/snap.FFFFFFFFFFFFFFFF.generating"), b"half of it").unwrap();
    assert_eq!(contents(&mut open_sled(filled.path()).unwrap().0), filled.values);
}

#[test]
fn lost_log_is_refused_while_its_witness_stands() {
    let filled = Filled::closed();
    fs::remove_dir_all(filled.path().join("sled")).unwrap();
    assert_eq!(filled.assert_refused(), Refusal::LogMissing);
    assert!(!filled.path().join("sled").exists(), "a refused start makes no new log");
}

#[test]
fn lost_witness_is_refused_while_the_log_stands() {
    let filled = Filled::closed();
    fs::remove_file(filled.path().join("witness")).unwrap();
    assert_eq!(filled.assert_refused(), Refusal::WitnessMissing);
    assert_eq!(filled.assert_refused(), Refusal::WitnessMissing);
}

#[test]
fn damaged_witness_is_refused_when_both_copies_are() {
    let filled = Filled::closed();
    let file = File::options().write(true).open(filled.path().join("witness")).unwrap();
    file.write_all_at(b"x", 50).unwrap();
    let copy = filled.copy();
    assert_eq!(contents(&mut open_sled(copy.path()).unwrap().0), filled.values);
    file.write_all_at(b"x", 4096 + 50).unwrap();
    assert_eq!(filled.assert_refused(), Refusal::WitnessDamaged);
}

#[test]
fn old_log_under_a_newer_witness_is_refused() {
    let filled = Filled::closed();
    let old = filled.copy();
    let (mut log, opened) = open_sled(filled.path()).unwrap();
    log.append_batch(opened.epoch, &[put(900, b"later")], Durability::Forced).unwrap();
    Box::new(log).close().unwrap();
    fs::remove_dir_all(filled.path().join("sled")).unwrap();
    copy_dir(&old.path().join("sled"), &filled.path().join("sled"));
    let why = filled.assert_refused();
    assert!(matches!(why, Refusal::TailLost { .. }), "{why}");
}

#[test]
fn log_and_witness_of_two_histories_are_refused() {
    let (one, other) = (Filled::closed(), Filled::closed());
    fs::copy(other.path().join("witness"), one.path().join("witness")).unwrap();
    let why = one.assert_refused();
    assert!(matches!(why, Refusal::Mismatch(_)), "{why}");
}

#[test]
fn branched_histories_are_refused_even_of_one_cluster() {
    let filled = Filled::closed();
    let branch = filled.copy();
    for dir in [filled.path(), branch.path()] {
        let (log, _) = open_sled(dir).unwrap();
        Box::new(log).close().unwrap();
    }
    fs::copy(branch.path().join("witness"), filled.path().join("witness")).unwrap();
    let why = filled.assert_refused();
    assert!(matches!(why, Refusal::Mismatch(_)), "{why}");
}

#[test]
fn restored_directory_opens_but_does_not_know_later_lives() {
    let filled = Filled::closed();
    let backup = filled.copy();
    let (log, lost) = open_sled(filled.path()).unwrap();
    Box::new(log).close().unwrap();
    let (mut log, restored) = open_sled(backup.path()).unwrap();
    assert_eq!(contents(&mut log), filled.values);
    // The epoch comes back; what was begun in it by the later life is still a stranger's.
    assert_eq!(restored.epoch, lost.epoch);
    assert!(!restored.lives.contains(born_in(&lost)));
    assert!(restored.lives.contains(born_in(&restored)));
    assert!(restored.lives.contains(born_in(&filled.opened)));
}

/// A data directory with a life behind it: some values, short and long, some removed.
struct Filled {
    dir: TempDir,
    opened: Opened,
    values: BTreeMap<TxId, Vec<u8>>,
}

impl Filled {
    /// After a clean end.
    fn closed() -> Filled {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, opened) = open_sled(dir.path()).unwrap();
        for n in 0..60_u64 {
            let value = vec![n.to_le_bytes()[0]; if n % 20 == 0 { 9_000 } else { 150 }];
            log.append_batch(opened.epoch, &[put(n, &value[..100])], Durability::Lazy).unwrap();
            log.append_batch(opened.epoch, &[put(n, &value), remove(n / 3)], Durability::Forced).unwrap();
        }
        let values = contents(&mut log);
        assert!(values.values().any(|value| value.len() == 9_000));
        Box::new(log).close().unwrap();
        Filled { dir, opened, values }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(self.path(), copy.path());
        copy
    }

    fn assert_refused(&self) -> Refusal {
        match open_sled(self.path()) {
            Err(OpenError::Refused { dir, why }) => {
                assert_eq!(dir, self.path());
                why
            }
            Err(error) => panic!("another error: {error}"),
            Ok(_) => panic!("it opened"),
        }
    }
}

fn born_in(life: &Opened) -> TxId {
    TxId::new(0, 0, life.epoch, Shard(0), life.life_tag)
}
