"""The unchanged queue handler in a process where some texts kill, as documents do: and where the clock may jump.

A text holds the way it kills: `deadly-signal`, `deadly-exit`, `deadly-crash`, `deadly-endless` (until the timeout).
EMBAKERY_CHAOS_CLOCK is the share of invocations for which the wall clock is wrong, by an hour at most.
"""

from __future__ import annotations

import ctypes
import os
import random
import re
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from embakery.embed import Embedder
from handlers.queue import handler as queue_handler

_DEADLY = re.compile(r"deadly-(signal|exit|crash|endless)")
_CLOCK_SHARE = float(os.environ.get("EMBAKERY_CHAOS_CLOCK", "0"))
_draw = random.Random(os.getpid())
_true_time = time.time
_tokenize = Embedder._tokenize


def handler(event: Any, context: Any) -> Any:
    """Handle a batch under a clock that may be wrong."""
    shift = _draw.uniform(-3600, 3600) if _draw.random() < _CLOCK_SHARE else 0.0
    time.time = lambda: _true_time() + shift
    try:
        return queue_handler(event, context)
    finally:
        time.time = _true_time


def _die_of(text: str) -> None:
    way = _DEADLY.search(text)
    if way is None:
        return
    ways: dict[str, Callable[[], object]] = {
        "signal": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "exit": lambda: os._exit(1),
        "crash": lambda: ctypes.string_at(0),
        "endless": lambda: time.sleep(3600),
    }
    ways[way[1]]()


def _tokenize_or_die(self: Embedder, texts: Sequence[object], *args: Any) -> Any:
    for text in texts:
        _die_of(str(text))
    return _tokenize(self, texts, *args)


Embedder._tokenize = _tokenize_or_die  # type: ignore[assignment, method-assign]
