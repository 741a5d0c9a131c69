"""Structured logs and EMF metrics, by Powertools. Fields and counts only: never a text, never a vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

if TYPE_CHECKING:
    from embakery.cache import VectorCache
    from embakery.embedded import EmbedCounts
    from embakery.worker import Outcome

# Powertools names its logger after the service, and the library logs as `embakery`: so its lines are structured too.
logger = Logger(service="embakery")
metrics = Metrics(namespace="Embakery")


def record_batch(outcome: Outcome, *, messages: int, cache: VectorCache | None) -> None:
    """Log one line and count one batch."""
    counts = outcome.counts
    figures = {
        "Messages": messages,
        "MessagesFailed": len(outcome.failed_ids),
        "Documents": counts.documents,
        "RerankQueries": counts.queries,
        "Tokens": counts.tokens,
        "Truncated": counts.truncated,
        "Embedded": counts.embed.from_cache + counts.embed.not_from_cache,
        "ResultsWritten": counts.written,
        "ResultsSuperseded": counts.superseded,
        "UnitsIsolated": counts.isolated,
        "PoisonItems": counts.poison,
        "DeadLettered": counts.dead_lettered,
        "HandedToBulk": counts.handed_over,
        **_cache_figures(counts.embed, cache),
    }
    record(figures)
    logger.info("batch", extra={"figures": figures})
    for failure in outcome.failures:
        extra = {"message_id": failure.message_id, "code": failure.error.code, "reason": str(failure.error)}
        logger.warning("message_failed", extra=extra)


def record_embeddings(*, items: int, tokens: int, counts: EmbedCounts, cache: VectorCache | None) -> None:
    """Count one synchronous request for embeddings."""
    record({"Texts": items, "Tokens": tokens, **_cache_figures(counts, cache)})


def record(figures: dict[str, int]) -> None:
    """Add counts to the invocation's metrics."""
    for name, value in figures.items():
        metrics.add_metric(name=name, unit=MetricUnit.Count, value=value)


def _cache_figures(counts: EmbedCounts, cache: VectorCache | None) -> dict[str, int]:
    if cache is None:
        return {}
    return {
        "CacheHits": counts.from_cache,
        "CacheMisses": counts.not_from_cache,
        "CacheCorrupt": counts.cache.corrupt,
        "CacheErrors": counts.cache.errors,
        "CacheBreakerOpen": int(cache.breaker.is_open),
    }
