"""What the handlers work with, made once for each process: a cold start makes it, warm calls find it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embakery.cache import CacheSecret, VectorCache
from embakery.embed import Embedder
from embakery.errors import ConfigurationError, InvalidRequestError, UnavailableError
from embakery.texts import TextLimits
from handlers.settings import RedisSettings, Settings

if TYPE_CHECKING:
    from redis.credentials import CredentialProvider

    from embakery.results import ResultStore

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
    embedder = _embedder(
        settings.artifact, settings.engine, settings.threads, settings.text_limits, settings.round_tokens
    )
    _check_rerank_method(settings, embedder)
    return Services(
        settings=settings,
        embedder=embedder,
        cache=_open_cache(settings, embedder),
        destinations=_destinations(settings),
    )


# Kept where the rest fails: while a secret cannot be read, each request asks for it again, but loads no model.
@functools.lru_cache(maxsize=1)
def _embedder(artifact: Path, engine: str, threads: int, limits: TextLimits, round_tokens: int) -> Embedder:
    return Embedder.load(artifact, engine=engine, threads=threads, limits=limits, round_tokens=round_tokens)


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

        return UsernamePasswordCredentialProvider(
            redis.username, _secret("EMBAKERY_REDIS_PASSWORD_SECRET_ARN", redis.password_secret_arn)
        )
    return None


def _cache_secret(redis: RedisSettings) -> CacheSecret:
    if isinstance(redis.cache_secret, CacheSecret):
        return redis.cache_secret
    return CacheSecret(_secret("EMBAKERY_CACHE_SECRET_ARN", redis.cache_secret.arn).encode())


def _secret(setting: str, arn: str) -> str:
    """Read what a setting names. Raises ConfigurationError, or UnavailableError where it may pass."""
    from botocore.exceptions import BotoCoreError, ClientError

    from storage.advice import explain
    from storage.clients import error_code, open_client

    try:
        answer = open_client("secretsmanager").get_secret_value(SecretId=arn)
    except (ClientError, BotoCoreError) as error:
        if error_code(error) in _SECRET_MISTAKES:
            code = error_code(error)
            problem = f"the secret {arn} cannot be read: {code}; check it and the function's role"
            raise ConfigurationError(f"{setting}: {problem}") from error
        raise UnavailableError(f"{setting}: the secret {arn} cannot be read now: {explain(error)}") from error
    if "SecretString" not in answer:
        raise ConfigurationError(f"{setting}: the secret {arn} holds bytes; it must hold text")
    return str(answer["SecretString"])
