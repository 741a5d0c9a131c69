"""At-least-once delivery: throttling, receive counts, duplicates, deletes that fail; and how pollers scale."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import pytest
from local_fakes import HANDLER_ENV, FakeFunction, FakeQueue, LogLines, TwiceQueue, eventually, failures, running

from local.batches import PollerAllowance
from local.errors import ThrottledError
from local.event_source_mapping import MappingStatistics
from local.functions import LocalFunction


def throttled(times: int) -> FakeFunction:
    """A function that refuses so often before it runs."""

    def respond(ids: list[str]) -> None:
        if len(fake.batches) <= times:
            raise ThrottledError("f", "Rate Exceeded.")

    fake = FakeFunction(respond)
    return fake


def test_a_throttled_invocation_consumes_a_receive() -> None:
    queue, function = FakeQueue(visibility_seconds=0.01), throttled(2)
    queue.send("a")
    with running(queue, function) as mapping:
        eventually(lambda: queue.deleted == ["a"])
        assert mapping.statistics == MappingStatistics(batches=1, deleted=1, kept=2, throttles=2)
    counts = [event["Records"][0]["attributes"]["ApproximateReceiveCount"] for event in function.events]
    assert counts == ["1", "2", "3"]


def test_throttled_messages_are_left_to_their_visibility_timeout() -> None:
    queue, function = FakeQueue(visibility_seconds=60), throttled(1)
    queue.send("a")
    with running(queue, function) as mapping:
        eventually(lambda: mapping.statistics.throttles == 1)
        polls = len(queue.requested)
        eventually(lambda: len(queue.requested) > polls + 1)
        assert len(function.batches) == 1
        queue.make_visible("a")
        eventually(lambda: queue.deleted == ["a"])


def test_throttling_backs_off_longer_each_time() -> None:
    times: list[float] = []

    def respond(ids: list[str]) -> None:
        times.append(time.monotonic())
        if len(times) < 5:
            raise ThrottledError("f", "Rate Exceeded.")

    queue = FakeQueue(visibility_seconds=0)
    queue.send("a")
    with running(queue, FakeFunction(respond)):
        eventually(lambda: queue.deleted == ["a"])
    waits = [after - before for before, after in itertools.pairwise(times)]
    assert [wait >= least for wait, least in zip(waits, (0.1, 0.2, 0.4, 0.8), strict=True)] == [True] * 4


def test_a_message_in_two_batches_at_once() -> None:
    """SQS may deliver a copy while the first is in flight; whoever deletes second finds it gone, which is a success."""
    both = threading.Barrier(2)

    def respond(ids: list[str]) -> None:
        both.wait(10)

    queue, function = FakeQueue(), FakeFunction(respond)
    queue.send("a")
    with running(TwiceQueue(queue, at_once=False), function, max_concurrency=2) as mapping:
        eventually(lambda: mapping.statistics.batches == 2)
        eventually(lambda: mapping.statistics == MappingStatistics(batches=2, deleted=1, already_gone=1))
    assert function.batches == [["a"], ["a"]]
    assert queue.deleted == ["a"]


@pytest.mark.parametrize(("response", "left"), [(None, []), (failures("a"), ["a"])])
def test_a_message_twice_in_one_batch(response: Any, left: list[str]) -> None:
    queue, function, log = FakeQueue(), FakeFunction(lambda _: response), LogLines()
    queue.send("a", "b")
    with running(TwiceQueue(queue, at_once=True), function, log=log) as mapping:
        eventually(lambda: mapping.statistics.deleted == 2 - len(left))
        eventually(lambda: queue.left == left)
        assert mapping.statistics.failed_deletes == 0
    assert function.batches == [["a", "a", "b", "b"]]
    assert log.lines == []


def test_a_handler_may_delete_a_message_of_the_batch_itself() -> None:
    queue = FakeQueue()
    fake = FakeFunction(lambda _: queue.delete_by_handle(fake.events[0]["Records"][0]["receiptHandle"]))
    queue.send("a", "b")
    with running(queue, fake) as mapping:
        eventually(lambda: mapping.statistics == MappingStatistics(batches=1, deleted=1, already_gone=1))
    assert queue.left == []


def test_a_handler_may_delete_a_message_and_report_it_failed() -> None:
    queue = FakeQueue()

    def respond(ids: list[str]) -> Any:
        queue.delete_by_handle(fake.events[0]["Records"][0]["receiptHandle"])
        return failures("a")

    fake = FakeFunction(respond)
    queue.send("a", "b")
    with running(queue, fake) as mapping:
        eventually(lambda: mapping.statistics == MappingStatistics(batches=1, deleted=1, kept=1))
    assert queue.left == []


def test_a_handler_may_keep_a_message_longer() -> None:
    def respond(ids: list[str]) -> None:
        queue.hide("a", seconds=60)
        time.sleep(0.5)

    queue, function = FakeQueue(visibility_seconds=0.3), FakeFunction(respond)
    queue.send("a")
    with running(queue, function, max_concurrency=2) as mapping:
        eventually(lambda: mapping.statistics == MappingStatistics(batches=1, deleted=1))
    assert function.batches == [["a"]]


def test_a_handler_slower_than_the_visibility_timeout_gets_the_message_twice() -> None:
    """The first delivery's handle is stale then, and only the second deletes."""
    second = threading.Event()

    def respond(ids: list[str]) -> None:
        if len(function.batches) == 1:
            second.wait(10)
        else:
            queue.hide("a", seconds=60)
            second.set()
            eventually(lambda: mapping.statistics.already_gone == 1)

    queue, function = FakeQueue(visibility_seconds=0.05), FakeFunction(respond)
    queue.send("a")
    with running(queue, function, max_concurrency=2) as mapping:
        eventually(lambda: mapping.statistics == MappingStatistics(batches=2, deleted=1, already_gone=1))
    assert queue.deleted == ["a"]


def test_delete_failures_are_counted_and_the_retryable_retried() -> None:
    queue, log = FakeQueue(), LogLines()
    queue.delete_failures = {"a": ["InternalError"], "b": ["InvalidParameterValue"]}
    queue.send("a", "b", "c")
    with running(queue, FakeFunction(), log=log) as mapping:
        eventually(lambda: mapping.statistics == MappingStatistics(batches=1, deleted=2, failed_deletes=1))
    assert queue.deleted == ["c", "a"]
    assert "message b was not deleted: InvalidParameterValue" in log.lines


def test_a_delete_without_an_answer_is_tried_three_times() -> None:
    queue, log = FakeQueue(visibility_seconds=1), LogLines()
    queue.failing_deletes = 2
    queue.send("a")
    with running(queue, FakeFunction(), log=log) as mapping:
        eventually(lambda: mapping.statistics == MappingStatistics(batches=1, deleted=1))
    assert log.lines == ["delete failed: no answer"] * 2


def test_a_message_that_could_not_be_deleted_comes_again() -> None:
    queue, function = FakeQueue(visibility_seconds=1), FakeFunction()
    queue.failing_deletes = 3
    queue.send("a")
    with running(queue, function) as mapping:
        eventually(lambda: mapping.statistics == MappingStatistics(batches=2, deleted=1, failed_deletes=1))
    assert function.batches == [["a"], ["a"]]


def test_a_timeout_kills_the_child_keeps_the_batch_and_the_next_start_is_cold() -> None:
    queue = FakeQueue(visibility_seconds=2)
    function = LocalFunction(
        "q", handler="sample_handlers.queue", env=HANDLER_ENV, logs=LogLines(), timeout_seconds=1, concurrency=1
    )
    function.warm()
    (first,) = function.host_pids()
    queue.send("a", body='"good"')
    queue.send("b", body='"hang"')
    try:
        with running(queue, function) as mapping:
            eventually(lambda: mapping.statistics.failed_invocations == 1)
            assert queue.left == ["a", "b"]
            assert function.host_pids() == []
            queue.send("b", body='"good"')
            eventually(lambda: mapping.statistics.deleted == 2)
        assert function.host_pids() != [first]
        assert (function.statistics.timeouts, function.statistics.cold_starts) == (1, 2)
    finally:
        function.close()


def test_five_pollers_at_first_and_more_while_messages_keep_coming() -> None:
    release = threading.Event()

    def respond(ids: list[str]) -> None:
        release.wait(10)

    queue, function = FakeQueue(), FakeFunction(respond)
    queue.send(*(f"m{number}" for number in range(9)))
    began = time.monotonic()
    with running(queue, function, batch_size=1, max_concurrency=7) as mapping:
        assert mapping.active_pollers == 5
        eventually(lambda: len(function.batches) == 7)
        # 300 more a minute.
        assert time.monotonic() - began >= 0.35
        assert mapping.active_pollers == 7
        release.set()
        eventually(lambda: queue.left == [])
        eventually(lambda: mapping.active_pollers == 5)


def test_throttling_leaves_fewer_pollers_but_one() -> None:
    allowance = PollerAllowance(8)
    for _ in range(10):
        allowance.throttled()
    assert allowance.allowed == 1
    allowance.wait_for_turn(0)
    allowance.found_messages()
    allowance.wait_for_turn(1)
    assert allowance.allowed == 2
    # Polls that find nothing take no more away than was added to the first five.
    allowance.found_nothing()
    assert allowance.allowed == 2
    allowance.stop()
    allowance.wait_for_turn(7)
