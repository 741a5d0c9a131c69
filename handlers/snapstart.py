"""The functions of the zip package, on Lambda's managed Python runtime, with SnapStart or without.

    Handler: handlers.snapstart.queue, or handlers.snapstart.api

The managed runtime has no entry point of ours: all that runs in INIT is the import of the handler's module. So this is
the one module that works when it is imported, and only in a function whose handler it is.

A snapshot is restored for weeks, on other machines, many times at once. So it keeps code and no state. Before it is
taken everything is opened, which loads the code and proves the settings, and let go again; each restored process opens
it anew, and has its own instruction set, golden check, secrets, credentials, connections, breakers and clocks.
docs/decisions/0020-zip-with-snapstart.md says what that costs.
"""

from __future__ import annotations

import functools
import gc
import importlib
import os
import random
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from handlers import start
from handlers.services import services

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


def queue(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Work on a batch of SQS messages, as handlers/queue.py says."""
    from handlers.queue import handler

    answer: dict[str, Any] = handler(event, context)
    return answer


def api(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer one request, as handlers/api.py says."""
    from handlers.api import handler

    answer: dict[str, Any] = handler(event, context)
    return answer


def before_snapshot() -> None:
    """Load the code, prove that the function can serve, and let go of whatever holds only here and now.

    Whatever is wrong fails the version that is being published, also what start.prepare would let pass: a snapshot of a
    function that was not ready is restored as one.
    """
    importlib.import_module(_served()).prepare()
    let_go()


def after_restore() -> None:
    """Make ready on this machine, as at any start."""
    # All that were restored from one snapshot would back off and retry in step.
    random.seed()
    start.prepare(f"{_served()}.handler")


def let_go() -> None:
    """Forget what this process remembers: models, clients, connections, secrets, credentials, what the CPU can do."""
    if services.cache_info().currsize:
        services().embedder.close()
    for function in list(remembering()):
        function.cache_clear()
    gc.collect()


def remembering() -> Iterator[functools._lru_cache_wrapper[Any]]:
    """Yield every function of ours under functools.cache: nothing else outlives an invocation."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("handlers.", "storage.", "embakery.")):
            yield from (value for value in vars(module).values() if isinstance(value, type(services)))


def _served() -> str:
    """Return the module behind this function's handler."""
    return f"handlers.{os.environ['_HANDLER'].rpartition('.')[2]}"


if os.environ.get("_HANDLER", "").startswith(f"{__name__}."):
    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
        # Part of the managed runtime: no package of ours carries it.
        hooks = importlib.import_module("snapshot_restore_py")
        hooks.register_before_snapshot(before_snapshot)
        hooks.register_after_restore(after_restore)
    else:
        start.prepare(f"{_served()}.handler")
