"""What the handlers work with, made once for each process: a cold start makes it, warm calls find it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embakery.cache import CacheSecret, VectorCache
from embakery.embed import Embedder
from embakery.errors import ConfigurationError, InvalidRequestError, UnavailableError
from embakery.results import ResultStore
from handlers.settings import RedisSettings, Settings

if TYPE_CHECKING:
    from redis.credentials import CredentialProvider

# What Secrets Manager answers to a wrong ARN, a missing right, a secret in deletion, a key that may not be used.
_SECRET_MISTAKES = frozenset(
    {
        "AccessDeniedException",
        "DecryptionFailure",
        "InvalidParameterException",
        "InvalidRequestException",
        "ResourceNotFoundException",
        "ValidationException",
    }
)


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


def _check_rerank_method(settings: Settings, embedder: Embedder) -> None:
    try:
        embedder.rerank_method(settings.rerank_method)
    except InvalidRequestError as error:
        raise ConfigurationError(f"EMBAKERY_RERANK_METHOD: {error.problem}, or bake with --reranker") from None


def _destinations(settings: Settings) -> dict[str, Callable[[], ResultStore]]:
    def opener(name: str, url: str) -> Callable[[], ResultStore]:
        @functools.cache
        def open_once() -> ResultStore:
            from storage.destinations import open_store  # botocore: .15 s that a request over HTTP should not pay

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

    from storage.clients import error_code, open_client

    try:
        return str(open_client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"])
    except (ClientError, BotoCoreError) as error:
        code = error_code(error)
        if code in _SECRET_MISTAKES:
            raise ConfigurationError(
                f"the secret {arn} cannot be read: {code}; check it and the function's role"
            ) from error
        raise UnavailableError(f"the secret {arn} cannot be read now: {code}") from error
