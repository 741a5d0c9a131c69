"""How the image starts: it makes ready in INIT what every invocation needs, then hands over to Lambda's runtime client.

    python -S -m handlers handlers.queue.handler      (handlers/__main__.py)

INIT is where Lambda gives a function of any memory size a whole CPU, and where a function that cannot serve should say
so: it is refused here, with one line that says what is wrong and who must act, instead of once for each request.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
from collections.abc import Sequence

from embakery.errors import EmbakeryError, UnavailableError


def main(arguments: Sequence[str]) -> int:
    """Serve until Lambda ends the process. Returns 1 if the function cannot serve."""
    handler = arguments[1] if len(arguments) > 1 else os.environ.get("_HANDLER", "")
    try:
        prepare(handler)
    except EmbakeryError as error:
        _refuse(error)
        return 1
    # What is there now stays: no later search for garbage needs to look at it.
    gc.freeze()
    gc.enable()
    from awslambdaric.__main__ import main as serve

    # The runtime client will give the root logger a handler of its own, which would write every line a second time.
    logging.getLogger("embakery").propagate = False
    serve(["awslambdaric", handler])
    return 0


def prepare(handler: str) -> None:
    """Let the handler's module (`package.module.function`) prepare, if it knows how to.

    What nobody can mend passes: the first invocation tries again. So does a name that leads nowhere, which the runtime
    client reports better. Raises ConfigurationError and ArtifactError.
    """
    try:
        module = importlib.import_module(handler.rpartition(".")[0] or handler)
    except ImportError:
        return
    try:
        getattr(module, "prepare", _nothing)()
    except UnavailableError as error:
        from handlers.telemetry import logger

        logger.warning("not_ready_yet", extra={"code": error.code, "reason": str(error)})


def _refuse(error: EmbakeryError) -> None:
    """Say why in one line of the log, and to whoever invokes the function."""
    from awslambdaric.lambda_runtime_client import LambdaRuntimeClient

    from handlers.telemetry import logger

    logger.critical("start_refused", extra={"code": error.code, "reason": str(error)})
    document = {"errorType": type(error).__name__, "errorMessage": str(error), "stackTrace": []}
    LambdaRuntimeClient(os.environ["AWS_LAMBDA_RUNTIME_API"]).post_init_error(document)


def _nothing() -> None:
    return None
