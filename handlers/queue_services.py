"""What the queue's handler works with beyond `services`: only it pays for loading them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from embakery.isolation import NoTrail, Trail
from embakery.opened import SourcePolicy
from embakery.sources import BulkQueue, SourceReader
from embakery.work import Resources
from embakery.worker import Worker
from handlers.services import services

if TYPE_CHECKING:
    from embakery.embed import Embedder
    from handlers.settings import Settings


@functools.cache
def worker() -> Worker:
    """Return this process's queue worker. Raises what `services` raises."""
    ready = services()
    resources = Resources(
        embedder=ready.embedder,
        cache=ready.cache,
        destinations=ready.destinations,
        tenant=ready.settings.tenant,
        rerank_method=ready.settings.rerank_method,
    )
    return Worker(resources, sources=_source_policy(ready.settings), trail=_trail(ready.settings, ready.embedder))


def _source_policy(settings: Settings) -> SourcePolicy:
    source, bulk_queue_url = settings.source, settings.bulk_queue_url
    if source is None:
        return SourcePolicy()

    @functools.cache
    def reader() -> SourceReader:
        from storage.claim_check import ClaimCheck

        return ClaimCheck(
            _client("s3"), bucket=source.bucket, prefix=source.prefix, owner=source.owner, max_bytes=source.max_bytes
        )

    @functools.cache
    def bulk() -> BulkQueue:
        from storage.bulk_queue import SqsBulkQueue

        table = settings.state_table
        dynamodb = None if table is None else _client("dynamodb")
        return SqsBulkQueue(_client("sqs"), queue_url=bulk_queue_url or "", dynamodb=dynamodb, state_table=table)

    return SourcePolicy(reader, bulk if bulk_queue_url else None, settings.bulk_overflow_documents)


def _trail(settings: Settings, embedder: Embedder) -> Trail:
    if settings.state_table is None:
        return NoTrail()
    from storage.trail import DynamoDBTrail

    return DynamoDBTrail(_mark_client, table=settings.state_table, space_id=embedder.manifest.space_id)


@functools.cache
def _mark_client() -> Any:
    from storage.clients import MARK, open_client

    return open_client("dynamodb", MARK)


@functools.cache
def _client(service: str) -> Any:
    from storage.clients import open_client

    return open_client(service)
