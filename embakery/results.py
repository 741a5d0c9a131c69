"""What is written back, and the port through which it goes.

A write is conditional on (tenant, id, space, version): a duplicate does nothing, an older version never overwrites a
newer one, and a lower version that arrives late is a success. So a message may be delivered any number of times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from embakery.vectors import Vector, to_base64


@dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """A document's vector, float32 (dim,), stamped with its space."""

    id: str
    version: int
    tenant: str
    space_id: str
    model: str
    vector: Vector
    tokens: int
    truncated: bool
    job_id: str | None
    metadata: Mapping[str, Any]

    kind = "embedding"

    def to_json(self) -> dict[str, Any]:
        """Return the row that stores write: the vector as base64 of little-endian float32."""
        return {
            "kind": self.kind,
            "id": self.id,
            "version": self.version,
            "tenant": self.tenant,
            "space_id": self.space_id,
            "model": self.model,
            "dim": int(self.vector.shape[0]),
            "dtype": "float32",
            "vector": to_base64(self.vector),
            "tokens": self.tokens,
            "truncated": self.truncated,
            "job_id": self.job_id,
            "metadata": dict(self.metadata),
        }


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One line of a ranking. `index` is the document's place in the request."""

    id: str
    index: int
    score: float


@dataclass(frozen=True, slots=True)
class RerankResult:
    """A query's ranking, best first."""

    id: str
    version: int
    tenant: str
    space_id: str
    model: str
    ranking: tuple[RankedDocument, ...]
    job_id: str | None

    kind = "rerank"

    def to_json(self) -> dict[str, Any]:
        """Return the row that stores write."""
        return {
            "kind": self.kind,
            "id": self.id,
            "version": self.version,
            "tenant": self.tenant,
            "space_id": self.space_id,
            "model": self.model,
            "ranking": [{"id": line.id, "index": line.index, "score": line.score} for line in self.ranking],
            "job_id": self.job_id,
        }


Result = EmbeddingResult | RerankResult


class WriteOutcome(Enum):
    """What became of one result. Everything but FAILED is a success."""

    WRITTEN = "written"
    # The same or a newer version is there already.
    SUPERSEDED = "superseded"
    FAILED = "failed"


class ResultStore(Protocol):
    """A place where results are written."""

    def write(self, results: Sequence[Result]) -> list[WriteOutcome]:
        """Write results and say, in order, what became of each.

        Raises StoreUnavailableError when none could be written. Writing the same results again is harmless.
        """
