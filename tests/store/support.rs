//! What the store's tests share.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use assent::core::{Epoch, Shard, TxId};
use assent::store::{DecisionLog, LogWrite, OpenError, Opened, SledLog, SledOptions};
use bytes::Bytes;

pub fn tx(n: u64) -> TxId {
    TxId::new(1_700_000_000_000 + n, 0, Epoch(1), Shard(0), 0xfeed)
}

pub fn put(n: u64, value: &[u8]) -> LogWrite {
    put_id(tx(n), value)
}

pub fn put_id(tx: TxId, value: &[u8]) -> LogWrite {
    LogWrite::Put { tx, value: Bytes::copy_from_slice(value) }
}

pub fn remove(n: u64) -> LogWrite {
    LogWrite::Remove { tx: tx(n) }
}

/// What a log holds after these writes.
pub fn state_after(writes: impl Iterator<Item = LogWrite>) -> BTreeMap<TxId, Vec<u8>> {
    let mut state = BTreeMap::new();
    for write in writes {
        match write {
            LogWrite::Put { tx, value } => drop(state.insert(tx, value.to_vec())),
            LogWrite::Remove { tx } => drop(state.remove(&tx)),
        }
    }
    state
}

/// Everything in the log.
pub fn contents(log: &mut dyn DecisionLog) -> BTreeMap<TxId, Vec<u8>> {
    let mut values = BTreeMap::new();
    log.replay(&mut |tx, value| {
        assert!(values.insert(tx, value).is_none(), "{tx} came twice");
        Ok(())
    })
    .unwrap();
    values
}

/// Without ballast, which would only make copies slow.
pub fn open_sled(dir: &Path) -> Result<(SledLog, Opened), OpenError> {
    SledLog::open(dir, &SledOptions { ballast_bytes: 0, ..SledOptions::default() })
}

pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    // The witness first: it must not know of more than the log that is copied after it.
    let mut entries: Vec<_> = fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort_by_key(|path| path.is_dir());
    for path in entries {
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}
