"""The function in this process: what it keeps of Lambda's contract, and what it cannot."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import sample_handlers
from local_fakes import FakeQueue, LogLines, eventually, failures, running

from local.errors import (
    FunctionCrashedError,
    FunctionError,
    FunctionInitError,
    FunctionTimeoutError,
    PayloadTooLargeError,
    ThrottledError,
)
from local.event_source_mapping import MappingStatistics
from local.http import HttpGateway
from local.http_events import HttpRequest
from local.in_process import InProcessFunction
from local.invocations import FunctionStatistics


def function(handler: Any, **settings: Any) -> InProcessFunction:
    return InProcessFunction("sample", handler=handler, **settings)


@pytest.mark.parametrize("value", [None, 1.5, "täxt \u2028 \U0001f600", [1, {"a": [None]}]])
def test_events_and_responses_go_through_json(value: object) -> None:
    assert function(sample_handlers.echo).invoke(value) == value
    assert function(lambda event, context: (1, 2)).invoke({}) == [1, 2]


def test_a_handler_cannot_change_the_callers_event() -> None:
    event = {"list": [1]}
    function(lambda event, context: event["list"].append(2)).invoke(event)
    assert event == {"list": [1]}


def test_the_context_has_lambdas_attributes_and_a_deadline() -> None:
    answer = function(sample_handlers.describe, timeout_seconds=20, memory_mb=512).invoke({})
    context = answer["context"]
    assert context["function_name"] == "sample"
    assert context["function_version"] == "$LATEST"
    assert context["memory_limit_in_mb"] == "512"
    assert context["invoked_function_arn"] == "arn:aws:lambda:us-east-1:000000000000:function:sample"
    assert context["log_group_name"] == "/aws/lambda/sample"
    assert "[$LATEST]" in context["log_stream_name"]
    assert 15_000 < answer["remaining_ms"] <= 20_000


def test_a_handler_named_is_imported_once() -> None:
    named = function("sample_handlers.echo")
    named.warm()
    assert [named.invoke(1), named.invoke(2)] == [1, 2]
    assert named.statistics == FunctionStatistics(invocations=2, cold_starts=1)


@pytest.mark.parametrize(
    ("handler", "error_type"),
    [
        ("no_such_module.handler", "Runtime.ImportModuleError"),
        ("sample_handlers.no_such_function", "Runtime.HandlerNotFound"),
        ("broken_handlers.handler", "RuntimeError"),
    ],
)
def test_an_init_error_is_reported_on_every_invocation(handler: str, error_type: str) -> None:
    broken = function(handler)
    for _ in range(2):
        with pytest.raises(FunctionInitError, match=error_type):
            broken.invoke({})
    assert broken.statistics == FunctionStatistics(invocations=2, cold_starts=2, errors=2)


def test_an_exception_has_lambdas_shape_and_its_cause() -> None:
    with pytest.raises(FunctionError) as caught:
        function(sample_handlers.act).invoke({"do": "raise", "text": "secret"})
    payload = caught.value.payload()
    assert (payload["errorType"], payload["errorMessage"]) == ("ValueError", "the text was: secret")
    assert "in act" in str(payload["stackTrace"])
    assert isinstance(caught.value.__cause__, ValueError)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("deed", ["unserializable", "surrogate"])
def test_a_response_that_is_not_json_fails_as_on_lambda(deed: str) -> None:
    with pytest.raises(FunctionError) as caught:
        function(sample_handlers.act).invoke({"do": deed})
    assert caught.value.error_type == "Runtime.MarshalError"


def test_lambdas_payload_limits() -> None:
    act = function(sample_handlers.act)
    with pytest.raises(PayloadTooLargeError):
        act.invoke({"do": "nothing", "text": "x" * 6 * 1024 * 1024})
    with pytest.raises(FunctionError) as caught:
        act.invoke({"do": "large", "size": 6 * 1024 * 1024 + 100})
    assert caught.value.error_type == "Function.ResponseSizeTooLarge"
    assert act.statistics == FunctionStatistics(invocations=1, errors=1)


@pytest.mark.parametrize("event", [{"do": "sleep", "seconds": 0.2}, {"do": "late and raise"}])
def test_a_timeout_is_reported_after_the_fact(event: dict[str, Any]) -> None:
    def handler(event: dict[str, Any], context: Any) -> Any:
        if event["do"] == "late and raise":
            time.sleep(0.2)
            raise ValueError("too late to say")
        return sample_handlers.act(event, context)

    late = function(handler, timeout_seconds=0.1)
    began = time.monotonic()
    with pytest.raises(FunctionTimeoutError, match=r"timed out after 0\.10 seconds"):
        late.invoke(event)
    # It was not killed.
    assert time.monotonic() - began >= 0.2
    assert late.statistics == FunctionStatistics(invocations=1, timeouts=1)


def test_an_exit_is_a_crash() -> None:
    act = function(sample_handlers.act)
    with pytest.raises(FunctionCrashedError, match="exited with status 3"):
        act.invoke({"do": "exit"})
    assert act.invoke({"do": "nothing"})
    assert act.statistics == FunctionStatistics(invocations=2, crashes=1)


def test_no_free_slot_throttles_at_once_or_waits() -> None:
    started, finish = threading.Event(), threading.Event()

    def handler(event: Any, context: Any) -> None:
        if event == "first":
            started.set()
            finish.wait(10)

    one = function(handler)
    first = threading.Thread(target=one.invoke, args=("first",))
    first.start()
    assert started.wait(10)
    with pytest.raises(ThrottledError):
        one.invoke("second")
    threading.Timer(0.05, finish.set).start()
    one.invoke("third", wait_seconds=10)
    first.join()
    assert one.statistics == FunctionStatistics(invocations=2, throttles=1)
    one.close()
    with pytest.raises(ThrottledError, match="is closed"):
        one.invoke("fourth", wait_seconds=10)


def test_it_stands_behind_an_event_source_mapping() -> None:
    """Two pollers on one slot: what was throttled comes again; what failed comes again alone."""
    seen: list[str] = []

    def handler(event: Any, context: Any) -> Any:
        ids = [record["messageId"] for record in event["Records"]]
        first = [id_ for id_ in ids if id_ not in seen]
        seen.extend(ids)
        time.sleep(0.02)
        return failures(*(id_ for id_ in first if id_ == "m3"))

    queue, one, log = FakeQueue(visibility_seconds=0.1), function(handler), LogLines()
    queue.send(*(f"m{number}" for number in range(8)))
    with running(queue, one, log=log, batch_size=1, max_concurrency=2) as mapping:
        eventually(lambda: queue.left == [])
        mapping.stop()
        counts = mapping.statistics
    assert counts == MappingStatistics(
        batches=9, deleted=8, kept=1 + counts.throttles, throttles=one.statistics.throttles
    )
    assert sorted(seen) == sorted([*(f"m{number}" for number in range(8)), "m3"])


def test_it_stands_behind_the_http_gateway() -> None:
    gateway = HttpGateway(function(sample_handlers.api), metrics=str, log=print)
    request = HttpRequest(method="GET", target="/health", headers=(), body=b"", source_ip="127.0.0.1")
    assert gateway.answer(request).status == 200
