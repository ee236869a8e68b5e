//! Bytes in the place of a message.

use arbitrary::Unstructured;
use assent_proto::FILE_DESCRIPTOR_SET;
use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Status};

use super::judge;
use crate::lab::{Lab, soon};

/// Sends bytes as the only message of a call, and reads the first answer.
pub async fn call(lab: &Lab, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let paths = paths();
    let path = u.choose(&paths)?.clone();
    let length = u.int_in_range(0..=256)?.min(u.len());
    let message = Bytes::copy_from_slice(u.bytes(length)?);
    let mut grpc = tonic::client::Grpc::new(lab.routes.clone());
    let request = tonic::Request::new(tokio_stream::once(message));
    let path = PathAndQuery::try_from(path).expect("it is the name of a method");
    let answer = async {
        let mut answers = grpc.streaming(request, path, Raw).await?.into_inner();
        // A watch says nothing until something changes; a commit takes the time that it has.
        let first = tokio::time::timeout(std::time::Duration::from_millis(2), answers.message());
        first.await.unwrap_or(Ok(None))
    };
    match soon(answer).await {
        Ok(_) => {}
        // The framework's word for bytes that are no message.
        Err(refusal) if refusal.code() == Code::Internal => {
            assert!(refusal.message().starts_with("failed to decode Protobuf message"), "{refusal}");
        }
        Err(refusal) => judge(&refusal),
    }
    Ok(())
}

/// The paths of all methods of the API.
fn paths() -> Vec<String> {
    let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("our own").file;
    let services = files.iter().flat_map(|file| &file.service);
    let served = services.filter(|service| !service.name().ends_with("ParticipantService"));
    let methods =
        served.flat_map(|service| service.method.iter().map(|method| (service.name(), method.name())));
    methods.map(|(service, method)| format!("/assent.v1.{service}/{method}")).collect()
}

/// Bytes as they are.
#[derive(Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
