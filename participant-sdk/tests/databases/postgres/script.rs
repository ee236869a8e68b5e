//! A handler that does what its request says, good or bad.

use assent_sdk::postgres::Postgres;
use assent_sdk::postgres::sqlx::{self, AssertSqlSafe, Connection as _, PgConnection};
use assent_sdk::resource::PhaseOne;
use assent_sdk::{AsyncTcc, Branch, Encode as _, Json, Prepare, Resource, Result, Vote};
use bytes::Bytes;

use crate::conformance;

/// Runs the statements of the request, and answers with its last part. The error of a statement that begins with `?` is
/// swallowed; `begin()` is sqlx's, and `panic!` one of the handler.
#[derive(Clone, Copy, Debug)]
pub struct Script;

type Steps = Json<(Vec<String>, String)>;

impl Script {
    async fn run(db: &mut PgConnection, Json((statements, reply)): Steps) -> Result<Vote<Bytes>> {
        for statement in statements {
            if statement == "begin()" {
                db.begin().await?.commit().await?;
            } else if let Some(statement) = statement.strip_prefix('?') {
                let _ = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *db).await;
            } else {
                assert_ne!(statement, "panic!", "it was asked for");
                sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *db).await?;
            }
        }
        Ok(Vote::Prepared(reply.into()))
    }
}

impl Prepare<Postgres> for Script {
    type Request = Steps;
    type Reply = Bytes;

    async fn prepare(&self, db: &mut PgConnection, _: &Branch, steps: Steps) -> Result<Vote<Bytes>> {
        Script::run(db, steps).await
    }
}

impl AsyncTcc<Postgres> for Script {
    type Request = Steps;
    type Reply = Bytes;

    async fn reserve(&self, db: &mut PgConnection, _: &Branch, steps: Steps) -> Result<Vote<Bytes>> {
        Script::run(db, steps).await
    }

    async fn confirm(&self, _: &mut PgConnection, _: &Branch, _: Steps) -> Result<()> {
        Ok(())
    }

    async fn cancel(&self, _: &mut PgConnection, _: &Branch, _: Steps) -> Result<()> {
        Ok(())
    }
}

pub fn call(branch: &Branch, statements: &[&str], reply: &str) -> PhaseOne {
    PhaseOne { request: Json((statements, reply)).to_bytes().unwrap(), ..conformance::call(branch, 0) }
}

/// Phase one, in words.
pub async fn phase_one(
    resource: &impl Resource,
    branch: &Branch,
    statements: &[&str],
    reply: &str,
) -> String {
    match resource.phase_one(call(branch, statements, reply)).await {
        Ok(granted) => format!("prepared {}", String::from_utf8_lossy(granted.vote.reply())),
        Err(failure) => conformance::said(&failure),
    }
}
