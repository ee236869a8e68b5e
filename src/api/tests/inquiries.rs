use super::*;

fn ask(xid: &str, branch_id: &str, expired: bool) -> pb::Inquiry {
    pb::Inquiry { xid: xid.to_owned(), branch_id: branch_id.to_owned(), expired }
}

#[tokio::test]
async fn many_inquiries_are_answered_in_their_order() {
    let fixture = Fixture::serving().await;
    let (undecided, expired) = (fixture.begin().await, fixture.begin().await);
    fixture.enlist(&undecided, "shop/stock").await;
    fixture.enlist(&expired, "shop/stock").await;
    let ended = fixture.begin().await;
    fixture
        .transactions()
        .abort(pb::AbortRequest { xid: ended.clone(), ..Default::default() })
        .await
        .unwrap();
    let foreign = "00000000-0000-8000-8000-004000000000";
    let inquiries = vec![
        ask(&undecided, "1", false),
        ask(foreign, "1", false),
        ask(&expired, "1", true),
        ask(&ended, "1", false),
    ];
    let mut client = fixture.inquiries();
    let response =
        client.batch_get_outcomes(pb::BatchGetOutcomesRequest { inquiries }).await.unwrap().into_inner();
    let answers: Vec<_> =
        response.results.iter().map(|result| (result.xid.as_str(), result.answer())).collect();
    assert_eq!(
        answers,
        [
            (undecided.as_str(), pb::InquiryAnswer::Pending),
            (foreign, pb::InquiryAnswer::Foreign),
            (expired.as_str(), pb::InquiryAnswer::Abort),
            (ended.as_str(), pb::InquiryAnswer::Abort),
        ]
    );
    assert_eq!(response.horizon.unwrap().cluster_id, fixture.coordinator.identity().cluster.to_string());
    assert_eq!(fixture.get(&expired).await.state(), pb::State::Aborting);
    let one = pb::GetOutcomeRequest { inquiry: Some(ask(&ended, "1", false)) };
    let response = client.get_outcome(one).await.unwrap().into_inner();
    assert_eq!(response.result.unwrap().answer(), pb::InquiryAnswer::Abort);
}

#[tokio::test]
async fn a_wrong_inquiry_is_named_and_none_of_its_batch_has_an_effect() {
    let fixture = Fixture::serving().await;
    let xid = fixture.begin().await;
    fixture.enlist(&xid, "shop/stock").await;
    let mut client = fixture.inquiries();
    let inquiries = vec![ask(&xid, "1", true), ask(&xid, "", false)];
    let refusal = client.batch_get_outcomes(pb::BatchGetOutcomesRequest { inquiries }).await.unwrap_err();
    assert_eq!(refusal.message(), "inquiries[1].branch_id is empty; give 1 to 64 bytes");
    assert_eq!(fixture.get(&xid).await.state(), pb::State::Active);
    let inquiries = vec![ask(&xid, "1", false); 1_001];
    let refusal = client.batch_get_outcomes(pb::BatchGetOutcomesRequest { inquiries }).await.unwrap_err();
    assert_eq!(refusal.message(), "inquiries has 1001 elements; the limit is 1000");
    let refusal = client.get_outcome(pb::GetOutcomeRequest::default()).await.unwrap_err();
    assert_eq!(refusal.message(), "inquiry is not set; give xid and branch_id");
}

#[tokio::test]
async fn a_session_that_asks_and_does_not_read_the_answers_is_cut_off() {
    const MESSAGES: usize = 300;
    const INQUIRIES: usize = 1_000;
    let fixture = Fixture::serving().await;
    let xid = fixture.begin().await;
    let mut session = fixture.session("shop/stock").await;
    let admin = fixture.admin_apart().await;
    let connected = async || {
        let request = pb::ListParticipantsRequest {};
        let listed = soon(admin.clone().list_participants(request)).await.unwrap().into_inner();
        listed.participants.iter().any(|participant| participant.name == "shop/stock")
    };
    for _ in 0..MESSAGES {
        if !connected().await {
            break;
        }
        let inquiries = vec![ask(&xid, "1", false); INQUIRIES];
        let request = pb::SessionRequest { inquiries, ..Default::default() };
        // Once it is cut off nobody takes them any more.
        let _ = tokio::time::timeout(Duration::from_millis(100), session.replies.send(request)).await;
    }
    let end = loop {
        match soon(session.calls.message()).await {
            Ok(message) => assert!(message.is_some(), "it is told why"),
            Err(end) => break end,
        }
    };
    assert_eq!(why(&end), (Code::ResourceExhausted, "UNREAD".to_owned()));
    // And those who read are served as before.
    soon(fixture.begin()).await;
}
