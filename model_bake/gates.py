"""What a bake must reach: below it, nothing is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embakery.errors import EncodingError


@dataclass(frozen=True, slots=True)
class Gates:
    """The lowest figures that an artifact may have, each against the fp32 original.

    min_cosine, min_mean_cosine: of the certificate's texts. min_overlap: mean share of the ten nearest neighbours kept.
    min_rank_agreement: mean Spearman correlation of a cross-encoder's rankings.
    """

    min_cosine: float = 0.99
    min_mean_cosine: float = 0.995
    min_overlap: float = 0.9
    min_rank_agreement: float = 0.98

    def check(self, figures: Mapping[str, Any]) -> None:
        """Raise EncodingError, naming figure and gate, if a certificate falls short or bits depend on the batch."""
        reached = {
            "lowest cosine": (figures.get("cosine", {}).get("min"), self.min_cosine),
            "mean cosine": (figures.get("cosine", {}).get("mean"), self.min_mean_cosine),
            "neighbour overlap": (figures.get("neighbour_overlap_at_10"), self.min_overlap),
            "rank agreement": (figures.get("rank_agreement", {}).get("mean"), self.min_rank_agreement),
        }
        for name, (value, gate) in reached.items():
            # Written so that NaN falls short too.
            if value is not None and not value >= gate:
                raise EncodingError(f"the {name} to the original is {value}, the gate asks for {gate}")
        total, invariant = figures["inputs"], figures["batch_invariant"]
        if invariant != total:
            raise EncodingError(f"only {invariant} of {total} inputs have the same bits alone and in a batch")
