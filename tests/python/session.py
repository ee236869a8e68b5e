"""A participant that dials the coordinator and keeps one stream open."""

import itertools
import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import grpc
from assent.v1 import inquiry_service_pb2 as inquiry_pb
from assent.v1 import participant_session_service_pb2 as pb
from assent.v1 import participant_session_service_pb2_grpc as services
from assent.v1 import types_pb2 as types

# How long the coordinator may take to answer, in seconds.
ANSWER_MAX = 30
# Calls worked on at a time.
WORKERS = 8


class SessionParticipant:
    """Plays one replica of a participant, with its goods in `stock`.

    `connect` and `drop` can follow one another: the stock survives, as a database would.
    """

    def __init__(self, channel, name, stock, instance_id="1", inquires=False):
        self.name, self.stock, self.instance_id = name, stock, instance_id
        # Whether votes promise that it asks whenever it connects.
        self.inquires = inquires
        self._service = services.ParticipantSessionServiceStub(channel)
        self._stream = None
        self._reader = None
        self._outbox = None
        self._welcome = None
        self._workers = ThreadPoolExecutor(WORKERS)
        self._call_ids = itertools.count(1)
        self._enlisting = {}
        self._inquiring = {}
        self._lock = threading.Lock()
        # Every call as it came.
        self.received = []
        # Calls for which this answers True are lost, as if the machine had stopped.
        self.loses = lambda call: False
        # The latest horizon that it was told.
        self.horizon = None

    def connect(self):
        """Opens the stream, waits for the welcome, and asks about what is in doubt. Answers the welcome."""
        self._outbox, self._welcome = queue.SimpleQueue(), Future()
        hello = pb.Hello(participant=self.name, instance_id=self.instance_id, agent="assent_check.py")
        self._outbox.put(pb.SessionRequest(hello=hello))
        self._stream = self._service.Session(iter(self._outbox.get, None))
        self._reader = threading.Thread(target=self._read, args=(self._stream, self._welcome), daemon=True)
        self._reader.start()
        welcome = self._welcome.result(ANSWER_MAX)
        in_doubt = self.stock.in_doubt()
        if in_doubt:
            self.inquire(in_doubt)
        return welcome

    def wait_until_lost(self):
        """Waits until the coordinator has ended the stream, or it broke."""
        self._reader.join()
        self._outbox.put(None)

    def drop(self):
        """Loses the connection without a word."""
        self._stream.cancel()
        self._outbox.put(None)

    def close(self):
        if self._stream is not None:
            self.drop()
        self._workers.shutdown(wait=False, cancel_futures=True)

    def drain(self):
        self._send(pb.SessionRequest(draining=True))

    def inquire(self, branches, expired=False):
        """Asks for the decision on branches, given as (xid, branch id); answers a future for each, in their order."""
        futures = [Future() for _ in branches]
        with self._lock:
            self._inquiring.update(zip(branches, futures))
        inquiries = [inquiry_pb.Inquiry(xid=x, branch_id=b, expired=expired) for x, b in branches]
        self._send(pb.SessionRequest(inquiries=inquiries))
        return futures

    def enlist(self, xid, branch_id, payload, **spec):
        """Does the work, as on an initiator's call, and enlists it with its vote."""
        return self.send_enlistment(xid, self.work(xid, branch_id, payload, **spec))

    def work(self, xid, branch_id, payload, **spec):
        """Does the work, as on an initiator's call; answers what the initiator may enlist."""
        vote = self.stock.phase_one(xid, branch_id, payload)
        vote.inquires = True
        branch = types.BranchSpec(branch_id=branch_id, participant=self.name, **spec)
        return types.Enlistment(branch=branch, vote=vote)

    def send_enlistment(self, xid, enlistment):
        call_id, answer = next(self._call_ids), Future()
        with self._lock:
            self._enlisting[call_id] = answer
        wanted = pb.SessionEnlistment(call_id=call_id, xid=xid, enlistment=enlistment)
        self._send(pb.SessionRequest(enlistments=[wanted]))
        return answer.result(ANSWER_MAX)

    def reply(self, xid, branch_id, operation, **result):
        """Sends a reply that nobody need have asked for."""
        reply = pb.CallReply(xid=xid, branch_id=branch_id, operation=operation, **result)
        self._send(pb.SessionRequest(replies=[reply]))

    def _send(self, request):
        self._outbox.put(request)

    def _read(self, stream, welcome):
        try:
            for response in stream:
                if response.HasField("welcome"):
                    welcome.set_result(response.welcome)
                if response.HasField("horizon"):
                    self.horizon = response.horizon
                for call in response.calls:
                    self.received.append(call)
                    self._workers.submit(self._answer, call, self._outbox)
                for answer in response.enlist_answers:
                    with self._lock:
                        self._enlisting.pop(answer.call_id).set_result(answer)
                for result in response.inquiry_results:
                    self._decided(result)
        except grpc.RpcError as error:
            if not welcome.done():
                welcome.set_exception(error)

    def _answer(self, call, outbox):
        if self.loses(call):
            return
        reply = pb.CallReply(xid=call.xid, branch_id=call.branch_id, operation=call.operation)
        try:
            self._carry_out(call, reply)
        except ValueError as error:
            reply.error = str(error)
        # On the stream that it came by: a stream that was lost takes its replies along.
        outbox.put(pb.SessionRequest(replies=[reply]))

    def _carry_out(self, call, reply):
        if call.operation == pb.OPERATION_PHASE_ONE:
            reply.vote.CopyFrom(self.stock.phase_one(call.xid, call.branch_id, call.payload))
            reply.vote.reservation_ttl_ms = call.reservation_ttl_ms
            reply.vote.inquires = self.inquires
        elif call.operation == pb.OPERATION_COMMIT:
            reply.completion.completion = self.stock.commit(call.xid, call.branch_id)
        elif call.operation == pb.OPERATION_ROLLBACK:
            reply.completion.completion = self.stock.rollback(call.xid, call.branch_id)
        elif call.operation == pb.OPERATION_COMMIT_ONE_PHASE:
            refusal = self.stock.commit_one_phase(call.xid, call.branch_id, call.payload)
            if refusal is None:
                reply.completion.completion = types.COMPLETION_DONE
                reply.completion.reply = f"took {int(call.payload)}".encode()
            else:
                reply.vote.vote = types.VOTE_REFUSED
                reply.vote.reason = refusal
        else:
            reply.error = f"operation {call.operation} is not known here"

    def _decided(self, result):
        key = (result.xid, result.branch_id)
        if result.answer == inquiry_pb.INQUIRY_ANSWER_COMMIT:
            self.stock.commit(*key)
        elif result.answer == inquiry_pb.INQUIRY_ANSWER_ABORT:
            self.stock.rollback(*key)
        with self._lock:
            waiting = self._inquiring.pop(key, None)
        if waiting is not None:
            waiting.set_result(result.answer)
