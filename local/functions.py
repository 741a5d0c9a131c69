"""A Lambda-like function: the unchanged handler in child processes, one per concurrent invocation."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from local.environment import ACCOUNT_ID, REGION, base_environment
from local.errors import (
    FunctionCrashedError,
    FunctionError,
    FunctionTimeoutError,
    PayloadTooLargeError,
    ThrottledError,
)
from local.hosts import FunctionHost, Invocation, LogSink

# Lambda's quotas for synchronous invocations, in bytes: 6 MB for the event, and 100 bytes more for the response.
MAX_EVENT_BYTES = 6 * 1024 * 1024
MAX_RESPONSE_BYTES = MAX_EVENT_BYTES + 100
_CLOSE_GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class FunctionStatistics:
    """What happened to a function since its start. Throttled calls are not invocations."""

    invocations: int = 0
    cold_starts: int = 0
    errors: int = 0
    timeouts: int = 0
    crashes: int = 0
    throttles: int = 0


class _Slot:
    """Room for one concurrent invocation, and the process kept warm in it."""

    host: FunctionHost | None = None


class LocalFunction:
    """A function under Lambda's contract. Threads may invoke it concurrently, up to `concurrency` at a time."""

    def __init__(
        self,
        name: str,
        *,
        handler: str,
        env: Mapping[str, str],
        logs: LogSink,
        timeout_seconds: float = 60.0,
        memory_mb: int = 1769,
        concurrency: int = 1,
        init_timeout_seconds: float = 60.0,
    ) -> None:
        """Describe the function; no process starts before `warm` or `invoke`.

        `handler` is `package.module.function`; `env` is laid over this process's environment.
        """
        self.name = name
        self.timeout_seconds = timeout_seconds
        self._arn = f"arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:{name}"
        self._environment = base_environment(os.environ) | dict(env) | _reserved_environment(name, handler, memory_mb)
        self._logs = logs
        self._init_timeout_seconds = init_timeout_seconds
        self._slots = [_Slot() for _ in range(concurrency)]
        self._idle = list(self._slots)
        self._changed = threading.Condition()
        self._closed = False
        self._statistics = FunctionStatistics()

    @property
    def statistics(self) -> FunctionStatistics:
        """What happened so far."""
        with self._changed:
            return self._statistics

    def host_pids(self) -> list[int]:
        """Return the process ids of the warm hosts."""
        return [slot.host.pid for slot in self._slots if slot.host is not None and slot.host.is_running()]

    def warm(self, count: int = 1) -> None:
        """Start `count` processes ahead of their first invocation. Raises what a cold start in `invoke` would."""
        with contextlib.ExitStack() as held:
            for slot in [held.enter_context(self._slot(wait_seconds=0)) for _ in range(count)]:
                self._warm_host(slot)

    def invoke(self, event: object, *, wait_seconds: float = 0.0) -> Any:
        """Run the handler on `event` and return its response, both through JSON.

        With no slot free, waits up to `wait_seconds`. Raises ThrottledError, PayloadTooLargeError, FunctionError,
        FunctionInitError, FunctionTimeoutError, FunctionCrashedError; TypeError if the event is not JSON.
        """
        invocation = Invocation(
            request_id=str(uuid.uuid4()),
            function_arn=self._arn,
            event_json=self._encode(event),
            timeout_seconds=self.timeout_seconds,
        )
        with self._slot(wait_seconds) as slot, self._outcome_counted():
            response = self._warm_host(slot).run(invocation)
            if len(response) > MAX_RESPONSE_BYTES:
                problem = f"Response payload size exceeded maximum allowed payload size ({MAX_RESPONSE_BYTES} bytes)."
                raise FunctionError(self.name, error_type="Function.ResponseSizeTooLarge", error_message=problem)
            return json.loads(response)

    def close(self) -> None:
        """End every process. An invocation in flight sees its process crash: stop the callers first."""
        with self._changed:
            self._closed = True
            for slot in self._slots:
                if slot not in self._idle and slot.host is not None:
                    slot.host.interrupt()
            self._changed.wait_for(lambda: len(self._idle) == len(self._slots), _CLOSE_GRACE_SECONDS)
            hosts = [slot.host for slot in self._idle if slot.host is not None]
            for slot in self._idle:
                slot.host = None
        for host in hosts:
            host.close()

    @contextlib.contextmanager
    def _slot(self, wait_seconds: float) -> Iterator[_Slot]:
        with self._changed:
            free = self._changed.wait_for(lambda: self._closed or bool(self._idle), wait_seconds)
            if self._closed or not free:
                self._count("throttles")
                raise ThrottledError(self.name, "is closed" if self._closed else "Rate Exceeded.")
            # The last one to come back is the likeliest to be warm.
            slot = self._idle.pop()
        try:
            yield slot
        finally:
            with self._changed:
                self._idle.append(slot)
                self._changed.notify_all()

    def _warm_host(self, slot: _Slot) -> FunctionHost:
        """Return the slot's warm process, or start one: the first time, and after a crash or a timeout."""
        if slot.host is not None and slot.host.is_running():
            return slot.host
        if slot.host is not None:
            slot.host.kill()
        environment = self._environment | {"AWS_LAMBDA_LOG_STREAM_NAME": _log_stream_name()}
        slot.host = FunctionHost(self.name, environment=environment, logs=self._logs)
        self._count("cold_starts")
        slot.host.wait_until_ready(timeout_seconds=self._init_timeout_seconds)
        return slot.host

    @contextlib.contextmanager
    def _outcome_counted(self) -> Iterator[None]:
        self._count("invocations")
        try:
            yield
        except FunctionError:
            self._count("errors")
            raise
        except FunctionTimeoutError:
            self._count("timeouts")
            raise
        except FunctionCrashedError:
            self._count("crashes")
            raise

    def _count(self, what: str) -> None:
        with self._changed:
            self._statistics = replace(self._statistics, **{what: getattr(self._statistics, what) + 1})

    def _encode(self, event: object) -> bytes:
        encoded = json.dumps(event, ensure_ascii=False).encode()
        if len(encoded) > MAX_EVENT_BYTES:
            message = f"Request must be smaller than {MAX_EVENT_BYTES} bytes for the InvokeFunction operation"
            raise PayloadTooLargeError(self.name, message)
        return encoded


def _reserved_environment(name: str, handler: str, memory_mb: int) -> dict[str, str]:
    """Return the variables that Lambda sets and a function cannot."""
    return {
        "AWS_LAMBDA_FUNCTION_NAME": name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory_mb),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}",
        "_HANDLER": handler,
    }


def _log_stream_name() -> str:
    return f"{time.strftime('%Y/%m/%d', time.gmtime())}/[$LATEST]{uuid.uuid4().hex}"
