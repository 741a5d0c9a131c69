"""A function's host process: loads the handler once, then runs one invocation after the other, as Lambda does.

    python -m local.runtime INVOCATIONS RESPONSES LIFELINE

Three descriptors, inherited: frames come in on the first and go out on the second; the third reads end-of-file when the
parent is gone. stdout and stderr are the handler's own, logs and nothing else.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from handlers.start import prepare
from local.frames import Frame, Kind, PeerGoneError, read_frame, write_frame

Handler = Callable[[Any, "LambdaContext"], Any]


class LambdaContext:
    """The context object, with the attributes and types of AWS's Python runtime (memory_limit_in_mb is a string there).

    See https://docs.aws.amazon.com/lambda/latest/dg/python-context.html
    """

    def __init__(
        self, *, aws_request_id: str, deadline_ms: int, invoked_function_arn: str, environ: Mapping[str, str]
    ) -> None:
        self.aws_request_id = aws_request_id
        self.invoked_function_arn = invoked_function_arn
        self.function_name = environ["AWS_LAMBDA_FUNCTION_NAME"]
        self.function_version = environ["AWS_LAMBDA_FUNCTION_VERSION"]
        self.memory_limit_in_mb = environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
        self.log_group_name = environ["AWS_LAMBDA_LOG_GROUP_NAME"]
        self.log_stream_name = environ["AWS_LAMBDA_LOG_STREAM_NAME"]
        self.identity = None
        self.client_context = None
        self._deadline_ms = deadline_ms

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds left until the timeout, never less than 0."""
        return max(0, self._deadline_ms - int(time.time() * 1000))


class RuntimeReportError(Exception):
    """What the runtime reports, not the handler. `error_type` is Lambda's word for it."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


def main(arguments: Sequence[str]) -> None:
    """Serve until the parent closes its end."""
    invocations, responses, lifeline = (int(argument) for argument in arguments)
    for descriptor in (invocations, responses, lifeline):
        # What the handler itself starts must not hold our pipes open.
        os.set_inheritable(descriptor, False)
    threading.Thread(target=_exit_with_parent, args=(lifeline,), daemon=True).start()
    try:
        _serve(invocations, responses)
    except PeerGoneError:
        return


def _exit_with_parent(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(1)


def _serve(invocations: int, responses: int) -> None:
    try:
        handler = load_handler(os.environ["_HANDLER"])
        # As the image's entry point does.
        prepare(os.environ["_HANDLER"])
    except Exception as error:
        write_frame(responses, _error_frame(error))
        return
    write_frame(responses, Frame(Kind.READY, b"{}"))
    while True:
        write_frame(responses, run_invocation(handler, read_frame(invocations).payload))


def load_handler(name: str) -> Handler:
    """Import `package.module.function`. Raises RuntimeReportError as Lambda names it, or what the module raised."""
    module_name, _, attribute = name.rpartition(".")
    if not module_name:
        raise RuntimeReportError("Runtime.MalformedHandlerName", f"Bad handler '{name}': not enough values to unpack")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        message = f"Unable to import module '{module_name}': {error}"
        raise RuntimeReportError("Runtime.ImportModuleError", message) from error
    except SyntaxError as error:
        message = f"Syntax error in module '{module_name}': {error}"
        raise RuntimeReportError("Runtime.UserCodeSyntaxError", message) from error
    handler = getattr(module, attribute, None)
    if handler is None:
        raise RuntimeReportError("Runtime.HandlerNotFound", f"Handler '{attribute}' missing on module '{module_name}'")
    return handler  # type: ignore[no-any-return]  # whatever it is, calling it is the check


def run_invocation(handler: Handler, payload: bytes) -> Frame:
    """Run the handler on one invocation and frame its response or its error."""
    invocation = json.loads(payload)
    context = LambdaContext(**invocation["context"], environ=os.environ)
    try:
        return Frame(Kind.RESULT, marshal(handler(invocation["event"], context)))
    except Exception as error:
        return _error_frame(error)


def marshal(response: object) -> bytes:
    """Return a response's JSON. Raises RuntimeReportError if it has none."""
    try:
        # As AWS's runtime marshals from Python 3.12 on: UTF-8, not escaped.
        return json.dumps(response, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise RuntimeReportError("Runtime.MarshalError", f"Unable to marshal response: {error}") from error


def error_document(error: Exception) -> dict[str, Any]:
    """Return an error in Lambda's shape: `errorType`, `errorMessage`, `stackTrace`."""
    return {
        "errorType": error.error_type if isinstance(error, RuntimeReportError) else type(error).__name__,
        "errorMessage": str(error),
        "stackTrace": traceback.format_tb(error.__traceback__),
    }


def _error_frame(error: Exception) -> Frame:
    """Write the error to stderr, as Lambda's runtime logs it, and frame it."""
    traceback.print_exception(error, file=sys.stderr)
    sys.stderr.flush()
    return Frame(Kind.ERROR, json.dumps(error_document(error)).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
