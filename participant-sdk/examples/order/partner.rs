//! The payment partner: an HTTP server in a process of its own, with failures and delays. It knows nothing of assent.
//!
//! | | |
//! |---|---|
//! | `POST /holds/{key}` | 200: held, now or before; 402: declined; 409: voided before |
//! | `POST /holds/{key}/capture` | 200: captured, now or before; 404: no such hold; 409: voided before |
//! | `POST /holds/{key}/void` | 200: voided, now or before; 404: no such hold, and there will be none; 409: captured before |
//! | `GET /holds` | the keys of what is held |
//! | `GET /books` | all its money; neither failed nor delayed |

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, ensure};
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::payment::Charge;

/// The first argument that makes this program the partner.
pub const ROLE: &str = "partner";

/// What a customer has at the beginning, in coins.
pub const WALLET: u32 = 100_000;

/// How the partner misbehaves.
#[derive(clap::Parser)]
pub struct Manners {
    /// How many of 100 calls the payment partner fails; every other of these is carried out all the same
    #[arg(long, value_name = "PERCENT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=50))]
    partner_fails: u32,
    /// The longest that the payment partner delays an answer; after 1 s it is not waited for any more
    #[arg(long, value_name = "DURATION", default_value = "50ms")]
    partner_delay: humantime::Duration,
}

/// The partner's process. It ends when this is dropped, or when we are killed: its standard input ends with us.
pub struct Partner {
    pub url: String,
    _process: Child,
}

#[derive(Serialize, Deserialize)]
pub struct Books {
    pub money: Money,
    /// How often it was called, and how many of these calls it failed.
    pub calls: u32,
    pub failed: u32,
}

/// In coins.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Money {
    pub in_wallet: i64,
    pub held: i64,
    pub captured: i64,
}

enum Hold {
    Held(Charge),
    Captured(Charge),
    Voided,
}

#[derive(Default)]
struct Ledger {
    wallets: HashMap<String, u32>,
    holds: HashMap<String, Hold>,
}

struct Server {
    manners: Manners,
    calls: AtomicU32,
    failed: AtomicU32,
    ledger: Mutex<Ledger>,
}

type Answer = (StatusCode, String);

impl Partner {
    /// Starts this program once more, and waits until it says where it listens.
    pub fn start(manners: &Manners) -> anyhow::Result<Partner> {
        let mut process = Command::new(std::env::current_exe()?)
            .args([ROLE, "--partner-fails", &manners.partner_fails.to_string()])
            .args(["--partner-delay", &manners.partner_delay.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = process.stdout.take().context("its standard output is piped")?;
        let mut url = String::new();
        BufReader::new(stdout).read_line(&mut url)?;
        ensure!(!url.is_empty(), "the payment partner did not start");
        println!("the payment partner listens at {}", url.trim_end());
        Ok(Partner { url: url.trim_end().to_owned(), _process: process })
    }
}

/// Serves until the standard input ends.
pub async fn serve(manners: Manners) -> anyhow::Result<()> {
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("http://{}", listener.local_addr()?);
    let server = Arc::new(Server { manners, calls: 0.into(), failed: 0.into(), ledger: Mutex::default() });
    let api = Router::new()
        .route("/holds", get(list))
        .route("/holds/{key}", post(hold))
        .route("/holds/{key}/capture", post(capture))
        .route("/holds/{key}/void", post(void))
        .layer(middleware::from_fn_with_state(Arc::clone(&server), misbehave))
        .route("/books", get(books))
        .with_state(server);
    Ok(axum::serve(listener, api).await?)
}

/// Fails some calls before it does anything, and as many afterwards; delays the others. Which, is the same in every run.
async fn misbehave(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let failure = || (StatusCode::SERVICE_UNAVAILABLE, "so sorry").into_response();
    let call = server.calls.fetch_add(1, Ordering::Relaxed) % 100;
    // 37 and 73 have no factor in common with 100, so in 100 calls each remainder comes once.
    let fails = call * 37 % 100 < server.manners.partner_fails;
    if fails {
        server.failed.fetch_add(1, Ordering::Relaxed);
        if call.is_multiple_of(2) {
            return failure();
        }
    }
    let answer = next.run(request).await;
    tokio::time::sleep(*server.manners.partner_delay * (call * 73 % 100) / 100).await;
    if fails { failure() } else { answer }
}

async fn list(State(server): State<Arc<Server>>) -> Json<Vec<String>> {
    let ledger = server.ledger();
    let held = ledger.holds.iter().filter(|(_, hold)| matches!(hold, Hold::Held(_)));
    Json(held.map(|(key, _)| key.clone()).collect())
}

async fn hold(
    State(server): State<Arc<Server>>,
    Path(key): Path<String>,
    Json(charge): Json<Charge>,
) -> Answer {
    server.ledger().hold(key, charge)
}

async fn capture(State(server): State<Arc<Server>>, Path(key): Path<String>) -> Answer {
    server.ledger().capture(&key)
}

async fn void(State(server): State<Arc<Server>>, Path(key): Path<String>) -> Answer {
    server.ledger().void(key)
}

async fn books(State(server): State<Arc<Server>>) -> Json<Books> {
    let (calls, failed) = (server.calls.load(Ordering::Relaxed), server.failed.load(Ordering::Relaxed));
    let ledger = server.ledger();
    let mut money =
        Money { in_wallet: ledger.wallets.values().copied().map(i64::from).sum(), ..Money::default() };
    for hold in ledger.holds.values() {
        match hold {
            Hold::Held(charge) => money.held += i64::from(charge.amount),
            Hold::Captured(charge) => money.captured += i64::from(charge.amount),
            Hold::Voided => {}
        }
    }
    Json(Books { money, calls, failed })
}

impl Server {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    fn hold(&mut self, key: String, charge: Charge) -> Answer {
        match self.holds.get(&key) {
            Some(Hold::Held(_) | Hold::Captured(_)) => return ok("held"),
            Some(Hold::Voided) => return conflict("voided"),
            None => {}
        }
        let wallet = self.wallets.entry(charge.customer.clone()).or_insert(WALLET);
        let Some(left) = wallet.checked_sub(charge.amount) else {
            let why = format!("declined: {} cannot pay {} coins", charge.customer, charge.amount);
            return (StatusCode::PAYMENT_REQUIRED, why);
        };
        *wallet = left;
        self.holds.insert(key, Hold::Held(charge));
        ok("held")
    }

    fn capture(&mut self, key: &str) -> Answer {
        let Some(hold) = self.holds.get_mut(key) else { return none() };
        match hold {
            Hold::Held(charge) => *hold = Hold::Captured(charge.clone()),
            Hold::Captured(_) => {}
            Hold::Voided => return conflict("voided"),
        }
        ok("captured")
    }

    fn void(&mut self, key: String) -> Answer {
        match self.holds.insert(key.clone(), Hold::Voided) {
            // The hold may still be on its way, and the key now refuses it.
            None => return none(),
            Some(Hold::Held(charge)) => *self.wallets.entry(charge.customer).or_default() += charge.amount,
            Some(captured @ Hold::Captured(_)) => {
                self.holds.insert(key, captured);
                return conflict("captured");
            }
            Some(Hold::Voided) => {}
        }
        ok("voided")
    }
}

fn ok(done: &str) -> Answer {
    (StatusCode::OK, done.to_owned())
}

fn none() -> Answer {
    (StatusCode::NOT_FOUND, "there is no such hold".to_owned())
}

fn conflict(what: &str) -> Answer {
    (StatusCode::CONFLICT, format!("the hold was {what} before"))
}
