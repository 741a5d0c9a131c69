"""Cold starts of several images, interleaved, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from benchmarks.containers import Container, ContainerDiedError, Size
from benchmarks.containers_api import RuntimeApi
from benchmarks.containers_memory import Memory, drop_page_cache
from benchmarks.process import SystemFailedError

# At a third of a CPU torch takes its time.
_TIMEOUT_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A system to start: the handler is in the image."""

    name: str
    image: str
    handler: str


@dataclass(frozen=True, slots=True)
class Start:
    """One cold start. Milliseconds from the program's first instruction; cpu_ms includes the container's making."""

    init_ms: float
    first_answer_ms: float
    cpu_ms: float
    memory: Memory
    answer: Any


@dataclass(frozen=True, slots=True)
class Series:
    """What one system did in all rounds: its starts, or why there is one missing."""

    starts: tuple[Start, ...]
    failed: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the entry of the results."""
        if self.failed is not None:
            return {"failed": self.failed}
        memories = [start.memory for start in self.starts]
        return {
            "init_ms": spread([start.init_ms for start in self.starts]),
            "first_answer_ms": spread([start.first_answer_ms for start in self.starts]),
            "cpu_ms": spread([start.cpu_ms for start in self.starts]),
            "process_peak_mb": median(each.process_peak_mb for each in memories),
            "cgroup_peak_mb": median(each.cgroup_peak_mb for each in memories),
            "anonymous_mb": median(each.anonymous_mb for each in memories),
            "cgroup_source": memories[0].source,
        }


def series(
    candidates: Sequence[Candidate], *, size: Size, event: object, rounds: int, cold_disk: bool
) -> dict[str, Series]:
    """Start every candidate once in each round. Warm: one more round before, which is not counted.

    cold_disk: the page cache is dropped before each start. Who fails once is not tried again.
    """
    starts: dict[str, list[Start]] = {candidate.name: [] for candidate in candidates}
    failed: dict[str, str] = {}
    for number in range(rounds if cold_disk else rounds + 1):
        for candidate in (each for each in candidates if each.name not in failed):
            if cold_disk and not drop_page_cache():
                raise SystemFailedError("the page cache cannot be dropped: not allowed here")
            try:
                start = start_once(candidate, size=size, event=event)
            except ContainerDiedError as error:
                failed[candidate.name] = str(error)
            else:
                starts[candidate.name] += [start] if cold_disk or number else []
    return {name: Series(tuple(found), failed.get(name)) for name, found in starts.items()}


def start_once(candidate: Candidate, *, size: Size, event: object) -> Start:
    """Start a container with an event waiting. Raises ContainerDiedError, SystemFailedError."""
    with (
        RuntimeApi(timeout_seconds=_TIMEOUT_SECONDS) as api,
        Container(candidate.image, candidate.handler, size=size, api=api) as container,
    ):
        api.give(event)
        container.start()
        answer = container.answer(timeout_seconds=_TIMEOUT_SECONDS)
        cpu, memory, began = container.cpu_seconds(), container.memory(), container.started_ns
        assert api.ready_ns is not None  # noqa: S101 - or there were no answer
        return Start(
            init_ms=(api.ready_ns - began) / 1e6,
            first_answer_ms=(answer.answered_ns - began) / 1e6,
            cpu_ms=cpu * 1000,
            memory=memory,
            answer=answer.json(),
        )


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, 10th and 90th percentile."""
    if len(values) == 1:
        return dict.fromkeys(("p10", "p50", "p90"), round(values[0], 1))
    cuts = quantiles(values, n=10, method="inclusive")
    return {"p10": round(cuts[0], 1), "p50": round(cuts[4], 1), "p90": round(cuts[8], 1)}


def ratios(found: Mapping[str, Series], ours: str) -> dict[str, dict[str, float]]:
    """Return how many times longer each other takes than ours: the median of the rounds' own ratios."""
    mine = found[ours]
    if mine.failed is not None:
        return {}
    return {
        name: {
            "first_answer": _ratio([start.first_answer_ms for start in theirs.starts], mine, "first_answer_ms"),
            "init": _ratio([start.init_ms for start in theirs.starts], mine, "init_ms"),
        }
        for name, theirs in found.items()
        if name != ours and theirs.failed is None
    }


def _ratio(theirs: Sequence[float], mine: Series, measure: str) -> float:
    own = [float(getattr(start, measure)) for start in mine.starts]
    return round(median(other / each for other, each in zip(theirs, own, strict=True)), 2)
