"""What a function reads from its environment: once, here, and nowhere else."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from embakery.cache import CacheSecret
from embakery.engines import ENGINES
from embakery.errors import ConfigurationError
from embakery.rerank import RERANK_METHODS
from embakery.rounds import ROUND_TOKENS
from embakery.texts import TextLimits

# Lambda gives one whole vCPU for so much memory.
_WHOLE_CPU_MEGABYTES = 1769
# A text of any model's length fits.
_LEAST_ROUND_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class SecretArn:
    """Where Secrets Manager keeps a secret."""

    arn: str


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """How to reach Redis or Valkey (>= 6): with nothing, a user's password, or ElastiCache IAM tokens (`iam_*`).

    cache_secret: what keys and values are authenticated with, or where it is kept.
    """

    url: str
    cache_secret: CacheSecret | SecretArn
    username: str | None
    password_secret_arn: str | None
    iam_cache_name: str | None
    iam_serverless: bool
    region: str


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """Where claim checks are read: one bucket, one prefix, its owner's account if it is to be checked, a size cap."""

    bucket: str
    prefix: str
    owner: str | None
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Settings:
    """The function's settings. Every field names its variable in `from_env`; docs/settings.md lists them."""

    artifact: Path
    engine: str
    threads: int
    tenant: str
    redis: RedisSettings | None
    cache_ttl_seconds: int
    destinations: Mapping[str, str]
    text_limits: TextLimits
    max_items: int
    rerank_method: str | None
    round_tokens: int
    state_table: str | None
    source: SourceSettings | None
    bulk_queue_url: str | None
    bulk_overflow_documents: int

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Read the settings. Raises ConfigurationError naming the variable to mend."""
        return cls(
            artifact=Path(env.get("EMBAKERY_ARTIFACT", "/opt/artifact")),
            engine=_engine(env),
            threads=_integer(env, "EMBAKERY_THREADS", default=_threads(env)),
            tenant=_tenant(env),
            redis=_redis(env),
            cache_ttl_seconds=_integer(env, "EMBAKERY_CACHE_TTL_SECONDS", default=30 * 24 * 3600),
            destinations=_destinations(env),
            text_limits=TextLimits(max_characters=_integer(env, "EMBAKERY_MAX_CHARACTERS", default=200_000)),
            max_items=_integer(env, "EMBAKERY_MAX_ITEMS", default=2048),
            rerank_method=_rerank_method(env),
            round_tokens=_integer(env, "EMBAKERY_ROUND_TOKENS", default=_round_tokens(env)),
            state_table=_text(env, "EMBAKERY_STATE_TABLE"),
            source=_source(env),
            bulk_queue_url=_text(env, "EMBAKERY_BULK_QUEUE_URL"),
            bulk_overflow_documents=_integer(env, "EMBAKERY_BULK_OVERFLOW_DOCUMENTS", default=5000),
        )


def _text(env: Mapping[str, str], name: str) -> str | None:
    return env.get(name) or None


def _engine(env: Mapping[str, str]) -> str:
    engine = _text(env, "EMBAKERY_ENGINE") or "auto"
    if engine not in ENGINES:
        raise ConfigurationError(f"EMBAKERY_ENGINE={engine!r} must be {' or '.join(ENGINES)}")
    return engine


def _tenant(env: Mapping[str, str]) -> str:
    tenant = env.get("EMBAKERY_TENANT", "default")
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", tenant):
        raise ConfigurationError("EMBAKERY_TENANT must be 1 to 64 letters, digits, dots, dashes or underscores")
    return tenant


def _integer(env: Mapping[str, str], name: str, *, default: int) -> int:
    raw = env.get(name)
    if not raw:
        return default
    try:
        value = int(raw)
    except ValueError as error:
        raise ConfigurationError(f"{name}={raw!r} is not a whole number") from error
    if value < 1:
        raise ConfigurationError(f"{name}={raw!r} must be at least 1")
    return value


def _threads(env: Mapping[str, str]) -> int:
    """All cores, but where Lambda gives less than one: there a second thread costs a start, and computes nothing."""
    megabytes = _integer(env, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", default=_WHOLE_CPU_MEGABYTES)
    return 1 if megabytes < _WHOLE_CPU_MEGABYTES else os.cpu_count() or 1


def _round_tokens(env: Mapping[str, str]) -> int:
    """In proportion to the function's memory, which is what Lambda gives its share of the CPU by too."""
    megabytes = _integer(env, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", default=_WHOLE_CPU_MEGABYTES)
    return max(_LEAST_ROUND_TOKENS, ROUND_TOKENS * megabytes // _WHOLE_CPU_MEGABYTES)


def _source(env: Mapping[str, str]) -> SourceSettings | None:
    bucket = _text(env, "EMBAKERY_SOURCE_BUCKET")
    if bucket is None:
        return None
    return SourceSettings(
        bucket=bucket,
        prefix=_text(env, "EMBAKERY_SOURCE_PREFIX") or "sources/",
        owner=_text(env, "EMBAKERY_SOURCE_OWNER"),
        max_bytes=_integer(env, "EMBAKERY_SOURCE_MAX_BYTES", default=64 * 1024 * 1024),
    )


def _rerank_method(env: Mapping[str, str]) -> str | None:
    method = env.get("EMBAKERY_RERANK_METHOD") or "auto"
    if method not in {"auto", *RERANK_METHODS}:
        raise ConfigurationError(f"EMBAKERY_RERANK_METHOD={method!r} must be auto or {' or '.join(RERANK_METHODS)}")
    return None if method == "auto" else method


def _redis(env: Mapping[str, str]) -> RedisSettings | None:
    url = _text(env, "EMBAKERY_REDIS_URL")
    if url is None:
        return None
    return RedisSettings(
        url=url,
        cache_secret=_cache_secret(env),
        username=_text(env, "EMBAKERY_REDIS_USERNAME"),
        password_secret_arn=_text(env, "EMBAKERY_REDIS_PASSWORD_SECRET_ARN"),
        iam_cache_name=_text(env, "EMBAKERY_REDIS_IAM_CACHE_NAME"),
        iam_serverless=env.get("EMBAKERY_REDIS_IAM_SERVERLESS", "true") == "true",
        region=env.get("AWS_REGION", ""),
    )


def _cache_secret(env: Mapping[str, str]) -> CacheSecret | SecretArn:
    secret, arn = _text(env, "EMBAKERY_CACHE_SECRET"), _text(env, "EMBAKERY_CACHE_SECRET_ARN")
    if secret is not None:
        return CacheSecret(secret.encode())
    if arn is not None:
        return SecretArn(arn)
    raise ConfigurationError("EMBAKERY_REDIS_URL needs EMBAKERY_CACHE_SECRET or EMBAKERY_CACHE_SECRET_ARN")


def _destinations(env: Mapping[str, str]) -> Mapping[str, str]:
    raw = env.get("EMBAKERY_DESTINATIONS") or "{}"
    try:
        parsed = json.loads(raw)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"EMBAKERY_DESTINATIONS is not JSON: {error}") from error
    if not isinstance(parsed, dict) or not all(isinstance(value, str) for value in parsed.values()):
        raise ConfigurationError("EMBAKERY_DESTINATIONS must be a JSON object of names and destination URLs")
    return parsed
