//! How a thing lies in the database: keys, and the frame around every value.
//!
//! ```text
//! key of the cluster id      'c'
//! key of a life              'l' epoch:4
//! key of a transaction       't' id:16
//! key of a part of its value 't' id:16 part:2 slot:1
//! frame                      version:1 crc32c:4 group:8 body
//! ```
//!
//! Numbers in keys are big-endian, so that keys sort as what they name, and a transaction's parts come right after it.
//! All keys of a kind have one length, so no id can run into another. Numbers in frames are little-endian. The checksum
//! covers the key too: a value that turns up under another key is found out.

use std::fmt;

use crate::core::{Epoch, TxId};
use crate::store::Damage;

/// What the frames and bodies of this program look like. A change that an older program would misread takes the next.
pub const FORMAT_VERSION: u8 = 1;

/// sled keeps a page of up to 16 values together, and writes a page over 128 KiB to a file that it never syncs.
pub const FRAME_BYTES_MAX: usize = 4096;

/// The most that a body can have.
pub const BODY_BYTES_MAX: usize = FRAME_BYTES_MAX - HEADER_BYTES;

const HEADER_BYTES: usize = 1 + 4 + 8;

/// What a key of the database names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Cluster,
    Life(Epoch),
    /// A transaction's value, or where it is long, the list of its parts.
    Head(TxId),
    Part(PartKey),
}

/// A stretch of a long value. Each has two slots, so that a new one never overwrites what is still in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartKey {
    pub tx: TxId,
    pub number: u16,
    /// 0 or 1.
    pub slot: u8,
}

/// A frame that was opened.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The group of writes that it was written in.
    pub group: u64,
    pub body: &'a [u8],
}

impl Key {
    pub fn encode(self) -> Vec<u8> {
        match self {
            Key::Cluster => vec![b'c'],
            Key::Life(epoch) => [&[b'l'][..], &epoch.0.to_be_bytes()].concat(),
            Key::Head(tx) => [&[b't'][..], &tx.to_bytes()].concat(),
            Key::Part(PartKey { tx, number, slot }) => {
                [&[b't'][..], &tx.to_bytes(), &number.to_be_bytes(), &[slot]].concat()
            }
        }
    }

    pub fn decode(key: &[u8]) -> Option<Key> {
        match key.split_first()? {
            (b'c', []) => Some(Key::Cluster),
            (b'l', epoch) => Some(Key::Life(Epoch(u32::from_be_bytes(epoch.try_into().ok()?)))),
            (b't', rest) => {
                let (tx, part) = rest.split_first_chunk()?;
                let tx = TxId::from_bytes(*tx)?;
                match *part {
                    [] => Some(Key::Head(tx)),
                    [high, low, slot @ (0 | 1)] => {
                        Some(Key::Part(PartKey { tx, number: u16::from_be_bytes([high, low]), slot }))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Cluster => write!(f, "the cluster id"),
            Key::Life(epoch) => write!(f, "the record of epoch {}", epoch.0),
            Key::Head(tx) => write!(f, "the value of transaction {tx}"),
            Key::Part(part) => write!(f, "part {} of the value of transaction {}", part.number, part.tx),
        }
    }
}

/// Puts `body` into a frame that belongs under `key`.
pub fn seal(key: &[u8], group: u64, body: &[u8]) -> Vec<u8> {
    debug_assert!(body.len() <= BODY_BYTES_MAX, "a body of {} bytes", body.len());
    let mut frame = Vec::with_capacity(HEADER_BYTES + body.len());
    frame.push(FORMAT_VERSION);
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&group.to_le_bytes());
    frame.extend_from_slice(body);
    let crc = checksum(key, &frame);
    frame[1..5].copy_from_slice(&crc.to_le_bytes());
    frame
}

/// Checks a frame found under `key`, and takes the body out.
pub fn unseal<'a>(key: &[u8], frame: &'a [u8]) -> Result<Frame<'a>, Damage> {
    // The version comes first: a newer one may do all the rest differently.
    match frame.first() {
        Some(&found) if found > FORMAT_VERSION => {
            return Err(Damage::Newer { found: found.into(), supported: FORMAT_VERSION.into() });
        }
        Some(&FORMAT_VERSION) if frame.len() >= HEADER_BYTES => {}
        _ => return Err(Damage::Checksum(name(key))),
    }
    let (header, body) = frame.split_at(HEADER_BYTES);
    let (crc, group) = (u32_at(header, 1), u64_at(header, 5));
    if crc != checksum(key, frame) {
        return Err(Damage::Checksum(name(key)));
    }
    Ok(Frame { group, body })
}

/// What a frame adds to the sum over all frames. A later frame under the same key adds something else, so the sum tells
/// when an older frame is back.
pub fn weight(frame: &[u8]) -> u64 {
    match frame.get(..HEADER_BYTES) {
        Some(header) => u64_at(header, 5) << 32 | u64::from(u32_at(header, 1)),
        None => 0,
    }
}

/// What a key names, for people.
pub fn name(key: &[u8]) -> String {
    use fmt::Write;
    match Key::decode(key) {
        Some(key) => key.to_string(),
        None => key.iter().fold(String::from("key "), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a String takes all");
            text
        }),
    }
}

fn checksum(key: &[u8], frame: &[u8]) -> u32 {
    let crc = crc32c::crc32c(key);
    let crc = crc32c::crc32c_append(crc, &frame[..1]);
    crc32c::crc32c_append(crc, &frame[5..])
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
