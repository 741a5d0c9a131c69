"""What the handlers work with, made once for each process: a cold start makes it, warm calls find it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embakery.cache import CacheSecret, VectorCache
from embakery.embed import Embedder
from embakery.errors import ConfigurationError, InvalidRequestError
from embakery.isolation import NoTrail, Trail
from embakery.opened import SourcePolicy
from embakery.results import ResultStore
from embakery.sources import BulkQueue, SourceReader
from embakery.work import Resources
from embakery.worker import Worker
from handlers.settings import RedisSettings, Settings

if TYPE_CHECKING:
    from redis.credentials import CredentialProvider


@dataclass(frozen=True, slots=True)
class Services:
    """The loaded model, the cache if there is one, and the destinations, each opened by its first use."""

    settings: Settings
    embedder: Embedder
    cache: VectorCache | None
    destinations: dict[str, Callable[[], ResultStore]]


@functools.cache
def services() -> Services:
    """Return this process's services. Raises ConfigurationError or ArtifactError, saying what to mend."""
    settings = Settings.from_env(os.environ)
    embedder = Embedder.load(
        settings.artifact,
        engine=settings.engine,
        threads=settings.threads,
        limits=settings.text_limits,
        round_tokens=settings.round_tokens,
    )
    _check_rerank_method(settings, embedder)
    return Services(
        settings=settings,
        embedder=embedder,
        cache=_open_cache(settings, embedder),
        destinations=_destinations(settings),
    )


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


def _check_rerank_method(settings: Settings, embedder: Embedder) -> None:
    try:
        embedder.rerank_method(settings.rerank_method)
    except InvalidRequestError as error:
        raise ConfigurationError(f"EMBAKERY_RERANK_METHOD: {error.problem}, or bake with --reranker") from None


def _destinations(settings: Settings) -> dict[str, Callable[[], ResultStore]]:
    def opener(name: str, url: str) -> Callable[[], ResultStore]:
        @functools.cache
        def open_once() -> ResultStore:
            from storage.destinations import open_store  # boto3: .25 s that a request over HTTP should not pay

            return open_store(name, url)

        return open_once

    return {name: opener(name, url) for name, url in settings.destinations.items()}


def _open_cache(settings: Settings, embedder: Embedder) -> VectorCache | None:
    if settings.redis is None:
        return None
    from storage.redis_backend import RedisBackend

    return VectorCache(
        RedisBackend(settings.redis.url, credentials=_credentials(settings.redis)),
        secret=_cache_secret(settings.redis),
        space_id=embedder.manifest.space_id,
        dimension=embedder.manifest.dimension,
        ttl_seconds=settings.cache_ttl_seconds,
    )


def _credentials(redis: RedisSettings) -> CredentialProvider | None:
    """Sign in with an IAM token, or a password from Secrets Manager, or what the URL says."""
    if redis.iam_cache_name is not None:
        from storage.elasticache_iam import ElastiCacheIamCredentials

        return ElastiCacheIamCredentials(
            username=redis.username or "default",
            cache_name=redis.iam_cache_name,
            region=redis.region,
            serverless=redis.iam_serverless,
        )
    if redis.password_secret_arn is not None:
        from redis.credentials import UsernamePasswordCredentialProvider

        return UsernamePasswordCredentialProvider(redis.username, _secret(redis.password_secret_arn))
    return None


def _cache_secret(redis: RedisSettings) -> CacheSecret:
    if isinstance(redis.cache_secret, CacheSecret):
        return redis.cache_secret
    return CacheSecret(_secret(redis.cache_secret.arn).encode())


def _secret(arn: str) -> str:
    from botocore.exceptions import BotoCoreError, ClientError

    from storage.clients import open_client

    try:
        return str(open_client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"])
    except (ClientError, BotoCoreError) as error:
        raise ConfigurationError(f"the secret {arn} cannot be read; check the function's role") from error
