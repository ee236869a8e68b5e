//! The demo on real database servers: order and the banks on PostgreSQL, stock on MariaDB. Payment keeps its file, as a
//! partner whose database is nobody's business.

mod ledger;
mod order;
mod scenario;
mod servers;
mod stock;

use assent_sdk::mysql::MySql;
use assent_sdk::participant::{Builder, Named};
use assent_sdk::postgres::Postgres;

pub(super) use self::servers::Servers;
use super::Error;
use super::Service::{self, North, Order, OrderTwoPhase, Payment, South, Stock, StockTwoPhase};
use super::stage::Stage;

/// Plays all scenarios.
pub(super) async fn play(stage: &mut Stage<'_>) -> Result<(), Error> {
    super::scenario::play_first(stage).await?;
    let title = "An order, by 2PC in two databases and by TCC at the payment partner";
    stage.play("order-mixed", title, scenario::mixed_order_commits).await?;
    let title = "The coordinator is killed (kill -9) while both databases have prepared";
    stage.play("coordinator-killed", title, scenario::coordinator_is_killed).await?;
    let title = "Both database servers are killed (kill -9) between vote and decision";
    stage.play("databases-killed", title, scenario::servers_are_killed).await?;
    super::scenario::play_last(stage).await
}

/// The participant of a service that keeps its data on a PostgreSQL.
pub(super) async fn on_postgres(service: Service, named: Named, url: &str) -> Result<Builder, Error> {
    let database = async |schema| Postgres::connect(url).await?.setup(schema).await;
    Ok(match service {
        Order => named.resource(database(order::SCHEMA).await?.tcc(order::Orders)),
        OrderTwoPhase => named.resource(database(order::SCHEMA).await?.two_phase(order::Orders)?),
        North | South => named.resource(database(ledger::SCHEMA).await?.two_phase(ledger::Ledger)?),
        Stock | StockTwoPhase | Payment => return Err(Error::misplaced(service, url)),
    })
}

/// The participant of a service that keeps its data on a MariaDB.
pub(super) async fn on_maria_db(service: Service, named: Named, url: &str) -> Result<Builder, Error> {
    let database = async |schema| MySql::connect(url).await?.setup(schema).await;
    Ok(match service {
        Stock => named.resource(database(stock::SCHEMA).await?.tcc(stock::Stock)),
        StockTwoPhase => named.resource(database(stock::SCHEMA).await?.two_phase(stock::Stock)?),
        Order | OrderTwoPhase | Payment | North | South => return Err(Error::misplaced(service, url)),
    })
}
