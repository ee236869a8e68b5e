use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tonic::transport::Endpoint;

use super::*;
use crate::coordinator::{Identity, Stopped, system_wall_clock};
use crate::core::{
    Backoff, BeginSpec, BranchSpec, EngineSettings, Enlistment, Label, PhaseOne, Protocol, ReservationClass,
    Shard, Vote, Wait,
};
use crate::store::{FailedAppend, MemoryLog};
use crate::transport::{DialSettings, Dialer, Sessions};
use crate::wire::Limits;

const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_log_that_fails_stops_the_driver_and_nobody_is_told_committed() {
    let log = MemoryLog::new();
    let (coordinator, driver) = start(log.clone());
    let spec =
        BeginSpec { protocol: Protocol::TwoPhase, label: Label::default(), timeout: MINUTE, request: None };
    let begun = coordinator.ask(|waiter| Event::Begin { waiter, spec }).await.unwrap();
    let Answer::Begun { tx, .. } = begun else { panic!("{begun:?}") };

    log.fail_append(1, FailedAppend::Kept);
    let enlistments = vec![prepared("shop/stock")];
    let commit = |waiter| Event::Commit { waiter, tx, enlistments, wait: Wait::Decision };
    assert_eq!(coordinator.ask(commit).await.unwrap_err(), Stopped);
    let failure = driver.await.unwrap().unwrap_err().to_string();
    assert!(failure.starts_with("cannot write the decision log: told to fail; "), "{failure}");
    assert_eq!(coordinator.phase(), Phase::Stopped);
    assert_eq!(coordinator.get(tx).await.unwrap_err(), Stopped);
}

/// Its end is written lazily, and nothing else comes that would sync it.
#[tokio::test]
async fn a_quiet_time_brings_the_horizon_past_the_last_transaction() {
    let (coordinator, _driver) = start(MemoryLog::new());
    let spec =
        BeginSpec { protocol: Protocol::TwoPhase, label: Label::default(), timeout: MINUTE, request: None };
    let begun = coordinator.ask(|waiter| Event::Begin { waiter, spec }).await.unwrap();
    let Answer::Begun { tx, .. } = begun else { panic!("{begun:?}") };
    coordinator
        .ask(|waiter| Event::Abort { waiter, tx, reason: "".into(), wait: Wait::Decision })
        .await
        .unwrap();

    // Until the log is synced a crash could bring the transaction back.
    assert!(coordinator.horizon() <= tx.order());
    let mut horizon = coordinator.watch_horizon();
    let passed = horizon.wait_for(|horizon| *horizon > tx.order());
    tokio::time::timeout(MINUTE, passed).await.unwrap().unwrap();
}

fn start(log: MemoryLog) -> (Coordinator, tokio::task::JoinHandle<Result<(), DriverError>>) {
    let (coordinator, inputs) = Coordinator::new(system_wall_clock);
    let opened = log.open();
    let epoch = opened.epoch;
    coordinator.identify(Identity { cluster: opened.cluster, lives: opened.lives, epoch });
    let (told, written) = mpsc::unbounded_channel();
    let writer = LogWriter::spawn(Box::new(log), epoch, move |event| drop(told.send(event))).unwrap();
    let limits = Limits {
        max_payload: 1024,
        max_branches: 8,
        default_timeout: MINUTE,
        max_timeout: MINUTE,
        endpoints: BTreeMap::new(),
        allowed_hosts: Vec::new(),
    };
    let settings = DialSettings { max_in_flight: 8, call_timeout: MINUTE, channel: Endpoint::connect_lazy };
    let dialer = Dialer::new(coordinator.clone(), Arc::new(limits), settings);
    let parts = DriverParts {
        coordinator: coordinator.clone(),
        inputs,
        engine: Engine::new(engine_settings(), epoch, Shard(0), opened.life_tag),
        writer,
        written,
        transport: Transport::new(Sessions::new(8), dialer, BTreeMap::new()),
    };
    (coordinator, tokio::spawn(Driver::new(parts).run()))
}

fn engine_settings() -> EngineSettings {
    EngineSettings {
        max_active: 8,
        max_branches: 8,
        call_timeout: MINUTE,
        backoff: Backoff { initial: MINUTE, max: MINUTE },
        reservation_margin: Duration::ZERO,
        retention: MINUTE,
        retention_max: 8,
    }
}

fn prepared(participant: &str) -> Enlistment {
    let branch = BranchSpec {
        id: None,
        participant: participant.parse().unwrap(),
        endpoint: None,
        protocol: None,
        payload: Bytes::new(),
        reservation_ttl: None,
        inquires: true,
    };
    let vote = PhaseOne {
        vote: Vote::Prepared,
        reason: "".into(),
        reply: Bytes::new(),
        reservation_ttl: Duration::ZERO,
        class: ReservationClass::Cooperative,
    };
    Enlistment { branch, vote: Some(vote) }
}
