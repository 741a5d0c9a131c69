"""The event source mapping's semantics one by one, on an in-memory queue and function."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from local_fakes import ARN, FakeFunction, FakeQueue, LogLines, eventually, failures, raising, running

from local.errors import FunctionCrashedError, FunctionError, FunctionTimeoutError, InvocationError
from local.event_source_mapping import MappingSettings, MappingStatistics


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


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(None, id="null"),
        pytest.param({}, id="empty object"),
        pytest.param({"batchItemFailures": []}, id="empty list"),
        pytest.param({"batchItemFailures": None}, id="null list"),
        # Lambda finds no batchItemFailures in it.
        pytest.param({"BatchItemFailures": [{"itemIdentifier": "a"}]}, id="list under another key"),
    ],
)
def test_an_empty_response_deletes_the_whole_batch(response: Any) -> None:
    queue = FakeQueue()
    queue.send("a", "b")
    with running(queue, FakeFunction(lambda _: response)) as mapping:
        eventually(lambda: mapping.statistics == MappingStatistics(batches=1, deleted=2))
    assert queue.left == []


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(failures("stranger"), id="unknown id"),
        pytest.param(failures("a", ""), id="empty id"),
        pytest.param({"batchItemFailures": [{"itemIdentifier": None}]}, id="null id"),
        pytest.param({"batchItemFailures": [{"messageId": "a"}]}, id="wrong key"),
        pytest.param({"batchItemFailures": "a"}, id="no list"),
        pytest.param("ok", id="no object"),
    ],
)
def test_a_malformed_response_keeps_the_whole_batch_and_it_comes_again(response: Any) -> None:
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
def test_a_failed_invocation_keeps_the_whole_batch_and_logs_no_content(error: InvocationError) -> None:
    queue, log = FakeQueue(), LogLines()
    queue.send("a", "b")
    with running(queue, FakeFunction(raising(error)), log=log) as mapping:
        eventually(lambda: mapping.statistics == MappingStatistics(batches=1, failed_invocations=1, kept=2))
    assert queue.left == ["a", "b"]
    assert len(log.lines) == 1
    assert "secret" not in log.lines[0]


@pytest.mark.parametrize("response", [failures("a"), "nonsense", None])
def test_without_report_batch_item_failures_the_response_is_not_read(response: Any) -> None:
    queue = FakeQueue()
    queue.send("a")
    with running(queue, FakeFunction(lambda _: response), report_batch_item_failures=False):
        eventually(lambda: queue.deleted == ["a"])


@pytest.mark.parametrize(("reports", "slower"), [(True, False), (False, True)])
def test_only_without_report_batch_item_failures_do_errors_slow_the_polling(reports: bool, slower: bool) -> None:
    times: list[float] = []

    def respond(ids: list[str]) -> None:
        times.append(time.monotonic())
        raise FunctionError("f", error_type="E", error_message="")

    queue = FakeQueue(visibility_seconds=0)
    queue.send("a")
    with running(queue, FakeFunction(respond), report_batch_item_failures=reports):
        eventually(lambda: len(times) >= 4)
    # .1, .2 and .4 s of back-off.
    assert (times[3] - times[0] >= 0.7) is slower


def test_without_report_batch_item_failures_an_error_still_keeps_the_batch() -> None:
    error = FunctionError("f", error_type="E", error_message="")
    queue = FakeQueue()
    queue.send("a")
    with running(queue, FakeFunction(raising(error)), report_batch_item_failures=False) as mapping:
        eventually(lambda: mapping.statistics.failed_invocations == 1)
    assert queue.deleted == []


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


def test_failed_polls_are_logged_and_retried() -> None:
    queue, log = FakeQueue(), LogLines()
    queue.failing_receives = 2
    queue.send("a")
    with running(queue, FakeFunction(), log=log) as mapping:
        eventually(lambda: queue.deleted == ["a"])
        assert mapping.statistics.failed_polls == 2
    assert log.lines == ["poll failed: no answer"] * 2


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
