//! What happened to a transaction, and how that is written down.
//!
//! A transaction *is* the fold of [`Transaction::apply`](super::Transaction::apply) over its records: in life, in
//! recovery, and in the history that people are shown. The log keeps them per transaction, one after another:
//!
//! ```text
//! record  = length of the rest (varint), kind (1 byte), at (varint, wall clock ms), fields of the kind
//! text    = length (varint), bytes
//! ```
//!
//! The format may grow: by new kinds, and by new fields at the end of a kind (a reader that knows fewer skips them).
//! A kind that is not known is an error: what it means for the transaction cannot be guessed.

use std::time::Duration;

use smol_str::SmolStr;

use super::id::{BranchId, Label, ParticipantName, RequestId};
use super::time::WallTime;
use super::words::{Completion, Decision, Outcome, Protocol, ReservationClass, Vote};

/// One thing that happened, with the time by the wall clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub at: WallTime,
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Begun {
        protocol: Protocol,
        label: Label,
        timeout: Duration,
        request: Option<Request>,
    },
    Enlisted(Enlisted),
    /// A participant voted, or came with its vote.
    Voted {
        branch: BranchIndex,
        vote: Vote,
        reason: SmolStr,
        /// Zero: it does not expire.
        reservation_ttl: Duration,
        class: ReservationClass,
    },
    /// The only branch was asked to commit in one phase: from here on its participant decides.
    Delegated,
    /// Its participant does not offer that, and did nothing: the coordinator decides after all.
    DelegationDeclined,
    Decided {
        decision: Decision,
        /// Why it aborted; empty for a commit.
        reason: SmolStr,
    },
    /// No call ever reached the branch, so there is nothing to roll back.
    Unreached {
        branch: BranchIndex,
    },
    /// A branch carried the decision out.
    Acknowledged {
        branch: BranchIndex,
    },
    /// A branch went against the decision, or nobody can tell.
    Heuristic {
        branch: BranchIndex,
        completion: Completion,
        detail: SmolStr,
    },
    /// An operator settled a branch.
    Resolved {
        branch: BranchIndex,
        committed: bool,
        reason: SmolStr,
    },
    Ended {
        outcome: Outcome,
    },
    /// The log was repaired, and may have lost what came after: see [`doubt`](super::doubt()).
    Doubted {
        reason: SmolStr,
    },
}

/// The place of a branch in its transaction, in order of enlistment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BranchIndex(pub u16);

/// The request that began a transaction, so that its repetition is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub id: RequestId,
    /// Of all else that the request said.
    pub fingerprint: [u8; 16],
}

/// A branch as it was enlisted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enlisted {
    pub id: BranchId,
    pub participant: ParticipantName,
    /// Where it is dialled, if the enlistment said so.
    pub endpoint: Option<SmolStr>,
    pub protocol: Protocol,
    /// Whether its participant asks for an outcome that it was not told.
    pub inquires: bool,
    /// TCC: how long the reservation is asked to hold.
    pub reservation_ttl: Duration,
}

/// Bytes that are not records.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the record at byte {at} is cut short")]
    Short { at: usize },
    #[error(
        "the record at byte {at} is of kind {kind}, which this version does not know; a newer one wrote it"
    )]
    Kind { at: usize, kind: u8 },
    #[error("the record at byte {at} has {value} for {field}")]
    Value { at: usize, field: &'static str, value: String },
    #[error("record {number} cannot follow those before it: {problem}")]
    Contradiction { number: usize, problem: String },
}

const BEGUN: u8 = 1;
const ENLISTED: u8 = 2;
const VOTED: u8 = 3;
const DELEGATED: u8 = 4;
const DECIDED: u8 = 5;
const ACKNOWLEDGED: u8 = 6;
const HEURISTIC: u8 = 7;
const RESOLVED: u8 = 8;
const ENDED: u8 = 9;
const DELEGATION_DECLINED: u8 = 10;
const UNREACHED: u8 = 11;
const DOUBTED: u8 = 12;

impl Record {
    /// Appends the record to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        // Nearly all records are shorter than 128 bytes: leave one byte for the length, and make room if that was wrong.
        let start = out.len();
        out.push(0);
        self.encode_body(out);
        let length = out.len() - start - 1;
        if length < 0x80 {
            out[start] = u8::try_from(length).expect("less than 128");
        } else {
            let mut prefix = Vec::with_capacity(4);
            put_varint(&mut prefix, length as u64);
            out.splice(start..=start, prefix);
        }
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        let head = |out: &mut Vec<u8>, kind| {
            out.push(kind);
            put_varint(out, self.at.0);
        };
        match &self.what {
            What::Begun { protocol, label, timeout, request } => {
                head(out, BEGUN);
                out.push(protocol.code());
                put_text(out, label.as_str());
                put_millis(out, *timeout);
                put_text(out, request.as_ref().map_or("", |r| r.id.as_str()));
                if let Some(request) = request {
                    out.extend_from_slice(&request.fingerprint);
                }
            }
            What::Enlisted(branch) => {
                head(out, ENLISTED);
                put_text(out, branch.id.as_str());
                put_text(out, branch.participant.as_str());
                put_text(out, branch.endpoint.as_deref().unwrap_or(""));
                out.push(branch.protocol.code());
                out.push(u8::from(branch.inquires));
                put_millis(out, branch.reservation_ttl);
            }
            What::Voted { branch, vote, reason, reservation_ttl, class } => {
                head(out, VOTED);
                put_varint(out, u64::from(branch.0));
                out.push(vote.code());
                put_text(out, reason);
                put_millis(out, *reservation_ttl);
                out.push(class.code());
            }
            What::Delegated => head(out, DELEGATED),
            What::DelegationDeclined => head(out, DELEGATION_DECLINED),
            What::Decided { decision, reason } => {
                head(out, DECIDED);
                out.push(decision.code());
                put_text(out, reason);
            }
            What::Unreached { branch } => {
                head(out, UNREACHED);
                put_varint(out, u64::from(branch.0));
            }
            What::Acknowledged { branch } => {
                head(out, ACKNOWLEDGED);
                put_varint(out, u64::from(branch.0));
            }
            What::Heuristic { branch, completion, detail } => {
                head(out, HEURISTIC);
                put_varint(out, u64::from(branch.0));
                out.push(completion.code());
                put_text(out, detail);
            }
            What::Resolved { branch, committed, reason } => {
                head(out, RESOLVED);
                put_varint(out, u64::from(branch.0));
                out.push(u8::from(*committed));
                put_text(out, reason);
            }
            What::Ended { outcome } => {
                head(out, ENDED);
                out.push(outcome.code());
            }
            What::Doubted { reason } => {
                head(out, DOUBTED);
                put_text(out, reason);
            }
        }
    }

    /// All records in `bytes`, in order.
    pub fn decode_all(bytes: &[u8]) -> impl Iterator<Item = Result<Record, DecodeError>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            if at >= bytes.len() {
                return None;
            }
            let start = at;
            let mut reader = Reader { bytes, at, start };
            let record = reader.length().and_then(|length| {
                let end = reader.at + length;
                let mut body = Reader { bytes: &bytes[..end], at: reader.at, start };
                at = end;
                body.record()
            });
            if record.is_err() {
                at = bytes.len();
            }
            Some(record)
        })
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_millis(out: &mut Vec<u8>, span: Duration) {
    put_varint(out, u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the record begins, for messages.
    start: usize,
}

impl Reader<'_> {
    fn record(&mut self) -> Result<Record, DecodeError> {
        let kind = self.byte()?;
        let at = WallTime(self.varint()?);
        let what = match kind {
            BEGUN => What::Begun {
                protocol: self.code("protocol", Protocol::from_code)?,
                label: self.parsed("label")?,
                timeout: self.millis()?,
                request: self.request()?,
            },
            ENLISTED => What::Enlisted(Enlisted {
                id: self.parsed("branch id")?,
                participant: self.parsed("participant")?,
                endpoint: Some(self.text()?).filter(|text| !text.is_empty()),
                protocol: self.code("protocol", Protocol::from_code)?,
                inquires: self.flag("inquires")?,
                reservation_ttl: self.millis()?,
            }),
            VOTED => What::Voted {
                branch: self.branch()?,
                vote: self.code("vote", Vote::from_code)?,
                reason: self.text()?,
                reservation_ttl: self.millis()?,
                class: self.code("reservation class", ReservationClass::from_code)?,
            },
            DELEGATED => What::Delegated,
            DELEGATION_DECLINED => What::DelegationDeclined,
            DECIDED => {
                What::Decided { decision: self.code("decision", Decision::from_code)?, reason: self.text()? }
            }
            UNREACHED => What::Unreached { branch: self.branch()? },
            ACKNOWLEDGED => What::Acknowledged { branch: self.branch()? },
            HEURISTIC => What::Heuristic {
                branch: self.branch()?,
                completion: self.code("completion", Completion::from_code)?,
                detail: self.text()?,
            },
            RESOLVED => What::Resolved {
                branch: self.branch()?,
                committed: self.flag("committed")?,
                reason: self.text()?,
            },
            ENDED => What::Ended { outcome: self.code("outcome", Outcome::from_code)? },
            DOUBTED => What::Doubted { reason: self.text()? },
            kind => return Err(DecodeError::Kind { at: self.start, kind }),
        };
        Ok(Record { at, what })
    }

    fn request(&mut self) -> Result<Option<Request>, DecodeError> {
        let id = self.text()?;
        if id.is_empty() {
            return Ok(None);
        }
        let id = id.parse().map_err(|_| self.wrong("request id", &id))?;
        let fingerprint = self.take(16)?.try_into().expect("16 bytes were taken");
        Ok(Some(Request { id, fingerprint }))
    }

    fn branch(&mut self) -> Result<BranchIndex, DecodeError> {
        let index = self.varint()?;
        u16::try_from(index).map(BranchIndex).map_err(|_| self.wrong("branch", &index))
    }

    fn flag(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.wrong(field, &other)),
        }
    }

    fn code<T>(&mut self, field: &'static str, from: fn(u8) -> Option<T>) -> Result<T, DecodeError> {
        let code = self.byte()?;
        from(code).ok_or_else(|| self.wrong(field, &code))
    }

    fn parsed<T: std::str::FromStr>(&mut self, field: &'static str) -> Result<T, DecodeError> {
        let text = self.text()?;
        text.parse().map_err(|_| self.wrong(field, &text))
    }

    fn text(&mut self) -> Result<SmolStr, DecodeError> {
        let (length, start) = (self.length()?, self.start);
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map(SmolStr::new).map_err(|_| DecodeError::Value {
            at: start,
            field: "a text",
            value: format!("{bytes:?}"),
        })
    }

    fn millis(&mut self) -> Result<Duration, DecodeError> {
        self.varint().map(Duration::from_millis)
    }

    /// A length that the bytes at hand do have.
    fn length(&mut self) -> Result<usize, DecodeError> {
        let length = self.varint()?;
        usize::try_from(length)
            .ok()
            .filter(|&length| length <= self.bytes.len() - self.at)
            .ok_or(DecodeError::Short { at: self.start })
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.wrong("a number", &"more than 64 bits"))
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn take(&mut self, length: usize) -> Result<&[u8], DecodeError> {
        let end = self.at + length;
        let bytes = self.bytes.get(self.at..end).ok_or(DecodeError::Short { at: self.start })?;
        self.at = end;
        Ok(bytes)
    }

    fn wrong(&self, field: &'static str, value: &dyn std::fmt::Display) -> DecodeError {
        DecodeError::Value { at: self.start, field, value: value.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_of_each() -> Vec<Record> {
        let branch = BranchIndex(300);
        let whats = [
            What::Begun {
                protocol: Protocol::Tcc,
                label: "checkout".parse().unwrap(),
                timeout: Duration::from_secs(30),
                request: Some(Request { id: "order-1".parse().unwrap(), fingerprint: [7; 16] }),
            },
            What::Begun {
                protocol: Protocol::TwoPhase,
                label: Label::default(),
                timeout: Duration::ZERO,
                request: None,
            },
            What::Enlisted(Enlisted {
                id: BranchId::numbered(1),
                participant: "shop/stock".parse().unwrap(),
                endpoint: Some("http://127.0.0.1:1".into()),
                protocol: Protocol::Tcc,
                inquires: true,
                reservation_ttl: Duration::from_millis(1500),
            }),
            What::Voted {
                branch,
                vote: Vote::Refused,
                reason: "x".repeat(1024).into(),
                reservation_ttl: Duration::ZERO,
                class: ReservationClass::Autonomous,
            },
            What::Delegated,
            What::DelegationDeclined,
            What::Decided { decision: Decision::Abort, reason: "größer".into() },
            What::Unreached { branch },
            What::Acknowledged { branch },
            What::Heuristic { branch, completion: Completion::HeuristicHazard, detail: "?".into() },
            What::Resolved { branch, committed: true, reason: "seen".into() },
            What::Ended { outcome: Outcome::Mixed },
            What::Doubted { reason: "the log lost its end".into() },
        ];
        whats.into_iter().map(|what| Record { at: WallTime(1_700_000_000_123), what }).collect()
    }

    #[test]
    fn every_record_comes_back() {
        let mut bytes = Vec::new();
        let records = one_of_each();
        for record in &records {
            record.encode(&mut bytes);
        }
        assert_eq!(Record::decode_all(&bytes).collect::<Result<Vec<_>, _>>().unwrap(), records);
    }

    #[test]
    fn a_field_added_by_a_later_version_is_skipped() {
        let mut bytes = Vec::new();
        Record { at: WallTime(1), what: What::Delegated }.encode(&mut bytes);
        bytes[0] += 2;
        bytes.extend([42, 43]);
        Record { at: WallTime(2), what: What::Delegated }.encode(&mut bytes);
        let times: Vec<_> = Record::decode_all(&bytes).map(|record| record.unwrap().at).collect();
        assert_eq!(times, [WallTime(1), WallTime(2)]);
    }

    #[test]
    fn an_unknown_kind_is_refused_by_its_number() {
        let error = Record::decode_all(&[2, 99, 0]).next().unwrap().unwrap_err();
        assert_eq!(error, DecodeError::Kind { at: 0, kind: 99 });
    }

    #[test]
    fn damaged_records_are_decoded_or_refused() {
        let mut bytes = Vec::new();
        for record in one_of_each() {
            record.encode(&mut bytes);
        }
        for at in 0..bytes.len() {
            let _ = Record::decode_all(&bytes[..at]).count();
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                let _ = Record::decode_all(&bytes).count();
                bytes[at] ^= 1 << bit;
            }
        }
    }
}
