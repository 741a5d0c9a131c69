"""What can go wrong on the local machine, apart from what the handlers themselves report.

LocalError
├── ServerStartError           a child server (ministack, Redis) did not come up
├── QueueCallError             the queue service did not answer a call
└── InvocationError            a function did not return a response
    ├── ThrottledError           no concurrency slot was free; the handler did not run
    ├── PayloadTooLargeError     the event is over Lambda's limit; the handler did not run
    ├── FunctionError            the handler raised, or its response is not JSON
    │   └── FunctionInitError      the handler's module did not load
    ├── FunctionTimeoutError     the handler ran out of time and was killed
    └── FunctionCrashedError     the handler's process died
"""

from __future__ import annotations

from collections.abc import Sequence


class LocalError(Exception):
    """The root."""


class ServerStartError(LocalError):
    """A child server did not come up. The message names it and ends with the end of its log."""


class QueueCallError(LocalError):
    """The queue service did not answer a call: the poller backs off and tries again."""


class InvocationError(LocalError):
    """A function did not return a response. `error_type` is Lambda's word for it, such as `Sandbox.Timedout`."""

    error_type = "Unknown"

    def __init__(self, function_name: str, message: str) -> None:
        super().__init__(f"{function_name}: {message}")
        self.function_name = function_name


class ThrottledError(InvocationError):
    """No concurrency slot was free in time."""

    error_type = "TooManyRequestsException"


class PayloadTooLargeError(InvocationError):
    """The event is over Lambda's 6 MB."""

    error_type = "RequestEntityTooLargeException"


class FunctionError(InvocationError):
    """The handler raised. Its message may quote the event, so it is kept out of `str()` and of every log of ours."""

    def __init__(
        self, function_name: str, *, error_type: str, error_message: str, stack_trace: Sequence[str] = ()
    ) -> None:
        super().__init__(function_name, error_type)
        self.error_type = error_type
        self.error_message = error_message
        self.stack_trace = tuple(stack_trace)

    def payload(self) -> dict[str, object]:
        """Return the error as Lambda's Invoke answers it: `errorType`, `errorMessage`, `stackTrace`."""
        return {
            "errorType": self.error_type,
            "errorMessage": self.error_message,
            "stackTrace": list(self.stack_trace),
        }


class FunctionInitError(FunctionError):
    """The handler's module did not load. No event was read yet, so `str()` says why."""

    def __str__(self) -> str:
        return f"{self.function_name}: {self.error_type}: {self.error_message}"


class FunctionTimeoutError(InvocationError):
    """The handler ran past its timeout; its process was killed."""

    error_type = "Sandbox.Timedout"


class FunctionCrashedError(InvocationError):
    """The handler's process died before it answered."""

    error_type = "Runtime.ExitError"
