//! Ids and names. A value of these types is valid; the edge makes them with [`FromStr`].

use std::fmt;
use std::str::FromStr;

pub use assent_proto::{Epoch, Shard, TxId, TxOrder};
use smol_str::SmolStr;

/// Names a branch within its transaction: 1 to 64 bytes of letters, digits and `-_.:/`.
///
/// 64 bytes, because an X/Open XA branch qualifier has no more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BranchId(SmolStr);

/// Names a participant, such as `shop/stock`: 1 to 128 bytes of letters, digits and `-_.:/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParticipantName(SmolStr);

/// Makes a request repeatable: 1 to 128 bytes of UTF-8 without control characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(SmolStr);

/// What an initiator calls a transaction, for people: at most 128 bytes of UTF-8 without control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Label(SmolStr);

/// A text that is not a name; its message is a fragment that follows the field's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("is empty; give 1 to {limit} bytes")]
    Empty { limit: usize },
    #[error("has {length} bytes; the limit is {limit}")]
    TooLong { length: usize, limit: usize },
    #[error("{text:?} has the character {found:?}; allowed are {allowed}")]
    Character { text: String, found: char, allowed: &'static str },
}

/// How many bytes a text may have, and which characters.
struct Rule {
    limit: usize,
    may_be_empty: bool,
    allowed: &'static str,
    allows: fn(char) -> bool,
}

const BRANCH_ID: Rule = Rule { limit: 64, may_be_empty: false, allowed: IDENTIFIER, allows: in_identifier };
const PARTICIPANT_NAME: Rule = Rule { limit: 128, ..BRANCH_ID };
const REQUEST_ID: Rule =
    Rule { limit: 128, may_be_empty: false, allowed: "all but control characters", allows: printable };
const LABEL: Rule = Rule { may_be_empty: true, ..REQUEST_ID };

const IDENTIFIER: &str = "letters, digits and -_.:/";

fn in_identifier(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.:/".contains(c)
}

fn printable(c: char) -> bool {
    !c.is_control()
}

impl Rule {
    fn check(&self, text: &str) -> Result<SmolStr, NameError> {
        let limit = self.limit;
        if text.is_empty() && !self.may_be_empty {
            return Err(NameError::Empty { limit });
        }
        if text.len() > limit {
            return Err(NameError::TooLong { length: text.len(), limit });
        }
        match text.chars().find(|&c| !(self.allows)(c)) {
            Some(found) => Err(NameError::Character { text: text.to_owned(), found, allowed: self.allowed }),
            None => Ok(SmolStr::new(text)),
        }
    }
}

impl BranchId {
    /// The id of the n-th branch that came without one.
    pub fn numbered(n: usize) -> BranchId {
        BranchId(smol_str::format_smolstr!("{n}"))
    }
}

macro_rules! text_type {
    ($type:ident, $rule:expr) => {
        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<$type, NameError> {
                $rule.check(text).map($type)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

text_type!(BranchId, BRANCH_ID);
text_type!(ParticipantName, PARTICIPANT_NAME);
text_type!(RequestId, REQUEST_ID);
text_type!(Label, LABEL);

/// Makes the ids of one engine: strictly increasing, whatever the wall clock does.
#[cfg_attr(any(test, model), derive(Clone))]
#[derive(Debug)]
pub struct TxIdSource {
    epoch: Epoch,
    shard: Shard,
    life_tag: u32,
    time_ms: u64,
    sequence: u16,
}

impl TxIdSource {
    pub fn new(epoch: Epoch, shard: Shard, life_tag: u32) -> TxIdSource {
        TxIdSource { epoch, shard, life_tag, time_ms: 0, sequence: 0 }
    }

    /// The next id. When a millisecond has no sequence numbers left, it borrows from the next one.
    pub fn next(&mut self, wall_ms: u64) -> TxId {
        if wall_ms > self.time_ms {
            (self.time_ms, self.sequence) = (wall_ms, 0);
        } else {
            (self.time_ms, self.sequence) = self.following();
        }
        self.id(self.time_ms, self.sequence)
    }

    /// An id that sorts after all that were made, and not after any to come.
    pub fn peek(&self) -> TxId {
        let (time_ms, sequence) = self.following();
        self.id(time_ms, sequence)
    }

    fn following(&self) -> (u64, u16) {
        if self.sequence < TxId::SEQUENCE_MAX {
            (self.time_ms, self.sequence + 1)
        } else {
            (self.time_ms + 1, 0)
        }
    }

    fn id(&self, time_ms: u64, sequence: u16) -> TxId {
        TxId::new(time_ms, sequence, self.epoch, self.shard, self.life_tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_increase_when_the_clock_stands_still_or_goes_back() {
        let mut source = TxIdSource::new(Epoch(3), Shard(0), 9);
        let mut last = source.next(1_000);
        for wall_ms in std::iter::repeat_n(1_000, 10_000).chain([1_001, 5, 0, 2_000_000]) {
            let upcoming = source.peek();
            let id = source.next(wall_ms);
            assert!(id > last && id.order() > last.order(), "{id} after {last}");
            assert!(upcoming.order() > last.order() && upcoming.order() <= id.order(), "{upcoming}, {id}");
            last = id;
        }
    }

    #[test]
    fn hostile_names_are_refused_with_what_is_wrong() {
        let refusal = |text: &str| text.parse::<BranchId>().unwrap_err().to_string();
        assert_eq!(refusal(""), "is empty; give 1 to 64 bytes");
        assert_eq!(refusal(&"x".repeat(1024)), "has 1024 bytes; the limit is 64");
        assert_eq!(
            refusal("größe"),
            r#""größe" has the character 'ö'; allowed are letters, digits and -_.:/"#
        );
        assert_eq!(
            refusal("a\0b"),
            r#""a\0b" has the character '\0'; allowed are letters, digits and -_.:/"#
        );
        assert!("größe".parse::<RequestId>().is_ok());
        assert!("a\nb".parse::<Label>().is_err());
        assert!("".parse::<Label>().is_ok());
    }

    #[test]
    fn ids_that_are_prefixes_of_one_another_are_different() {
        let (one, ten): (BranchId, BranchId) = ("order-1".parse().unwrap(), "order-10".parse().unwrap());
        assert_ne!(one, ten);
    }
}
