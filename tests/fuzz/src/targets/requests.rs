//! Every call that there is, with messages that are wrong in some field, or are none.

pub mod made;
mod raw;

use arbitrary::Unstructured;
use assent_proto::v1 as pb;
use pb::pipeline_answer::Answer;
use pb::pipeline_call::Call;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::lab::{self, Lab, soon};

const CALLS_MAX: usize = 24;

/// No message that says what is wrong is longer: it travels in a header.
const MESSAGE_BYTES_MAX: usize = 1024;

pub fn run(input: &[u8]) {
    lab::runtime().block_on(async {
        let lab = Lab::start().await;
        let mut calls = Calls { lab: &lab, xids: vec![lab.begin("first").await] };
        let mut u = Unstructured::new(input);
        for _ in 0..CALLS_MAX {
            if u.is_empty() || calls.next(&mut u).await.is_err() {
                break;
            }
        }
        still_begins(&lab).await;
        lab.stop().await;
    });
}

/// Calls one after the other.
struct Calls<'a> {
    lab: &'a Lab,
    /// Those that were begun.
    xids: Vec<String>,
}

impl Calls<'_> {
    async fn next(&mut self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let (lab, xids) = (self.lab, &self.xids);
        let mut transactions = lab.transactions();
        match u.int_in_range(0..=17)? {
            0 => {
                let request = made::begin(u)?;
                if let Some(begun) = judged(soon(transactions.begin(request.clone())).await) {
                    self.begun(&request, begun).await;
                }
            }
            1 => {
                let request = made::enlist(u, xids)?;
                if let Some(enlisted) = judged(soon(transactions.enlist(request.clone())).await) {
                    self.enlisted(&request, &enlisted).await;
                }
            }
            2 => seen(decided(transactions.commit(made::commit(u, xids)?)).await),
            3 => seen(decided(transactions.abort(made::abort(u, xids)?)).await),
            4 => seen(decided(transactions.run(made::run(u)?)).await),
            5 => seen(soon(transactions.get(made::get(u, xids)?)).await),
            6 => seen(soon(transactions.list(made::list(u)?)).await),
            7 => {
                if let Some(mut changes) = judged(soon(transactions.watch(made::watch(u, xids)?)).await) {
                    // What is there already comes at once; for what is to come nobody waits.
                    let waited = tokio::time::timeout(std::time::Duration::from_millis(1), changes.message());
                    if let Ok(Err(end)) = waited.await {
                        judge(&end);
                    }
                }
            }
            8 => self.pipeline(u).await?,
            9 => seen(soon(lab.inquiries().get_outcome(made::get_outcome(u, xids)?)).await),
            10 => seen(soon(lab.inquiries().batch_get_outcomes(made::outcomes(u, xids)?)).await),
            11 => seen(soon(lab.admin().resolve(made::resolve(u, xids)?)).await),
            12 => seen(soon(lab.admin().retry(made::retry(u, xids)?)).await),
            13 => {
                let participant = made::participant(u)?;
                seen(soon(lab.admin().pause(pb::PauseRequest { participant: participant.clone() })).await);
                seen(soon(lab.admin().resume(pb::ResumeRequest { participant })).await);
            }
            14 => seen(soon(lab.admin().forget(made::forget(u, xids)?)).await),
            15 => {
                seen(soon(lab.admin().list_participants(pb::ListParticipantsRequest {})).await);
                seen(soon(lab.admin().get_server_status(pb::GetServerStatusRequest {})).await);
            }
            16 => match lab.session(made::session(u, xids)?).await {
                Ok(mut session) => drop(soon(session.responses.message()).await.map_err(|end| judge(&end))),
                Err(refusal) => judge(&refusal),
            },
            _ => raw::call(lab, u).await?,
        }
        Ok(())
    }

    /// What was said is what is kept.
    async fn begun(&mut self, request: &pb::BeginRequest, begun: pb::BeginResponse) {
        let shown = self.lab.get(&begun.xid).await;
        // One that was begun by this request before keeps what was said then, which is the same.
        assert_eq!((&shown.label, &shown.request_id), (&request.label, &request.request_id));
        assert_eq!(shown.timeout_ms, begun.timeout_ms);
        assert!(request.timeout_ms == 0 || request.timeout_ms == begun.timeout_ms);
        assert_eq!(shown.protocol, request.protocol.max(pb::Protocol::TwoPhase.into()));
        self.xids.push(begun.xid);
    }

    async fn enlisted(&self, request: &pb::EnlistRequest, enlisted: &pb::EnlistResponse) {
        let shown = self.lab.get(&request.xid).await;
        let branch = shown.branches.iter().find(|branch| branch.branch_id == enlisted.branch_id);
        let branch = branch.expect("what is enlisted is shown");
        let spec = request.enlistment.as_ref().and_then(|enlistment| enlistment.branch.as_ref());
        let spec = spec.expect("without one it is refused");
        assert!(spec.branch_id.is_empty() || spec.branch_id == enlisted.branch_id);
        assert_eq!(branch.participant, spec.participant);
        // An address is kept in its one form.
        assert_eq!(branch.endpoint.is_empty(), spec.endpoint.is_empty());
    }

    async fn pipeline(&self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let count = u.int_in_range(0..=6)?;
        let calls = (0..count).map(|_| self.pipeline_call(u)).collect::<arbitrary::Result<Vec<_>>>()?;
        let numbers: Vec<u64> = calls.iter().map(|call| call.call_id).collect();
        let stream = tokio_stream::once(pb::PipelineRequest { calls });
        let Some(mut answers) = judged(soon(self.lab.transactions().pipeline(stream)).await) else {
            return Ok(());
        };
        let mut answered = Vec::new();
        loop {
            let waited = tokio::time::timeout(std::time::Duration::from_millis(20), answers.message());
            match waited.await {
                // A commit may take the time that its transaction has.
                Err(_) | Ok(Ok(None)) => break,
                Ok(Err(end)) => {
                    judge(&end);
                    break;
                }
                Ok(Ok(Some(message))) => {
                    for answer in message.answers {
                        if let Some(Answer::Error(error)) = &answer.answer {
                            judge_text(Code::from_i32(error.code), &error.message);
                            assert!(!error.reason.is_empty(), "{error:?}");
                        }
                        answered.push(answer.call_id);
                    }
                }
            }
        }
        assert!(answered.iter().all(|number| numbers.contains(number)), "{answered:?} of {numbers:?}");
        assert!(answered.len() <= numbers.len());
        Ok(())
    }

    fn pipeline_call(&self, u: &mut Unstructured<'_>) -> arbitrary::Result<pb::PipelineCall> {
        let call = match u.int_in_range(0..=5)? {
            0 => Some(Call::Begin(made::begin(u)?)),
            1 => Some(Call::Enlist(made::enlist(u, &self.xids)?)),
            2 => Some(Call::Commit(made::commit(u, &self.xids)?)),
            3 => Some(Call::Abort(made::abort(u, &self.xids)?)),
            4 => Some(Call::Run(made::run(u)?)),
            _ => None,
        };
        Ok(pb::PipelineCall { call_id: u.int_in_range(0..=9)?, call })
    }
}

async fn still_begins(lab: &Lab) {
    // Those that were begun may be as many as there may be.
    match soon(lab.transactions().begin(pb::BeginRequest::default())).await {
        Ok(_) => {}
        Err(refusal) => assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal}"),
    }
}

/// The end of a transaction, if it comes at once.
async fn decided<T>(
    asked: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<tonic::Response<Option<T>>, Status> {
    match tokio::time::timeout(std::time::Duration::from_millis(10), asked).await {
        Ok(answer) => answer.map(|answer| answer.map(Some)),
        Err(_) => Ok(tonic::Response::new(None)),
    }
}

fn seen<T>(answer: Result<tonic::Response<T>, Status>) {
    if let Err(refusal) = answer {
        judge(&refusal);
    }
}

fn judged<T>(answer: Result<tonic::Response<T>, Status>) -> Option<T> {
    answer.map_err(|refusal| judge(&refusal)).ok().map(tonic::Response::into_inner)
}

/// A refusal is clear: it names what was wrong, and it is not our fault.
pub fn judge(refusal: &Status) {
    // The framework's word for a message that is too large.
    if refusal.code() == Code::OutOfRange && refusal.message().contains("the limit is") {
        return;
    }
    judge_text(refusal.code(), refusal.message());
    let info = refusal.get_details_error_info().unwrap_or_else(|| panic!("no reason: {refusal}"));
    assert_eq!(info.domain, "assent");
    if refusal.code() == Code::InvalidArgument && info.reason == "INVALID_FIELD" {
        let details = refusal.get_details_bad_request().expect("it names the field");
        let field = &details.field_violations[0].field;
        assert!(!field.is_empty() && refusal.message().starts_with(field.as_str()), "{refusal}");
    }
}

fn judge_text(code: Code, message: &str) {
    let clear = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::AlreadyExists,
        Code::FailedPrecondition,
        Code::ResourceExhausted,
    ];
    assert!(clear.contains(&code), "{code:?}: {message}");
    assert!(!message.is_empty() && message.len() <= MESSAGE_BYTES_MAX, "{} bytes: {message}", message.len());
}
