//! `shop/credit` on PostgreSQL, by two-phase commit: the account that a customer has with the shop itself. It stands in for
//! the payment partner where all is to be done by two-phase commit.

use assent_sdk::postgres::Postgres;
use assent_sdk::postgres::sqlx::{self, PgConnection};
use assent_sdk::{Branch, Json, Prepare, Result, Vote, refuse};

use crate::payment::Charge;

pub const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS credit (customer TEXT PRIMARY KEY, in_wallet BIGINT NOT NULL, paid BIGINT NOT NULL);
";

pub struct Credit;

impl Prepare<Postgres> for Credit {
    type Request = Json<Charge>;
    type Reply = ();

    async fn prepare(
        &self,
        db: &mut PgConnection,
        _: &Branch,
        Json(charge): Json<Charge>,
    ) -> Result<Vote<()>> {
        let Charge { customer, amount } = charge;
        let pay = "UPDATE credit SET in_wallet = in_wallet - $2, paid = paid + $2
                   WHERE customer = $1 AND in_wallet >= $2";
        match sqlx::query(pay).bind(&customer).bind(i64::from(amount)).execute(db).await?.rows_affected() {
            0 => Err(refuse(format!("{customer} cannot pay {amount} coins"))),
            _ => Ok(Vote::Prepared(())),
        }
    }
}
