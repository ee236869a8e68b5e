//! What is around the services: health, reflection, and messages that are none.

use bytes::{Buf as _, BufMut as _, Bytes};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic_health::pb as health;

use super::*;

#[tokio::test]
async fn nothing_is_answered_during_recovery_but_the_status() {
    let fixture = Fixture::recovering().await;
    let recovering = (Code::Unavailable, "RECOVERING".to_owned());
    let mut client = fixture.transactions();
    assert_eq!(why(&client.begin(pb::BeginRequest::default()).await.unwrap_err()), recovering);
    assert_eq!(why(&client.list(pb::ListRequest::default()).await.unwrap_err()), recovering);
    assert_eq!(why(&client.watch(pb::WatchRequest::default()).await.unwrap_err()), recovering);
    let calls = tokio_stream::empty::<pb::PipelineRequest>();
    assert_eq!(why(&client.pipeline(calls).await.unwrap_err()), recovering);
    let mut client = fixture.inquiries();
    assert_eq!(why(&client.get_outcome(pb::GetOutcomeRequest::default()).await.unwrap_err()), recovering);
    let mut client = fixture.admin();
    assert_eq!(why(&client.retry(pb::RetryRequest::default()).await.unwrap_err()), recovering);
    let status = client.get_server_status(pb::GetServerStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.phase.as_str(), status.ready, status.epoch), ("recovering", false, 0));
}

async fn health_of(fixture: &Fixture, service: &str) -> health::health_check_response::ServingStatus {
    let mut client = health::health_client::HealthClient::new(fixture.channel.clone());
    let request = health::HealthCheckRequest { service: service.to_owned() };
    client.check(request).await.unwrap().into_inner().status()
}

#[tokio::test]
async fn a_service_is_healthy_while_it_serves_and_the_process_while_it_lives() {
    use health::health_check_response::ServingStatus::{NotServing, Serving};
    let mut fixture = Fixture::recovering().await;
    let service = "assent.v1.TransactionService";
    assert_eq!(health_of(&fixture, "").await, Serving);
    assert_eq!(health_of(&fixture, service).await, NotServing);
    let mut client = health::health_client::HealthClient::new(fixture.channel.clone());
    let request = health::HealthCheckRequest { service: service.to_owned() };
    let mut changes = client.watch(request).await.unwrap().into_inner();
    assert_eq!(soon(changes.message()).await.unwrap().unwrap().status(), NotServing);

    fixture.start.take().unwrap().send(()).unwrap();
    assert_eq!(soon(changes.message()).await.unwrap().unwrap().status(), Serving);
    fixture.begin().await;
    fixture.coordinator.drain().await.unwrap();
    assert_eq!(soon(changes.message()).await.unwrap().unwrap().status(), NotServing);
    assert_eq!(health_of(&fixture, "").await, Serving);
    fixture.coordinator.stop().await.unwrap();
    while let Some(change) = soon(changes.message()).await.unwrap() {
        assert_eq!(change.status(), NotServing);
    }
}

#[tokio::test]
async fn reflection_lists_every_service() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ListServiceResponse, ServerReflectionRequest};
    let fixture = Fixture::serving().await;
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut client = ServerReflectionClient::new(fixture.channel.clone());
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = soon(answers.message()).await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(ListServiceResponse { service }) = answer else {
        panic!("{answer:?}")
    };
    let names: BTreeSet<_> = service.into_iter().map(|service| service.name).collect();
    for name in [
        "assent.v1.TransactionService",
        "assent.v1.InquiryService",
        "assent.v1.AdminService",
        "assent.v1.ParticipantSessionService",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(name), "{name} in {names:?}");
    }
}

#[tokio::test]
async fn what_is_no_message_gets_a_clear_status_and_harms_nobody() {
    let fixture = Fixture::serving().await;
    let begin = "/assent.v1.TransactionService/Begin";
    let malformed = raw(&fixture, begin, Bytes::from_static(b"\xff\xff\xff")).await;
    assert_eq!(malformed.code(), Code::Internal);
    assert!(malformed.message().contains("decode"), "{malformed}");
    let largest = 17 * 1024 * 1024;
    let oversized = raw(&fixture, begin, vec![0; largest + 1].into()).await;
    assert_eq!(oversized.code(), Code::OutOfRange);
    assert!(oversized.message().contains("the limit is: 17825792 bytes"), "{oversized}");
    let unknown = raw(&fixture, "/assent.v1.TransactionService/Begone", Bytes::new()).await;
    assert_eq!(unknown.code(), Code::Unimplemented);
    fixture.begin().await;
}

async fn raw(fixture: &Fixture, path: &'static str, message: Bytes) -> Status {
    let mut client = tonic::client::Grpc::new(fixture.channel.clone());
    client.ready().await.unwrap();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    client.unary(tonic::Request::new(message), path, Verbatim).await.unwrap_err()
}

/// Bytes as they are.
struct Verbatim;

impl Codec for Verbatim {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Verbatim;
    type Decoder = Verbatim;

    fn encoder(&mut self) -> Verbatim {
        Verbatim
    }

    fn decoder(&mut self) -> Verbatim {
        Verbatim
    }
}

impl Encoder for Verbatim {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Verbatim {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
