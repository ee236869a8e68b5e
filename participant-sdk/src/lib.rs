//! Take part in distributed transactions coordinated by assent, or begin them.

mod backoff;
pub mod barrier;
mod batch;
mod branch;
pub mod client;
pub mod context;
mod error;
#[cfg(any(feature = "memory", feature = "sqlite"))]
mod handler;
#[cfg(any(feature = "memory", feature = "sqlite"))]
mod local;
#[cfg(feature = "memory")]
pub mod memory;
pub mod participant;
mod payload;
pub mod resource;
#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use assent_proto as proto;
pub use assent_proto::{TxId, TxOrder};
pub use branch::{Branch, BranchId, ClusterId, Horizon, ParticipantName, Protocol};
pub use client::{Client, Wait};
pub use error::{BoxError, Error, Failure, Heuristic, Result, refuse};
#[cfg(any(feature = "memory", feature = "sqlite"))]
pub use handler::{Database, Tcc, TwoPhase};
pub use participant::Participant;
pub use payload::{Decode, Encode, Json, Proto};
pub use resource::{Completion, Reservation, ReservationClass, Resource, Vote};
