//! Reading of a damaged log what can be read.
//!
//! Every group that is whole is taken, in order, over gaps too. What it says is true whatever else is lost: a value is a
//! transaction's history, and a later one only adds to it. Where two groups follow each other and the later does not bear the
//! checksum of the former, the log is not of one history, and nothing from there on is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use uuid::Uuid;

use super::group::{self, Entry, Key};
use super::medium::{Medium, RawKey};
use super::scan::without_panic;
use crate::core::TxId;
use crate::store::{Damage, Lives};

/// What can be read, and what cannot.
#[derive(Debug, Default)]
pub struct Salvaged {
    pub cluster: Option<Uuid>,
    pub lives: Lives,
    pub values: BTreeMap<TxId, Vec<u8>>,
    /// Transactions of which something is in groups that were not taken.
    pub passed_over: BTreeSet<TxId>,
    /// The first and the last group that were taken.
    pub groups: Option<(u64, u64)>,
    pub bytes: u64,
    pub damage: Vec<Damage>,
}

/// Reads all that the engine gives.
pub fn salvage(medium: &impl Medium) -> Salvaged {
    let mut reader = Reader::default();
    let mut at = Position::default();
    loop {
        match without_panic(|| next(medium, at.after)) {
            Ok(None) => break,
            Ok(Some((key, frame))) => {
                reader.frame(&key, &frame);
                let Some(after) = past(&key) else { break };
                at = Position { after, failures: 0, ..at };
                if let Ok(key) = Key::decode(&key) {
                    at.group = key.group;
                }
            }
            Err(damage) => {
                reader.damaged(damage);
                if !at.jump_on() {
                    break;
                }
            }
        }
    }
    reader.finish()
}

/// Where the reading is. The engine cannot get past a page that it cannot read, but it may find what is behind it.
#[derive(Clone, Copy)]
struct Position {
    after: Bound<RawKey>,
    group: u64,
    /// How often in a row nothing could be read.
    failures: u64,
}

/// So many groups are tried one by one. What is behind them is looked for further and further away.
const TRIED_ONE_BY_ONE: u64 = 4096;

impl Default for Position {
    fn default() -> Position {
        Position { after: Bound::Unbounded, group: 0, failures: 0 }
    }
}

impl Position {
    fn jump_on(&mut self) -> bool {
        self.failures += 1;
        let beyond = self.failures.saturating_sub(TRIED_ONE_BY_ONE);
        if beyond > 40 {
            return false;
        }
        let near = self.failures.min(TRIED_ONE_BY_ONE);
        let far = if beyond > 0 { 1 << beyond } else { 0 };
        let Some(group) = self.group.checked_add(near + far) else { return false };
        self.after = Bound::Included(Key { group, chunk: 0 }.encode());
        true
    }
}

type Found = Option<(Vec<u8>, Vec<u8>)>;

fn next(medium: &impl Medium, after: Bound<RawKey>) -> Result<Found, Damage> {
    let found = medium.range((after, Bound::Unbounded)).next().transpose()?;
    Ok(found.map(|(key, frame)| (key.as_ref().to_vec(), frame.as_ref().to_vec())))
}

/// Where to go on behind a key, which may be of any length; `None` where nothing can follow.
fn past(key: &[u8]) -> Option<Bound<RawKey>> {
    let mut raw = RawKey::default();
    let kept = key.len().min(raw.len());
    raw[..kept].copy_from_slice(&key[..kept]);
    if key.len() == raw.len() {
        return Some(Bound::Excluded(raw));
    }
    if key.len() > raw.len() {
        // Behind all that begin like this one.
        let last = raw.iter().rposition(|byte| *byte != u8::MAX)?;
        raw[last] += 1;
        raw[last + 1..].fill(0);
    }
    Some(Bound::Included(raw))
}

/// Puts groups together.
#[derive(Default)]
struct Reader {
    out: Salvaged,
    group: Option<Part>,
    /// The number and the checksum of the last group that was taken.
    last: Option<(u64, u32)>,
    /// The first group that counts, as the last one says.
    oldest: u64,
    /// From here on it is another history.
    strayed: bool,
}

/// A group, as far as it was read.
struct Part {
    group: u64,
    chunks: u32,
    next: u32,
    sum: u32,
    content: Vec<u8>,
    sound: bool,
}

impl Reader {
    fn damaged(&mut self, damage: Damage) {
        if self.out.damage.last() != Some(&damage) {
            self.out.damage.push(damage);
        }
    }

    fn frame(&mut self, key: &[u8], frame: &[u8]) {
        let key = match Key::decode(key) {
            Ok(key) => key,
            Err(damage) => return self.damaged(damage),
        };
        if self.group.as_ref().is_none_or(|part| part.group != key.group) {
            self.end_group();
            let part =
                Part { group: key.group, chunks: 0, next: 0, sum: 0, content: Vec::new(), sound: true };
            self.group = Some(part);
        }
        let Some(part) = &mut self.group else { return };
        match key.unseal(frame) {
            Ok(frame) if key.chunk == part.next => {
                part.content.extend_from_slice(frame.body);
                (part.chunks, part.sum, part.next) = (frame.chunks, frame.sum, part.next + 1);
            }
            // Of the oldest group a part may have been removed already.
            Ok(_) if self.last.is_none() && part.next == 0 => part.sound = false,
            Ok(_) if part.sound => {
                part.sound = false;
                let damage = Damage::Missing { group: part.group, chunk: part.next };
                self.damaged(damage);
            }
            Ok(_) => {}
            Err(damage) => {
                part.sound = false;
                self.damaged(damage);
            }
        }
    }

    fn end_group(&mut self) {
        let Some(part) = self.group.take().filter(|part| part.sound) else { return };
        let number = part.group;
        if part.next < part.chunks {
            return self.damaged(Damage::Missing { group: number, chunk: part.next });
        }
        if crc32c::crc32c(&part.content) != part.sum {
            return self.damaged(Damage::Checksum(format!("group {number}")));
        }
        let opened = group::open(&part.content);
        let Some((header, entries)) =
            opened.and_then(|(header, entries)| Some((header, entries.collect::<Option<Vec<_>>>()?)))
        else {
            return self.damaged(Damage::Content { group: number });
        };
        if let Some((last, sum)) = self.last {
            if last + 1 < number {
                self.damaged(Damage::Missing { group: last + 1, chunk: 0 });
            } else if header.previous != sum {
                self.strayed = true;
            }
        }
        self.strayed |= self.out.cluster.is_some_and(|cluster| cluster != header.cluster);
        if self.strayed {
            self.out.passed_over.extend(entries.iter().filter_map(|entry| match entry {
                Entry::Put { tx, .. } | Entry::Remove { tx } => Some(*tx),
                Entry::Life { .. } => None,
            }));
            return self.damaged(Damage::Chain { group: number });
        }
        self.out.cluster = Some(header.cluster);
        (self.last, self.oldest) = (Some((number, part.sum)), header.oldest);
        self.out.groups = Some((self.out.groups.map_or(number, |(first, _)| first), number));
        self.out.bytes += part.content.len() as u64;
        for entry in entries {
            match entry {
                Entry::Put { tx, value } => drop(self.out.values.insert(tx, value.to_vec())),
                Entry::Remove { tx } => drop(self.out.values.remove(&tx)),
                Entry::Life { epoch, tag } => self.out.lives.insert(epoch, tag),
            }
        }
    }

    fn finish(mut self) -> Salvaged {
        // Of the last group a part may never have been written. Whether that is damage, the witness knows.
        if self.group.as_ref().is_some_and(|part| part.sound && part.next < part.chunks) {
            self.group = None;
        }
        self.end_group();
        if let Some((first, _)) = self.out.groups.filter(|(first, _)| *first > self.oldest) {
            debug_assert!(first > 0, "groups are numbered from 1");
            let damage = Damage::Missing { group: self.oldest, chunk: 0 };
            self.damaged(damage);
        }
        self.out
    }
}
