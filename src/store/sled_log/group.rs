//! How a group of writes lies in the database.
//!
//! ```text
//! key      'g' group:8 chunk:4
//! frame    version:1 crc32c:4 chunks:4 sum:4 body
//! content  cluster:16 previous:4 oldest:8 entry*
//! entry    1 id:16 length:4 value      a transaction's value
//!          2 id:16                     it has none any more
//!          3 epoch:4 tag:4             a life of the log
//! ```
//!
//! The content of a group is cut into the bodies of its frames, `chunks` of them. `sum` is the checksum of the whole content,
//! and `previous` that of the group before, so the groups are a chain. `oldest` is the first group that still counts.
//! Numbers in keys are big-endian, so that keys sort as what they name; others are little-endian. The checksum of a frame
//! covers its key too: one that turns up under another key is found out.

use std::fmt;

use uuid::Uuid;

use crate::core::{Epoch, TxId};
use crate::store::Damage;

/// What all of this looks like. A change that another program would misread takes the next.
pub const FORMAT_VERSION: u8 = 2;

/// sled keeps up to 16 frames on a page, for a moment 19, and writes a page over 128 KiB to a file that it never syncs.
pub const FRAME_BYTES_MAX: usize = 6 << 10;

/// What a frame has besides its body.
pub const FRAME_HEADER_BYTES: usize = 1 + 4 + 4 + 4;

/// The most that a body can have.
pub const BODY_BYTES_MAX: usize = FRAME_BYTES_MAX - FRAME_HEADER_BYTES;

/// How much room is kept from one group for the next.
const KEPT_BYTES_MAX: usize = 1 << 20;

const PUT: u8 = 1;
const REMOVE: u8 = 2;
const LIFE: u8 = 3;

const OLDEST_AT: usize = 16 + 4;
const HEADER_BYTES: usize = OLDEST_AT + 8;

/// Where a frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub group: u64,
    pub chunk: u32,
}

/// A frame that was opened.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub chunks: u32,
    pub sum: u32,
    pub body: &'a [u8],
}

/// What a group says before its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub cluster: Uuid,
    /// The checksum of the group before; of the first, 0.
    pub previous: u32,
    /// The first group that counts.
    pub oldest: u64,
}

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    Put { tx: TxId, value: &'a [u8] },
    Remove { tx: TxId },
    Life { epoch: Epoch, tag: u32 },
}

/// The content of a group, while it is made.
#[derive(Debug, Default)]
pub struct Content(Vec<u8>);

impl Key {
    pub fn encode(self) -> [u8; 13] {
        let mut key = [b'g'; 13];
        key[1..9].copy_from_slice(&self.group.to_be_bytes());
        key[9..].copy_from_slice(&self.chunk.to_be_bytes());
        key
    }

    pub fn decode(key: &[u8]) -> Result<Key, Damage> {
        let unknown = || Damage::UnknownKey(format!("the key {key:02x?}"));
        let (b'g', number) = key.split_first().ok_or_else(unknown)? else { return Err(unknown()) };
        let (group, chunk) = number.split_first_chunk().ok_or_else(unknown)?;
        let chunk = chunk.try_into().map_err(|_| unknown())?;
        let key = Key { group: u64::from_be_bytes(*group), chunk: u32::from_be_bytes(chunk) };
        // Each has a next one: nobody writes as many.
        if key.group == u64::MAX || key.chunk == u32::MAX { Err(unknown()) } else { Ok(key) }
    }

    /// Puts a part of a group's content into a frame that belongs here.
    fn seal(self, chunks: u32, sum: u32, body: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(FRAME_HEADER_BYTES + body.len());
        frame.push(FORMAT_VERSION);
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(&chunks.to_le_bytes());
        frame.extend_from_slice(&sum.to_le_bytes());
        frame.extend_from_slice(body);
        let crc = self.checksum(&frame);
        frame[1..5].copy_from_slice(&crc.to_le_bytes());
        frame
    }

    /// Checks a frame found here, and takes the body out.
    pub fn unseal(self, frame: &[u8]) -> Result<Frame<'_>, Damage> {
        // The version comes first: another one may do all the rest differently.
        match frame.first() {
            Some(&found) if found != FORMAT_VERSION && found != 0 => {
                return Err(Damage::OtherVersion { found: found.into(), supported: FORMAT_VERSION.into() });
            }
            Some(&FORMAT_VERSION) if frame.len() >= FRAME_HEADER_BYTES => {}
            _ => return Err(Damage::Checksum(self.to_string())),
        }
        if u32_at(frame, 1) != self.checksum(frame) {
            return Err(Damage::Checksum(self.to_string()));
        }
        let body = &frame[FRAME_HEADER_BYTES..];
        Ok(Frame { chunks: u32_at(frame, 5), sum: u32_at(frame, 9), body })
    }

    fn checksum(self, frame: &[u8]) -> u32 {
        let crc = crc32c::crc32c(&self.encode());
        let crc = crc32c::crc32c_append(crc, &frame[..1]);
        crc32c::crc32c_append(crc, &frame[5..])
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "part {} of group {}", self.chunk, self.group)
    }
}

impl Entry<'_> {
    /// How many it takes.
    pub fn bytes(&self) -> u64 {
        match self {
            Entry::Put { value, .. } => (1 + 16 + 4 + value.len()) as u64,
            Entry::Remove { .. } => 1 + 16,
            Entry::Life { .. } => 1 + 4 + 4,
        }
    }
}

impl Content {
    /// Begins anew.
    pub fn begin(&mut self, header: Header) {
        self.0.clear();
        self.0.shrink_to(KEPT_BYTES_MAX);
        self.0.extend_from_slice(header.cluster.as_bytes());
        self.0.extend_from_slice(&header.previous.to_le_bytes());
        self.0.extend_from_slice(&header.oldest.to_le_bytes());
    }

    pub fn set_oldest(&mut self, oldest: u64) {
        self.0[OLDEST_AT..HEADER_BYTES].copy_from_slice(&oldest.to_le_bytes());
    }

    pub fn push(&mut self, entry: &Entry<'_>) {
        match entry {
            Entry::Put { tx, value } => {
                let length = u32::try_from(value.len()).expect("at most 64 MiB");
                self.0.push(PUT);
                self.0.extend_from_slice(&tx.to_bytes());
                self.0.extend_from_slice(&length.to_le_bytes());
                self.0.extend_from_slice(value);
            }
            Entry::Remove { tx } => {
                self.0.push(REMOVE);
                self.0.extend_from_slice(&tx.to_bytes());
            }
            Entry::Life { epoch, tag } => {
                self.0.push(LIFE);
                self.0.extend_from_slice(&epoch.0.to_le_bytes());
                self.0.extend_from_slice(&tag.to_le_bytes());
            }
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn sum(&self) -> u32 {
        crc32c::crc32c(&self.0)
    }

    /// The frames that hold it, as those of `group`. `sum` is its checksum.
    pub fn frames(&self, group: u64, sum: u32) -> impl Iterator<Item = (Key, Vec<u8>)> + '_ {
        let chunks = u32::try_from(self.0.len().div_ceil(BODY_BYTES_MAX)).expect("a group fits in memory");
        let keys = (0..chunks).map(move |chunk| Key { group, chunk });
        keys.zip(self.0.chunks(BODY_BYTES_MAX)).map(move |(key, body)| (key, key.seal(chunks, sum, body)))
    }
}

/// Takes a whole content apart. Its checksum was right, so what is not understood is our own mistake.
pub fn open(content: &[u8]) -> Option<(Header, Entries<'_>)> {
    let (header, entries) = content.split_at_checked(HEADER_BYTES)?;
    let cluster = Uuid::from_slice(&header[..16]).ok()?;
    let header = Header { cluster, previous: u32_at(header, 16), oldest: u64_at(header, OLDEST_AT) };
    Some((header, Entries(entries)))
}

/// The writes of a group. `None` within: not understood.
#[derive(Clone, Debug)]
pub struct Entries<'a>(&'a [u8]);

impl<'a> Iterator for Entries<'a> {
    type Item = Option<Entry<'a>>;

    fn next(&mut self) -> Option<Option<Entry<'a>>> {
        if self.0.is_empty() {
            return None;
        }
        let entry = self.take();
        if entry.is_none() {
            self.0 = &[];
        }
        Some(entry)
    }
}

impl<'a> Entries<'a> {
    fn take(&mut self) -> Option<Entry<'a>> {
        let (&kind, rest) = self.0.split_first()?;
        let (entry, rest) = match kind {
            LIFE => {
                let (life, rest) = rest.split_at_checked(8)?;
                (Entry::Life { epoch: Epoch(u32_at(life, 0)), tag: u32_at(life, 4) }, rest)
            }
            PUT | REMOVE => {
                let (tx, rest) = rest.split_first_chunk()?;
                let tx = TxId::from_bytes(*tx)?;
                if kind == REMOVE {
                    (Entry::Remove { tx }, rest)
                } else {
                    let (length, rest) = rest.split_at_checked(4)?;
                    let (value, rest) = rest.split_at_checked(u32_at(length, 0) as usize)?;
                    (Entry::Put { tx, value }, rest)
                }
            }
            _unknown => return None,
        };
        self.0 = rest;
        Some(entry)
    }
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Shard;

    #[test]
    fn groups_come_back_as_they_were() {
        let header = Header { cluster: Uuid::new_v4(), previous: 7, oldest: 3 };
        let tx = TxId::new(1, 0, Epoch(1), Shard(0), 0);
        for length in [0, 1, BODY_BYTES_MAX - 1, BODY_BYTES_MAX, 3 * BODY_BYTES_MAX, 1 << 20] {
            let value = vec![7; length];
            let entries = [
                Entry::Life { epoch: Epoch(9), tag: 4 },
                Entry::Put { tx, value: &value },
                Entry::Remove { tx },
            ];
            let mut content = Content::default();
            content.begin(Header { oldest: 0, ..header });
            content.set_oldest(3);
            for entry in &entries {
                let before = content.bytes().len() as u64;
                content.push(entry);
                assert_eq!(content.bytes().len() as u64 - before, entry.bytes());
            }
            let mut found = Vec::new();
            for (key, frame) in content.frames(5, content.sum()) {
                assert!(frame.len() <= FRAME_BYTES_MAX);
                assert_eq!(Key::decode(&key.encode()), Ok(key));
                let frame = key.unseal(&frame).unwrap();
                assert_eq!(frame.sum, content.sum());
                found.extend_from_slice(frame.body);
            }
            let (opened, found) = open(&found).unwrap();
            assert_eq!(opened, header);
            assert_eq!(found.collect::<Option<Vec<_>>>().unwrap(), entries, "{length}");
        }
    }

    #[test]
    fn keys_after_which_none_can_come_are_refused() {
        for key in [Key { group: u64::MAX, chunk: 0 }, Key { group: 1, chunk: u32::MAX }] {
            assert!(matches!(Key::decode(&key.encode()), Err(Damage::UnknownKey(_))), "{key}");
        }
    }

    #[test]
    fn other_contents_are_no_groups() {
        assert!(open(&[0; HEADER_BYTES - 1]).is_none());
        for entry in [&[4, 0][..], &[PUT], &[REMOVE; 16], &[LIFE, 0, 0], &[PUT; 30]] {
            let content = [&[0; HEADER_BYTES], entry].concat();
            assert_eq!(open(&content).unwrap().1.last(), Some(None), "{entry:?}");
        }
    }
}
