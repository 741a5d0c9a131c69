"""What every kind of function keeps to: Lambda's payload limits, concurrency, reserved variables; and its counts."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from local.environment import ACCOUNT_ID, REGION
from local.errors import (
    FunctionCrashedError,
    FunctionError,
    FunctionTimeoutError,
    PayloadTooLargeError,
    ThrottledError,
)

# Lambda's quotas for synchronous invocations, in bytes: 6 MB for the event, and 100 bytes more for the response.
MAX_EVENT_BYTES = 6 * 1024 * 1024
MAX_RESPONSE_BYTES = MAX_EVENT_BYTES + 100

_Slot = TypeVar("_Slot")


@dataclass(frozen=True, slots=True)
class FunctionStatistics:
    """What happened to a function since its start. Throttled calls are not invocations."""

    invocations: int = 0
    cold_starts: int = 0
    errors: int = 0
    timeouts: int = 0
    crashes: int = 0
    throttles: int = 0


class Concurrency(Generic[_Slot]):
    """A function's slots, each for one invocation at a time, and the counts of what became of the invocations."""

    def __init__(self, function_name: str, slots: Sequence[_Slot]) -> None:
        self._function_name = function_name
        self._slots = tuple(slots)
        self._idle = list(slots)
        self._changed = threading.Condition()
        self._closed = False
        self._statistics = FunctionStatistics()

    @property
    def statistics(self) -> FunctionStatistics:
        """What happened so far."""
        with self._changed:
            return self._statistics

    @property
    def slots(self) -> tuple[_Slot, ...]:
        """All slots, idle and busy."""
        return self._slots

    def busy(self) -> list[_Slot]:
        """Return the slots in use, in their own order."""
        with self._changed:
            return [slot for slot in self._slots if slot not in self._idle]

    @contextlib.contextmanager
    def slot(self, wait_seconds: float) -> Iterator[_Slot]:
        """Hold a slot. Raises ThrottledError if none is free within the time, and after `close`."""
        with self._changed:
            free = self._changed.wait_for(lambda: self._closed or bool(self._idle), wait_seconds)
            if self._closed or not free:
                self.count("throttles")
                raise ThrottledError(self._function_name, "is closed" if self._closed else "Rate Exceeded.")
            # The last one to come back is the likeliest to be warm.
            slot = self._idle.pop()
        try:
            yield slot
        finally:
            with self._changed:
                self._idle.append(slot)
                self._changed.notify_all()

    @contextlib.contextmanager
    def outcome_counted(self) -> Iterator[None]:
        """Count an invocation and how it failed, if it did."""
        self.count("invocations")
        try:
            yield
        except FunctionError:
            self.count("errors")
            raise
        except FunctionTimeoutError:
            self.count("timeouts")
            raise
        except FunctionCrashedError:
            self.count("crashes")
            raise

    def count(self, what: str) -> int:
        """Add one to the count of that name, and return the sum."""
        with self._changed:
            number = int(getattr(self._statistics, what)) + 1
            self._statistics = replace(self._statistics, **{what: number})
            return number

    def close(self) -> None:
        """Refuse every further invocation."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def drain(self, timeout_seconds: float) -> list[_Slot]:
        """Wait until no slot is in use, and return those that are not."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._idle) == len(self._slots), timeout_seconds)
            return list(self._idle)


def function_arn(name: str) -> str:
    """Return the ARN that a function of this name has here."""
    return f"arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:{name}"


def encode_event(function_name: str, event: object) -> bytes:
    """Return the event's JSON. Raises PayloadTooLargeError; TypeError if the event is not JSON."""
    encoded = json.dumps(event, ensure_ascii=False).encode()
    if len(encoded) > MAX_EVENT_BYTES:
        message = f"Request must be smaller than {MAX_EVENT_BYTES} bytes for the InvokeFunction operation"
        raise PayloadTooLargeError(function_name, message)
    return encoded


def decode_response(function_name: str, response: bytes) -> Any:
    """Return what the response's JSON says. Raises FunctionError if it is over Lambda's limit."""
    if len(response) > MAX_RESPONSE_BYTES:
        problem = f"Response payload size exceeded maximum allowed payload size ({MAX_RESPONSE_BYTES} bytes)."
        raise FunctionError(function_name, error_type="Function.ResponseSizeTooLarge", error_message=problem)
    return json.loads(response)


def context_fields(request_id: str, arn: str, *, timeout_seconds: float) -> dict[str, Any]:
    """Return what `LambdaContext` takes of one invocation; the time starts to run."""
    return {
        "aws_request_id": request_id,
        "deadline_ms": int((time.time() + timeout_seconds) * 1000),
        "invoked_function_arn": arn,
    }


def timeout_message(doing: str, timeout_seconds: float) -> str:
    """Return what Lambda says of an invocation that ran out of time."""
    return f"{doing}: Task timed out after {timeout_seconds:.2f} seconds"


def reserved_environment(name: str, handler: str, memory_mb: int) -> dict[str, str]:
    """Return the variables that Lambda sets and a function cannot."""
    return {
        "AWS_LAMBDA_FUNCTION_NAME": name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory_mb),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}",
        "_HANDLER": handler,
    }


def log_stream_name() -> str:
    """Return a new name in Lambda's form."""
    return f"{time.strftime('%Y/%m/%d', time.gmtime())}/[$LATEST]{uuid.uuid4().hex}"
