//! Handlers that do what they should not, and payloads of all kinds.

use std::time::Duration;

use assent_sdk::mysql::MySql;
use assent_sdk::mysql::sqlx::MySqlConnection;
use assent_sdk::resource::PhaseOne;
use assent_sdk::{
    AsyncTcc, Branch, ClusterId, Completion, Failure, Prepare, Reservation, ReservationClass, Resource,
    Result, Vote,
};
use bytes::Bytes;

use super::{Run, database, number, run, running, server, soon, stranger, until_waiting};
use crate::conformance::{CLUSTER, commit, doubts, rollback};
use crate::shop::branch;

const ROWS: &str = "CREATE TABLE rows_ (id INT PRIMARY KEY, value INT NOT NULL) ENGINE = InnoDB;
    INSERT INTO rows_ VALUES (1, 0), (2, 0), (3, 0)";

async fn rows() -> (String, MySql) {
    let url = database(server()).await;
    let db = MySql::connect(&url).await.unwrap().setup(ROWS).await.unwrap();
    (url, db)
}

/// At a deadlock the server rolls the whole transaction back. What a handler does after that must not stay.
#[tokio::test]
async fn handler_that_does_not_mind_a_deadlock_cannot_vote_yes() {
    let (url, db) = rows().await;
    let handler = Run::default();
    deadlock(&url, &handler, &db.clone().two_phase(handler.clone()).unwrap()).await;
    deadlock(&url, &handler, &db.tcc(handler.clone())).await;
}

async fn deadlock(url: &str, handler: &Run, stock: &impl Resource) {
    let statements = [
        "UPDATE rows_ SET value = 1 WHERE id = 1",
        "@wait",
        "!UPDATE rows_ SET value = 1 WHERE id = 2",
        "UPDATE rows_ SET value = 1 WHERE id = 3",
    ];
    let mut other = stranger(url).await;
    let cross = async {
        handler.reached.notified().await;
        // The server takes the one with fewer changes for its victim.
        let heavy = "START TRANSACTION; UPDATE rows_ SET value = value WHERE id = 2;
            INSERT INTO rows_ SELECT seq + 100, 0 FROM seq_1_to_1000";
        run(&mut other, heavy).await.unwrap();
        let let_go = async {
            until_waiting(url, 1).await;
            handler.go_on.notify_one();
        };
        let (crossed, ()) = tokio::join!(run(&mut other, "UPDATE rows_ SET value = 0 WHERE id = 1"), let_go);
        crossed.unwrap();
    };
    let branch = branch(1, "a");
    let (answer, ()) = tokio::join!(soon(stock.phase_one(running(&branch, &statements))), cross);
    let failure = answer.unwrap_err();
    assert_eq!(failure.refusal(), None, "it is repeated: {failure}");
    run(&mut other, "ROLLBACK").await.unwrap();
    assert_eq!(number(&mut other, "SELECT count(*) FROM rows_ WHERE value <> 0").await, 0);
    assert_eq!(doubts(stock).await, []);
    assert_eq!(rollback(stock, &branch).await, Completion::UnknownBranch);
    run(&mut other, "DELETE FROM assent_barrier").await.unwrap();
}

#[tokio::test]
async fn handler_that_ends_the_transaction_is_told_so() {
    let (_, db) = rows().await;
    for statement in ["COMMIT", "BEGIN", "CREATE TABLE more (id INT)"] {
        let statements = ["UPDATE rows_ SET value = 1", statement];
        let stock = db.clone().two_phase(Run::default()).unwrap();
        let said = trouble(stock.phase_one(running(&branch(1, "a"), &statements)).await);
        assert!(said.contains("XAER_RMFAIL"), "{said}");
        let stock = db.clone().tcc(Run::default());
        let said = trouble(stock.phase_one(running(&branch(2, "a"), &statements)).await);
        assert!(said.contains("the transaction ended while the handler worked in it"), "{said}");
        assert_eq!(doubts(&stock).await, []);
    }
}

fn trouble<T: std::fmt::Debug>(answer: Result<T>) -> String {
    let failure: Failure = answer.unwrap_err();
    assert_eq!(failure.refusal(), None);
    failure.to_string()
}

/// Answers with what it was asked.
struct Echo;

impl Prepare<MySql> for Echo {
    type Request = Bytes;
    type Reply = Bytes;

    async fn prepare(&self, _: &mut MySqlConnection, _: &Branch, request: Bytes) -> Result<Vote<Bytes>> {
        Ok(Vote::Prepared(request))
    }
}

impl AsyncTcc<MySql> for Echo {
    type Request = Bytes;
    type Reply = Bytes;

    async fn reserve(&self, _: &mut MySqlConnection, _: &Branch, request: Bytes) -> Result<Vote<Bytes>> {
        Ok(Vote::Prepared(request))
    }

    async fn confirm(&self, db: &mut MySqlConnection, _: &Branch, request: Bytes) -> Result<()> {
        let value: i64 = request.iter().map(|&byte| i64::from(byte)).sum();
        Ok(run(db, &format!("INSERT INTO rows_ VALUES (100, {value})")).await?)
    }

    async fn cancel(&self, _: &mut MySqlConnection, _: &Branch, _: Bytes) -> Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn payloads_of_any_bytes_come_back_as_they_were() {
    let (url, db) = rows().await;
    let all: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let two_phase = db.clone().two_phase(Echo).unwrap();
    let tcc = db.tcc(Echo);
    let class = ReservationClass::Autonomous;
    let reservation = Some(Reservation { ttl: Duration::from_millis(12_345), class });
    for (n, payload) in [(1, Bytes::from(all)), (2, Bytes::new()), (3, Bytes::from_static(b"'; --"))] {
        let call = PhaseOne {
            branch: branch(n, "2pc"),
            cluster: ClusterId::from(CLUSTER),
            request: payload.clone(),
            reservation: None,
        };
        for _ in 0..2 {
            assert_eq!(*two_phase.phase_one(call.clone()).await.unwrap().vote.reply(), payload);
        }
        commit(&two_phase, &call.branch).await;
        assert_eq!(*two_phase.phase_one(call.clone()).await.unwrap().vote.reply(), payload);
        assert_eq!(two_phase.commit_one_phase(call.clone()).await.unwrap().reply, payload);

        let call = PhaseOne { branch: branch(n, "tcc"), reservation, ..call };
        for _ in 0..2 {
            let granted = tcc.phase_one(call.clone()).await.unwrap();
            assert_eq!((granted.vote.reply(), granted.reservation), (&payload, reservation));
            let doubt = tcc.in_doubt(call.branch.participant()).await.unwrap();
            assert_eq!((&doubt[0].branch, doubt[0].reservation), (&call.branch, reservation));
        }
        if n == 1 {
            commit(&tcc, &call.branch).await;
            let mut db = stranger(&url).await;
            let expected = (0..=255).sum::<i64>() * (1 << 12);
            assert_eq!(number(&mut db, "SELECT value FROM rows_ WHERE id = 100").await, expected);
        } else {
            rollback(&tcc, &call.branch).await;
        }
    }
}
