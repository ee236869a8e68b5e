//! Payloads as they are typed: a text, `@FILE`, or `-`.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use super::{Exit, Failure};
use crate::config::Size;

/// The most that `limits.max_payload` can be set to; the server has the last word.
const PAYLOAD_MAX: Size = Size::from_mib(16);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    Text(String),
    File(PathBuf),
    Stdin,
}

impl From<&str> for Payload {
    fn from(text: &str) -> Payload {
        match (text, text.strip_prefix('@')) {
            ("-", _) => Payload::Stdin,
            (_, Some(path)) => Payload::File(PathBuf::from(path)),
            (text, None) => Payload::Text(text.to_owned()),
        }
    }
}

impl Payload {
    pub fn read(&self) -> Result<Vec<u8>, Failure> {
        let (name, bytes) = match self {
            Payload::Text(text) => return Ok(text.clone().into_bytes()),
            Payload::File(path) => (path.display().to_string(), File::open(path).and_then(read_bounded)),
            Payload::Stdin => ("standard input".to_owned(), read_bounded(io::stdin().lock())),
        };
        let bytes =
            bytes.map_err(|error| Failure::new(Exit::Error, format!("cannot read {name}: {error}")))?;
        if bytes.len() as u64 > PAYLOAD_MAX.0 {
            let message = format!("{name} is longer than {PAYLOAD_MAX}, the most that a payload can be");
            return Err(Failure::new(Exit::Error, message));
        }
        Ok(bytes)
    }
}

fn read_bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(PAYLOAD_MAX.0 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
