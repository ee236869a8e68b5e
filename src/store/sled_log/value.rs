//! How the value of a transaction is laid out under its key: whole, or where it is long, as a list of parts.
//!
//! ```text
//! body of a short value  0 value
//! body of a long value   1 length:4 crc32c:4 slots
//! ```
//!
//! `slots` has one bit per part, the lowest bit of the first byte being part 0: in which of its two slots it stands.

use super::frame::{BODY_BYTES_MAX, u32_at};
use crate::store::VALUE_BYTES_MAX;

/// What the head of a value says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head<'a> {
    Short(&'a [u8]),
    Long(Parts),
}

/// Where the parts of a long value are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    length: u32,
    crc: u32,
    slots: Vec<u8>,
}

const SHORT: u8 = 0;
const LONG: u8 = 1;
const PART_BYTES: usize = BODY_BYTES_MAX;

// The longest list of parts has to fit a body, and the number of a part its key.
const PARTS_MAX: usize = VALUE_BYTES_MAX.div_ceil(PART_BYTES);
const _: () = assert!(1 + 4 + 4 + PARTS_MAX.div_ceil(8) <= BODY_BYTES_MAX);
const _: () = assert!(PARTS_MAX <= u16::MAX as usize);

impl<'a> Head<'a> {
    /// The value itself, if it is short enough to need no parts.
    pub fn short(value: &'a [u8]) -> Option<Head<'a>> {
        (value.len() < BODY_BYTES_MAX).then_some(Head::Short(value))
    }

    pub fn encode(&self) -> Vec<u8> {
        match self {
            Head::Short(value) => [&[SHORT], *value].concat(),
            Head::Long(parts) => {
                [&[LONG][..], &parts.length.to_le_bytes(), &parts.crc.to_le_bytes(), &parts.slots].concat()
            }
        }
    }

    /// `None` where the body is not one of a head. Its checksum was right, so it would be our own mistake.
    pub fn decode(body: &'a [u8]) -> Option<Head<'a>> {
        match body.split_first()? {
            (&SHORT, value) => Some(Head::Short(value)),
            (&LONG, rest) => {
                let (header, slots) = rest.split_at_checked(8)?;
                let parts =
                    Parts { length: u32_at(header, 0), crc: u32_at(header, 4), slots: slots.to_vec() };
                (slots.len() == usize::from(parts.count()).div_ceil(8)).then_some(Head::Long(parts))
            }
            _ => None,
        }
    }

    pub fn into_parts(self) -> Option<Parts> {
        match self {
            Head::Short(_) => None,
            Head::Long(parts) => Some(parts),
        }
    }
}

impl Parts {
    /// A list for `value`, with every part in slot 0. The value is at most `VALUE_BYTES_MAX` long.
    pub fn of(value: &[u8]) -> Parts {
        let length = u32::try_from(value.len()).expect("at most 64 MiB");
        let slots = vec![0; value.len().div_ceil(PART_BYTES).div_ceil(8)];
        Parts { length, crc: crc32c::crc32c(value), slots }
    }

    /// The stretches of `value` that are its parts, numbered.
    pub fn split(value: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
        (0..).zip(value.chunks(PART_BYTES))
    }

    /// How many there are.
    pub fn count(&self) -> u16 {
        u16::try_from(self.length().div_ceil(PART_BYTES)).unwrap_or(u16::MAX)
    }

    /// Of the whole value, in bytes.
    pub fn length(&self) -> usize {
        self.length as usize
    }

    /// Whether the whole value is what the list was made for.
    pub fn matches(&self, value: &[u8]) -> bool {
        value.len() == self.length() && crc32c::crc32c(value) == self.crc
    }

    /// Where a part stands: 0 or 1; `None` where the list has no such part.
    pub fn slot(&self, number: u16) -> Option<u8> {
        let byte = *self.slots.get(usize::from(number / 8))?;
        (number < self.count()).then_some(byte >> (number % 8) & 1)
    }

    pub fn set_slot(&mut self, number: u16, slot: u8) {
        let byte = &mut self.slots[usize::from(number / 8)];
        *byte = *byte & !(1 << (number % 8)) | (slot & 1) << (number % 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_come_back_as_they_were() {
        for length in [0, 1, BODY_BYTES_MAX - 1] {
            let value = vec![7; length];
            let head = Head::short(&value).expect("short");
            let body = head.encode();
            assert!(body.len() <= BODY_BYTES_MAX);
            assert_eq!(Head::decode(&body), Some(head), "{length}");
        }
        for length in [BODY_BYTES_MAX, 8 * PART_BYTES, 8 * PART_BYTES + 1, 300 << 10, VALUE_BYTES_MAX] {
            let value = vec![7; length];
            assert_eq!(Head::short(&value), None);
            let mut parts = Parts::of(&value);
            assert_eq!(usize::from(parts.count()), Parts::split(&value).count());
            parts.set_slot(parts.count() - 1, 1);
            assert_eq!(parts.slot(parts.count() - 1), Some(1));
            assert_eq!(parts.slot(0), Some(u8::from(parts.count() == 1)));
            assert_eq!(parts.slot(parts.count()), None);
            let body = Head::Long(parts.clone()).encode();
            assert!(body.len() <= BODY_BYTES_MAX);
            assert_eq!(Head::decode(&body), Some(Head::Long(parts)), "{length}");
        }
    }

    #[test]
    fn other_bodies_are_no_heads() {
        for body in [&[][..], &[2], &[LONG, 0, 0], &[LONG, 1, 0, 0, 0, 0, 0, 0, 0], &[LONG; 200]] {
            assert_eq!(Head::decode(body), None, "{body:?}");
        }
    }
}
