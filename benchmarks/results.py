"""What was measured, and the ratios that count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from benchmarks.adapters import Setting


@dataclass(frozen=True, slots=True)
class Row:
    """A system on a corpus. seconds: of each round. cosine: mean, p1 and min to the fp32 vectors, if it got so far."""

    system: str
    corpus: str
    texts: int
    tokens: int
    setting: Setting
    seconds: tuple[float, ...]
    cosine: Mapping[str, float] | None

    def as_json(self) -> dict[str, Any]:
        """Return the row for latest.json."""
        typical, best = median(self.seconds), min(self.seconds)
        return {
            "system": self.system,
            "corpus": self.corpus,
            "texts_per_s": round(self.texts / typical, 1),
            "texts_per_s_best": round(self.texts / best, 1),
            "tokens_per_s": round(self.tokens / typical),
            "tokens_per_s_best": round(self.tokens / best),
            "setting": dict(self.setting),
            "seconds": [round(each, 4) for each in self.seconds],
            "cosine": self.cosine,
        }


@dataclass(frozen=True, slots=True)
class Fidelity:
    """cosine: mean, p1 and min to the fp32 vectors. same_bits: texts with equal bits alone and in the batch."""

    cosine: Mapping[str, float]
    same_bits: int


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Fresh processes. seconds: from the process's start to the first vector. peak_bytes: after the corpus as well."""

    seconds: tuple[float, ...]
    peak_bytes: int

    def as_json(self) -> dict[str, Any]:
        """Return the entry for latest.json."""
        return {
            "seconds_best": round(min(self.seconds), 3),
            "seconds_median": round(median(self.seconds), 3),
            "peak_mb": round(self.peak_bytes / 1e6),
        }


def latency_json(seconds: Sequence[float]) -> dict[str, float]:
    """Return 50th and 95th percentile in milliseconds."""
    cuts = quantiles(seconds, n=20, method="inclusive")
    return {"p50_ms": round(cuts[9] * 1000, 3), "p95_ms": round(cuts[18] * 1000, 3)}


def ratios(rows: Sequence[Row], ours: str) -> dict[str, dict[str, float]]:
    """Return how many times faster ours is than each other system, by corpus: the median of the rounds' ratios.

    Within one round all systems ran right after one another, so that a machine which drifts moves both.
    """
    found: dict[str, dict[str, float]] = {}
    mine = {row.corpus: row.seconds for row in rows if row.system == ours}
    for row in rows:
        if row.system != ours and row.corpus in mine:
            rounds = [theirs / own for theirs, own in zip(row.seconds, mine[row.corpus], strict=False)]
            found.setdefault(row.system, {})[row.corpus] = round(median(rounds), 2)
    return found
