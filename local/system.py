"""The whole system on one machine: starts every part in order, says where it is, stops it in reverse."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Self, TextIO

from local.event_source_mapping import MappingStatistics
from local.functions import FunctionStatistics
from local.processes import ServerProcess
from local.settings import LocalSettings
from local.startup import LocalParts, Report, Starter, part_line, redis_url

_WATCH_SECONDS = 1.0


class LocalSystem:
    """A context manager around the running system.

    with LocalSystem(LocalSettings(artifact=Path("build/all-MiniLM-L6-v2")), report=print) as system:
        system.serve_until_interrupted()
    """

    def __init__(self, settings: LocalSettings, *, report: Report) -> None:
        """Describe the system; `report` takes one line per part as it starts."""
        self.settings = settings
        self._report = report
        self._running = contextlib.ExitStack()
        self._parts: LocalParts | None = None

    def __enter__(self) -> Self:
        """Start. Raises ServerStartError, or FunctionInitError if a handler does not load."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Start every part; on any failure stop what was started."""
        with contextlib.ExitStack() as stack:
            self._parts = Starter(self.settings, stack, self._report).start(metrics=self.prometheus)
            self._parts.http.start()
            self._running = stack.pop_all()

    def stop(self) -> None:
        """Stop in reverse order: HTTP, mappings, functions, Redis, ministack. Does nothing the second time."""
        self._running.close()
        self._running = contextlib.ExitStack()

    @property
    def parts(self) -> LocalParts:
        """What runs. Raises RuntimeError before `start`."""
        if self._parts is None:
            raise RuntimeError("the local system was not started")
        return self._parts

    @property
    def redis_process(self) -> ServerProcess:
        """The Redis server, for faults: `kill()` it, then `restart()` it, empty, on the same port."""
        return self.parts.redis

    @property
    def endpoints(self) -> dict[str, str]:
        """Where everything is: the fields of the `LOCAL` line."""
        parts, resources = self.parts, self.parts.resources
        return {
            "http": parts.http.url,
            "aws": f"http://{parts.ministack.address}",
            "redis": redis_url(parts.redis),
            "queue_url": resources.documents.url,
            "fifo_queue_url": resources.documents_fifo.url,
            "dlq_url": resources.dead_letters.url,
            "fifo_dlq_url": resources.dead_letters_fifo.url,
            "bulk_queue_url": resources.bulk.url,
            "result_queue_url": resources.results.url,
            "bucket": resources.bucket,
            "table": resources.table,
            "state_table": resources.state_table,
        }

    def metrics(self) -> dict[str, float]:
        """Return the sums of the functions' EMF metrics by name. They trail an invocation by a moment."""
        return self.parts.logs.totals()

    def prometheus(self) -> str:
        """Return the text of `/metrics`: the functions' metrics, then what the system itself counted."""
        parts = self.parts
        functions = (parts.queue_function, parts.api_function)
        return (
            parts.logs.prometheus()
            + _exposition("function", {function.name: function.statistics for function in functions})
            + _exposition("mapping", {mapping.queue_name: mapping.statistics for mapping in parts.mappings})
        )

    def serve_until_interrupted(self, out: TextIO = sys.stdout) -> None:
        """Print the `LOCAL {json}` line and wait for SIGINT or SIGTERM. To be called from the main thread."""
        interrupted = threading.Event()
        previous = {
            number: signal.signal(number, lambda *_: interrupted.set()) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            print(f"LOCAL {json.dumps(self.endpoints)}", file=out, flush=True)
            ended: set[int] = set()
            while not interrupted.wait(_WATCH_SECONDS):
                self._report_ended(ended)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _report_ended(self, already: set[int]) -> None:
        for server in (self.parts.ministack, self.redis_process):
            if server.pid not in already and not server.is_running():
                already.add(server.pid)
                self._report(part_line(server.name, "ended unexpectedly"))


def _exposition(kind: str, statistics: Mapping[str, FunctionStatistics | MappingStatistics]) -> str:
    counts = {name: asdict(values) for name, values in statistics.items()}
    lines = []
    for field in next(iter(counts.values())):
        metric = f"embakery_local_{kind}_{field}_total"
        lines.append(f"# TYPE {metric} counter")
        lines += [f'{metric}{{{kind}="{name}"}} {values[field]}' for name, values in counts.items()]
    return "\n".join(lines) + "\n"
