"""Transactions that go as they should: every way to run one, by sessions and by dialled services, for 2PC and TCC."""

import queue

from assent.v1 import participant_session_service_pb2 as session_pb
from assent.v1 import transaction_service_pb2 as tx
from assent.v1 import types_pb2 as pb

from lab import WAIT_MAX, aborted, branch, committed, equal, eventually

TWO_PHASE, TCC = pb.PROTOCOL_TWO_PHASE, pb.PROTOCOL_TCC


def a_session_is_welcomed(lab):
    welcome = lab.session(connected=False).connect()
    assert welcome.cluster_id, "the welcome names no cluster"
    assert welcome.epoch >= 1, f"epoch {welcome.epoch}"
    assert welcome.max_payload_bytes >= 1024, f"max_payload_bytes {welcome.max_payload_bytes}"


def run_over_sessions_commits_2pc(lab):
    run_commits(lab, lab.session(), lab.session(), TWO_PHASE)


def run_over_sessions_commits_tcc(lab):
    run_commits(lab, lab.session(), lab.session(), TCC)


def run_over_dialled_services_commits_2pc(lab):
    run_commits(lab, lab.dialled(), lab.dialled(), TWO_PHASE)


def run_over_dialled_services_commits_tcc(lab):
    run_commits(lab, lab.dialled(), lab.dialled(), TCC)


def run_commits(lab, one, two, protocol):
    result = lab.run([branch(one, 3, "one"), branch(two, 4, "two")], protocol=protocol)
    committed(result)
    equal([b.branch_id for b in result.branches], ["one", "two"], "branches")
    equal([b.reply for b in result.branches], [b"took 3", b"took 4"], "replies")
    equal([b.state for b in result.branches], [pb.BRANCH_STATE_COMMITTED] * 2, "states")
    equal((one.stock.goods(), two.stock.goods()), ((7, 0, 3), (6, 0, 4)), "goods")
    equal(one.stock.operations(result.xid), ["phase one", "commit"], "calls")


def one_refusal_rolls_back_the_others_2pc(lab):
    refusal_rolls_back(lab, lab.session(), lab.session(), TWO_PHASE)


def one_refusal_cancels_the_others_tcc(lab):
    refusal_rolls_back(lab, lab.session(), lab.session(), TCC)


def one_refusal_rolls_back_dialled_services_2pc(lab):
    refusal_rolls_back(lab, lab.dialled(), lab.dialled(), TWO_PHASE)


def one_refusal_cancels_dialled_services_tcc(lab):
    refusal_rolls_back(lab, lab.dialled(), lab.dialled(), TCC)


def refusal_rolls_back(lab, willing, unwilling, protocol):
    result = lab.run([branch(willing, 3, "willing"), branch(unwilling, 99, "unwilling")], protocol=protocol)
    aborted(result, because="99 wanted, 10 there")
    equal((willing.stock.goods(), unwilling.stock.goods()), ((10, 0, 0), (10, 0, 0)), "goods")
    # Refusing is an end: nothing is held there that could be rolled back.
    equal(unwilling.stock.operations(result.xid), ["phase one"], "calls to who refused")
    assert "rollback" in willing.stock.operations(result.xid), "the other was not rolled back"


def interactive_work_is_enlisted_by_its_participant(lab):
    stock, ledger = lab.session(), lab.session()
    xid = lab.begin(label="interactive")
    for participant in (stock, ledger):
        answer = participant.enlist(xid, participant.name, 2)
        equal((answer.code, answer.message), (0, ""), "enlist answer")
    committed(lab.commit(xid))
    for participant in (stock, ledger):
        equal(participant.stock.goods(), (8, 0, 2), "goods")
        # Its vote came with the work, so nobody asked for it.
        equal([call.operation for call in participant.received], [session_pb.OPERATION_COMMIT], "calls")


def interactive_work_is_enlisted_by_the_initiator(lab):
    stock = lab.session()
    xid = lab.begin(protocol=TCC)
    equal(lab.enlist(xid, stock.work(xid, "goods", 2)), "goods", "branch id")
    equal(lab.enlist(xid, pb.Enlistment(branch=branch(stock, 3))), "2", "the branch id that the coordinator chose")
    committed(lab.commit(xid))
    equal(stock.stock.goods(), (5, 0, 5), "goods")


def commit_carries_enlistments(lab):
    stock, ledger = lab.session(), lab.session()
    xid = lab.begin()
    enlistments = [p.work(xid, p.name, 2) for p in (stock, ledger)]
    committed(lab.commit(xid, enlistments=enlistments))
    equal((stock.stock.goods(), ledger.stock.goods()), ((8, 0, 2), (8, 0, 2)), "goods")


def abort_rolls_back_what_was_enlisted(lab):
    stock = lab.session()
    xid = lab.begin()
    stock.enlist(xid, "goods", 2)
    aborted(lab.abort(xid, reason="changed my mind"), because="changed my mind")
    equal(stock.stock.goods(), (10, 0, 0), "goods")
    # What happened is what it answers from now on.
    aborted(lab.commit(xid), because="changed my mind")


def one_transaction_mixes_2pc_and_tcc(lab):
    database, partner, reserving = lab.session(), lab.dialled(), lab.session()
    branches = [
        branch(database, 1, "database"),
        branch(partner, 2, "partner", protocol=TCC, reservation_ttl_ms=20_000),
        branch(reserving, 3, "reserving", protocol=TCC),
    ]
    result = lab.run(branches, protocol=TWO_PHASE)
    committed(result)
    sold = [p.stock.goods()[2] for p in (database, partner, reserving)]
    equal(sold, [1, 2, 3], "sold")
    equal({call.protocol for call in database.received}, {TWO_PHASE}, "protocol of the database's calls")
    equal({call.protocol for call in reserving.received}, {TCC}, "protocol of the reserving one's calls")
    shown = {b.branch_id: b for b in lab.get(result.xid).branches}
    equal(shown["partner"].reservation_ttl_ms, 20_000, "the partner's time to live")


def read_only_branches_get_no_phase_two(lab):
    reader, writer = lab.session(), lab.session()
    result = lab.run([branch(reader, 0, "reader"), branch(writer, 1, "writer")])
    committed(result)
    states = [b.state for b in result.branches]
    equal(states, [pb.BRANCH_STATE_READ_ONLY, pb.BRANCH_STATE_COMMITTED], "states")
    equal(reader.stock.operations(result.xid), ["phase one"], "calls to who only read")
    committed(lab.run([branch(reader, 0, "one"), branch(lab.dialled(), 0, "two")]))


def a_single_branch_commits_in_one_phase(lab):
    for participant in (lab.session(), lab.dialled()):
        result = lab.run([branch(participant, 3)])
        committed(result)
        equal(result.branches[0].reply, b"took 3", "reply")
        equal(participant.stock.operations(result.xid), ["commit one phase"], "calls")
        equal(participant.stock.goods(), (7, 0, 3), "goods")
        aborted(lab.run([branch(participant, 99)]), because="99 wanted, 7 there")


def a_service_without_one_phase_is_asked_in_two(lab):
    partner = lab.dialled(one_phase=False)
    result = lab.run([branch(partner, 3)])
    committed(result)
    equal(partner.stock.operations(result.xid), ["phase one", "commit"], "calls")


def commit_of_nothing_commits(lab):
    committed(lab.commit(lab.begin()))
    committed(lab.run([]))
    aborted(lab.abort(lab.begin()))


def decision_is_told_before_completion_when_asked_for(lab):
    stock, ledger = lab.session(), lab.session()
    ledger.loses = lambda call: call.operation == session_pb.OPERATION_COMMIT
    branches = [branch(stock, 1, "stock"), branch(ledger, 1, "ledger")]
    result = lab.run(branches, wait=pb.WAIT_DECISION)
    committed(result, complete=False)
    ledger.loses = lambda call: False
    ledger.drop()
    ledger.connect()
    lab.until_state(result.xid, pb.STATE_COMMITTED)
    equal((stock.stock.goods(), ledger.stock.goods()), ((9, 0, 1), (9, 0, 1)), "goods")


def replicas_share_the_work_and_a_draining_one_gets_no_more(lab):
    first = lab.session(free=1000)
    second = lab.session(name=first.name, stock=first.stock)
    ledger = lab.session(free=1000)

    def run_some():
        calls = [lab.start([branch(first, 1, "s"), branch(ledger, 1, "l")]) for _ in range(20)]
        for call in calls:
            committed(call.result().result)

    run_some()
    assert first.received and second.received, "one replica got all the work"
    first.drain()
    # The drain travels on its own stream: this answer comes back on it, and so after it.
    first.inquire([(lab.begin(), "none")])[0].result(WAIT_MAX)
    before = len(first.received)
    run_some()
    equal(len(first.received), before, "calls to the draining replica")
    equal(first.stock.goods(), (960, 0, 40), "goods")


def a_pipeline_carries_a_hundred_calls(lab):
    stock, ledger = lab.session(free=1000), lab.session(free=1000)
    branches = [branch(stock, 2, "stock"), branch(ledger, 1, "ledger")]
    calls = [tx.PipelineCall(call_id=n, run=tx.RunRequest(branches=branches)) for n in range(1, 98)]
    calls.append(tx.PipelineCall(call_id=98, begin=tx.BeginRequest(label="piped")))
    calls.append(tx.PipelineCall(call_id=99, commit=tx.CommitRequest(xid="nonsense")))
    calls.append(tx.PipelineCall(call_id=100))
    stream = lab.transactions.Pipeline(iter([tx.PipelineRequest(calls=calls)]), timeout=WAIT_MAX)
    answers = [answer for response in stream for answer in response.answers]
    by_id = {answer.call_id: answer for answer in answers}
    equal(len(answers), 100, "answers")
    equal(sorted(by_id), list(range(1, 101)), "call ids")
    for call_id in range(1, 98):
        committed(by_id[call_id].run.result)
    aborted(lab.abort(by_id[98].begin.xid))
    equal((by_id[99].error.code, by_id[99].error.reason), (3, "INVALID_FIELD"), "error of a bad xid")
    equal(by_id[100].error.code, 3, "error of a call that asks nothing")
    equal((stock.stock.goods(), ledger.stock.goods()), ((806, 0, 194), (903, 0, 97)), "goods")


def a_pipeline_runs_an_interactive_transaction(lab):
    stock = lab.session()
    with Pipeline(lab) as pipeline:
        xid = pipeline.ask(begin=tx.BeginRequest()).begin.xid
        enlistment = stock.work(xid, "goods", 2)
        equal(pipeline.ask(enlist=tx.EnlistRequest(xid=xid, enlistment=enlistment)).enlist.branch_id, "goods", "branch")
        committed(pipeline.ask(commit=tx.CommitRequest(xid=xid)).commit.result)
        other = pipeline.ask(begin=tx.BeginRequest()).begin.xid
        aborted(pipeline.ask(abort=tx.AbortRequest(xid=other)).abort.result)
    equal(stock.stock.goods(), (8, 0, 2), "goods")


class Pipeline:
    """A pipeline on which one call is made at a time."""

    def __init__(self, lab):
        self._calls, self._count = queue.SimpleQueue(), 0
        self._answers = lab.transactions.Pipeline(iter(self._calls.get, None), timeout=WAIT_MAX)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._calls.put(None)

    def ask(self, **call):
        self._count += 1
        self._calls.put(tx.PipelineRequest(calls=[tx.PipelineCall(call_id=self._count, **call)]))
        [answer] = next(self._answers).answers
        equal(answer.call_id, self._count, "call id")
        return answer


def the_horizon_passes_what_has_ended(lab):
    stock, ledger = lab.session(free=100_000), lab.session(free=100_000)

    def run():
        result = lab.run([branch(stock, 1, "stock"), branch(ledger, 1, "ledger")])
        committed(result)
        return result.xid

    ended = run()

    # It moves when a later decision to commit is written: by then the end of this one is durable, too.
    def passed():
        run()
        return stock.horizon is not None and stock.horizon.before > order(ended)

    eventually("the horizon passes a transaction that has ended", passed)


def order(xid):
    """An xid rearranged as `Horizon.before` is: epoch, time, sequence."""
    bits = int(xid.replace("-", ""), 16)
    time, sequence, epoch = bits >> 80, bits >> 64 & 0xFFF, bits >> 38 & 0xFFFFFF
    return f"{epoch:06x}{time:012x}{sequence:03x}"


CHECKS = [
    a_session_is_welcomed,
    run_over_sessions_commits_2pc,
    run_over_sessions_commits_tcc,
    run_over_dialled_services_commits_2pc,
    run_over_dialled_services_commits_tcc,
    one_refusal_rolls_back_the_others_2pc,
    one_refusal_cancels_the_others_tcc,
    one_refusal_rolls_back_dialled_services_2pc,
    one_refusal_cancels_dialled_services_tcc,
    interactive_work_is_enlisted_by_its_participant,
    interactive_work_is_enlisted_by_the_initiator,
    commit_carries_enlistments,
    abort_rolls_back_what_was_enlisted,
    one_transaction_mixes_2pc_and_tcc,
    read_only_branches_get_no_phase_two,
    a_single_branch_commits_in_one_phase,
    a_service_without_one_phase_is_asked_in_two,
    commit_of_nothing_commits,
    decision_is_told_before_completion_when_asked_for,
    replicas_share_the_work_and_a_draining_one_gets_no_more,
    a_pipeline_carries_a_hundred_calls,
    a_pipeline_runs_an_interactive_transaction,
    the_horizon_passes_what_has_ended,
]
