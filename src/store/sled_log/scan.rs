//! Reading all of the database, and believing none of it unchecked.

use std::panic::{AssertUnwindSafe, catch_unwind};

use sled::{IVec, Tree};
use uuid::Uuid;

use super::check::Totals;
use super::frame::{self, Key, PartKey, unseal};
use super::value::{Head, Parts};
use crate::core::TxId;
use crate::store::writer::panic_text;
use crate::store::{Damage, Lives, ReplayError};

/// What a full reading found.
#[derive(Debug, Default)]
pub struct Scan {
    pub totals: Totals,
    /// The group of the latest frame, and the key of that.
    pub latest: (u64, String),
    pub cluster: Option<Uuid>,
    pub lives: Lives,
    /// Parts that no list names: a write was cut off before or after it changed the list.
    pub left_over: Vec<IVec>,
}

/// Checks every frame and puts every value together, in the order of [`TxId`].
pub fn scan(
    tree: &Tree,
    each: &mut dyn FnMut(TxId, Vec<u8>) -> Result<(), ReplayError>,
) -> Result<Scan, ReplayError> {
    let mut reader = Reader { scan: Scan::default(), open: None, each };
    for entry in tree {
        let (key, frame) = entry.map_err(|error| Damage::Engine(error.to_string()))?;
        reader.read(key, &frame)?;
    }
    reader.finish_value()?;
    Ok(reader.scan)
}

/// sled panics on some damage that it comes across.
pub fn without_panic<T, E: From<Damage>>(read: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|panic| Err(Damage::Engine(panic_text(&*panic)).into()))
}

struct Reader<'a> {
    scan: Scan,
    /// The long value whose parts are being read. They come right after their list.
    open: Option<LongValue>,
    each: &'a mut dyn FnMut(TxId, Vec<u8>) -> Result<(), ReplayError>,
}

struct LongValue {
    tx: TxId,
    parts: Parts,
    value: Vec<u8>,
}

impl Reader<'_> {
    fn read(&mut self, key: IVec, frame: &[u8]) -> Result<(), ReplayError> {
        let named = Key::decode(&key).ok_or_else(|| Damage::UnknownKey(frame::name(&key)))?;
        let content = unseal(&key, frame)?;
        self.scan.totals.add(frame);
        if content.group > self.scan.latest.0 {
            self.scan.latest = (content.group, named.to_string());
        }
        let malformed = || Damage::Checksum(named.to_string());
        match named {
            Key::Cluster => {
                self.scan.cluster = Some(Uuid::from_slice(content.body).map_err(|_| malformed())?);
            }
            Key::Life(epoch) => {
                let tag = content.body.try_into().map_err(|_| malformed())?;
                self.scan.lives.insert(epoch, u32::from_le_bytes(tag));
            }
            Key::Head(tx) => {
                self.finish_value()?;
                match Head::decode(content.body).ok_or_else(malformed)? {
                    Head::Short(value) => (self.each)(tx, value.to_vec())?,
                    Head::Long(parts) => self.open = Some(LongValue { tx, parts, value: Vec::new() }),
                }
            }
            Key::Part(part) => match &mut self.open {
                Some(open) if open.names(part) => open.value.extend_from_slice(content.body),
                Some(_) | None => self.scan.left_over.push(key),
            },
        }
        Ok(())
    }

    fn finish_value(&mut self) -> Result<(), ReplayError> {
        let Some(LongValue { tx, parts, value }) = self.open.take() else {
            return Ok(());
        };
        if !parts.matches(&value) {
            return Err(Damage::Incomplete { tx, have: value.len(), want: parts.length() }.into());
        }
        (self.each)(tx, value)
    }
}

impl LongValue {
    fn names(&self, part: PartKey) -> bool {
        part.tx == self.tx && self.parts.slot(part.number) == Some(part.slot)
    }
}
