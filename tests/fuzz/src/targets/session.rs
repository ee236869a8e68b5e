//! Participants that break every rule of their streams, beside two that keep them and an initiator of theirs.
//!
//! The hostile ones know the id of an honest transaction, and answer for it. They do not enlist in it, and do not say
//! that its reservation has expired: whoever knows an id may do that, and it aborts.

use std::sync::{Arc, Mutex};

use arbitrary::{Result, Unstructured};
use assent_proto::v1 as pb;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::requests::{judge, made};
use crate::lab::{self, Lab, Session, branch, hello, reply, soon, yes};

const STEPS_MAX: usize = 60;
const LIARS: [&str; 3] = ["shop/stock", "shop/ledger", "shop/liar"];

pub fn run(input: &[u8]) {
    lab::runtime().block_on(async {
        let lab = Lab::start().await;
        for participant in ["honest/stock", "honest/ledger"] {
            lab.willing(participant).await;
        }
        let mut attack = Attack {
            honest: begin_honestly(&lab).await,
            xids: vec![lab.begin("theirs").await],
            lab: &lab,
            sessions: Vec::new(),
            asked: Vec::new(),
        };
        let mut u = Unstructured::new(input);
        for _ in 0..STEPS_MAX {
            if u.is_empty() || attack.step(&mut u).await.is_err() {
                break;
            }
        }
        attack.honest_ones_are_unharmed().await;
        attack.end().await;
        lab.stop().await;
    });
}

/// A transaction with a branch that has voted, undecided.
async fn begin_honestly(lab: &Lab) -> String {
    let xid = lab.begin("honest").await;
    let vote = pb::PhaseOneResult { vote: pb::Vote::Prepared.into(), inquires: true, ..Default::default() };
    let enlistment = pb::Enlistment { branch: Some(branch("honest/stock")), vote: Some(vote) };
    let request = pb::EnlistRequest { xid: xid.clone(), enlistment: Some(enlistment) };
    soon(lab.transactions().enlist(request)).await.expect("it is honest");
    xid
}

struct Attack<'a> {
    lab: &'a Lab,
    honest: String,
    /// Those that the hostile ones may take part in.
    xids: Vec<String>,
    sessions: Vec<Hostile>,
    /// Initiators that wait for an end.
    asked: Vec<JoinHandle<()>>,
}

/// A stream of which the worst is to be expected.
struct Hostile {
    requests: Option<mpsc::UnboundedSender<pb::SessionRequest>>,
    calls: Arc<Mutex<Vec<pb::Call>>>,
    reader: JoinHandle<()>,
}

impl Attack<'_> {
    async fn step(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        match u.int_in_range(0..=15)? {
            0 | 1 => self.open(u).await?,
            2..=4 => self.send_anything(u)?,
            5..=8 => self.answer_a_call(u)?,
            9 => self.answer_for_the_honest(u)?,
            10 => self.leave(u)?,
            11 | 12 => self.ask_as_initiator(u).await?,
            13 => self.operate(u).await?,
            // Time for what was sent to be dealt with.
            _ => drop(self.lab.get(&self.honest).await),
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn open(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let mut first = made::session(u, &self.xids)?;
        if u.ratio(7, 8)? {
            first.hello = hello(u.choose(&LIARS)?).hello;
        }
        if first.hello.as_ref().is_some_and(|hello| hello.participant.starts_with("honest")) {
            return Ok(());
        }
        let reads = u.ratio(7, 8)?;
        match self.lab.session(first).await {
            Ok(session) => self.sessions.push(Hostile::new(session, reads)),
            Err(refusal) => judge(&refusal),
        }
        Ok(())
    }

    fn send_anything(&self, u: &mut Unstructured<'_>) -> Result<()> {
        let request = made::session(u, &self.xids)?;
        let again = if u.ratio(1, 16)? { 200 } else { 1 };
        if let Some(hostile) = self.one(u)? {
            (0..again).for_each(|_| hostile.send(request.clone()));
        }
        Ok(())
    }

    fn answer_a_call(&self, u: &mut Unstructured<'_>) -> Result<()> {
        let Some(hostile) = self.one(u)? else { return Ok(()) };
        let Some(call) = hostile.call(u)? else { return Ok(()) };
        let mut answer =
            reply(&call, if u.arbitrary()? { yes(call.operation()) } else { made::call_result(u)? });
        if u.ratio(1, 8)? {
            answer.operation = u.int_in_range(0..=5)?;
        }
        // Somebody else may send it, too.
        let sender = if u.ratio(1, 8)? { self.one(u)? } else { Some(hostile) };
        if let Some(sender) = sender {
            sender.send(pb::SessionRequest { replies: vec![answer], ..Default::default() });
        }
        Ok(())
    }

    fn answer_for_the_honest(&self, u: &mut Unstructured<'_>) -> Result<()> {
        let answer = pb::CallReply {
            xid: self.honest.clone(),
            branch_id: "1".to_owned(),
            operation: u.int_in_range(1..=4)?,
            result: Some(made::call_result(u)?),
        };
        let inquiry =
            pb::Inquiry { xid: self.honest.clone(), branch_id: made::branch_id(u)?, expired: false };
        if let Some(hostile) = self.one(u)? {
            let (replies, inquiries) = (vec![answer], vec![inquiry]);
            hostile.send(pb::SessionRequest { replies, inquiries, ..Default::default() });
        }
        Ok(())
    }

    fn leave(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        if self.sessions.is_empty() {
            return Ok(());
        }
        let at = u.choose_index(self.sessions.len())?;
        match u.int_in_range(0..=2)? {
            // It sends no more, and reads on.
            0 => self.sessions[at].requests = None,
            // It reads no more, and the stream is gone.
            1 => self.sessions[at].reader.abort(),
            _ => drop(self.sessions.swap_remove(at)),
        }
        Ok(())
    }

    async fn ask_as_initiator(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let mut transactions = self.lab.transactions();
        match u.int_in_range(0..=4)? {
            0 => self.xids.push(self.lab.begin("theirs").await),
            1 => {
                let request = made::run(u)?;
                self.ask(async move { transactions.run(request).await.map(drop) });
            }
            2 => {
                let request = made::enlist(u, &self.xids)?;
                self.ask(async move { transactions.enlist(request).await.map(drop) });
            }
            3 => {
                let request = made::commit(u, &self.xids)?;
                self.ask(async move { transactions.commit(request).await.map(drop) });
            }
            _ => {
                let request = made::abort(u, &self.xids)?;
                self.ask(async move { transactions.abort(request).await.map(drop) });
            }
        }
        Ok(())
    }

    async fn operate(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let mut admin = self.lab.admin();
        let participant = (*u.choose(&LIARS)?).to_owned();
        let done = match u.int_in_range(0..=3)? {
            0 => admin.pause(pb::PauseRequest { participant }).await.map(drop),
            1 => admin.resume(pb::ResumeRequest { participant }).await.map(drop),
            2 => admin.retry(made::retry(u, &self.xids)?).await.map(drop),
            _ => admin.resolve(made::resolve(u, &self.xids)?).await.map(drop),
        };
        if let Err(refusal) = done {
            judge(&refusal);
        }
        Ok(())
    }

    fn ask(&mut self, asked: impl Future<Output = std::result::Result<(), Status>> + Send + 'static) {
        self.asked.push(tokio::spawn(async move {
            if let Err(refusal) = asked.await {
                judge(&refusal);
            }
        }));
    }

    fn one(&self, u: &mut Unstructured<'_>) -> Result<Option<&Hostile>> {
        if self.sessions.is_empty() { Ok(None) } else { u.choose(&self.sessions).map(Some) }
    }

    async fn honest_ones_are_unharmed(&self) {
        let shown = self.lab.get(&self.honest).await;
        assert_eq!((shown.state(), shown.branches.len()), (pb::State::Active, 1), "{shown:?}");
        assert_eq!(shown.branches[0].state(), pb::BranchState::Prepared);
        let request = pb::CommitRequest { xid: self.honest.clone(), ..Default::default() };
        let committed = soon(self.lab.transactions().commit(request)).await.expect("it may");
        assert_committed(committed.into_inner().result);
        let branches = vec![branch("honest/stock"), branch("honest/ledger")];
        match soon(self.lab.transactions().run(pb::RunRequest { branches, ..Default::default() })).await {
            Ok(done) => assert_committed(done.into_inner().result),
            // Of theirs as many may be open as there may be.
            Err(refusal) => assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal}"),
        }
        let shown = soon(self.lab.admin().list_participants(pb::ListParticipantsRequest {})).await;
        for participant in shown.expect("it may").into_inner().participants {
            assert!(participant.in_flight <= 4, "{participant:?}");
        }
    }

    /// What was told the hostile ones was clear, too.
    async fn end(self) {
        drop(self.sessions);
        for asked in self.asked {
            if asked.is_finished() {
                asked.await.expect("it is answered clearly");
            } else {
                asked.abort();
            }
        }
    }
}

fn assert_committed(result: Option<pb::TransactionResult>) {
    let result = result.expect("it has one");
    assert_eq!((result.outcome(), result.complete), (pb::Outcome::Committed, true), "{result:?}");
}

impl Hostile {
    fn new(session: Session, reads: bool) -> Hostile {
        let Session { requests, mut responses } = session;
        let calls = Arc::new(Mutex::new(Vec::new()));
        let taken = calls.clone();
        let reader = tokio::spawn(async move {
            if !reads {
                // It stays open all the same.
                std::future::pending::<()>().await;
            }
            loop {
                match responses.message().await {
                    Ok(Some(response)) => taken.lock().unwrap().extend(response.calls),
                    Ok(None) => return,
                    Err(end) => return judge(&end),
                }
            }
        });
        Hostile { requests: Some(requests), calls, reader }
    }

    fn send(&self, request: pb::SessionRequest) {
        if let Some(requests) = &self.requests {
            let _ = requests.send(request);
        }
    }

    /// One of the calls that came. It may be answered again.
    fn call(&self, u: &mut Unstructured<'_>) -> Result<Option<pb::Call>> {
        let mut calls = self.calls.lock().unwrap();
        if calls.is_empty() {
            return Ok(None);
        }
        let at = u.choose_index(calls.len())?;
        Ok(Some(if u.arbitrary()? { calls.swap_remove(at) } else { calls[at].clone() }))
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
