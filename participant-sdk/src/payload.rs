//! What travels in requests and replies: [`Json`], [`Proto`], plain bytes, or nothing.

use bytes::Bytes;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::BoxError;

/// A value that can be sent.
pub trait Encode {
    /// As bytes.
    fn encode(&self) -> Result<Bytes, BoxError>;
}

/// A value that can be read from what was sent.
pub trait Decode: Sized {
    /// From bytes.
    fn decode(bytes: Bytes) -> Result<Self, BoxError>;
}

/// Any serde type, as JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Json<T>(pub T);

/// Any prost message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Proto<T>(pub T);

impl<T: Serialize> Encode for Json<T> {
    fn encode(&self) -> Result<Bytes, BoxError> {
        Ok(serde_json::to_vec(&self.0)?.into())
    }
}

impl<T: DeserializeOwned> Decode for Json<T> {
    fn decode(bytes: Bytes) -> Result<Json<T>, BoxError> {
        Ok(Json(serde_json::from_slice(&bytes)?))
    }
}

impl<T: Message> Encode for Proto<T> {
    fn encode(&self) -> Result<Bytes, BoxError> {
        Ok(self.0.encode_to_vec().into())
    }
}

impl<T: Message + Default> Decode for Proto<T> {
    fn decode(bytes: Bytes) -> Result<Proto<T>, BoxError> {
        Ok(Proto(T::decode(bytes)?))
    }
}

impl Encode for Bytes {
    fn encode(&self) -> Result<Bytes, BoxError> {
        Ok(self.clone())
    }
}

impl Decode for Bytes {
    fn decode(bytes: Bytes) -> Result<Bytes, BoxError> {
        Ok(bytes)
    }
}

/// Nothing: zero bytes.
impl Encode for () {
    fn encode(&self) -> Result<Bytes, BoxError> {
        Ok(Bytes::new())
    }
}

impl Decode for () {
    fn decode(bytes: Bytes) -> Result<(), BoxError> {
        match bytes.len() {
            0 => Ok(()),
            n => Err(format!("{n} bytes, where none are wanted").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let json = Json(vec![1, 2]).encode().unwrap();
        assert_eq!(&json[..], b"[1,2]");
        assert_eq!(Json::<Vec<u8>>::decode(json).unwrap().0, [1, 2]);

        let proto = Proto(String::from("stock")).encode().unwrap();
        assert_eq!(Proto::<String>::decode(proto).unwrap().0, "stock");

        assert!(<()>::decode(().encode().unwrap()).is_ok());
        assert!(<()>::decode(Bytes::from_static(b"x")).is_err());
    }
}
