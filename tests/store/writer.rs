//! The writer thread: groups, failures, ends.

use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use assent::core::Epoch;
use assent::store::{
    AppendError, DecisionLog, Durability, FailedAppend, LogWriter, MemoryLog, ReplayError, Submission,
    WriterEvent,
};

use crate::support::{contents, put, remove, tx};

fn spawn(log: &MemoryLog) -> (LogWriter, Receiver<WriterEvent>) {
    let epoch = log.open().epoch;
    let (events, seen) = channel();
    let on_event = move |event| events.send(event).expect("the test listens");
    (LogWriter::spawn(Box::new(log.clone()), epoch, on_event).unwrap(), seen)
}

fn forced(ticket: u64, writes: Vec<assent::store::LogWrite>) -> Submission {
    Submission { ticket, writes, forced: 1 }
}

fn lazy(ticket: u64, writes: Vec<assent::store::LogWrite>) -> Submission {
    Submission { ticket, writes, forced: 0 }
}

#[test]
fn submissions_queued_behind_one_sync_share_the_next() {
    let log = MemoryLog::new();
    let (writer, events) = spawn(&log);
    log.close_gate();
    writer.submit(forced(1, vec![put(1, b"first")]));
    log.wait_for_append_at_gate();
    for ticket in 2..=101 {
        writer.submit(forced(ticket, vec![put(ticket, b"later")]));
    }
    log.open_gate();
    assert_eq!(events.recv().unwrap(), WriterEvent::Durable { ticket: 1 });
    assert_eq!(events.recv().unwrap(), WriterEvent::Durable { ticket: 101 });
    assert_eq!(log.syncs(), 2);
    let stats = writer.stats();
    assert_eq!((stats.forced_writes(), stats.records(), stats.syncs()), (101, 101, 2));
    assert_eq!(stats.bytes(), 101 * 5);
    log.crash();
    assert_eq!(log.len(), 101);
}

#[test]
fn lazy_groups_share_a_sync_and_make_no_event() {
    let log = MemoryLog::new();
    let (writer, events) = spawn(&log);
    for ticket in 1..=1000 {
        writer.submit(lazy(ticket, vec![put(ticket, b"begun")]));
    }
    writer.finish().unwrap();
    assert_eq!(events.try_iter().count(), 0);
    // That of the clean end, and a few on a machine on which this takes seconds.
    assert!((1..100).contains(&log.syncs()), "{}", log.syncs());
    log.crash();
    assert_eq!(log.len(), 1000);
}

#[test]
fn lazy_writes_are_synced_in_time_though_nothing_forces_them() {
    let log = MemoryLog::new();
    let (writer, events) = spawn(&log);
    writer.submit(lazy(1, vec![put(1, b"begun")]));
    let patience = Instant::now() + Duration::from_mins(1);
    while log.syncs() == 0 {
        assert!(Instant::now() < patience, "it was never synced");
        thread::sleep(Duration::from_millis(5));
    }
    log.crash();
    assert_eq!(log.len(), 1);
    // Nobody waits for it, and the writer is at rest again.
    assert_eq!(events.try_iter().count(), 0);
    writer.finish().unwrap();
    assert_eq!(log.syncs(), 2);
}

#[test]
fn writer_without_a_thread_writes_a_group_a_turn() {
    let log = MemoryLog::new();
    let epoch = log.open().epoch;
    let (queued, seen) = channel();
    let (writer, crank) = LogWriter::by_hand(Box::new(log.clone()), epoch, move || queued.send(()).unwrap());
    assert!(crank.turn().is_none());
    writer.submit(forced(1, vec![put(1, b"first")]));
    writer.submit(lazy(2, vec![put(2, b"second")]));
    assert_eq!((seen.try_iter().count(), log.appends()), (2, 0));
    assert_eq!(crank.turn().unwrap().told, Some(WriterEvent::Durable { ticket: 2 }));
    assert!(crank.turn().is_none());
    writer.submit(lazy(3, vec![put(3, b"third")]));
    assert_eq!(crank.turn().unwrap().told, None);
    assert_eq!(crank.sync().told, None);
    log.crash();
    assert_eq!(log.len(), 3);
    writer.submit(lazy(4, vec![put(4, b"last")]));
    writer.finish().unwrap();
    log.crash();
    assert_eq!(log.len(), 4);
}

#[test]
fn superseded_writes_of_a_group_are_not_written() {
    let log = MemoryLog::new();
    let (writer, events) = spawn(&log);
    log.close_gate();
    writer.submit(forced(1, vec![put(3, b"old")]));
    log.wait_for_append_at_gate();
    writer.submit(lazy(2, vec![put(1, b"a"), put(2, b"b")]));
    writer.submit(forced(3, vec![put(1, b"ab"), remove(2)]));
    writer.submit(lazy(4, vec![remove(3), put(2, b"c"), put(4, b"d")]));
    writer.submit(lazy(5, vec![remove(4)]));
    log.open_gate();
    assert_eq!(events.recv().unwrap(), WriterEvent::Durable { ticket: 1 });
    assert_eq!(events.recv().unwrap(), WriterEvent::Durable { ticket: 5 });
    assert_eq!(writer.stats().records(), 1 + 4);
    assert_eq!(writer.stats().forced_writes(), 2);
    let values = contents(&mut log.clone());
    assert_eq!(values, [(tx(1), b"ab".to_vec()), (tx(2), b"c".to_vec())].into());
}

#[test]
fn nothing_is_written_after_a_failed_append() {
    let log = MemoryLog::new();
    let (writer, events) = spawn(&log);
    log.fail_append(2, FailedAppend::Lost);
    writer.submit(forced(1, vec![put(1, b"kept")]));
    assert_eq!(events.recv().unwrap(), WriterEvent::Durable { ticket: 1 });
    writer.submit(forced(2, vec![put(2, b"lost")]));
    let Ok(WriterEvent::Failed(error)) = events.recv() else { panic!("it did not fail") };
    assert!(matches!(error, AppendError::Unknown(_)), "{error}");
    writer.submit(forced(3, vec![put(3, b"never")]));
    assert_eq!(writer.finish(), Err(error));
    assert_eq!(events.try_iter().count(), 0);
    assert_eq!(contents(&mut log.clone()), [(tx(1), b"kept".to_vec())].into());
}

#[test]
fn failed_append_may_still_be_durable() {
    let log = MemoryLog::new();
    let (writer, events) = spawn(&log);
    log.fail_append(1, FailedAppend::Kept);
    writer.submit(forced(1, vec![put(1, b"kept")]));
    assert!(matches!(events.recv().unwrap(), WriterEvent::Failed(AppendError::Unknown(_))));
    log.crash();
    log.open();
    assert_eq!(contents(&mut log.clone()), [(tx(1), b"kept".to_vec())].into());
}

#[test]
fn writer_of_a_former_epoch_fails_and_changes_nothing() {
    let log = MemoryLog::new();
    let (writer, events) = spawn(&log);
    let next = log.open().epoch;
    writer.submit(forced(1, vec![put(1, b"stale")]));
    let fenced = AppendError::Fenced { ours: Epoch(1), theirs: next };
    assert_eq!(events.recv().unwrap(), WriterEvent::Failed(fenced));
    assert!(log.is_empty());
}

#[test]
fn panic_in_the_log_is_reported_as_a_failure() {
    struct Panics;
    impl DecisionLog for Panics {
        fn append_batch(
            &mut self,
            _: Epoch,
            _: &[assent::store::LogWrite],
            _: Durability,
        ) -> Result<(), AppendError> {
            panic!("out of luck")
        }
        fn replay(
            &mut self,
            _: &mut dyn FnMut(assent::core::TxId, Vec<u8>) -> Result<(), ReplayError>,
        ) -> Result<(), ReplayError> {
            Ok(())
        }
        fn close(self: Box<Self>) -> Result<(), AppendError> {
            Ok(())
        }
    }
    let (events, seen) = channel();
    let writer = LogWriter::spawn(Box::new(Panics), Epoch(1), move |event| {
        events.send(event).expect("the test listens");
    })
    .unwrap();
    writer.submit(forced(1, vec![put(1, b"x")]));
    let expected = AppendError::Unknown("panic: out of luck".to_owned());
    assert_eq!(seen.recv().unwrap(), WriterEvent::Failed(expected));
}
