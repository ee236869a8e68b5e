//! Many calls over one stream.

use std::collections::VecDeque;
use std::sync::Arc;

use assent_proto::v1 as pb;
use futures_util::stream;
use pb::pipeline_answer::Answer as Told;
use pb::pipeline_call::Call;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use super::ask::Ask;
use crate::api::status;
use crate::coordinator::{Coordinator, Phase, ReplyTo, Stopped};
use crate::core::{Answer, Map};
use crate::wire::{Invalid, Limits};

/// How many calls of one stream are under way at most; more of them are not read until some are answered.
const IN_FLIGHT_MAX: usize = 1_024;
/// A message that has this many bytes is sent; so none is larger than this and one answer.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// One open stream. It needs no task: it goes on when the connection asks for the next message, so a client that does
/// not read its answers is not read either.
pub(super) struct Pipeline<S> {
    coordinator: Coordinator,
    limits: Arc<Limits>,
    phase: watch::Receiver<Phase>,
    inbound: S,
    /// The client sends no more.
    closed: bool,
    /// Read, and not asked.
    unasked: std::vec::IntoIter<pb::PipelineCall>,
    /// Asked, and not answered: how to tell the answer, by the client's id of the call.
    in_flight: Map<u64, Tell>,
    /// Unbounded, and short: one answer for each call in flight.
    reply: mpsc::UnboundedSender<(u64, Answer)>,
    answered: mpsc::UnboundedReceiver<(u64, Answer)>,
    /// Answered, and not sent.
    unsent: VecDeque<pb::PipelineAnswer>,
}

type Tell = fn(Answer) -> Result<Told, Status>;

impl<S> Pipeline<S>
where
    S: Stream<Item = Result<pb::PipelineRequest, Status>> + Send + Unpin,
{
    pub fn new(coordinator: Coordinator, limits: Arc<Limits>, inbound: S) -> Pipeline<S> {
        let (reply, answered) = mpsc::unbounded_channel();
        Pipeline {
            phase: coordinator.watch_phase(),
            coordinator,
            limits,
            inbound,
            closed: false,
            unasked: Vec::new().into_iter(),
            in_flight: Map::default(),
            reply,
            answered,
            unsent: VecDeque::new(),
        }
    }

    pub fn into_stream(self) -> impl Stream<Item = Result<pb::PipelineResponse, Status>> + Send {
        stream::unfold(self, async |mut pipeline| {
            let message = pipeline.next().await?;
            Some((message, pipeline))
        })
    }

    /// The next message: all answers that there are. `None`: the client has closed, and has them all.
    async fn next(&mut self) -> Option<Result<pb::PipelineResponse, Status>> {
        let mut answers = Vec::new();
        loop {
            while self.in_flight.len() < IN_FLIGHT_MAX
                && let Some(call) = self.unasked.next()
            {
                if let Err(end) = self.call(call).await {
                    return Some(Err(end));
                }
            }
            if !self.unsent.is_empty() {
                return Some(Ok(self.message()));
            }
            if self.closed && self.in_flight.is_empty() {
                return None;
            }
            let has_room = self.in_flight.len() < IN_FLIGHT_MAX;
            tokio::select! {
                // Answers first: reading waits at most for those in flight. And what was answered before the
                // coordinator stopped is told before the stream ends.
                biased;
                _count = self.answered.recv_many(&mut answers, IN_FLIGHT_MAX) => {
                    answers.drain(..).for_each(|(call_id, answer)| self.tell(call_id, answer));
                }
                request = self.inbound.next(), if has_room && !self.closed => match request {
                    Some(Ok(request)) => self.unasked = request.calls.into_iter(),
                    Some(Err(status)) => return Some(Err(status)),
                    None => self.closed = true,
                },
                () = async { drop(self.phase.wait_for(|phase| *phase == Phase::Stopped).await) } => {
                    return Some(Err(status::stopped()));
                }
            }
        }
    }

    /// Takes one call. `Err`: the stream cannot go on.
    async fn call(&mut self, call: pb::PipelineCall) -> Result<(), Status> {
        let call_id = call.call_id;
        if self.in_flight.contains_key(&call_id) {
            // An error for this call would be taken for the answer to the other one, which may well commit.
            let problem = format!("is {call_id}, as that of a call in flight is; give each its own");
            return Err(status::invalid(&Invalid::new("call_id", problem)));
        }
        let asked = match call.call {
            Some(Call::Begin(request)) => {
                self.ask(call_id, request, |answer| pb::BeginRequest::response(answer).map(Told::Begin)).await
            }
            Some(Call::Enlist(request)) => {
                self.ask(call_id, request, |answer| pb::EnlistRequest::response(answer).map(Told::Enlist))
                    .await
            }
            Some(Call::Commit(request)) => {
                self.ask(call_id, request, |answer| pb::CommitRequest::response(answer).map(Told::Commit))
                    .await
            }
            Some(Call::Abort(request)) => {
                self.ask(call_id, request, |answer| pb::AbortRequest::response(answer).map(Told::Abort)).await
            }
            Some(Call::Run(request)) => {
                self.ask(call_id, request, |answer| pb::RunRequest::response(answer).map(Told::Run)).await
            }
            None => Err(status::invalid(&Invalid::new(
                "call",
                "is not set; give one of begin, enlist, commit, abort and run",
            ))),
        };
        if let Err(refusal) = asked {
            self.put(call_id, Err(refusal));
        }
        Ok(())
    }

    async fn ask<R: Ask>(&mut self, call_id: u64, request: R, tell: Tell) -> Result<(), Status> {
        let event = request.event(&self.limits).map_err(|wrong| status::invalid(&wrong))?;
        let reply = ReplyTo::Stream { call_id, to: self.reply.clone() };
        self.coordinator.ask_for(reply, event).await.map_err(|Stopped| status::stopped())?;
        self.in_flight.insert(call_id, tell);
        Ok(())
    }

    fn tell(&mut self, call_id: u64, answer: Answer) {
        let tell = self.in_flight.remove(&call_id).expect("each call in flight is answered once");
        self.put(call_id, tell(answer));
    }

    fn put(&mut self, call_id: u64, result: Result<Told, Status>) {
        let answer = result.unwrap_or_else(|status| Told::Error(status::to_pipeline_error(&status)));
        self.unsent.push_back(pb::PipelineAnswer { call_id, answer: Some(answer) });
    }

    fn message(&mut self) -> pb::PipelineResponse {
        let mut answers = Vec::with_capacity(self.unsent.len());
        let mut bytes = 0;
        while bytes < MESSAGE_BYTES_MAX
            && let Some(answer) = self.unsent.pop_front()
        {
            bytes += answer.encoded_len();
            answers.push(answer);
        }
        pb::PipelineResponse { answers }
    }
}
