//! What the API says of itself.

use std::collections::BTreeSet;

use assent_proto::v1 as pb;
use pb::two_phase_participant_service_client::TwoPhaseParticipantServiceClient;
use prost::Message as _;
use prost_types::FileDescriptorProto;
use tonic::Code;
use tonic::transport::Channel;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::coordinator::Coordinator;

#[tokio::test]
async fn reflection_lists_every_service() {
    let coordinator = Coordinator::start(&[]);
    let MessageResponse::ListServicesResponse(list) =
        reflect(&coordinator, MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list of services");
    };
    let listed: BTreeSet<_> = list.service.into_iter().map(|service| service.name).collect();
    for service in [
        "assent.v1.TransactionService",
        "assent.v1.ParticipantSessionService",
        "assent.v1.InquiryService",
        "assent.v1.AdminService",
        "grpc.health.v1.Health",
    ] {
        assert!(listed.contains(service), "{service} is not in {listed:?}");
    }
}

#[tokio::test]
async fn reflection_describes_a_service_with_all_its_methods() {
    let coordinator = Coordinator::start(&[]);
    let symbol = MessageRequest::FileContainingSymbol("assent.v1.TransactionService".to_owned());
    let MessageResponse::FileDescriptorResponse(files) = reflect(&coordinator, symbol).await else {
        panic!("no description");
    };
    let methods: Vec<String> = files
        .file_descriptor_proto
        .iter()
        .map(|file| FileDescriptorProto::decode(file.as_slice()).unwrap())
        .flat_map(|file| file.service)
        .filter(|service| service.name() == "TransactionService")
        .flat_map(|service| service.method)
        .map(|method| method.name().to_owned())
        .collect();
    assert_eq!(methods, ["Begin", "Enlist", "Commit", "Abort", "Run", "Get", "List", "Watch", "Pipeline"]);
}

/// A participant implements it; the coordinator only calls it.
#[tokio::test]
async fn a_service_that_is_not_served_is_unimplemented() {
    let coordinator = Coordinator::start(&[]);
    let mut client = TwoPhaseParticipantServiceClient::new(channel(&coordinator).await);
    let status = client.prepare(pb::PrepareRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
}

async fn reflect(coordinator: &Coordinator, question: MessageRequest) -> MessageResponse {
    let mut client = ServerReflectionClient::new(channel(coordinator).await);
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap().message_response.unwrap()
}

async fn channel(coordinator: &Coordinator) -> Channel {
    Channel::from_shared(coordinator.url()).unwrap().connect().await.unwrap()
}
