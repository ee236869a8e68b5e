//! What a log holds: histories of transactions, the frames and groups that they lie in, the witness. All of it is
//! checked by checksums, which a mistake of ours, or somebody with an editor, gets right.

use std::fs;

use arbitrary::{Arbitrary as _, Result, Unstructured};
use assent::core::{
    BranchId, BranchIndex, Completion, Decision, Enlisted, Label, Outcome, ParticipantName, Protocol, Record,
    Request, RequestId, ReservationClass, Transaction, Vote, WallTime, What,
};
use assent::wire::{self, History};

use crate::clocked::{self, Clocked};
use crate::sled_log::{group, witness};

pub fn run(input: &[u8]) {
    let Some((&kind, rest)) = input.split_first() else { return };
    match kind % 4 {
        0 => histories(rest.split(|&byte| byte == 0xff).take(3).map(<[u8]>::to_vec).collect()),
        1 => {
            let mut u = Unstructured::new(rest);
            let mut all = Vec::new();
            while all.len() < 3
                && let Ok(history) = written(&mut u)
                && !history.is_empty()
            {
                all.push(history);
            }
            histories(all);
        }
        2 => frames(rest),
        _ => witnesses(rest),
    }
}

/// Takes them back, as a start does, and goes on with what is accepted.
fn histories(values: Vec<Vec<u8>>) {
    let mut life = Clocked::new();
    for (id, value) in (1..).map(clocked::tx).zip(values) {
        decoded(&value);
        let shown = Transaction::replay(id, value.clone());
        if let Ok(transaction) = &shown {
            look_at(transaction, &life);
        }
        let taken = life.replay(id, value);
        if let (Err(refusal), Err(same)) = (&shown, &taken) {
            assert_eq!(refusal, same);
            assert!(refusal.to_string().contains("record"), "{refusal}");
        }
        // Two that are fine each may contradict each other.
        if shown.is_ok() && taken.is_err() {
            return;
        }
        assert_eq!(shown.is_ok(), taken.is_ok());
    }
    life.resume();
    life.finish();
}

/// What decodes is encoded to what decodes to the same.
fn decoded(value: &[u8]) {
    let Ok(records) = Record::decode_all(value).collect::<Result<Vec<_>, _>>() else { return };
    let mut again = Vec::new();
    for record in &records {
        record.encode(&mut again);
    }
    let same = Record::decode_all(&again).collect::<Result<Vec<_>, _>>();
    assert_eq!(same.as_ref(), Ok(&records));
}

fn look_at(transaction: &Transaction, life: &Clocked) {
    assert_eq!(transaction.records().count(), Record::decode_all(&transaction.history).count());
    let shown = wire::transaction_to_pb(transaction, life.now, History::Shown);
    assert_eq!(shown.branches.len(), transaction.branches.len());
    assert_eq!(shown.xid, transaction.id.to_string());
    assert_eq!(wire::result_to_pb(transaction.result()).branches.len(), transaction.branches.len());
}

fn frames(input: &[u8]) {
    let Some((key, rest)) = input.split_at_checked(13) else { return };
    if let Ok(decoded) = group::Key::decode(key) {
        assert_eq!(decoded.encode(), key);
    }
    // As it is, and with the checksum that it should have.
    let at = group::Key { group: 7, chunk: u32::from(key[12]) };
    let _ = at.unseal(rest);
    let mut sealed = rest.to_vec();
    if sealed.len() >= group::FRAME_HEADER_BYTES {
        sealed[0] = group::FORMAT_VERSION;
        let crc = crc32c::crc32c(&at.encode());
        let crc = crc32c::crc32c_append(crc, &sealed[..1]);
        let crc = crc32c::crc32c_append(crc, &sealed[5..]);
        sealed[1..5].copy_from_slice(&crc.to_le_bytes());
        let frame = at.unseal(&sealed).expect("its checksum is right");
        assert_eq!(frame.body, &sealed[group::FRAME_HEADER_BYTES..]);
    }
    let Some((header, entries)) = group::open(rest) else { return };
    let Some(entries) = entries.collect::<Option<Vec<_>>>() else { return };
    let mut content = group::Content::default();
    content.begin(header);
    for entry in &entries {
        content.push(entry);
    }
    assert_eq!(content.bytes(), rest);
    let put_together: Vec<u8> = content
        .frames(9, content.sum())
        .flat_map(|(key, frame)| key.unseal(&frame).expect("it was just sealed").body.to_vec())
        .collect();
    assert_eq!(put_together, rest);
}

fn witnesses(input: &[u8]) {
    /// Of a slot without its checksum, and how far apart slots are.
    const SLOT_BYTES: usize = 64;
    const STRIDE: usize = 4096;
    let mut file = input.to_vec();
    // An odd length: with the checksums that it should have.
    if input.len() % 2 == 1 {
        let (first, second) = input.split_at(input.len().min(SLOT_BYTES));
        file = vec![0; STRIDE + SLOT_BYTES + 4];
        for (at, slot) in [(0, first), (STRIDE, second)] {
            let slot = &slot[..slot.len().min(SLOT_BYTES)];
            file[at..at + slot.len()].copy_from_slice(slot);
            let crc = crc32c::crc32c(&file[at..at + SLOT_BYTES]);
            file[at + SLOT_BYTES..][..4].copy_from_slice(&crc.to_le_bytes());
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("witness");
    fs::write(&path, &file).unwrap();
    match witness::Witness::find(&path) {
        Ok(found) => {
            let mut found = found.expect("the file is there");
            let claim = *found.claim();
            // It goes on from there, and is read as what was written last.
            if claim.begun < u64::MAX && found.announce(claim.begun + 1).is_ok() {
                let again = witness::Witness::find(&path).unwrap().unwrap();
                assert_eq!(again.claim(), found.claim());
            }
        }
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    }
}

/// A history in which each record by itself is right.
fn written(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut history = Vec::new();
    while !u.is_empty() {
        let last = u.ratio(1, 16)?;
        let what = if history.is_empty() && !u.ratio(1, 32)? { begun(u)? } else { what(u)? };
        let at = WallTime(if u.ratio(1, 16)? { u.arbitrary()? } else { 1_700_000_000_000 });
        Record { at, what }.encode(&mut history);
        if last {
            break;
        }
    }
    Ok(history)
}

fn begun(u: &mut Unstructured<'_>) -> Result<What> {
    let request = if u.arbitrary()? {
        let id: RequestId = u.choose(&["order-1", "order-2"])?.parse().unwrap();
        Some(Request { id, fingerprint: [u.arbitrary()?; 16] })
    } else {
        None
    };
    let timeout = std::time::Duration::from_millis(crate::values::millis(u)?);
    Ok(What::Begun { protocol: protocol(u)?, label: Label::default(), timeout, request })
}

fn what(u: &mut Unstructured<'_>) -> Result<What> {
    let branch = BranchIndex(if u.ratio(1, 32)? { u.arbitrary()? } else { u.int_in_range(0..=3)? });
    let reason = || "so it is".into();
    Ok(match u.int_in_range(0..=10)? {
        0 => begun(u)?,
        1 => What::Enlisted(Enlisted {
            id: BranchId::numbered(u.int_in_range(1..=5)?),
            participant: u.choose(&["shop/stock", "shop/ledger"])?.parse::<ParticipantName>().unwrap(),
            endpoint: u.arbitrary::<bool>()?.then(|| "http://127.0.0.1:1".into()),
            protocol: protocol(u)?,
            inquires: u.arbitrary()?,
            reservation_ttl: std::time::Duration::from_millis(crate::values::millis(u)?),
        }),
        2 => What::Voted {
            branch,
            vote: *u.choose(&[Vote::Prepared, Vote::Prepared, Vote::ReadOnly, Vote::Refused])?,
            reason: reason(),
            reservation_ttl: std::time::Duration::from_millis(crate::values::millis(u)?),
            class: *u.choose(&[ReservationClass::Cooperative, ReservationClass::Autonomous])?,
        },
        3 => What::Delegated,
        4 => What::DelegationDeclined,
        5 => What::Decided { decision: *u.choose(&[Decision::Commit, Decision::Abort])?, reason: reason() },
        6 => What::Unreached { branch },
        7 => What::Acknowledged { branch },
        8 => What::Heuristic { branch, completion: completion(u)?, detail: reason() },
        9 => What::Resolved { branch, committed: bool::arbitrary(u)?, reason: reason() },
        _ => What::Ended {
            outcome: *u.choose(&[Outcome::Committed, Outcome::Aborted, Outcome::Mixed, Outcome::Hazard])?,
        },
    })
}

pub fn protocol(u: &mut Unstructured<'_>) -> Result<Protocol> {
    u.choose(&[Protocol::TwoPhase, Protocol::Tcc]).copied()
}

pub fn completion(u: &mut Unstructured<'_>) -> Result<Completion> {
    u.choose(&[
        Completion::Done,
        Completion::UnknownBranch,
        Completion::HeuristicCommit,
        Completion::HeuristicRollback,
        Completion::HeuristicHazard,
    ])
    .copied()
}
