//! What is read of a log that no daemon takes.

use super::*;

#[test]
fn groups_around_a_gap_are_read_and_the_gap_is_told() {
    let dir = longer();
    tamper(&dir, |log| drop(log.medium.db.remove(Key { group: 5, chunk: 0 }.encode()).unwrap()));
    let survey = Survey::take(dir.path()).unwrap();
    let gap = Damage::Missing { group: 5, chunk: 0 };
    assert_eq!(survey.refusal, Some(Refusal::Damaged(gap.clone())));
    assert_eq!(survey.damage, [gap]);
    // Group 5 had the value of transaction 12, and group 6 that of 13.
    let mut expected = longer_state();
    expected.remove(&tx(12));
    assert!(survey.values == expected, "{:?}", survey.values.keys());
    assert!(survey.passed_over.is_empty());
}

#[test]
fn group_with_a_flipped_bit_is_left_out_and_named() {
    let dir = longer();
    let key = Key { group: 2, chunk: 1 };
    tamper(&dir, |log| {
        let mut frame = frame(log, key);
        frame[1_000] ^= 4;
        log.medium.db.insert(key.encode(), frame).unwrap();
    });
    let survey = Survey::take(dir.path()).unwrap();
    assert_eq!(survey.damage[0], Damage::Checksum("part 1 of group 2".to_owned()));
    let expected: BTreeMap<_, _> =
        longer_state().into_iter().filter(|(id, _)| (10..20).map(tx).any(|tx| tx == *id)).collect();
    assert!(survey.values == expected, "{:?}", survey.values.keys());
}

#[test]
fn groups_of_another_history_are_not_taken() {
    let dir = longer();
    tamper(&dir, |log| {
        let content = scan::content(&log.medium, 5).unwrap();
        let header = group::open(&content).unwrap().0;
        replace(log, 5, Header { previous: header.previous ^ 1, ..header });
    });
    let survey = Survey::take(dir.path()).unwrap();
    assert!(survey.damage.contains(&Damage::Chain { group: 5 }), "{:?}", survey.damage);
    assert!(survey.values.contains_key(&tx(11)) && !survey.values.contains_key(&tx(12)));
    assert!(survey.passed_over.contains(&tx(13)));
    assert_eq!(survey.groups, Some((1, 4)));
}

#[test]
fn lost_beginning_is_told() {
    let dir = longer();
    tamper(&dir, |log| drop(log.medium.db.remove(Key { group: 1, chunk: 0 }.encode()).unwrap()));
    let survey = Survey::take(dir.path()).unwrap();
    assert_eq!(survey.damage, [Damage::Missing { group: 1, chunk: 0 }]);
    assert!(survey.values == longer_state());
}

#[test]
fn keys_of_any_length_are_told_and_passed() {
    let strange =
        [&[][..], &[1, 2, 255], &[b'g', 0, 0], b"z", &[&FILLED.encode()[..], &[0]].concat(), &[255; 20]]
            .map(<[u8]>::to_vec);
    for key in strange {
        let dir = longer();
        tamper(&dir, |log| drop(log.medium.db.insert(&key[..], vec![0; 20]).unwrap()));
        let survey = Survey::take(dir.path()).unwrap();
        assert!(survey.damage.iter().any(|damage| matches!(damage, Damage::UnknownKey(_))), "{key:?}");
        assert!(survey.values == longer_state(), "{key:?}: {:?}", survey.damage);
    }
}

#[test]
fn groups_right_behind_what_the_engine_cannot_read_are_read() {
    let dir = longer();
    let mut frames = BTreeMap::new();
    tamper(&dir, |log| {
        for entry in log.medium.range(..) {
            let (key, frame) = entry.unwrap();
            frames.insert(RawKey::try_from(&key[..]).unwrap(), frame.to_vec());
        }
    });
    let salvaged = salvage::salvage(&Unreadable { frames, groups: [2, 3] });
    assert!((11..15).all(|n| salvaged.values.contains_key(&tx(n))), "{:?}", salvaged.damage);
}

/// A disk on which some groups cannot be read.
#[derive(Debug)]
struct Unreadable {
    frames: BTreeMap<RawKey, Vec<u8>>,
    groups: [u64; 2],
}

impl Medium for Unreadable {
    type Bytes = Vec<u8>;
    type Witness = File;

    fn dir(&self) -> &Path {
        Path::new("")
    }

    fn insert(&self, _: RawKey, _: Vec<u8>) -> io::Result<()> {
        unreachable!("it is only read")
    }

    fn remove(&self, _: RawKey) -> io::Result<()> {
        unreachable!("it is only read")
    }

    fn get(&self, key: RawKey) -> io::Result<Option<Vec<u8>>> {
        Ok(self.frames.get(&key).cloned())
    }

    fn last(&self) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        Ok(self.frames.iter().next_back().map(|(key, frame)| (key.to_vec(), frame.clone())))
    }

    fn range(
        &self,
        keys: impl std::ops::RangeBounds<RawKey>,
    ) -> impl Iterator<Item = io::Result<(Vec<u8>, Vec<u8>)>> {
        self.frames.range(keys).map(|(key, frame)| {
            let group = Key::decode(key).unwrap().group;
            if self.groups.contains(&group) {
                return Err(io::Error::other("a bad page"));
            }
            Ok((key.to_vec(), frame.clone()))
        })
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn log_of_another_format_is_not_read_for_want_of_a_witness() {
    for witness in [None, Some(vec![0; 5000])] {
        let dir = longer();
        tamper(&dir, |log| {
            let mut frame = frame(log, FILLED);
            frame[0] = 9;
            log.medium.db.insert(FILLED.encode(), frame).unwrap();
        });
        match witness {
            None => fs::remove_file(dir.path().join("witness")).unwrap(),
            Some(bytes) => fs::write(dir.path().join("witness"), bytes).unwrap(),
        }
        let error = Survey::take(dir.path()).unwrap_err();
        assert!(matches!(error, OpenError::OtherVersion { found: 9, supported: 2, .. }), "{error}");
    }
}

/// A log whose third group begins its second life, and the groups from 4 on have a transaction each, from 11 on.
fn longer() -> TempDir {
    let dir = filled();
    let (mut log, opened) = open(&dir).unwrap();
    for n in 11..15 {
        log.append_batch(opened.epoch, &[put(n, 50)], Durability::Forced).unwrap();
    }
    Box::new(log).close().unwrap();
    dir
}

fn longer_state() -> BTreeMap<TxId, Vec<u8>> {
    let writes: Vec<_> = (11..15).map(|n| put(n, 50)).collect();
    state(initial(), &writes)
}
