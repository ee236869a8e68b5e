//! What travels in requests and replies: [`Json`], [`Proto`], plain bytes, or nothing.

use bytes::Bytes;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::BoxError;

/// A value that can be sent.
pub trait Encode {
    /// As bytes.
    fn to_bytes(&self) -> Result<Bytes, PayloadError>;
}

/// A value that can be read from what was sent.
pub trait Decode: Sized {
    /// From bytes.
    fn from_bytes(bytes: Bytes) -> Result<Self, PayloadError>;
}

/// Why a value cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PayloadError(BoxError);

impl PayloadError {
    /// From what went wrong.
    pub fn new(error: impl Into<BoxError>) -> PayloadError {
        PayloadError(error.into())
    }
}

/// Any serde type, as JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Json<T>(pub T);

/// Any prost message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Proto<T>(pub T);

impl<T: Serialize> Encode for Json<T> {
    fn to_bytes(&self) -> Result<Bytes, PayloadError> {
        serde_json::to_vec(&self.0).map(Bytes::from).map_err(PayloadError::new)
    }
}

impl<T: DeserializeOwned> Decode for Json<T> {
    fn from_bytes(bytes: Bytes) -> Result<Json<T>, PayloadError> {
        serde_json::from_slice(&bytes).map(Json).map_err(PayloadError::new)
    }
}

impl<T: Message> Encode for Proto<T> {
    fn to_bytes(&self) -> Result<Bytes, PayloadError> {
        Ok(self.0.encode_to_vec().into())
    }
}

impl<T: Message + Default> Decode for Proto<T> {
    fn from_bytes(bytes: Bytes) -> Result<Proto<T>, PayloadError> {
        T::decode(bytes).map(Proto).map_err(PayloadError::new)
    }
}

impl Encode for Bytes {
    fn to_bytes(&self) -> Result<Bytes, PayloadError> {
        Ok(self.clone())
    }
}

impl Decode for Bytes {
    fn from_bytes(bytes: Bytes) -> Result<Bytes, PayloadError> {
        Ok(bytes)
    }
}

/// Nothing: zero bytes.
impl Encode for () {
    fn to_bytes(&self) -> Result<Bytes, PayloadError> {
        Ok(Bytes::new())
    }
}

impl Decode for () {
    fn from_bytes(bytes: Bytes) -> Result<(), PayloadError> {
        match bytes.len() {
            0 => Ok(()),
            n => Err(PayloadError::new(format!("{n} bytes, where none are wanted"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let json = Json(vec![1, 2]).to_bytes().unwrap();
        assert_eq!(&json[..], b"[1,2]");
        assert_eq!(Json::<Vec<u8>>::from_bytes(json).unwrap().0, [1, 2]);

        let proto = Proto(String::from("stock")).to_bytes().unwrap();
        assert_eq!(Proto::<String>::from_bytes(proto).unwrap().0, "stock");

        assert!(<()>::from_bytes(().to_bytes().unwrap()).is_ok());
        assert!(<()>::from_bytes(Bytes::from_static(b"x")).is_err());
    }
}
