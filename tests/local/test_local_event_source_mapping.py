"""The event source mapping's semantics one by one, on an in-memory queue and function."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from local_fakes import FakeFunction, FakeQueue, LogLines, eventually

from local.errors import FunctionCrashedError, FunctionError, FunctionTimeoutError, InvocationError, ThrottledError
from local.event_source_mapping import EventSourceMapping, MappingSettings, MappingStatistics

ARN = "arn:aws:sqs:us-east-1:000000000000:documents"


@contextlib.contextmanager
def running(
    queue: FakeQueue, function: FakeFunction, *, log: LogLines | None = None, arn: str = ARN, **settings: Any
) -> Iterator[EventSourceMapping]:
    mapping = EventSourceMapping(
        MappingSettings(queue_arn=arn, **settings), queue=queue, function=function, log=(log or LogLines()).add
    )
    mapping.start()
    try:
        yield mapping
    finally:
        assert mapping.stop()


def failures(*ids: str) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": id_} for id_ in ids]}


def test_a_batch_that_succeeds_is_deleted_once() -> None:
    queue, function = FakeQueue(), FakeFunction()
    queue.send("a", "b")
    with running(queue, function) as mapping:
        eventually(lambda: mapping.statistics.deleted == 2)
    assert function.batches == [["a", "b"]]
    assert queue.deleted == ["a", "b"]


def test_only_what_failed_comes_back_with_a_higher_receive_count() -> None:
    queue = FakeQueue(visibility_seconds=0.05)
    function = FakeFunction(lambda ids: failures("b") if len(ids) > 1 else None)
    queue.send("a", "b", "c")
    with running(queue, function):
        eventually(lambda: len(queue.deleted) == 3)
    assert queue.deleted == ["a", "c", "b"]
    counts = [r["attributes"]["ApproximateReceiveCount"] for event in function.events for r in event["Records"]]
    assert counts == ["1", "1", "1", "2"]


@pytest.mark.parametrize("response", [failures("stranger"), failures("a", ""), "ok", {"batchItemFailures": "a"}])
def test_a_malformed_response_deletes_nothing(response: Any) -> None:
    queue = FakeQueue(visibility_seconds=0.05)
    queue.send("a", "b")
    with running(queue, FakeFunction(lambda _: response)) as mapping:
        eventually(lambda: mapping.statistics.malformed_responses >= 2)
    assert queue.deleted == []
    assert queue.receive_count("a") >= 2


@pytest.mark.parametrize(
    "error",
    [
        FunctionError("f", error_type="ValueError", error_message="the text was: secret"),
        FunctionTimeoutError("f", "timed out"),
        FunctionCrashedError("f", "died"),
    ],
)
def test_a_failed_invocation_deletes_nothing_and_logs_no_content(error: InvocationError) -> None:
    def respond(ids: list[str]) -> None:
        raise error

    queue, log = FakeQueue(), LogLines()
    queue.send("a")
    with running(queue, FakeFunction(respond), log=log) as mapping:
        eventually(lambda: mapping.statistics.failed_invocations == 1)
    assert queue.deleted == []
    assert len(log.lines) == 1
    assert "secret" not in log.lines[0]


def test_throttled_messages_come_back_and_are_not_deleted() -> None:
    tries: list[int] = []

    def respond(ids: list[str]) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ThrottledError("f", "Rate Exceeded.")

    queue = FakeQueue(visibility_seconds=0.01)
    queue.send("a")
    with running(queue, FakeFunction(respond)) as mapping:
        eventually(lambda: queue.deleted == ["a"])
        assert mapping.statistics.throttles == 2
        assert mapping.statistics.batches == 1


@pytest.mark.parametrize("response", [failures("a"), "nonsense", None])
def test_without_report_batch_item_failures_the_response_is_not_read(response: Any) -> None:
    queue = FakeQueue()
    queue.send("a")
    with running(queue, FakeFunction(lambda _: response), report_batch_item_failures=False):
        eventually(lambda: queue.deleted == ["a"])


def test_without_report_batch_item_failures_an_error_still_keeps_the_batch() -> None:
    def respond(ids: list[str]) -> None:
        raise FunctionError("f", error_type="E", error_message="")

    queue = FakeQueue()
    queue.send("a")
    with running(queue, FakeFunction(respond), report_batch_item_failures=False) as mapping:
        eventually(lambda: mapping.statistics.failed_invocations == 1)
    assert queue.deleted == []


def test_a_batch_over_ten_takes_several_receives_within_the_window() -> None:
    queue, function = FakeQueue(), FakeFunction()
    queue.send(*(f"m{number}" for number in range(25)))
    with running(queue, function, batch_size=25, batching_window_seconds=30):
        eventually(lambda: len(queue.deleted) == 25)
    assert [len(batch) for batch in function.batches] == [25]
    assert queue.requested[:3] == [10, 10, 5]


def test_the_window_closes_with_what_came() -> None:
    queue, function = FakeQueue(), FakeFunction()
    queue.send("a")
    with running(queue, function, batch_size=10, batching_window_seconds=0.3):
        eventually(lambda: queue.requested.count(9) > 0)
        queue.send("b")
        eventually(lambda: len(queue.deleted) == 2)
    assert function.batches == [["a", "b"]]


def test_a_batch_stays_within_the_payload_limit() -> None:
    queue, function = FakeQueue(), FakeFunction()
    queue.send(*"abcdefgh", body="x" * 1_000_000)
    with running(queue, function):
        eventually(lambda: len(queue.deleted) == 8)
    assert function.batches == [list("abcdef"), ["g", "h"]]


def test_no_more_batches_in_flight_than_max_concurrency() -> None:
    release, in_flight, most = threading.Event(), threading.Semaphore(2), []

    def respond(ids: list[str]) -> None:
        most.append(in_flight.acquire(blocking=False))
        release.wait(10)
        in_flight.release()

    queue, function = FakeQueue(), FakeFunction(respond)
    queue.send("a", "b", "c", "d")
    with running(queue, function, batch_size=1, max_concurrency=2):
        eventually(lambda: len(function.batches) == 2)
        # A poller with a batch in hand receives nothing more.
        assert queue.receive_count("c") == 0
        release.set()
        eventually(lambda: len(queue.deleted) == 4)
    assert all(most)


def test_fifo_keeps_a_group_to_one_batch_in_flight_though_the_handler_returns_messages_early() -> None:
    queue = FakeQueue()
    seen = threading.Event()
    in_flight: list[str] = []
    overlaps: list[str] = []

    def respond(ids: list[str]) -> Any:
        overlaps.extend(in_flight)
        in_flight.extend(ids)
        first = len(fake.batches) == 1
        if first:
            # As our handler does: failed messages are made visible before the batch is over.
            for id_ in ids:
                queue.make_visible(id_)
            seen.wait(0.3)
        for id_ in ids:
            in_flight.remove(id_)
        return failures(*ids) if first else None

    fake = FakeFunction(respond)
    queue.send("a1", "a2", group="a")
    with running(queue, fake, arn=ARN + ".fifo", max_concurrency=3):
        eventually(lambda: len(queue.deleted) == 2)
    assert overlaps == []
    assert fake.batches == [["a1", "a2"], ["a1", "a2"]]


def test_fifo_order_holds_after_a_failure() -> None:
    queue = FakeQueue(visibility_seconds=0.05)
    fake = FakeFunction(lambda ids: failures("a2", "a3") if len(fake.batches) == 1 else None)
    queue.send("a1", "a2", "a3", group="a")
    with running(queue, fake, arn=ARN + ".fifo", max_concurrency=2):
        eventually(lambda: len(queue.deleted) == 3)
    assert queue.deleted == ["a1", "a2", "a3"]


def test_failed_polls_are_logged_and_retried() -> None:
    queue, log = FakeQueue(), LogLines()
    queue.failing_receives = 2
    queue.send("a")
    with running(queue, FakeFunction(), log=log) as mapping:
        eventually(lambda: queue.deleted == ["a"])
        assert mapping.statistics.failed_polls == 2
    assert log.lines == ["poll failed: no answer"] * 2


def test_delete_failures_are_counted_and_the_retryable_retried() -> None:
    queue, log = FakeQueue(), LogLines()
    queue.delete_failures = {"a": ["InternalError"], "b": ["ReceiptHandleIsInvalid"]}
    queue.send("a", "b", "c")
    with running(queue, FakeFunction(), log=log) as mapping:
        eventually(lambda: mapping.statistics.deleted == 2)
        assert mapping.statistics == MappingStatistics(batches=1, deleted=2, failed_deletes=1)
    assert queue.deleted == ["c", "a"]
    assert "message b was not deleted: ReceiptHandleIsInvalid" in log.lines


def test_stop_lets_the_invocation_in_flight_finish() -> None:
    started, release = threading.Event(), threading.Event()

    def respond(ids: list[str]) -> None:
        started.set()
        release.wait(10)

    queue = FakeQueue()
    queue.send("a")
    with running(queue, FakeFunction(respond)) as mapping:
        assert started.wait(10)
        assert not mapping.stop(timeout_seconds=0.05)
        release.set()
        assert mapping.stop()
    assert queue.deleted == ["a"]


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 0},
        {"batch_size": 11},
        {"max_concurrency": 0},
        {"batching_window_seconds": 301},
        {"queue_arn": ARN + ".fifo", "batching_window_seconds": 1},
        {"queue_arn": ARN + ".fifo", "batch_size": 11, "batching_window_seconds": 1},
    ],
)
def test_settings_that_lambda_refuses(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"batch_size|window"):
        MappingSettings(**{"queue_arn": ARN, **settings})
