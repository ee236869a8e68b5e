"""Goods in a warehouse, with the barrier that any participant needs."""

import re
import threading
import uuid
from dataclasses import dataclass

from assent.v1 import types_pb2 as pb

# How long a vote is held back at most, in seconds.
HOLD_MAX = 30
BRANCH_ID = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")


def check_ids(xid, branch_id):
    """Raises ValueError for what cannot be a branch: nobody would ever end it."""
    if len(xid) != 36 or uuid.UUID(xid).version != 8:
        raise ValueError(f"{xid!r} is no transaction id")
    if not BRANCH_ID.fullmatch(branch_id):
        raise ValueError(f"{branch_id!r} is no branch id")


@dataclass
class Branch:
    """What the barrier remembers of one branch: `held`, `committed`, `rolled back`, `read only` or `refused`."""

    state: str
    amount: int = 0
    reason: str = ""


class Stock:
    """Goods are free, held for a transaction that is undecided, or sold.

    A payload is the number of goods to take. 0 changes nothing, and so is voted read-only. Each call takes effect
    once, however often and in whatever order calls come.
    """

    def __init__(self, free):
        self.free, self.held, self.sold = free, 0, 0
        self.branches = {}
        # Every call as (operation, xid, branch id), in the order in which they came.
        self.calls = []
        self._lock = threading.Lock()
        # Clear: the work is done but the votes stay here.
        self.may_vote = threading.Event()
        self.may_vote.set()

    def phase_one(self, xid, branch_id, payload):
        """Prepare and Try are the same to it: the goods are put aside."""
        check_ids(xid, branch_id)
        with self._lock:
            self.calls.append(("phase one", xid, branch_id))
            branch = self.branches.get((xid, branch_id))
            if branch is None:
                branch = self._hold(payload)
                self.branches[xid, branch_id] = branch
        assert self.may_vote.wait(HOLD_MAX), "the vote was never released"
        return self._vote(branch)

    def commit(self, xid, branch_id):
        with self._lock:
            self.calls.append(("commit", xid, branch_id))
            return self._commit(self.branches.get((xid, branch_id)))

    def rollback(self, xid, branch_id):
        with self._lock:
            self.calls.append(("rollback", xid, branch_id))
            branch = self.branches.get((xid, branch_id))
            if branch is None:
                # The tombstone: it refuses a phase one that comes late.
                self.branches[xid, branch_id] = Branch("rolled back", reason="rolled back before it came")
                return pb.COMPLETION_UNKNOWN_BRANCH
            if branch.state == "committed":
                return pb.COMPLETION_HEURISTIC_COMMIT
            if branch.state == "held":
                self.held -= branch.amount
                self.free += branch.amount
                branch.state = "rolled back"
            return pb.COMPLETION_DONE

    def commit_one_phase(self, xid, branch_id, payload):
        """Answers None when it has committed, and else why it refused."""
        check_ids(xid, branch_id)
        with self._lock:
            self.calls.append(("commit one phase", xid, branch_id))
            branch = self.branches.get((xid, branch_id))
            if branch is None:
                branch = self._hold(payload)
                self.branches[xid, branch_id] = branch
            if branch.state in ("refused", "rolled back"):
                return branch.reason
            if branch.state == "held":
                self._commit(branch)
            return None

    def in_doubt(self):
        """The branches that it promised to keep until it hears."""
        with self._lock:
            return [key for key, branch in self.branches.items() if branch.state == "held"]

    def operations(self, xid):
        """What it was called to do for a transaction, repeats left out."""
        with self._lock:
            return list(dict.fromkeys(operation for operation, of, _ in self.calls if of == xid))

    def count(self, operation):
        with self._lock:
            return sum(1 for called, _, _ in self.calls if called == operation)

    def goods(self):
        with self._lock:
            return (self.free, self.held, self.sold)

    def _hold(self, payload):
        amount = int(payload)
        if amount == 0:
            return Branch("read only")
        if amount > self.free:
            return Branch("refused", reason=f"{amount} wanted, {self.free} there")
        self.free -= amount
        self.held += amount
        return Branch("held", amount)

    def _commit(self, branch):
        if branch is None:
            return pb.COMPLETION_UNKNOWN_BRANCH
        if branch.state in ("refused", "rolled back"):
            return pb.COMPLETION_HEURISTIC_ROLLBACK
        if branch.state == "held":
            self.held -= branch.amount
            self.sold += branch.amount
            branch.state = "committed"
        return pb.COMPLETION_DONE

    @staticmethod
    def _vote(branch):
        if branch.state == "read only":
            return pb.PhaseOneResult(vote=pb.VOTE_READ_ONLY)
        if branch.state in ("refused", "rolled back"):
            return pb.PhaseOneResult(vote=pb.VOTE_REFUSED, reason=branch.reason)
        reply = f"took {branch.amount}".encode()
        return pb.PhaseOneResult(vote=pb.VOTE_PREPARED, reply=reply)
