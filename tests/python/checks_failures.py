"""What fails, comes late, or comes twice."""

import threading

import grpc
from assent.v1 import inquiry_service_pb2 as inquiry_pb
from assent.v1 import participant_session_service_pb2 as session_pb
from assent.v1 import transaction_service_pb2 as tx
from assent.v1 import types_pb2 as pb

from lab import WAIT_MAX, aborted, branch, committed, equal, eventually, expect_error

TWO_PHASE, TCC = pb.PROTOCOL_TWO_PHASE, pb.PROTOCOL_TCC


def a_participant_that_died_after_voting_asks_and_commits_2pc(lab):
    dies_after_voting(lab, TWO_PHASE)


def a_participant_that_died_after_voting_asks_and_commits_tcc(lab):
    dies_after_voting(lab, TCC)


def dies_after_voting(lab, protocol):
    dies, slow = lab.session(), lab.session()
    slow.stock.may_vote.clear()
    request_id = lab.name("request")
    run = lab.start([branch(dies, 3, "dies"), branch(slow, 1, "slow")], protocol=protocol, request_id=request_id)
    xid = lab.seen(request_id).xid
    lab.until_branch(xid, "dies", lambda b: b.state == pb.BRANCH_STATE_PREPARED, "has voted")
    dies.drop()
    dies.stock.may_vote.clear()
    slow.stock.may_vote.set()
    # It gets the commit call, loses it as well, and is left with nothing but its question.
    dies.loses = lambda call: True
    lab.until_branch(xid, "dies", lambda b: b.state == pb.BRANCH_STATE_COMMITTING, "is to commit")
    dies.connect()
    [answer] = dies.inquire([(xid, "dies")])
    equal(answer.result(WAIT_MAX), inquiry_pb.INQUIRY_ANSWER_COMMIT, "answer to the inquiry")
    equal(dies.stock.goods(), (7, 0, 3), "goods")
    # The call is owed until it is acknowledged, and finds the work done.
    dies.loses = lambda call: False
    dies.drop()
    dies.connect()
    committed(run.result().result)
    equal(dies.stock.goods(), (7, 0, 3), "goods")


def who_asks_before_the_decision_is_told_to_hold_on(lab):
    asks, slow = lab.session(), lab.session()
    slow.stock.may_vote.clear()
    request_id = lab.name("request")
    run = lab.start([branch(asks, 3, "asks"), branch(slow, 1, "slow")], request_id=request_id)
    xid = lab.seen(request_id).xid
    lab.until_branch(xid, "asks", lambda b: b.state == pb.BRANCH_STATE_PREPARED, "has voted")
    asks.drop()
    asks.connect()
    [answer] = asks.inquire([(xid, "asks")])
    equal(answer.result(WAIT_MAX), inquiry_pb.INQUIRY_ANSWER_PENDING, "answer to the inquiry")
    equal(asks.stock.goods(), (7, 3, 0), "goods")
    slow.stock.may_vote.set()
    committed(run.result().result)
    equal(asks.stock.goods(), (7, 0, 3), "goods")


def an_expired_reservation_aborts_what_is_undecided(lab):
    stock = lab.session()
    xid = lab.begin(protocol=TCC)
    stock.enlist(xid, "goods", 3)
    [answer] = stock.inquire([(xid, "goods")], expired=True)
    equal(answer.result(WAIT_MAX), inquiry_pb.INQUIRY_ANSWER_ABORT, "answer to the inquiry")
    aborted(lab.commit(xid), because="expired")
    equal(stock.stock.goods(), (10, 0, 0), "goods")


def a_session_that_comes_late_still_takes_part(lab):
    late, other = lab.session(connected=False), lab.session()
    request_id = lab.name("request")
    run = lab.start([branch(late, 3, "late"), branch(other, 1, "other")], request_id=request_id)
    xid = lab.seen(request_id).xid
    waiting = lab.until_branch(xid, "late", lambda b: b.last_error, "could not be called")
    equal(waiting.state, pb.BRANCH_STATE_PREPARING, "state")
    late.connect()
    committed(run.result().result)
    equal(late.stock.goods(), (7, 0, 3), "goods")


def phase_two_is_delivered_when_a_dialled_service_returns_2pc(lab):
    away_in_phase_two(lab, TWO_PHASE)


def phase_two_is_delivered_when_a_dialled_service_returns_tcc(lab):
    away_in_phase_two(lab, TCC)


def away_in_phase_two(lab, protocol):
    away, slow, other = lab.dialled(), lab.session(), lab.session()
    slow.stock.may_vote.clear()
    request_id = lab.name("request")
    branches = [branch(away, 3, "away"), branch(slow, 1, "slow"), branch(other, 1, "other")]
    lab.start(branches, protocol=protocol, request_id=request_id)
    xid = lab.seen(request_id).xid
    lab.until_branch(xid, "away", lambda b: b.state == pb.BRANCH_STATE_PREPARED, "has voted")
    away.stop()
    slow.stock.may_vote.set()
    waiting = lab.until_branch(xid, "away", lambda b: b.attempts >= 2 and b.last_error, "was tried again")
    equal(waiting.state, pb.BRANCH_STATE_COMMITTING, "state")
    # Who is away holds up its own branch alone.
    for present in ("slow", "other"):
        lab.until_branch(xid, present, lambda b: b.state == pb.BRANCH_STATE_COMMITTED, "has committed")
    away.start()
    lab.until_state(xid, pb.STATE_COMMITTED)
    equal(away.stock.goods(), (7, 0, 3), "goods")


def a_rollback_is_delivered_when_a_session_returns(lab):
    away = lab.session()
    xid = lab.begin()
    away.enlist(xid, "goods", 3)
    away.drop()
    aborted(lab.abort(xid, wait=pb.WAIT_DECISION))
    lab.until_branch(xid, "goods", lambda b: b.state == pb.BRANCH_STATE_ROLLING_BACK, "is to roll back")
    away.connect()
    lab.until_state(xid, pb.STATE_ABORTED)
    equal(away.stock.goods(), (10, 0, 0), "goods")


def a_late_prepare_after_its_rollback_is_refused(lab):
    overtaken(lab, TWO_PHASE)


def a_late_try_after_its_cancel_is_refused(lab):
    overtaken(lab, TCC)


def overtaken(lab, protocol):
    """The network holds back phase one until phase two of the same branch is over."""
    partner, unwilling = lab.dialled(), lab.session()
    arrived, rolled_back, late_vote = threading.Event(), threading.Event(), []
    phase_one = partner.stock.phase_one

    def held_back(*call):
        arrived.set()
        assert rolled_back.wait(WAIT_MAX), "no rollback came"
        late_vote.append(phase_one(*call))
        return late_vote[-1]

    partner.stock.phase_one = held_back
    unwilling.stock.may_vote.clear()
    branches = [branch(partner, 3, "partner"), branch(unwilling, 99, "unwilling")]
    run = lab.start(branches, protocol=protocol)
    assert arrived.wait(WAIT_MAX), "phase one never came"
    unwilling.stock.may_vote.set()
    result = run.result().result
    aborted(result, because="99 wanted")
    equal(partner.stock.operations(result.xid), ["rollback"], "calls")
    rolled_back.set()
    [vote] = eventually("the late call is answered", lambda: late_vote)
    equal(vote.vote, pb.VOTE_REFUSED, "vote")
    equal(partner.stock.goods(), (10, 0, 0), "goods")
    equal(lab.get(result.xid).outcome, pb.OUTCOME_ABORTED, "outcome")


def a_vote_that_comes_after_the_abort_changes_nothing(lab):
    late, other = lab.session(), lab.session()
    late.loses = lambda call: call.operation == session_pb.OPERATION_PHASE_ONE
    result = lab.run([branch(late, 3, "late"), branch(other, 1, "other")], timeout_ms=300)
    aborted(result)
    late.reply(result.xid, "late", session_pb.OPERATION_PHASE_ONE, vote=pb.PhaseOneResult(vote=pb.VOTE_PREPARED))
    late.inquire([(result.xid, "late")])[0].result(WAIT_MAX)
    equal(lab.get(result.xid).outcome, pb.OUTCOME_ABORTED, "outcome")
    equal(other.stock.goods(), (10, 0, 0), "goods")


def an_undecided_transaction_aborts_at_its_deadline(lab):
    stock = lab.session()
    begun = lab.transactions.Begin(tx.BeginRequest(timeout_ms=300), timeout=WAIT_MAX)
    equal(begun.timeout_ms, 300, "timeout in force")
    stock.enlist(begun.xid, "goods", 3)
    transaction = lab.until_state(begun.xid, pb.STATE_ABORTED)
    assert "no decision within" in transaction.reason, f"reason {transaction.reason!r}"
    equal(stock.stock.goods(), (10, 0, 0), "goods")
    aborted(lab.commit(begun.xid), because="no decision within")
    expect_error(
        grpc.StatusCode.FAILED_PRECONDITION,
        "WRONG_STATE",
        lambda: lab.enlist(begun.xid, pb.Enlistment(branch=branch(stock, 1))),
    )


def a_heuristic_is_told_as_mixed(lab):
    fickle, steady, slow = lab.session(), lab.session(), lab.session()
    slow.stock.may_vote.clear()
    request_id = lab.name("request")
    branches = [branch(fickle, 3, "fickle"), branch(steady, 2, "steady"), branch(slow, 1, "slow")]
    run = lab.start(branches, request_id=request_id)
    xid = lab.seen(request_id).xid
    lab.until_branch(xid, "fickle", lambda b: b.state == pb.BRANCH_STATE_PREPARED, "has voted")
    fickle.stock.rollback(xid, "fickle")
    slow.stock.may_vote.set()
    result = run.result().result
    equal(result.outcome, pb.OUTCOME_MIXED, "outcome")
    states = [b.state for b in result.branches]
    wanted = [pb.BRANCH_STATE_HEURISTIC_ROLLBACK, pb.BRANCH_STATE_COMMITTED, pb.BRANCH_STATE_COMMITTED]
    equal(states, wanted, "states")


def the_same_request_id_is_the_same_transaction(lab):
    request_id = lab.name("request")
    xid = lab.begin(request_id=request_id, label="order")
    equal(lab.begin(request_id=request_id, label="order"), xid, "xid of the repeated begin")
    info = expect_error(
        grpc.StatusCode.ALREADY_EXISTS,
        "REQUEST_ID_REUSED",
        lambda: lab.begin(request_id=request_id, label="another order"),
    )
    equal(info.metadata["xid"], xid, "xid in the error")


def a_repeated_run_takes_effect_once(lab):
    stock, ledger = lab.session(), lab.session()
    request_id = lab.name("request")

    def run(amount):
        return lab.run([branch(stock, amount, "stock"), branch(ledger, 1, "ledger")], request_id=request_id)

    first, again = run(3), run(3)
    committed(first)
    committed(again)
    equal(again.xid, first.xid, "xid of the repeated run")
    equal((stock.stock.goods(), ledger.stock.goods()), ((7, 0, 3), (9, 0, 1)), "goods")
    expect_error(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED", lambda: run(4))


def a_branch_enlisted_twice_is_one_branch(lab):
    stock, other = lab.session(), lab.session()
    xid = lab.begin()
    enlistment = stock.work(xid, "goods", 3)
    equal([lab.enlist(xid, enlistment) for _ in range(2)], ["goods", "goods"], "branch ids")
    equal(len(lab.get(xid).branches), 1, "branches")
    expect_error(
        grpc.StatusCode.ALREADY_EXISTS,
        "BRANCH_ID_REUSED",
        lambda: lab.enlist(xid, pb.Enlistment(branch=branch(other, 3, "goods"))),
    )
    committed(lab.commit(xid))
    committed(lab.commit(xid))
    equal(stock.stock.goods(), (7, 0, 3), "goods")


def a_session_enlists_for_itself_alone(lab):
    stock, other = lab.session(), lab.session()
    xid = lab.begin()
    answer = stock.send_enlistment(xid, other.work(xid, "goods", 3))
    equal(answer.code, grpc.StatusCode.INVALID_ARGUMENT.value[0], "code")
    assert "branch.participant" in answer.message, f"message {answer.message!r}"
    equal(len(lab.get(xid).branches), 0, "branches")


CHECKS = [
    a_participant_that_died_after_voting_asks_and_commits_2pc,
    a_participant_that_died_after_voting_asks_and_commits_tcc,
    who_asks_before_the_decision_is_told_to_hold_on,
    an_expired_reservation_aborts_what_is_undecided,
    a_session_that_comes_late_still_takes_part,
    phase_two_is_delivered_when_a_dialled_service_returns_2pc,
    phase_two_is_delivered_when_a_dialled_service_returns_tcc,
    a_rollback_is_delivered_when_a_session_returns,
    a_late_prepare_after_its_rollback_is_refused,
    a_late_try_after_its_cancel_is_refused,
    a_vote_that_comes_after_the_abort_changes_nothing,
    an_undecided_transaction_aborts_at_its_deadline,
    a_heuristic_is_told_as_mixed,
    the_same_request_id_is_the_same_transaction,
    a_repeated_run_takes_effect_once,
    a_branch_enlisted_twice_is_one_branch,
    a_session_enlists_for_itself_alone,
]
