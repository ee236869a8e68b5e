//! What a damaged, lost, swapped or foreign data directory leads to: exactly what was there, or a refusal.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use assent::core::{Epoch, Shard, TxId};
use assent::store::{DecisionLog, Durability, OpenError, Opened, Refusal};
use tempfile::TempDir;
use uuid::Uuid;

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

#[test]
fn truncated_log_is_refused_or_whole() {
    let filled = Filled::closed();
    let db = filled.path().join("sled/db");
    let length = fs::metadata(&db).unwrap().len();
    let mut refused = 0;
    for part in 0..40 {
        let copy = filled.copy();
        File::options()
            .write(true)
            .open(copy.path().join("sled/db"))
            .unwrap()
            .set_len(length * part / 40)
            .unwrap();
        refused += u32::from(filled.exact_or_refused(copy.path(), &format!("cut to {part}/40")));
    }
    assert!(refused >= 20, "only {refused} of 40");
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
    assert!(!filled.exact_or_refused(copy.path(), "one copy damaged"));
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

#[test]
fn flipped_bit_in_a_closed_log_is_refused_or_harmless() {
    flip_bits(&Filled::closed());
}

#[test]
fn flipped_bit_in_a_crashed_log_is_refused_or_harmless() {
    flip_bits(&Filled::crashed());
}

fn flip_bits(filled: &Filled) {
    const FLIPS: usize = 250;
    let places = used_bytes(filled.path());
    let mut refused = 0;
    for flip in 0..FLIPS {
        let (file, at) = &places[flip * (places.len() - 1) / FLIPS];
        let copy = filled.copy();
        let path = copy.path().join(file);
        let handle = File::options().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        handle.read_exact_at(&mut byte, *at).unwrap();
        handle.write_all_at(&[byte[0] ^ 1 << (flip % 8)], *at).unwrap();
        refused += u32::from(filled.exact_or_refused(copy.path(), &format!("{file} flipped at {at}")));
    }
    assert!(refused > 10, "only {refused} of {FLIPS} were refused: the flips hit nothing");
}

/// Every byte of the directory that holds something, by file.
fn used_bytes(dir: &Path) -> Vec<(String, u64)> {
    let mut places = Vec::new();
    let sled = fs::read_dir(dir.join("sled")).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<String> = sled
        .filter(|entry| entry.path().is_file())
        .map(|entry| format!("sled/{}", entry.file_name().to_str().unwrap()))
        .collect();
    files.push("witness".to_owned());
    files.sort();
    for file in files {
        let bytes = fs::read(dir.join(&file)).unwrap();
        places.extend((0..).zip(bytes).filter(|(_, byte)| *byte != 0).map(|(at, _)| (file.clone(), at)));
    }
    places
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
        Filled::new(|_| {})
    }

    /// As a kill leaves it right after an acknowledged write.
    fn crashed() -> Filled {
        let copy = tempfile::tempdir().unwrap();
        let filled = Filled::new(|dir| copy_dir(dir, copy.path()));
        Filled { dir: copy, ..filled }
    }

    fn new(before_close: impl FnOnce(&Path)) -> Filled {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, opened) = open_sled(dir.path()).unwrap();
        for n in 0..60_u64 {
            let value = vec![n.to_le_bytes()[0]; if n % 20 == 0 { 9_000 } else { 150 }];
            log.append_batch(opened.epoch, &[put(n, &value[..100])], Durability::Lazy).unwrap();
            log.append_batch(opened.epoch, &[put(n, &value), remove(n / 3)], Durability::Forced).unwrap();
        }
        let values = contents(&mut log);
        assert!(values.values().any(|value| value.len() == 9_000));
        before_close(dir.path());
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

    /// Whether opening the directory is refused; where it is not, all must be there and nothing else. Another process tries,
    /// as a daemon would: on some damage sled takes its process down, and that is a refusal, too.
    fn exact_or_refused(&self, dir: &Path, what: &str) -> bool {
        let born = born_in(&self.opened);
        let output = Command::new(env::current_exe().unwrap())
            .args(["--exact", "damage::what_another_process_finds", "--nocapture"])
            .env(DIR, dir)
            .env(BORN, born.to_string())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let Some(found) = said.lines().find(|line| line.starts_with(FOUND)) else { return true };
        let expected = found_line(self.opened.cluster, Epoch(2), true, &self.values);
        assert_eq!(found, expected, "{what}: opened as something else");
        false
    }
}

const DIR: &str = "ASSENT_TEST_DAMAGED_DIR";
const BORN: &str = "ASSENT_TEST_DAMAGED_BORN";
const FOUND: &str = "found: ";

/// Opens the directory that it is told, and says what is in it; says nothing where that is refused.
#[test]
#[expect(clippy::print_stdout, reason = "the other process listens to it")]
fn what_another_process_finds() {
    let Some(dir) = env::var_os(DIR) else { return };
    let born = env::var(BORN).unwrap().parse().unwrap();
    if let Ok((mut log, opened)) = open_sled(Path::new(&dir)) {
        let values = contents(&mut log);
        let line = found_line(opened.cluster, opened.epoch, opened.lives.contains(born), &values);
        println!("\n{line}");
    }
}

fn found_line(cluster: Uuid, epoch: Epoch, knows: bool, values: &BTreeMap<TxId, Vec<u8>>) -> String {
    let mut hasher = DefaultHasher::new();
    values.hash(&mut hasher);
    let hash = hasher.finish();
    format!("{FOUND}cluster {cluster}, {epoch:?}, knows the life: {knows}, {} values {hash:x}", values.len())
}

fn born_in(life: &Opened) -> TxId {
    TxId::new(0, 0, life.epoch, Shard(0), life.life_tag)
}
