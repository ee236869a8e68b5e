//! The gRPC services: each parses at the edge, asks the coordinator, and tells the answer.

mod admin;
mod inquiry;
mod server;
pub mod status;
mod transaction;

pub use self::admin::{AdminService, LogStatsCell};
pub use self::inquiry::InquiryService;
pub use self::server::{ApiParts, router, routes};
pub use self::transaction::TransactionService;

#[cfg(test)]
mod tests;
