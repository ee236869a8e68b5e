//! XA names belong to a whole server: ours, those of other databases, and those of others.

use assent_sdk::mysql::sqlx::Connection as _;
use assent_sdk::mysql::{Held, HeldBranch, HeldBy, MySql, Tables, held};
use assent_sdk::throwaway::Server;
use assent_sdk::{Branch, Completion, Resource as _};

use super::{Run, database, run, running, sells, shop_at, stranger, until_answered};
use crate::conformance::{commit, doubts, phase_one, rollback};
use crate::log::Log;
use crate::shop::{Shop as _, at, branch, tx};

#[tokio::test]
async fn databases_of_one_server_have_their_own_branches() {
    let server = Server::maria_db(&[]).unwrap();
    let urls = [database(&server).await, database(&server).await];
    let shops = [shop_at(&urls[0]).await, shop_at(&urls[1]).await];
    let stocks = shops.each_ref().map(sells);
    for stock in &stocks {
        assert_eq!(phase_one(stock, &branch(1, "a"), 3).await, r#"prepared {"left":7}"#);
    }
    for (stock, url) in stocks.iter().zip(&urls) {
        assert_eq!(doubts(stock).await, [branch(1, "a")]);
        assert_eq!(held(url).await.unwrap().len(), 1);
    }
    assert_eq!(commit(&stocks[0], &branch(1, "a")).await, Completion::Done);
    assert_eq!(shops[0].shelf().await, at(7, 0, 3));
    assert_eq!(shops[1].shelf().await, at(10, 0, 0));
    assert_eq!(doubts(&stocks[1]).await, [branch(1, "a")]);
}

#[tokio::test]
async fn prepared_transactions_of_others_are_left_alone_and_shown() {
    let server = Server::maria_db(&[]).unwrap();
    let url = database(&server).await;
    let db =
        MySql::connect(&url).await.unwrap().setup("CREATE TABLE rows_ (id INT PRIMARY KEY)").await.unwrap();
    let two_phase = db.clone().two_phase(Run::default()).unwrap();
    let long = Branch::new(tx(1), "line-1".parse().unwrap(), "a-rather-long-shop/stock".parse().unwrap());
    two_phase.phase_one(running(&long, &["INSERT INTO rows_ VALUES (1)"])).await.unwrap();
    let tcc = db.tcc(Run::default());
    tcc.phase_one(running(&branch(2, "b"), &[])).await.unwrap();
    // Not text; our format id with a name that we would not write; and with the name of ours, in another format.
    let ours = format!("'{},shop/stock@test'", tx(3));
    let others = [
        "X'FF00C328',X'27',7".to_owned(),
        "X'6F74686572',X'61',1634954868".to_owned(),
        format!("{ours},X'61',1"),
    ];
    for (n, name) in others.iter().enumerate() {
        let mut db = stranger(&url).await;
        let sql = format!(
            "XA START {name}; INSERT INTO rows_ VALUES ({}); XA END {name}; XA PREPARE {name}",
            n + 10
        );
        run(&mut db, &sql).await.unwrap();
        db.close().await.unwrap();
    }
    let log = Log::warnings();
    let guard = log.keep();
    for _ in 0..2 {
        assert_eq!(doubts(&two_phase).await, []);
    }
    drop(guard);
    // What nobody will end is reported, once.
    let said = log.lines();
    assert!(
        said.len() == 1 && said[0].contains("has our format id and a name that is not known"),
        "{said:?}"
    );
    assert_eq!(two_phase.in_doubt(long.participant()).await.unwrap()[0].branch, long);

    let shown = held(&url).await.unwrap();
    let of = |by| shown.iter().filter(move |held: &&Held| held.by == by);
    let reserved: Vec<_> = of(HeldBy::Reserved).cloned().collect();
    let participant = "shop/stock".to_owned();
    let named = HeldBranch { xid: tx(2), id: "b".parse().unwrap(), participant };
    let name = format!("{}/b", tx(2));
    assert_eq!(reserved, [Held { name, branch: Some(named), by: HeldBy::Reserved }]);
    let (known, unknown): (Vec<_>, Vec<_>) = of(HeldBy::Prepared).partition(|held| held.branch.is_some());
    assert_eq!(unknown.len(), 3);
    assert!(unknown.iter().any(|held| held.name == others[0]), "{unknown:?}");
    let [known] = &known[..] else { panic!("{known:?}") };
    let named = known.branch.as_ref().unwrap();
    assert_eq!((named.xid, &named.id), (long.xid(), long.id()));
    // As much as there is room for, and a hash.
    assert!(named.participant.starts_with("a-rather-l#"), "{}", named.participant);

    // What is shown is what statements want.
    until_answered(async || Ok(run(&mut stranger(&url).await, &format!("XA ROLLBACK {}", others[0])).await?))
        .await;
    assert_eq!(held(&url).await.unwrap().len(), 4);
}

/// The server lets a database have any name.
#[tokio::test]
async fn name_of_a_database_needs_no_quoting() {
    let server = Server::maria_db(&[]).unwrap();
    let name = "it's %22 \\ ö";
    run(&mut stranger(&server.url()).await, "CREATE DATABASE `it's \" \\ ö`").await.unwrap();
    let shop = shop_at(&server.database_url(&name.replace(' ', "%20"))).await;
    let stock = sells(&shop);
    assert_eq!(phase_one(&stock, &branch(1, "a"), 3).await, r#"prepared {"left":7}"#);
    assert_eq!(doubts(&stock).await, [branch(1, "a")]);
    assert_eq!(commit(&stock, &branch(1, "a")).await, Completion::Done);
    phase_one(&stock, &branch(2, "a"), 1).await;
    assert_eq!(rollback(&stock, &branch(2, "a")).await, Completion::Done);
    assert_eq!(shop.shelf().await, at(7, 0, 3));
}

/// An operator's look needs nothing to be there, and leaves nothing behind.
#[tokio::test]
async fn database_without_the_tables_holds_nothing() {
    let url = database(super::server()).await;
    let reserved = held(&url).await.unwrap().into_iter().filter(|held| held.by == HeldBy::Reserved);
    assert_eq!(reserved.count(), 0);
    let checked = assent_sdk::mysql::MySqlOptions::new(&url).tables(Tables::Check).connect().await;
    assert!(checked.is_err(), "nothing was created");
}
