//! The way to the coordinator over whichever session stream is open at the moment.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use assent_proto::v1 as pb;
use tokio::sync::{mpsc, oneshot, watch};

/// Replies, inquiries and enlistments that may wait to be sent. Calls whose replies find no room wait.
const OUTGOING_MAX: usize = 1024;

/// One thing to say to the coordinator; all that wait are sent together.
pub(super) enum Outgoing {
    Hello(pb::Hello),
    Reply(pb::CallReply),
    Inquiry(pb::Inquiry),
    Enlist(pb::SessionEnlistment),
    Draining,
}

/// The enlistment was sent, perhaps, and the stream broke before it was answered.
pub(super) struct Lost;

#[derive(Default)]
pub(super) struct Link {
    state: Mutex<State>,
    up: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    outgoing: Option<mpsc::Sender<Outgoing>>,
    next_call: u64,
    enlisting: HashMap<u64, oneshot::Sender<pb::SessionEnlistAnswer>>,
}

impl Link {
    pub(super) fn channel() -> (mpsc::Sender<Outgoing>, mpsc::Receiver<Outgoing>) {
        mpsc::channel(OUTGOING_MAX)
    }

    /// A stream is open and welcomed.
    pub(super) fn opened(&self, outgoing: mpsc::Sender<Outgoing>) {
        self.lock().outgoing = Some(outgoing);
        self.up.send_replace(true);
    }

    /// It is gone, and with it the answers that it owed.
    pub(super) fn closed(&self) {
        let mut state = self.lock();
        state.outgoing = None;
        state.enlisting.clear();
        self.up.send_replace(false);
    }

    /// Waits until a stream is open.
    pub(super) async fn until_open(&self) {
        let mut up = self.up.subscribe();
        up.wait_for(|up| *up).await.expect("the link holds the sender");
    }

    /// Sends as many as there is room for. The others come due again.
    pub(super) fn inquire(&self, inquiries: Vec<pb::Inquiry>) {
        let Some(outgoing) = self.lock().outgoing.clone() else { return };
        for inquiry in inquiries {
            if outgoing.try_send(Outgoing::Inquiry(inquiry)).is_err() {
                return;
            }
        }
    }

    /// Enlists over the next stream that is open, and waits for the answer.
    pub(super) async fn enlist(
        &self,
        xid: String,
        enlistment: pb::Enlistment,
    ) -> Result<pb::SessionEnlistAnswer, Lost> {
        self.until_open().await;
        let (answer, answered) = oneshot::channel();
        let (outgoing, call_id) = {
            let mut state = self.lock();
            let outgoing = state.outgoing.clone().ok_or(Lost)?;
            state.enlisting.retain(|_, caller| !caller.is_closed());
            let call_id = state.next_call;
            state.next_call += 1;
            state.enlisting.insert(call_id, answer);
            (outgoing, call_id)
        };
        let enlistment = pb::SessionEnlistment { call_id, xid, enlistment: Some(enlistment) };
        outgoing.send(Outgoing::Enlist(enlistment)).await.map_err(|_| Lost)?;
        answered.await.map_err(|_| Lost)
    }

    pub(super) fn enlisted(&self, answer: pb::SessionEnlistAnswer) {
        if let Some(caller) = self.lock().enlisting.remove(&answer.call_id) {
            // A caller that gave up has rolled back or asks for the outcome.
            let _ = caller.send(answer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outgoing {
    /// Roughly, to bound a message.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Outgoing::Reply(reply) => match &reply.result {
                Some(pb::call_reply::Result::Vote(vote)) => vote.reply.len(),
                Some(pb::call_reply::Result::Completion(completion)) => completion.reply.len(),
                Some(pb::call_reply::Result::Error(error)) => error.len(),
                None => 0,
            },
            Outgoing::Enlist(enlist) => {
                let vote = enlist.enlistment.as_ref().and_then(|enlistment| enlistment.vote.as_ref());
                vote.map_or(0, |vote| vote.reply.len())
            }
            Outgoing::Hello(_) | Outgoing::Inquiry(_) | Outgoing::Draining => 0,
        }
    }
}

/// Everything that waits, as one message.
pub(super) fn message(batch: Vec<Outgoing>) -> pb::SessionRequest {
    let mut message = pb::SessionRequest::default();
    for item in batch {
        match item {
            Outgoing::Hello(hello) => message.hello = Some(hello),
            Outgoing::Reply(reply) => message.replies.push(reply),
            Outgoing::Inquiry(inquiry) => message.inquiries.push(inquiry),
            Outgoing::Enlist(enlistment) => message.enlistments.push(enlistment),
            Outgoing::Draining => message.draining = true,
        }
    }
    message
}
