"""What differs between kinds of models: what they are fed, and how they are judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from embakery.artifact import Golden
from model_bake.calibrate import Feed

if TYPE_CHECKING:
    from model_bake.export import Original


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was measured. page: makes the one-page report from the finished figures."""

    figures: Mapping[str, Any]
    page: Callable[[Mapping[str, Any]], str]


class Trial(Protocol):
    """One model's own texts or pairs, through any of its graphs."""

    def calibration(self) -> Sequence[Feed]:
        """Return what quantization is calibrated on: inputs int64 (tokens,) by name, for each text or pair."""

    def golden(self, folder: Path, engine: str) -> Golden:
        """Return the golden inputs and what a baked folder's engine makes of them."""

    def difference(self, graph: Path, original: Original) -> float:
        """Return the largest absolute difference between a graph's output and the original's."""

    def certify(self, reference: Path, folder: Path, engine: str) -> Certificate:
        """Measure a baked folder's engine against the fp32 graph."""
