"""The Runtime API that containers meet, with a small runtime client of our own."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from benchmarks.containers_api import PREFIX, Answer, RuntimeApi

WAIT_SECONDS = 10.0


@pytest.fixture
def api() -> Iterator[RuntimeApi]:
    with RuntimeApi(timeout_seconds=60) as api:
        yield api


def request(api: RuntimeApi, method: str, path: str, body: bytes | None = None) -> http.client.HTTPResponse:
    """Return the answer, read to its end."""
    with closing(http.client.HTTPConnection(api.address, timeout=WAIT_SECONDS)) as connection:
        connection.request(method, path, body)
        response = connection.getresponse()
        response.read()
        return response


def serve(api: RuntimeApi, handler: Callable[[Any], Any], events: int) -> None:
    """Do what a runtime client does, over one connection, for so many events."""
    with closing(http.client.HTTPConnection(api.address, timeout=WAIT_SECONDS)) as connection:
        for _ in range(events):
            connection.request("GET", f"{PREFIX}invocation/next")
            taken = connection.getresponse()
            event = json.loads(taken.read())
            try:
                kind, said = "response", handler(event)
            except ValueError as error:
                kind, said = "error", {"errorMessage": str(error)}
            request_id = taken.headers["Lambda-Runtime-Aws-Request-Id"]
            connection.request("POST", f"{PREFIX}invocation/{request_id}/{kind}", json.dumps(said))
            assert connection.getresponse().read() == b'{"status":"OK"}'


def serving(api: RuntimeApi, handler: Callable[[Any], Any], events: int) -> threading.Thread:
    thread = threading.Thread(target=serve, args=(api, handler, events), daemon=True)
    thread.start()
    return thread


def answer(api: RuntimeApi) -> Answer:
    found = api.next_answer(wait_seconds=WAIT_SECONDS)
    assert found is not None
    return found


def test_events_are_answered_in_order_each_with_its_times(api: RuntimeApi) -> None:
    began = time.time_ns()
    api.give({"text": "Maß"})
    client = serving(api, lambda event: {"said": event["text"]}, events=2)
    first = answer(api)
    api.give({"text": "two"})
    second = answer(api)
    client.join(WAIT_SECONDS)
    assert (first.kind, first.json(), second.json()) == ("response", {"said": "Maß"}, {"said": "two"})
    assert api.ready_ns is not None
    moments = [began, api.ready_ns, first.taken_ns, first.answered_ns, second.taken_ns, second.answered_ns]
    assert moments == sorted(moments)
    assert first.seconds == (first.answered_ns - first.taken_ns) / 1e9


def test_who_waits_for_an_event_gets_it_when_it_comes(api: RuntimeApi) -> None:
    client = serving(api, lambda event: event, events=1)
    assert api.next_answer(wait_seconds=0.05) is None
    api.give([1, 2])
    assert answer(api).json() == [1, 2]
    client.join(WAIT_SECONDS)


def test_an_error_is_an_answer_too(api: RuntimeApi) -> None:
    def fail(event: Any) -> Any:
        raise ValueError("no")

    api.give({})
    serving(api, fail, events=1)
    found = answer(api)
    assert (found.kind, found.json()) == ("error", {"errorMessage": "no"})


def test_a_function_that_refuses_to_start_is_heard(api: RuntimeApi) -> None:
    assert request(api, "POST", f"{PREFIX}init/error", b'{"errorType": "ArtifactError"}').status == 202
    found = answer(api)
    assert (found.kind, found.json(), api.ready_ns) == ("init_error", {"errorType": "ArtifactError"}, None)


def test_an_event_comes_with_what_the_runtime_must_know(api: RuntimeApi) -> None:
    api.give({})
    now = time.time()
    taken = request(api, "GET", f"{PREFIX}invocation/next")
    assert taken.headers["Lambda-Runtime-Invoked-Function-Arn"].startswith("arn:aws:lambda:")
    assert 60 <= int(taken.headers["Lambda-Runtime-Deadline-Ms"]) / 1000 - now < 60 + WAIT_SECONDS


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{PREFIX}invocation/other"),
        ("POST", f"{PREFIX}invocation/no-such-id/response"),
        ("POST", f"{PREFIX}invocation/next"),
        ("POST", "/2015-01-01/runtime/init/error"),
    ],
)
def test_what_the_interface_does_not_know_is_not_found(api: RuntimeApi, method: str, path: str) -> None:
    assert request(api, method, path, b"{}").status == 404
    assert api.next_answer(wait_seconds=0.05) is None


def test_an_answer_in_chunks_is_read_whole(api: RuntimeApi) -> None:
    with closing(http.client.HTTPConnection(api.address, timeout=WAIT_SECONDS)) as connection:
        connection.request("POST", f"{PREFIX}init/error", iter([b'{"a"', b": 1}"]), encode_chunked=True)
        assert connection.getresponse().status == 202
    assert answer(api).json() == {"a": 1}
