"""One system in a process of its own, told what to do by JSON lines.

    PYTHON -m benchmarks.worker ADAPTER MODEL THREADS OPTIONS

Runs in the system's own environment, so only the standard library is imported until it is told to load. A request is
`{"do": "encode", "corpus": PATH, "setting": {...}}`, an answer the fields named below, or `{"error": TEXT}`. A corpus
is a JSON file, a list of texts. Standard output is the channel; what libraries print goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.tuning import best_setting

if TYPE_CHECKING:
    from benchmarks.adapters import Encoder, Setting

_WARM_UP_TEXTS = 16
_FIRST_TEXT = "The same text gets the same bits."


class Worker:
    """Answers requests. Every public method is one."""

    def __init__(self, adapter: str, model: Path, threads: int, options: Mapping[str, str]) -> None:
        self._adapter = adapter
        self._arguments = (model, threads, options)
        self._encoder: Encoder

    def load(self) -> dict[str, Any]:
        """Load the model. -> setting: what it has before anything is chosen."""
        self._encoder = importlib.import_module(self._adapter).open_encoder(*self._arguments)
        return {"setting": {name: values[0] for name, values in self._encoder.axes.items()}}

    def tune(self, corpus: str, most: int, one_by_one: bool = False) -> dict[str, Any]:
        """Choose the fastest setting on the corpus's first texts, all in one call or one by one. -> setting."""
        texts = _read(corpus)[:most]
        seconds = self._seconds_one_by_one if one_by_one else self._seconds
        return {"setting": best_setting(self._encoder.axes, lambda tried: sum(seconds(texts, tried)))}

    def encode(self, corpus: str, setting: Setting) -> dict[str, Any]:
        """Encode the corpus. -> seconds."""
        return {"seconds": sum(self._seconds(_read(corpus), setting))}

    def vectors(self, corpus: str, setting: Setting, out: str, alone: int = 0) -> dict[str, Any]:
        """Write the corpus's vectors to an .npy file. -> same_bits: of the first `alone` texts, those equal alone."""
        import numpy as np

        texts = _read(corpus)
        vectors = self._encoder.encode(texts, setting)
        np.save(out, vectors)
        pairs = zip(texts[:alone], vectors[:alone], strict=True)
        return {"same_bits": sum(self._alone(text, setting) == vector.tobytes() for text, vector in pairs)}

    def one(self, corpus: str, setting: Setting) -> dict[str, Any]:
        """Encode the corpus one text at a time. -> seconds of each."""
        return {"seconds": self._seconds_one_by_one(_read(corpus), setting)}

    def first(self, setting: Setting) -> dict[str, Any]:
        """Encode one short text, for the first time in this process. -> {}."""
        self._encoder.encode([_FIRST_TEXT], setting)
        return {}

    def memory(self) -> dict[str, Any]:
        """-> bytes: the most memory that this process has had resident."""
        return {"bytes": _peak_bytes()}

    def _seconds(self, texts: Sequence[str], setting: Setting) -> list[float]:
        # What this setting needs is loaded first; and the process was stopped: caches and clocks have to come back.
        self._encoder.encode(texts[:_WARM_UP_TEXTS], setting)
        return [_timed(partial(self._encoder.encode, texts, setting))]

    def _seconds_one_by_one(self, texts: Sequence[str], setting: Setting) -> list[float]:
        self._encoder.encode(texts[:1], setting)
        return [_timed(partial(self._encoder.encode, [text], setting)) for text in texts]

    def _alone(self, text: str, setting: Setting) -> bytes:
        bits: bytes = self._encoder.encode([text], setting)[0].tobytes()
        return bits


def _timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


@cache
def _read(corpus: str) -> list[str]:
    texts: list[str] = json.loads(Path(corpus).read_text(encoding="utf-8"))
    return texts


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: that one begins with the peak of the process that started this one.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def answer(worker: Worker, request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request says; whatever goes wrong is the answer."""
    try:
        result: dict[str, Any] = getattr(worker, request.pop("do"))(**request)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return result


def main() -> None:
    """Answer line by line until standard input ends."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    adapter, model, threads, options = sys.argv[1:]
    worker = Worker(adapter, Path(model), int(threads), json.loads(options))
    for line in sys.stdin:
        channel.write(json.dumps(answer(worker, json.loads(line))) + "\n")
        channel.flush()


if __name__ == "__main__":
    main()
