"""Structured logs and EMF metrics, by Powertools. Fields and counts only: never a text, never a vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from embakery.errors import EmbakeryError

if TYPE_CHECKING:
    from embakery.cache import VectorCache
    from embakery.delivery import Failure
    from embakery.embedded import EmbedCounts
    from embakery.worker import Outcome

# Powertools names its logger after the service, and the library logs as `embakery`: so its lines are structured too.
logger = Logger(service="embakery")
metrics = Metrics(namespace="Embakery")

# A log line names so many messages of one reason.
_MAX_IDS = 10


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
    _log_cache_trouble(counts.embed)
    for (code, reason), ids in _by_reason(outcome.failures).items():
        extra = {"code": code, "reason": reason, "messages": len(ids), "message_ids": ids[:_MAX_IDS]}
        logger.warning("message_failed", extra=extra)


def record_embeddings(*, items: int, tokens: int, counts: EmbedCounts, cache: VectorCache | None) -> None:
    """Count one synchronous request for embeddings."""
    record({"Texts": items, "Tokens": tokens, **_cache_figures(counts, cache)})
    _log_cache_trouble(counts)


@contextmanager
def refusals_recorded() -> Iterator[None]:
    """Log and count why nothing of an event was taken up. The error goes on to whoever sent the event."""
    try:
        yield
    except EmbakeryError as error:
        record({"EventsRefused": 1})
        logger.error("event_refused", extra={"code": error.code, "reason": str(error)})
        raise


def record(figures: dict[str, int]) -> None:
    """Add counts to the invocation's metrics."""
    for name, value in figures.items():
        metrics.add_metric(name=name, unit=MetricUnit.Count, value=value)


def _by_reason(failures: Sequence[Failure]) -> dict[tuple[str, str], list[str]]:
    """Gather the messages that failed for the same reason, such as a store that takes nothing: one line is enough."""
    found: dict[tuple[str, str], list[str]] = {}
    for failure in failures:
        ids = found.setdefault((failure.error.code, str(failure.error)), [])
        if failure.message_id not in ids:
            ids.append(failure.message_id)
    return found


def _log_cache_trouble(counts: EmbedCounts) -> None:
    """Say once of a batch or a request why the cache could not serve it; nothing while the breaker spares it."""
    cache = counts.cache
    if cache.reason is not None:
        extra = {"code": "cache_unavailable", "reason": cache.reason, "errors": cache.errors, "skipped": cache.skipped}
        logger.warning("cache_unavailable", extra=extra)


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
