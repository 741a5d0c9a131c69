"""A Lambda-like function in this process: for a debugger, and for tests that must not wait for a cold start.

    function = InProcessFunction("embakery-queue", handler=handlers.queue.handler)
    EventSourceMapping(settings, queue=SqsQueue(client, url), function=function, log=print)

It can stand wherever a LocalFunction is invoked: in an event source mapping, or behind `local.http.HttpGateway`. It is
told apart by what one process cannot do:

- A timeout cannot kill. The handler runs to its end, however late; only then FunctionTimeoutError is raised.
- A crash of the handler (a signal, `os._exit`, memory) is a crash of the caller. Only SystemExit is caught.
- The environment is this process's: set `os.environ` (see `local.settings.function_environment`) before the handler's
  module is imported. Lambda's reserved variables are not set; the context says what they would.
- What the handler prints goes to this process's own streams.
- Module state is shared: between the slots, where `concurrency` is over 1, and with everybody else here.
"""

from __future__ import annotations

import json
import time
import traceback
import uuid
from typing import Any

from local.errors import FunctionCrashedError, FunctionError, FunctionInitError, FunctionTimeoutError, InvocationError
from local.invocations import (
    Concurrency,
    FunctionStatistics,
    context_fields,
    decode_response,
    encode_event,
    function_arn,
    log_stream_name,
    reserved_environment,
    timeout_message,
)
from local.runtime import Handler, LambdaContext, error_document, load_handler, marshal


class InProcessFunction:
    """A function under Lambda's contract, as far as one process can keep it. Threads may invoke it concurrently."""

    def __init__(
        self,
        name: str,
        *,
        handler: str | Handler,
        timeout_seconds: float = 60.0,
        memory_mb: int = 1769,
        concurrency: int = 1,
    ) -> None:
        """Describe the function.

        `handler` is callable, or `package.module.function`, imported by `warm` or the first `invoke`. With a debugger,
        give it time: what a breakpoint holds up is late as well.
        """
        self.name = name
        self.timeout_seconds = timeout_seconds
        self._handler = handler
        described = handler if isinstance(handler, str) else f"{handler.__module__}.{handler.__qualname__}"
        reserved = reserved_environment(name, described, memory_mb)
        self._environ = reserved | {"AWS_LAMBDA_LOG_STREAM_NAME": log_stream_name()}
        self._concurrency = Concurrency(name, range(concurrency))

    @property
    def statistics(self) -> FunctionStatistics:
        """What happened so far. A cold start is an import of the handler's module; there are no crashes but exits."""
        return self._concurrency.statistics

    def warm(self, count: int = 1) -> None:
        """Import the handler ahead of the first invocation, once whatever the count. Raises FunctionInitError."""
        if count:
            self._loaded()

    def invoke(self, event: object, *, wait_seconds: float = 0.0) -> Any:
        """Run the handler on `event` and return its response, both through JSON.

        With no slot free, waits up to `wait_seconds`. Raises ThrottledError, PayloadTooLargeError, FunctionError,
        whose cause is what the handler raised; FunctionInitError, FunctionTimeoutError, after the fact;
        FunctionCrashedError if the handler exits; TypeError if the event is not JSON.
        """
        event_json = encode_event(self.name, event)
        with self._concurrency.slot(wait_seconds), self._concurrency.outcome_counted():
            return decode_response(self.name, self._run(self._loaded(), event_json))

    def close(self) -> None:
        """Throttle every further invocation. One in flight ends when it ends."""
        self._concurrency.close()

    def _loaded(self) -> Handler:
        if isinstance(self._handler, str):
            self._concurrency.count("cold_starts")
            try:
                self._handler = load_handler(self._handler)
            except Exception as error:
                raise self._report(FunctionInitError, error) from error
        return self._handler

    def _run(self, handler: Handler, event_json: bytes) -> bytes:
        request_id = str(uuid.uuid4())
        fields = context_fields(request_id, function_arn(self.name), timeout_seconds=self.timeout_seconds)
        context = LambdaContext(**fields, environ=self._environ)
        began = time.monotonic()
        try:
            outcome: bytes | InvocationError = marshal(handler(json.loads(event_json), context))
        except Exception as error:
            outcome = self._report(FunctionError, error)
            outcome.__cause__ = error
        except SystemExit as error:
            outcome = FunctionCrashedError(self.name, f"request {request_id}: Runtime exited with status {error.code}")
        if time.monotonic() - began > self.timeout_seconds:
            # Whatever came of it: Lambda would have killed it before it could say so.
            raise FunctionTimeoutError(self.name, timeout_message(f"request {request_id}", self.timeout_seconds))
        if isinstance(outcome, InvocationError):
            raise outcome
        return outcome

    def _report(self, kind: type[FunctionError], error: Exception) -> FunctionError:
        traceback.print_exception(error)
        document = error_document(error)
        return kind(
            self.name,
            error_type=document["errorType"],
            error_message=document["errorMessage"],
            stack_trace=document["stackTrace"],
        )
