"""The function host, with real child processes."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from local_fakes import LogLines, MakeFunction, eventually

from local.errors import FunctionError, FunctionInitError, PayloadTooLargeError, ThrottledError
from local.functions import FunctionStatistics


def test_a_process_is_kept_warm(make: MakeFunction) -> None:
    function = make("describe")
    first, second = function.invoke({}), function.invoke({})
    assert (first["calls"], second["calls"]) == (1, 2)
    assert first["pid"] == second["pid"] != os.getpid()
    assert function.statistics == FunctionStatistics(invocations=2, cold_starts=1)


def test_warm_starts_the_process_before_the_first_invocation(make: MakeFunction) -> None:
    function = make("describe", concurrency=2)
    function.warm(2)
    assert len(function.host_pids()) == 2
    assert function.invoke({})["pid"] in function.host_pids()
    assert function.statistics.cold_starts == 2


def test_the_context_has_lambdas_attributes(make: MakeFunction) -> None:
    function = make("describe", timeout_seconds=20, memory_mb=512)
    answer = function.invoke({})
    context = answer["context"]
    assert context["function_name"] == "sample"
    assert context["function_version"] == "$LATEST"
    assert context["memory_limit_in_mb"] == "512"
    assert context["invoked_function_arn"] == "arn:aws:lambda:us-east-1:000000000000:function:sample"
    assert context["log_group_name"] == "/aws/lambda/sample"
    assert "[$LATEST]" in context["log_stream_name"]
    assert 15_000 < answer["remaining_ms"] <= 20_000
    assert function.invoke({})["context"]["aws_request_id"] != context["aws_request_id"]


def test_the_handler_sees_this_environment_and_the_functions(
    make: MakeFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INHERITED", "yes")
    monkeypatch.setenv("AWS_PROFILE", "a-real-account")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "https://elsewhere.example")
    names = ["INHERITED", "OWN", "AWS_LAMBDA_FUNCTION_NAME", "AWS_PROFILE", "AWS_ENDPOINT_URL_SQS"]
    env = make("describe", env={"OWN": "1"}).invoke({"env": names})["env"]
    assert env == {
        "INHERITED": "yes",
        "OWN": "1",
        "AWS_LAMBDA_FUNCTION_NAME": "sample",
        "AWS_PROFILE": None,
        "AWS_ENDPOINT_URL_SQS": None,
    }


@pytest.mark.parametrize("value", [None, 1.5, "täxt \u2028 \U0001f600", [1, {"a": [None]}], {"x": "y" * 1_000_000}])
def test_events_and_responses_go_through_json(make: MakeFunction, value: object) -> None:
    assert make("echo").invoke(value) == value


def test_an_exception_has_lambdas_shape_and_stays_out_of_our_messages(make: MakeFunction) -> None:
    function = make("act")
    with pytest.raises(FunctionError) as caught:
        function.invoke({"do": "raise", "text": "secret"})
    payload = caught.value.payload()
    assert payload["errorType"] == "ValueError"
    assert payload["errorMessage"] == "the text was: secret"
    assert "in act" in str(payload["stackTrace"])
    assert "secret" not in str(caught.value)
    # An exception leaves the process warm.
    function.invoke({"do": "nothing"})
    assert function.statistics == FunctionStatistics(invocations=2, cold_starts=1, errors=1)


@pytest.mark.parametrize("deed", ["unserializable", "surrogate"])
def test_a_response_that_is_not_json_fails_as_on_lambda(make: MakeFunction, deed: str) -> None:
    with pytest.raises(FunctionError) as caught:
        make("act").invoke({"do": deed})
    assert caught.value.error_type == "Runtime.MarshalError"


def test_lambdas_payload_limits(make: MakeFunction) -> None:
    function = make("act")
    with pytest.raises(PayloadTooLargeError):
        function.invoke({"do": "nothing", "text": "x" * 6 * 1024 * 1024})
    with pytest.raises(FunctionError) as caught:
        function.invoke({"do": "large", "size": 6 * 1024 * 1024 + 100})
    assert caught.value.error_type == "Function.ResponseSizeTooLarge"
    assert len(function.invoke({"do": "large", "size": 6 * 1024 * 1024})) == 6 * 1024 * 1024


def test_an_event_that_is_not_json_is_refused(make: MakeFunction) -> None:
    with pytest.raises(TypeError):
        make("echo").invoke({"value": {1}})


@pytest.mark.parametrize(
    ("handler", "error_type"),
    [
        ("no_such_module.handler", "Runtime.ImportModuleError"),
        ("sample_handlers.no_such_function", "Runtime.HandlerNotFound"),
        ("broken_handlers.handler", "RuntimeError"),
    ],
)
def test_an_init_error_is_reported_on_every_invocation(make: MakeFunction, handler: str, error_type: str) -> None:
    function = make(handler)
    for _ in range(2):
        with pytest.raises(FunctionInitError, match=error_type):
            function.invoke({})
    assert function.statistics.errors == 2


def test_no_free_slot_throttles_at_once_or_waits(make: MakeFunction, tmp_path: Path) -> None:
    function, finish = make("act"), tmp_path / "finish"
    first = threading.Thread(target=function.invoke, args=({"do": "wait", "until": str(finish)},))
    first.start()
    eventually(lambda: function.statistics.invocations == 1)
    with pytest.raises(ThrottledError):
        function.invoke({"do": "nothing"})
    finish.touch()
    assert function.invoke({"do": "nothing"}, wait_seconds=10)["pid"]
    first.join()
    assert function.statistics.throttles == 1
    assert function.statistics.invocations == 2


def test_slots_run_at_the_same_time(make: MakeFunction, tmp_path: Path) -> None:
    function, finish = make("act", concurrency=2), tmp_path / "finish"
    first = threading.Thread(target=function.invoke, args=({"do": "wait", "until": str(finish)},))
    first.start()
    eventually(lambda: function.statistics.invocations == 1)
    assert function.invoke({"do": "nothing"})["pid"]
    finish.touch()
    first.join()


def test_what_the_handler_prints_is_only_logs(make: MakeFunction, logs: LogLines) -> None:
    function = make("act")
    assert set(function.invoke({"do": "print", "line": "hello"})) == {"pid"}
    function.close()
    assert sorted(logs.lines) == ["hello", "hello to stderr"]


def test_a_start_may_have_an_environment_of_its_own(make: MakeFunction) -> None:
    function = make(
        "describe",
        env={"FAULT": "none", "OTHER": "kept"},
        env_of_start=lambda number: {"FAULT": f"start {number}", "AWS_LAMBDA_FUNCTION_NAME": "not this"},
    )
    names = ["FAULT", "OTHER", "AWS_LAMBDA_FUNCTION_NAME"]
    first = function.invoke({"env": names})
    assert first["env"] == {"FAULT": "start 1", "OTHER": "kept", "AWS_LAMBDA_FUNCTION_NAME": "sample"}
    os.kill(first["pid"], signal.SIGKILL)
    eventually(lambda: function.host_pids() == [])
    assert function.invoke({"env": names})["env"]["FAULT"] == "start 2"
