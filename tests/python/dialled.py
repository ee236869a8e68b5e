"""A participant that the coordinator dials: a plain gRPC service."""

from concurrent.futures import ThreadPoolExecutor

import grpc
from assent.v1 import tcc_participant_service_pb2 as tcc
from assent.v1 import tcc_participant_service_pb2_grpc as tcc_service
from assent.v1 import two_phase_participant_service_pb2 as two_phase
from assent.v1 import two_phase_participant_service_pb2_grpc as two_phase_service
from assent.v1 import types_pb2 as types

WORKERS = 8


class DialledParticipant:
    """Serves both protocols on a free port of this machine, with its goods in `stock`."""

    def __init__(self, name, stock, one_phase=True):
        self.name, self.stock = name, stock
        self._services = (TwoPhase(stock, one_phase), Tcc(stock))
        self._server = None
        self._port = 0

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self._port}"

    def start(self):
        """Serves; again, on the same port."""
        server = grpc.server(ThreadPoolExecutor(WORKERS))
        two_phase_service.add_TwoPhaseParticipantServiceServicer_to_server(self._services[0], server)
        tcc_service.add_TccParticipantServiceServicer_to_server(self._services[1], server)
        self._port = server.add_insecure_port(f"127.0.0.1:{self._port}")
        server.start()
        self._server = server

    def stop(self):
        self._server.stop(grace=None).wait()

    close = stop


class TwoPhase(two_phase_service.TwoPhaseParticipantServiceServicer):
    def __init__(self, stock, one_phase):
        self.stock, self.one_phase = stock, one_phase

    def Prepare(self, request, context):
        result = phase_one(self.stock, request, context)
        return two_phase.PrepareResponse(result=result)

    def Commit(self, request, context):
        completion = self.stock.commit(request.xid, request.branch_id)
        return two_phase.TwoPhaseParticipantServiceCommitResponse(completion=completion)

    def Rollback(self, request, context):
        completion = self.stock.rollback(request.xid, request.branch_id)
        return two_phase.RollbackResponse(completion=completion)

    def CommitOnePhase(self, request, context):
        if not self.one_phase:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "this service commits in two phases only")
        refused = self.stock.commit_one_phase(request.xid, request.branch_id, request.payload)
        if refused is not None:
            return two_phase.CommitOnePhaseResponse(refused=refused)
        reply = f"took {int(request.payload)}".encode()
        return two_phase.CommitOnePhaseResponse(completion=types.COMPLETION_DONE, reply=reply)


class Tcc(tcc_service.TccParticipantServiceServicer):
    def __init__(self, stock):
        self.stock = stock

    def Try(self, request, context):
        result = phase_one(self.stock, request, context)
        result.reservation_ttl_ms = request.reservation_ttl_ms
        return tcc.TryResponse(result=result)

    def Confirm(self, request, context):
        return tcc.ConfirmResponse(completion=self.stock.commit(request.xid, request.branch_id))

    def Cancel(self, request, context):
        return tcc.CancelResponse(completion=self.stock.rollback(request.xid, request.branch_id))


def phase_one(stock, request, context):
    try:
        return stock.phase_one(request.xid, request.branch_id, request.payload)
    except ValueError as error:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
