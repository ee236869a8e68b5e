"""What can be asked: transactions, their history, lists, changes, outcomes; and what errors say."""

import grpc
from assent.v1 import inquiry_service_pb2 as inquiry_pb
from assent.v1 import transaction_service_pb2 as tx
from assent.v1 import types_pb2 as pb

from lab import WAIT_MAX, aborted, branch, committed, equal, expect_error

HOUR_MS = 3_600_000


def get_shows_a_transaction_with_its_history(lab):
    stock, ledger = lab.session(), lab.session()
    request_id = lab.name("request")
    result = lab.run(
        [branch(stock, 1, "stock"), branch(ledger, 1, "ledger")],
        label="checkout",
        request_id=request_id,
        timeout_ms=20_000,
    )
    committed(result)
    shown = lab.get(result.xid)
    equal(lab.get(request_id=request_id), shown, "what is found by request id")
    equal((shown.label, shown.request_id, shown.timeout_ms), ("checkout", request_id, 20_000), "fields")
    equal((shown.state, shown.outcome), (pb.STATE_COMMITTED, pb.OUTCOME_COMMITTED), "end")
    times = [t.ToNanoseconds() for t in (shown.begin_time, shown.decide_time, shown.end_time)]
    assert 0 < times[0] and times == sorted(times), f"times {times}"
    equal([b.participant for b in shown.branches], [stock.name, ledger.name], "participants")
    kinds = [event.kind for event in shown.history]
    wanted = ["begun", "enlisted", "enlisted", "voted", "voted", "decided", "acknowledged", "acknowledged", "ended"]
    equal(kinds, wanted, "history")


def watch_sees_one_transaction_to_its_end(lab):
    stock = lab.session()
    xid = lab.begin()
    stream = lab.transactions.Watch(tx.WatchRequest(xid=xid), timeout=WAIT_MAX)
    equal(next(stream).transaction.state, pb.STATE_ACTIVE, "state at first")
    stock.enlist(xid, "goods", 1)
    committed(lab.commit(xid))
    # The stream ends by itself when the transaction has.
    states = [response.transaction.state for response in stream]
    equal(states[-1], pb.STATE_COMMITTED, "the last of the states")
    assert all(before <= after for before, after in zip(states, states[1:])), f"states went back: {states}"


def watch_of_an_ended_transaction_tells_it_and_ends(lab):
    result = lab.run([])
    stream = lab.transactions.Watch(tx.WatchRequest(xid=result.xid), timeout=WAIT_MAX)
    equal([response.transaction.state for response in stream], [pb.STATE_COMMITTED], "states")


def watch_of_many_follows_its_filter(lab):
    label = lab.name("watched")
    stream = lab.transactions.Watch(
        tx.WatchRequest(filter=tx.TransactionFilter(label=label)), timeout=WAIT_MAX
    )
    # The headers come once the watch is in place.
    stream.initial_metadata()
    lab.begin(label="not " + label)
    wanted = lab.begin(label=label)
    equal(next(stream).transaction.xid, wanted, "what is watched")
    stream.cancel()


def list_pages_newest_first(lab):
    label = lab.name("listed")
    begun = [lab.begin(label=label) for _ in range(7)]
    lab.begin(label="not " + label)
    pages = pages_of(lab, tx.TransactionFilter(label=label), page_size=3)
    equal([xid for page in pages for xid in page], begun[::-1], "transactions")
    assert all(len(page) <= 3 for page in pages), f"pages {pages}"


def list_filters_by_state_and_participant(lab):
    stock = lab.session()
    ended = lab.run([branch(stock, 0)]).xid
    active = lab.begin()
    stock.enlist(active, "goods", 1)

    def listed(**fields):
        pages = pages_of(lab, tx.TransactionFilter(participant=stock.name, **fields))
        return [xid for page in pages for xid in page]

    equal(listed(), [active, ended], "all of the participant")
    equal(listed(states=[pb.STATE_ACTIVE]), [active], "active")
    equal(listed(states=[pb.STATE_COMMITTED, pb.STATE_ABORTED]), [ended], "ended")
    equal(listed(protocol=pb.PROTOCOL_TCC), [], "TCC")
    equal(listed(needs_attention=True), [], "what needs attention")
    aborted(lab.abort(active))


def pages_of(lab, transaction_filter, page_size=0):
    pages, token = [], ""
    while not pages or token:
        request = tx.ListRequest(filter=transaction_filter, page_size=page_size, page_token=token)
        response = lab.transactions.List(request, timeout=WAIT_MAX)
        pages.append([transaction.xid for transaction in response.transactions])
        token = response.next_page_token
    return pages


def a_past_transaction_that_is_unknown_is_presumed_aborted(lab):
    equal(outcome(lab, relative(lab.begin(), earlier_ms=HOUR_MS)), inquiry_pb.INQUIRY_ANSWER_ABORT, "answer")


def of_a_foreign_transaction_nothing_is_presumed(lab):
    xid = lab.begin()
    for foreign in (relative(xid, other_life=True), relative(xid, later_epochs=1)):
        equal(outcome(lab, foreign), inquiry_pb.INQUIRY_ANSWER_FOREIGN, "answer")


def outcomes_are_answered_in_batches_in_order(lab):
    xid, other = lab.begin(), lab.begin()
    aborted(lab.abort(other))
    asked = [xid, relative(xid, other_life=True), other, relative(xid, earlier_ms=HOUR_MS), xid]
    inquiries = [inquiry_pb.Inquiry(xid=x, branch_id="goods") for x in asked]
    request = inquiry_pb.BatchGetOutcomesRequest(inquiries=inquiries)
    response = lab.inquiries.BatchGetOutcomes(request, timeout=WAIT_MAX)
    equal([result.xid for result in response.results], asked, "xids")
    answers = [inquiry_pb.InquiryAnswer.Name(result.answer) for result in response.results]
    wanted = ["PENDING", "FOREIGN", "ABORT", "ABORT", "PENDING"]
    equal(answers, [f"INQUIRY_ANSWER_{word}" for word in wanted], "answers")
    assert response.horizon.cluster_id and response.horizon.before, f"horizon {response.horizon}"


def outcome(lab, xid):
    inquiry = inquiry_pb.Inquiry(xid=xid, branch_id="goods")
    response = lab.inquiries.GetOutcome(inquiry_pb.GetOutcomeRequest(inquiry=inquiry), timeout=WAIT_MAX)
    equal((response.result.xid, response.result.branch_id), (xid, "goods"), "what the answer is about")
    return response.result.answer


def relative(xid, earlier_ms=0, other_life=False, later_epochs=0):
    """An id like this one, made earlier, by a coordinator with another log, or in a later epoch."""
    bits = int(xid.replace("-", ""), 16)
    bits = (bits - (earlier_ms << 80) + (later_epochs << 38)) ^ (0xFFFFFFFF if other_life else 0)
    digits = f"{bits:032x}"
    return "-".join([digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]])


def an_unknown_transaction_is_not_found(lab):
    unknown = relative(lab.begin(), earlier_ms=HOUR_MS)
    enlistment = pb.Enlistment(branch=pb.BranchSpec(participant="nobody"))
    calls = [
        lambda: lab.get(unknown),
        lambda: lab.commit(unknown),
        lambda: lab.abort(unknown),
        lambda: lab.enlist(unknown, enlistment),
        lambda: next(lab.transactions.Watch(tx.WatchRequest(xid=unknown), timeout=WAIT_MAX)),
    ]
    for call in calls:
        info = expect_error(grpc.StatusCode.NOT_FOUND, "TRANSACTION_NOT_FOUND", call)
        equal(info.metadata["xid"], unknown, "xid in the error")
    missing = lambda: lab.get(request_id=lab.name("never used"))
    expect_error(grpc.StatusCode.NOT_FOUND, "TRANSACTION_NOT_FOUND", missing)


def wrong_fields_are_named(lab):
    xid = lab.begin()
    nobody = pb.BranchSpec(participant="nobody")
    wrong = {
        "xid": lambda: lab.get("order-1"),
        "timeout_ms": lambda: lab.begin(timeout_ms=2**63),
        "label": lambda: lab.begin(label="a\nb"),
        "request_id": lambda: lab.begin(request_id="x" * 129),
        "protocol": lambda: lab.begin(protocol=77),
        "wait": lambda: lab.commit(xid, wait=77),
        "participant": lambda: lab.enlist(xid, pb.Enlistment(branch=pb.BranchSpec(participant=""))),
        "branch_id": lambda: lab.run([pb.BranchSpec(participant="nobody", branch_id="größe")]),
        "endpoint": lambda: lab.run([pb.BranchSpec(participant="nobody", endpoint="http://10.9.8.7:80")]),
        "vote": lambda: lab.enlist(xid, pb.Enlistment(branch=nobody, vote=pb.PhaseOneResult())),
    }
    for field, call in wrong.items():
        try:
            expect_error(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", call)
            call()
        except grpc.RpcError as error:
            assert field in error.details(), f"{error.details()!r} does not name {field}"


CHECKS = [
    get_shows_a_transaction_with_its_history,
    watch_sees_one_transaction_to_its_end,
    watch_of_an_ended_transaction_tells_it_and_ends,
    watch_of_many_follows_its_filter,
    list_pages_newest_first,
    list_filters_by_state_and_participant,
    a_past_transaction_that_is_unknown_is_presumed_aborted,
    of_a_foreign_transaction_nothing_is_presumed,
    outcomes_are_answered_in_batches_in_order,
    an_unknown_transaction_is_not_found,
    wrong_fields_are_named,
]
