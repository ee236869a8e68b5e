use std::time::Duration;

use super::*;
use crate::core::{BranchId, Enlisted, Epoch, Record, Shard, Timestamp, TxId, What};

fn id(n: u64) -> TxId {
    TxId::new(n, 0, Epoch(1), Shard(0), 0)
}

/// Begun at 1 s with a timeout of 30 s.
fn transaction(n: u64, label: &str, participants: &[&str], reason: &str) -> Transaction {
    let begun = What::Begun {
        protocol: Protocol::Tcc,
        label: label.parse().unwrap(),
        timeout: Duration::from_secs(30),
        request: None,
    };
    let enlisted = participants.iter().enumerate().map(|(n, participant)| {
        What::Enlisted(Enlisted {
            id: BranchId::numbered(n),
            participant: participant.parse().unwrap(),
            endpoint: (!reason.is_empty()).then(|| reason.into()),
            protocol: Protocol::Tcc,
            inquires: true,
            reservation_ttl: Duration::ZERO,
        })
    });
    let mut history = Vec::new();
    for what in [begun].into_iter().chain(enlisted) {
        Record { at: WallTime(1_000), what }.encode(&mut history);
    }
    Transaction::replay(id(n), history).unwrap()
}

fn asked(page_size: u32, page_token: &str) -> Result<(usize, Option<TxOrder>), String> {
    let request = pb::ListRequest { filter: None, page_size, page_token: page_token.to_owned() };
    parse(request).map(|(_, size, before)| (size, before)).map_err(|wrong| wrong.to_string())
}

#[test]
fn page_sizes_have_a_default_and_a_limit() {
    assert_eq!(asked(0, ""), Ok((100, None)));
    assert_eq!(asked(1_000, ""), Ok((1_000, None)));
    assert_eq!(asked(1_001, ""), Err("page_size is 1001; give 1 to 1000, or 0 for 100".to_owned()));
    assert!(asked(u32::MAX, "").is_err());
}

#[test]
fn a_page_token_leads_on_from_where_the_page_ended() {
    let found = [transaction(9, "", &[], ""), transaction(8, "", &[], "")];
    let response = page(&found, Some(id(7).order()), Now::default());
    assert_eq!(response.transactions.len(), 2);
    assert_eq!(asked(0, &response.next_page_token), Ok((100, Some(id(7).order()))));
    assert_eq!(page(&found, None, Now::default()).next_page_token, "");
}

#[test]
fn hostile_page_tokens_are_refused_without_being_repeated() {
    for token in
        ["0", "x", &"0".repeat(22), &"f".repeat(1_000_000), "00000000000000000000é", "+00000000000000000000"]
    {
        let refusal = asked(0, token).unwrap_err();
        assert_eq!(
            refusal,
            "page_token is not one of this service; give the next_page_token of a response as it came"
        );
    }
    // Any place is a place: this one is after all that can be.
    assert!(asked(0, &"f".repeat(21)).is_ok());
}

#[test]
fn a_page_of_huge_transactions_is_cut_and_goes_on_after_the_cut() {
    let names = vec!["shop/stock"; 64];
    let endpoint = "e".repeat(8_192);
    let found: Vec<_> = (0..20).rev().map(|n| transaction(n, "", &names, &endpoint)).collect();
    let response = page(&found, None, Now::default());
    let shown = response.transactions.len();
    assert!(0 < shown && shown < found.len() && response.encoded_len() < 4 * 1024 * 1024, "{shown}");
    assert_eq!(asked(0, &response.next_page_token), Ok((100, Some(found[shown - 1].id.order()))));
}

#[test]
fn all_that_a_filter_says_must_match() {
    let transaction = transaction(1, "checkout", &["shop/stock", "shop/payment"], "");
    let soon = Now { mono: Timestamp::ZERO, wall: WallTime(2_000) };
    let matches = |filter: pb::TransactionFilter, now: Now| {
        Filter::parse(filter).unwrap().matches(&transaction, now.wall)
    };
    let state = |states: &[pb::State]| pb::TransactionFilter {
        states: states.iter().map(|state| (*state).into()).collect(),
        ..Default::default()
    };
    let all = pb::TransactionFilter {
        protocol: pb::Protocol::Tcc.into(),
        label: "checkout".to_owned(),
        participant: "shop/payment".to_owned(),
        ..state(&[pb::State::Mixed, pb::State::Active])
    };
    assert!(matches(pb::TransactionFilter::default(), soon));
    assert!(matches(all.clone(), soon));
    assert!(!matches(state(&[pb::State::Mixed]), soon));
    assert!(!matches(pb::TransactionFilter { protocol: pb::Protocol::TwoPhase.into(), ..all.clone() }, soon));
    assert!(!matches(pb::TransactionFilter { label: "check".to_owned(), ..all.clone() }, soon));
    assert!(!matches(pb::TransactionFilter { participant: "shop".to_owned(), ..all.clone() }, soon));
    let overdue = pb::TransactionFilter { needs_attention: true, ..all };
    assert!(!matches(overdue.clone(), soon));
    assert!(matches(overdue, Now { wall: WallTime(31_001), ..soon }));
}

#[test]
fn each_wrong_field_of_a_filter_is_named() {
    let refusal = |filter: pb::TransactionFilter| Filter::parse(filter).unwrap_err().to_string();
    let filter = pb::TransactionFilter::default;
    assert_eq!(
        refusal(pb::TransactionFilter { states: vec![1, 77], ..filter() }),
        "filter.states[1] is 77, which is none of its values"
    );
    assert_eq!(refusal(pb::TransactionFilter { states: vec![0], ..filter() }), "filter.states[0] is not set");
    assert_eq!(
        refusal(pb::TransactionFilter { protocol: 4, ..filter() }),
        "filter.protocol is 4, which is none of its values"
    );
    assert_eq!(
        refusal(pb::TransactionFilter { label: "x".repeat(129), ..filter() }),
        "filter.label has 129 bytes; the limit is 128"
    );
    assert_eq!(
        refusal(pb::TransactionFilter { participant: "a b".to_owned(), ..filter() }),
        r#"filter.participant "a b" has the character ' '; allowed are letters, digits and -_.:/"#
    );
}
