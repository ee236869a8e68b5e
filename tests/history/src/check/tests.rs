use super::Rule::{
    Atomicity, Doubled, History as Malformed, Invented, Lost, Money, RealTime, Stability, Termination,
};
use super::*;

/// Two sets of one account each. `t1` and `t2` move 5 from one to the other.
const OPEN: &str = r#"
{"open":{"set":"a","balances":{"x":100}}}
{"open":{"set":"b","balances":{"y":100}}}
"#;

/// What is wrong with a history, where `begin`, `told`, `saw` and so on are short for their records.
fn found(script: &str) -> Vec<(Rule, Vec<Line>)> {
    let verdict = check(&history(script));
    verdict.findings.into_iter().map(|finding| (finding.rule, finding.lines)).collect()
}

/// The sets are opened in lines 1 and 2, so the script begins with line 3. A word with a number is an operation:
///
/// * `begin 1 t1`, `told 1 complete`, `killed`, `quiet`
/// * `read 2 a`, `read 2 a t1`; `saw 2 95 t1` with the balance and the transfers shown, or `saw 2 - t1` of one transfer
fn history(script: &str) -> History {
    let mut sets = std::collections::BTreeMap::new();
    let mut lines: Vec<String> = OPEN.trim().lines().map(str::to_owned).collect();
    for line in script.trim().lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let line = match words[..] {
            ["begin", op, id] => format!(
                r#"{{"begin":{{"process":"p","op":{op},"transfer":{{"id":"{id}","moves":[
                {{"set":"a","account":"x","amount":-5}},{{"set":"b","account":"y","amount":5}}]}}}}}}"#
            ),
            ["told", op, told] => format!(r#"{{"end":{{"process":"p","op":{op},"told":"{told}"}}}}"#),
            ["read", op, set] => {
                sets.insert(op, set);
                format!(r#"{{"begin":{{"process":"r","op":{op},"read":{{"set":"{set}"}}}}}}"#)
            }
            ["read", op, set, id] => {
                sets.insert(op, set);
                format!(r#"{{"begin":{{"process":"r","op":{op},"read":{{"set":"{set}","of":"{id}"}}}}}}"#)
            }
            ["saw", "nothing"] => r#"{"end":{"process":"p","op":1,"saw":{"effects":[]}}}"#.to_owned(),
            ["saw", op, balance, ref ids @ ..] => saw(op, sets[op], balance, ids),
            ["killed"] => r#"{"fault":{"what":"kill -9","ended":"p"}}"#.to_owned(),
            ["broken"] => r#"{"fault":{"what":"a cable was cut"}}"#.to_owned(),
            ["quiet"] => r#""quiet""#.to_owned(),
            _ => line.to_owned(),
        };
        lines.push(line.replace('\n', ""));
    }
    History::parse(&lines.join("\n")).unwrap()
}

fn saw(op: &str, set: &str, balance: &str, ids: &[&str]) -> String {
    let (account, amount) = if set == "a" { ("x", -5) } else { ("y", 5) };
    let (held, shown): (Vec<_>, Vec<_>) = ids.iter().partition(|id| id.starts_with('~'));
    let effect = |id: &&str| format!(r#"{{"id":"{id}","account":"{account}","amount":{amount}}}"#);
    let effects = shown.iter().map(effect).collect::<Vec<_>>().join(",");
    let held = held.iter().map(|id| format!(r#""{}""#, &id[1..])).collect::<Vec<_>>().join(",");
    let balances = if balance == "-" { String::new() } else { format!(r#""{account}":{balance}"#) };
    format!(
        r#"{{"end":{{"process":"r","op":{op},"saw":{{"effects":[{effects}],"balances":{{{balances}}},"held":[{held}]}}}}}}"#
    )
}

#[test]
fn good_history_is_good() {
    let script = "
        begin 1 t1
        begin 2 t2
        read 1 a
        saw 1 95 t1
        broken
        told 1 complete
        told 2 aborted
        read 2 b t1
        saw 2 - t1
        begin 3 t3
        killed
        quiet
        read 3 a
        saw 3 90 t1 t3
        read 4 b
        saw 4 110 t1 t3";
    let verdict = check(&history(script));
    assert!(verdict.is_good(), "{verdict}");
    let summary =
        Summary { committed: 1, aborted: 1, unknown: 1, unknown_and_done: 1, reads: 4, faults: 2, quiets: 1 };
    assert_eq!(verdict.summary, summary);
}

#[test]
fn effect_in_one_of_two_sets_is_split() {
    let script = "
        begin 1 t1
        told 1 unknown
        quiet
        read 1 a
        saw 1 95 t1
        read 2 b
        saw 2 100";
    assert_eq!(found(script), [(Atomicity, vec![3, 7, 9]), (Money, vec![7, 9])]);
}

#[test]
fn effect_in_one_of_two_sets_is_no_harm_while_things_are_under_way() {
    let script = "
        begin 1 t1
        read 1 a
        saw 1 95 t1
        read 2 b
        saw 2 100
        told 1 complete
        quiet
        read 3 a
        saw 3 95 t1
        read 4 b
        saw 4 105 t1";
    assert_eq!(found(script), []);
}

#[test]
fn told_committed_and_nowhere_is_lost() {
    for told in ["complete", "committed"] {
        let script = format!(
            "
            begin 1 t1
            told 1 {told}
            killed
            quiet
            read 1 a
            saw 1 100
            read 2 b
            saw 2 100"
        );
        assert_eq!(found(&script), [(Lost, vec![4, 8, 10])], "{told}");
    }
}

#[test]
fn told_aborted_and_there_is_found() {
    let script = "
        begin 1 t1
        told 1 aborted
        quiet
        read 1 a
        saw 1 95 t1
        read 2 b
        saw 2 105 t1";
    assert_eq!(found(script), [(Stability, vec![3, 4, 7])]);
}

#[test]
fn what_was_seen_while_it_was_undecided_and_then_aborted_is_found() {
    let script = "
        begin 1 t1
        read 1 a t1
        saw 1 - t1
        told 1 aborted
        quiet
        read 2 a
        saw 2 100
        read 3 b
        saw 3 100";
    // It was there though it never should have been, and then it was not there any more.
    assert_eq!(found(script), [(Stability, vec![3, 5, 6])]);
}

#[test]
fn what_was_seen_and_is_gone_later_is_found() {
    let script = "
        begin 1 t1
        told 1 unknown
        read 1 a t1
        saw 1 - t1
        quiet
        read 2 a
        saw 2 100
        read 3 b
        saw 3 100";
    assert_eq!(found(script), [(Stability, vec![6, 9])]);
}

#[test]
fn two_answers_to_one_transfer_are_found() {
    let script = "
        begin 1 t1
        told 1 aborted
        begin 2 t1
        told 2 committed
        quiet
        read 1 a
        saw 1 100
        read 2 b
        saw 2 100";
    // And what was told committed is lost.
    assert_eq!(found(script), [(Stability, vec![3, 4, 6]), (Lost, vec![6, 9, 11])]);
}

#[test]
fn doubled_effect_is_found_though_balances_agree_with_it() {
    let script = "
        begin 1 t1
        told 1 complete
        quiet
        read 1 a
        saw 1 90 t1 t1
        read 2 b
        saw 2 105 t1";
    assert_eq!(found(script), [(Doubled, vec![3, 7]), (Money, vec![7, 9])]);
}

#[test]
fn effect_that_nobody_had_begun_is_invented() {
    let script = "
        read 1 a t1
        saw 1 - t1
        begin 1 t1
        told 1 complete
        quiet
        read 2 a
        saw 2 90 t1 t9
        read 3 b
        saw 3 110 t1 t9";
    assert_eq!(found(script), [(Invented, vec![4]), (Invented, vec![9])]);
}

#[test]
fn effect_other_than_what_was_asked_for_is_invented() {
    let script = r#"
        begin 1 t1
        told 1 complete
        quiet
        read 1 a
        {"end":{"process":"r","op":1,"saw":{"effects":[{"id":"t1","account":"x","amount":-6}],"balances":{"x":94}}}}
        read 2 b
        saw 2 105 t1"#;
    // The account that was to be changed was not, and a unit is gone.
    assert_eq!(found(script), [(Invented, vec![3, 7]), (Atomicity, vec![3, 7]), (Money, vec![7, 9])]);
}

#[test]
fn balance_that_effects_do_not_explain_is_found() {
    let script = "
        begin 1 t1
        told 1 complete
        quiet
        read 1 a
        saw 1 96 t1
        read 2 b
        saw 2 104 t1";
    assert_eq!(found(script), [(Money, vec![1, 7]), (Money, vec![2, 9])]);
}

#[test]
fn transfer_that_never_ends_is_found_and_one_of_the_killed_is_not() {
    let ending = "
        quiet
        read 1 a
        saw 1 100
        read 2 b
        saw 2 100";
    assert_eq!(found(&format!("begin 1 t1\n{}", ending.trim())), [(Termination, vec![3, 4])]);
    assert_eq!(found(&format!("begin 1 t1\nkilled\n{}", ending.trim())), []);
}

#[test]
fn what_is_still_held_when_all_is_quiet_is_found() {
    let script = "
        begin 1 t1
        told 1 unknown
        read 1 a
        saw 1 100 ~t1
        quiet
        read 2 a
        saw 2 100
        read 3 b
        saw 3 100 ~t1";
    assert_eq!(found(script), [(Termination, vec![7, 11])]);
}

#[test]
fn read_that_began_after_completion_must_show_it() {
    let reads_late = "
        begin 1 t1
        told 1 complete
        read 1 a
        saw 1 100
        begin 2 t2
        told 2 complete
        quiet
        read 2 a
        saw 2 90 t1 t2
        read 3 b
        saw 3 110 t1 t2";
    assert_eq!(found(reads_late), [(RealTime, vec![4, 5, 6])]);
    // A read that began before may show it or not; and so may one after a mere decision.
    let reads_early =
        reads_late.replace("told 1 complete\n        read 1 a", "read 1 a\n        told 1 complete");
    assert_eq!(found(&reads_early), []);
    assert_eq!(found(&reads_late.replace("told 1 complete", "told 1 committed")), []);
}

#[test]
fn history_that_does_not_show_the_end_is_refused() {
    let whole = "
        begin 1 t1
        told 1 complete
        quiet
        read 1 a
        saw 1 95 t1
        read 2 b
        saw 2 105 t1";
    assert_eq!(found(whole), []);
    let without_a_set = whole.replace("read 2 b", "").replace("saw 2 105 t1", "");
    assert_eq!(found(&without_a_set), [(Malformed, vec![5])]);
    assert_eq!(found(&whole.replace("quiet", "broken")), [(Malformed, vec![1])]);
    assert_eq!(found(&format!("{whole}\nbegin 3 t3\ntold 3 aborted")), [(Malformed, vec![5])]);
    assert_eq!(found(&format!("{whole}\ntold 1 complete")), [(Malformed, vec![10])]);
}

#[test]
fn history_that_cannot_have_happened_is_refused() {
    let end = "\nquiet\nread 8 a\nsaw 8 100\nread 9 b\nsaw 9 100";
    let found = |script: &str| found(&format!("{}{end}", script.trim()));
    assert_eq!(found(r#"{"open":{"set":"a","balances":{"x":100}}}"#), [(Malformed, vec![3])]);
    assert_eq!(found("begin 1 t1\nbegin 1 t2\ntold 1 aborted"), [(Malformed, vec![3, 4])]);
    assert_eq!(found("begin 1 t1\nsaw nothing"), [(Malformed, vec![3, 4])]);
    let of_another = found("begin 1 t1\ntold 1 complete\nread 1 a t2\nsaw 1 - t1");
    assert_eq!(of_another[0], (Malformed, vec![6]));
    let unknown_set = r#"
{"begin":{"process":"r","op":1,"read":{"set":"c"}}}
{"end":{"process":"r","op":1,"saw":{"effects":[]}}}"#;
    assert_eq!(found(unknown_set), [(Malformed, vec![4])]);
    let lopsided = r#"
{"begin":{"process":"p","op":1,"transfer":{"id":"t1","moves":[{"set":"a","account":"x","amount":1}]}}}
{"end":{"process":"p","op":1,"told":"aborted"}}"#;
    assert_eq!(found(lopsided), [(Malformed, vec![3])]);
    assert_eq!(found(&lopsided.replace(r#""x","amount":1"#, r#""z","amount":0"#)), [(Malformed, vec![3])]);
    let changed = lopsided.replace(r#""amount":1"#, r#""amount":0"#) + "\nbegin 2 t1\ntold 2 aborted";
    assert_eq!(found(&changed), [(Malformed, vec![3, 5])]);
}

#[test]
fn operation_after_the_last_quiet_time_has_to_end_too() {
    let script = "
        quiet
        read 1 a
        saw 1 100
        read 2 b
        saw 2 100
        begin 1 t1";
    assert_eq!(found(script), [(Malformed, vec![3]), (Termination, vec![8])]);
}

#[test]
fn line_that_a_killed_writer_cut_off_is_passed_over_and_no_other() {
    let torn = r#"{"begin":{"process":"p","#;
    assert!(History::parse(&format!("{torn}\n\"quiet\"")).is_err());
    let killed = r#"{"fault":{"what":"kill -9","ended":"p"}}"#;
    assert_eq!(History::parse(&format!("{torn}\n{killed}\n\"quiet\"")).unwrap().records().count(), 2);
    assert!(History::parse(&format!("{torn}x\n{killed}")).is_err());
}

#[test]
fn what_is_recorded_is_read_back() {
    let directory = std::env::temp_dir().join(format!("assent-history-{}", std::process::id()));
    let recorder = crate::Recorder::append_to(&directory).unwrap();
    let good = history("begin 1 t1\ntold 1 complete\nkilled\nquiet\nread 1 a\nsaw 1 95 t1 ~t2");
    good.records().for_each(|record| recorder.record(record).unwrap());
    let read = History::load(&directory).unwrap();
    std::fs::remove_file(&directory).unwrap();
    assert!(read.records().eq(good.records()));
    assert_eq!(read.unended("p"), []);
}
