//! The gRPC services.

pub mod status;
