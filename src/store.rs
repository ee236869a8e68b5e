use crate::core::TxId;
pub use crate::core::{Durability, LogWrite};
#[derive(Clone, Debug)]
pub struct Lives;
impl Lives {
    pub fn contains(&self, _tx: TxId) -> bool {
        true
    }
}
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct AppendError;
#[derive(Debug)]
pub enum WriterEvent {
    Durable { ticket: u64 },
    Failed(AppendError),
}
#[derive(Debug)]
pub struct Submission {
    pub ticket: u64,
    pub writes: Vec<LogWrite>,
    pub durability: Durability,
}
#[derive(Debug)]
pub struct LogWriter;
impl LogWriter {
    pub fn submit(&self, _s: Submission) {}
    pub fn finish(self) -> Result<(), AppendError> {
        Ok(())
    }
}
