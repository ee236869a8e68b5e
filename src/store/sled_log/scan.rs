//! Reading all of the database, and believing none of it unchecked.

use std::io;
use std::ops::RangeBounds;
use std::panic::{AssertUnwindSafe, catch_unwind};

use uuid::Uuid;

use super::group::{self, Entry, Frame, Key};
use super::ledger::Ledger;
use super::medium::{Medium, RawKey};
use crate::core::{Map, TxId};
use crate::store::writer::panic_text;
use crate::store::{Damage, Lives};

/// The values of a log.
pub type Values = Map<TxId, Vec<u8>>;

/// What a full reading found.
#[derive(Debug)]
pub struct Scan {
    /// The last whole group; 0: there is none.
    pub newest: u64,
    /// Its checksum.
    pub sum: u32,
    /// The checksum of the group that was asked for, if it counts.
    pub asked: Option<u32>,
    pub cluster: Option<Uuid>,
    pub lives: Lives,
    pub ledger: Ledger,
    pub values: Values,
    /// Frames of groups that do not count any more.
    pub stale: Vec<Key>,
    /// Frames of a group that was cut off.
    pub torn: Vec<Key>,
}

/// Checks every frame and the chain of groups, and puts every value together. `ask` is a group whose checksum is wanted.
pub fn scan(medium: &impl Medium, ask: u64) -> Result<Scan, Damage> {
    let (newest, oldest) = match newest_whole(medium)? {
        0 => (0, 1),
        newest => {
            let content = content(medium, newest)?;
            let header = group::open(&content).map(|(header, _)| header);
            let sound = header.filter(|header| (1..=newest).contains(&header.oldest));
            (newest, sound.ok_or(Damage::Content { group: newest })?.oldest)
        }
    };
    let [from, to] = [oldest, newest + 1].map(|group| Key { group, chunk: 0 }.encode());
    let mut reader = Reader::new(oldest, ask);
    for entry in medium.range(from..to) {
        let (key, frame) = entry?;
        let key = Key::decode(key.as_ref())?;
        reader.read(key, key.unseal(frame.as_ref())?)?;
    }
    let mut scan = reader.finish(newest)?;
    scan.stale = keys(medium, ..from)?;
    scan.torn = keys(medium, to..)?;
    Ok(scan)
}

/// The content of one whole group.
pub fn content(medium: &impl Medium, group: u64) -> Result<Vec<u8>, Damage> {
    let mut content = Vec::new();
    for chunk in 0.. {
        let key = Key { group, chunk };
        let frame = medium.get(key.encode())?.ok_or(Damage::Missing { group, chunk })?;
        let frame = key.unseal(frame.as_ref())?;
        content.extend_from_slice(frame.body);
        if chunk + 1 == frame.chunks {
            break;
        }
    }
    Ok(content)
}

/// sled panics on some damage that it comes across.
pub fn without_panic<T, E: From<Damage>>(read: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|panic| Err(Damage::Engine(panic_text(&*panic)).into()))
}

/// The last group, unless it was cut off: then the one before. The frames of a group are written in order.
fn newest_whole(medium: &impl Medium) -> Result<u64, Damage> {
    let Some((key, frame)) = medium.last()? else { return Ok(0) };
    let key = Key::decode(key.as_ref())?;
    let whole = key.unseal(frame.as_ref())?.chunks == key.chunk + 1;
    Ok(if whole { key.group } else { key.group.saturating_sub(1) })
}

fn keys(medium: &impl Medium, range: impl RangeBounds<RawKey>) -> Result<Vec<Key>, Damage> {
    medium.range(range).map(|entry| Key::decode(entry?.0.as_ref())).collect()
}

struct Reader {
    scan: Scan,
    ask: u64,
    /// The frame that has to come next.
    next: Key,
    /// The content of its group so far.
    content: Vec<u8>,
}

impl Reader {
    fn new(oldest: u64, ask: u64) -> Reader {
        let scan = Scan {
            newest: oldest - 1,
            sum: 0,
            asked: None,
            cluster: None,
            lives: Lives::default(),
            ledger: Ledger::new(oldest),
            values: Values::default(),
            stale: Vec::new(),
            torn: Vec::new(),
        };
        Reader { scan, ask, next: Key { group: oldest, chunk: 0 }, content: Vec::new() }
    }

    fn read(&mut self, key: Key, frame: Frame<'_>) -> Result<(), Damage> {
        if key != self.next {
            return Err(Damage::Missing { group: self.next.group, chunk: self.next.chunk });
        }
        self.content.extend_from_slice(frame.body);
        if key.chunk + 1 < frame.chunks {
            self.next.chunk += 1;
            return Ok(());
        }
        let content = std::mem::take(&mut self.content);
        if crc32c::crc32c(&content) != frame.sum {
            return Err(Damage::Checksum(format!("group {}", key.group)));
        }
        self.take(key.group, &content)?;
        self.scan.ledger.end(frame.chunks, &content);
        (self.scan.newest, self.scan.sum) = (key.group, frame.sum);
        if key.group == self.ask {
            self.scan.asked = Some(frame.sum);
        }
        self.next = Key { group: key.group + 1, chunk: 0 };
        self.content = content;
        self.content.clear();
        Ok(())
    }

    fn take(&mut self, group: u64, content: &[u8]) -> Result<(), Damage> {
        let malformed = || Damage::Content { group };
        let (header, entries) = group::open(content).ok_or_else(malformed)?;
        let scan = &mut self.scan;
        let first = scan.cluster.is_none();
        if !first && (header.previous != scan.sum || scan.cluster != Some(header.cluster)) {
            return Err(Damage::Chain { group });
        }
        scan.cluster = Some(header.cluster);
        scan.ledger.begin();
        for entry in entries {
            let entry = entry.ok_or_else(malformed)?;
            scan.ledger.record(&entry);
            match entry {
                Entry::Put { tx, value } => drop(scan.values.insert(tx, value.to_vec())),
                Entry::Remove { tx } => drop(scan.values.remove(&tx)),
                Entry::Life { epoch, tag } => scan.lives.insert(epoch, tag),
            }
        }
        Ok(())
    }

    fn finish(self, newest: u64) -> Result<Scan, Damage> {
        if self.next != (Key { group: newest + 1, chunk: 0 }) {
            return Err(Damage::Missing { group: self.next.group, chunk: self.next.chunk });
        }
        Ok(self.scan)
    }
}

impl From<io::Error> for Damage {
    fn from(error: io::Error) -> Damage {
        Damage::Engine(error.to_string())
    }
}
