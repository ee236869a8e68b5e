//! What is no message, or too large a one.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use assent_proto::FILE_DESCRIPTOR_SET;
use assent_proto::v1 as pb;
use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Status};

use super::{PATIENCE, Target, assert_refused, assert_says, branch, soon};

#[tokio::test]
async fn a_malformed_message_gets_a_clear_status() {
    let target = Target::start().await;
    let malformed: [&[u8]; 4] = [
        // A wire type that does not exist.
        &[0x0f, 0xff],
        // A field that ends before its length says.
        &[0x0a, 0x7f, b'x'],
        // A length beyond all bounds.
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        // A field number of zero.
        &[0x00, 0x00],
    ];
    for path in served_methods() {
        for bytes in malformed {
            let status = send(&target, &path, bytes).await.unwrap_err();
            assert_eq!(status.code(), Code::Internal, "{path} with {bytes:x?}: {status}");
            assert_says(status.message(), &["decode"]);
        }
    }
    let label_not_utf8 = [0x12, 0x02, 0xc3, 0x28];
    let status = send(&target, "/assent.v1.TransactionService/Begin", &label_not_utf8).await.unwrap_err();
    assert_says(status.message(), &["BeginRequest.label", "UTF-8"]);
    target.still_commits().await;
}

/// No status in particular: some of it is a message by chance. But each call is answered.
#[tokio::test]
async fn random_bytes_are_answered() {
    let target = Target::start().await;
    let mut random = XorShift(0x9e37_79b9_7f4a_7c15);
    for path in served_methods() {
        for _ in 0..50 {
            let bytes: Vec<u8> = (0..random.next() % 64).map(|_| random.next().to_le_bytes()[0]).collect();
            if let Err(status) = send(&target, &path, &bytes).await {
                let ours = [Code::Internal, Code::InvalidArgument, Code::NotFound, Code::FailedPrecondition];
                assert!(ours.contains(&status.code()), "{path} with {bytes:x?}: {status}");
            }
        }
    }
    target.still_commits().await;
}

#[tokio::test]
async fn who_does_not_speak_grpc_is_sent_away() {
    let target = Target::start().await;
    let address = target.coordinator.url().replace("http://", "");
    let strangers: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &[0; 4096],
        // The preface of HTTP/2, and then a frame that is larger than any.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ];
    for bytes in strangers {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes).unwrap();
        // It hangs up, with or without a word; half-way through a greeting only once we are silent.
        let _ = stream.shutdown(Shutdown::Write);
        let hung_up = stream.read_to_end(&mut Vec::new());
        let waits = hung_up.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(!waits, "it still listens after {bytes:x?}");
    }
    target.still_commits().await;
}

#[tokio::test]
async fn an_oversized_message_is_refused_with_the_limit() {
    let target = Target::start().await;
    let request = |bytes| pb::RunRequest {
        branches: vec![pb::BranchSpec { payload: vec![0; bytes].into(), ..branch("shop/stock") }],
        ..pb::RunRequest::default()
    };
    let status = target.transactions().run(request(32 << 20)).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert_says(status.message(), &["too large", "the limit is"]);
    let status = target.transactions().run(request((1 << 20) + 1)).await.unwrap_err();
    let fragments = ["branches[0].payload has 1048577 bytes", "1048576", "limits.max_payload"];
    assert_refused(&status, Code::InvalidArgument, &fragments);
    target.still_commits().await;
}

#[tokio::test]
async fn an_unknown_rpc_is_unimplemented() {
    let target = Target::start().await;
    for path in ["/assent.v1.TransactionService/Destroy", "/assent.v9.TransactionService/Begin", "/x/y"] {
        let status = send(&target, path, &[]).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status}");
    }
    target.still_commits().await;
}

/// The paths of all methods of the API.
fn served_methods() -> Vec<String> {
    let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap().file;
    let services = files.iter().flat_map(|file| &file.service);
    let served = services.filter(|service| !service.name().ends_with("ParticipantService"));
    let paths: Vec<String> = served
        .flat_map(|service| {
            let path = |method: &str| format!("/assent.v1.{}/{method}", service.name());
            service.method.iter().map(move |method| path(method.name()))
        })
        .collect();
    assert!(paths.len() >= 19, "{paths:?}");
    paths
}

/// Sends these bytes as the only message of a call, and reads the first answer.
async fn send(target: &Target, path: &str, message: &[u8]) -> Result<Option<Bytes>, Status> {
    let mut grpc = tonic::client::Grpc::new(target.channel.clone());
    grpc.ready().await.unwrap();
    let request = tonic::Request::new(tokio_stream::once(Bytes::copy_from_slice(message)));
    let answers = soon(grpc.streaming(request, PathAndQuery::try_from(path).unwrap(), Raw)).await?;
    if path.ends_with("/Watch") {
        // It is accepted, and says nothing until something changes.
        return Ok(None);
    }
    soon(answers.into_inner().message()).await
}

/// Bytes as they are.
#[derive(Debug, Default)]
pub(super) struct Raw;

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

/// The same bytes in every run (Marsaglia 2003).
struct XorShift(u64);

impl XorShift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
