//! The decision log.
