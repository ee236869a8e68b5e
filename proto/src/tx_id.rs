//! The id of a transaction.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// The id of a transaction (printed: xid): a UUID of version 8 (RFC 9562) that sorts by time.
///
/// ```text
/// 127          80 79  76 75      64 63 62 61       38 37   32 31          0
/// | time, 48 ms | v = 8 | sequence | 0b10 | epoch 24 | shard 6 | life tag 32 |
/// ```
///
/// * *time*: milliseconds since 1970, never going backwards within an epoch;
/// * *sequence*: counts within one millisecond;
/// * *epoch*: the coordinator's boot; each boot takes the next;
/// * *shard*: which engine of the coordinator owns it;
/// * *life tag*: drawn at random at each boot. An epoch number alone would come back when a log is wiped or restored
///   from an old copy; number and tag together tell whether a log ever lived through the boot that made this id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TxId(u128);

/// The number of a coordinator's boot: 1 to 16,777,215.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u32);

/// The number of an engine: 0 to 63.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard(pub u8);

/// Where a transaction stands in the order of all transactions of its cluster: epoch, then time, then sequence.
///
/// Unlike the ids themselves this order is safe from a wall clock that was set back between two boots. Printed as
/// 21 hexadecimal digits, which sort as the order does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TxOrder(u128);

/// A text that is not a [`TxId`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseTxIdError(String);

impl Epoch {
    /// The last one that an id has room for.
    pub const MAX: Epoch = Epoch((1 << 24) - 1);
}

impl TxId {
    /// The largest sequence number within a millisecond.
    pub const SEQUENCE_MAX: u16 = (1 << 12) - 1;

    /// Puts an id together. Bits that do not fit their field are cut off.
    pub fn new(time_ms: u64, sequence: u16, epoch: Epoch, shard: Shard, life_tag: u32) -> TxId {
        let time = u128::from(time_ms & 0xffff_ffff_ffff);
        let sequence = u128::from(sequence & Self::SEQUENCE_MAX);
        let epoch = u128::from(epoch.0 & Epoch::MAX.0);
        let shard = u128::from(shard.0 & 0x3f);
        TxId(
            time << 80
                | 8 << 76
                | sequence << 64
                | 0b10 << 62
                | epoch << 38
                | shard << 32
                | u128::from(life_tag),
        )
    }

    /// The id with these bytes, if they are one.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<TxId> {
        let bits = u128::from_be_bytes(bytes);
        (bits >> 76 & 0xf == 8 && bits >> 62 & 0b11 == 0b10).then_some(TxId(bits))
    }

    /// Big-endian, so that bytes sort as ids do.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Milliseconds since 1970 at which it was made.
    pub fn time_ms(self) -> u64 {
        self.field(80, 48)
    }

    pub fn sequence(self) -> u16 {
        u16::try_from(self.field(64, 12)).expect("12 bits")
    }

    pub fn epoch(self) -> Epoch {
        Epoch(u32::try_from(self.field(38, 24)).expect("24 bits"))
    }

    pub fn shard(self) -> Shard {
        Shard(u8::try_from(self.field(32, 6)).expect("6 bits"))
    }

    pub fn life_tag(self) -> u32 {
        u32::try_from(self.field(0, 32)).expect("32 bits")
    }

    /// See [`TxOrder`].
    pub fn order(self) -> TxOrder {
        TxOrder(
            u128::from(self.epoch().0) << 60 | u128::from(self.time_ms()) << 12 | u128::from(self.sequence()),
        )
    }

    fn field(self, low: u32, bits: u32) -> u64 {
        u64::try_from(self.0 >> low & ((1 << bits) - 1)).expect("at most 48 bits")
    }
}

impl fmt::Display for TxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = Uuid::encode_buffer();
        f.pad(Uuid::from_u128(self.0).hyphenated().encode_lower(&mut buffer))
    }
}

impl fmt::Debug for TxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TxId {
    type Err = ParseTxIdError;

    fn from_str(text: &str) -> Result<TxId, ParseTxIdError> {
        // Only the hyphenated form, so that one transaction has one name.
        (text.len() == 36)
            .then(|| Uuid::try_parse(text).ok())
            .flatten()
            .and_then(|uuid| TxId::from_bytes(uuid.into_bytes()))
            .ok_or_else(|| ParseTxIdError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for TxOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:021x}", self.0)
    }
}

impl FromStr for TxOrder {
    type Err = ParseTxIdError;

    fn from_str(text: &str) -> Result<TxOrder, ParseTxIdError> {
        (text.len() == 21 && text.bytes().all(|b| b.is_ascii_hexdigit()))
            .then(|| u128::from_str_radix(text, 16).ok())
            .flatten()
            .map(TxOrder)
            .ok_or_else(|| ParseTxIdError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for ParseTxIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a transaction id; one looks like {}",
            self.0,
            TxId::new(0, 0, Epoch(1), Shard(0), 0)
        )
    }
}

impl std::error::Error for ParseTxIdError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_comes_back() {
        let id = TxId::new(0x0123_4567_89ab, 0xfed, Epoch(0x00ab_cdef), Shard(63), 0xdead_beef);
        assert_eq!(
            (id.time_ms(), id.sequence(), id.epoch(), id.shard(), id.life_tag()),
            (0x0123_4567_89ab, 0xfed, Epoch(0x00ab_cdef), Shard(63), 0xdead_beef)
        );
        assert_eq!(id.to_string().parse::<TxId>().unwrap(), id);
        assert_eq!(TxId::from_bytes(id.to_bytes()), Some(id));
    }

    #[test]
    fn order_puts_the_epoch_before_the_time() {
        let early_epoch = TxId::new(2_000, 0, Epoch(1), Shard(0), 7);
        let clock_set_back = TxId::new(1_000, 0, Epoch(2), Shard(0), 8);
        assert!(clock_set_back < early_epoch);
        assert!(clock_set_back.order() > early_epoch.order());
        assert_eq!(early_epoch.order().to_string(), "0000010000000007d0000");
        assert_eq!("0000010000000007d0000".parse::<TxOrder>().unwrap(), early_epoch.order());
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "x", "00000000-0000-4000-8000-000000000000", "00000000000080008000000000000000"] {
            assert!(text.parse::<TxId>().is_err(), "{text}");
        }
    }
}
