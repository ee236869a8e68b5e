"""What the checks have in common: the coordinator's services, participants by the dozen, and ways to wait."""

import itertools
import time
import uuid

import grpc
from assent.v1 import inquiry_service_pb2_grpc as inquiry_service
from assent.v1 import transaction_service_pb2 as tx
from assent.v1 import transaction_service_pb2_grpc as transaction_service
from assent.v1 import types_pb2 as pb
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from dialled import DialledParticipant
from session import SessionParticipant
from stock import Stock

# How long anything may take before a check gives up on it, in seconds.
WAIT_MAX = 30
POLL_INTERVAL = 0.02
MESSAGE_MAX = 64 << 20


class Lab:
    """One check's own corner of the coordinator: names that no other check uses, and participants that end with it."""

    def __init__(self, channel):
        self.channel = channel
        self.transactions = transaction_service.TransactionServiceStub(channel)
        self.inquiries = inquiry_service.InquiryServiceStub(channel)
        self.tag = uuid.uuid4().hex[:12]
        self._numbers = itertools.count(1)
        self._participants = []
        self._begun = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for xid in self._begun:
            self.abort(xid, wait=pb.WAIT_DECISION)
        for participant in self._participants:
            participant.close()

    def name(self, what):
        return f"{what}-{self.tag}-{next(self._numbers)}"

    def session(self, free=10, name=None, connected=True, stock=None):
        """A participant with a session."""
        participant = SessionParticipant(self.channel, name or self.name("stock"), stock or Stock(free))
        self._participants.append(participant)
        if connected:
            participant.connect()
        return participant

    def dialled(self, free=10, **options):
        """A participant that serves on a port of its own."""
        participant = DialledParticipant(self.name("partner"), Stock(free), **options)
        participant.start()
        self._participants.append(participant)
        return participant

    def begin(self, **fields):
        xid = self.transactions.Begin(tx.BeginRequest(**fields), timeout=WAIT_MAX).xid
        self._begun.append(xid)
        return xid

    def enlist(self, xid, enlistment):
        request = tx.EnlistRequest(xid=xid, enlistment=enlistment)
        return self.transactions.Enlist(request, timeout=WAIT_MAX).branch_id

    def commit(self, xid, **fields):
        return self.transactions.Commit(tx.CommitRequest(xid=xid, **fields), timeout=WAIT_MAX).result

    def abort(self, xid, **fields):
        return self.transactions.Abort(tx.AbortRequest(xid=xid, **fields), timeout=WAIT_MAX).result

    def run(self, branches, **fields):
        return self.start(branches, **fields).result().result

    def start(self, branches, **fields):
        """Begins a Run and does not wait for its end."""
        request = tx.RunRequest(branches=branches, **fields)
        return self.transactions.Run.future(request, timeout=WAIT_MAX)

    def get(self, xid=None, request_id=None):
        request = tx.GetRequest(xid=xid) if xid else tx.GetRequest(request_id=request_id)
        return self.transactions.Get(request, timeout=WAIT_MAX).transaction

    def seen(self, request_id):
        """The transaction with this request id, once the coordinator has it."""

        def look():
            try:
                return self.get(request_id=request_id)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    return None
                raise

        return eventually(f"request {request_id} is known", look)

    def until_branch(self, xid, branch_id, wanted, what):
        """Waits until `wanted(branch)` holds."""

        def look():
            branch = {b.branch_id: b for b in self.get(xid).branches}.get(branch_id)
            return branch if branch is not None and wanted(branch) else None

        return eventually(f"branch {branch_id}: {what}", look)

    def until_state(self, xid, state):
        name = pb.State.Name(state)
        return eventually(f"transaction {xid} is {name}", lambda: self._in_state(xid, state))

    def _in_state(self, xid, state):
        transaction = self.get(xid)
        return transaction if transaction.state == state else None


def branch(participant, amount, branch_id="", **fields):
    """A branch that takes so many goods from a participant, dialled or not."""
    return pb.BranchSpec(
        branch_id=branch_id,
        participant=participant.name,
        endpoint=getattr(participant, "endpoint", ""),
        payload=str(amount).encode(),
        **fields,
    )


def eventually(what, look):
    """What `look` answers, as soon as it answers something true."""
    give_up = time.monotonic() + WAIT_MAX
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < give_up, f"not within {WAIT_MAX} s: {what}"
        time.sleep(POLL_INTERVAL)


def expect_error(code, reason, call):
    """Makes a call that must fail like this; answers its ErrorInfo."""
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()} ({error.details()}) instead of {code}"
        info = error_info(error)
        assert info.domain == "assent", f"domain {info.domain!r} instead of 'assent'"
        assert info.reason == reason, f"reason {info.reason} instead of {reason}"
        return info
    raise AssertionError(f"succeeded instead of failing with {code}")


def error_info(error):
    """The google.rpc.ErrorInfo in the trailers of an error."""
    status = rpc_status.from_call(error)
    assert status is not None, f"{error.code()} ({error.details()}) has no google.rpc.Status in its trailers"
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info
    raise AssertionError(f"no ErrorInfo in {status}")


def equal(found, wanted, what):
    assert found == wanted, f"{what}: {short(found)} instead of {short(wanted)}"


def short(value):
    text = str(value)
    return text if len(text) <= 400 else f"{text[:400]}… ({len(text)} characters)"


def committed(result, complete=True):
    name = pb.Outcome.Name(result.outcome)
    assert result.outcome == pb.OUTCOME_COMMITTED, f"{name}, not committed: {result.reason}"
    equal(result.complete, complete, "complete")


def aborted(result, because=""):
    name = pb.Outcome.Name(result.outcome)
    assert result.outcome == pb.OUTCOME_ABORTED, f"{name}, not aborted: {result.reason}"
    assert because in result.reason, f"reason {result.reason!r} does not say {because!r}"
