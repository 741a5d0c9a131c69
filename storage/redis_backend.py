"""The cache's backend on Redis (>= 6) or Valkey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from embakery.cache import Key
from embakery.errors import CacheUnavailableError, ConfigurationError

if TYPE_CHECKING:
    from redis.credentials import CredentialProvider

# A cache slower than this is worth less than encoding.
TIMEOUT_SECONDS = 0.05


class RedisBackend:
    """Bytes in Redis: one MGET to read, one pipeline of SET EX to write.

    Whatever a call raises is trouble of the cache, and never fails a request: an answer that breaks the protocol makes
    redis-py raise errors of any kind (ValueError, TypeError, RecursionError, found by feeding it random ones).

    redis-py retries by default, and waits 3.6 s for a refused and 59 s for a silent server: here every call ends after
    50 ms to connect and 50 ms to answer, and is not retried.

    url: redis:// or rediss:// (TLS). credentials: who signs in, where the URL does not say.
    """

    def __init__(
        self, url: str, *, credentials: CredentialProvider | None = None, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        try:
            self._client = redis.Redis.from_url(
                url,
                credential_provider=credentials,
                socket_connect_timeout=timeout_seconds,
                socket_timeout=timeout_seconds,
                retry=Retry(NoBackoff(), 0),
                retry_on_error=[],
                # A round trip for a client name is worth nothing to a function.
                driver_info=None,
            )
        except ValueError:
            # Not chained: the error of a badly quoted password holds a part of it.
            raise ConfigurationError(
                "EMBAKERY_REDIS_URL: must be redis:// or rediss://, with user and password percent-encoded"
            ) from None

    def get_many(self, keys: Sequence[Key]) -> list[bytes | None]:
        """Return the values in the keys' order. Raises CacheUnavailableError."""
        try:
            values: object = self._client.mget(list(keys))
        except Exception as error:
            raise CacheUnavailableError(f"MGET failed: {type(error).__name__}") from error
        if not isinstance(values, list) or len(values) != len(keys):
            raise CacheUnavailableError("MGET failed: its answer is not a list of as many values as keys")
        return [value if isinstance(value, bytes) else None for value in values]

    def set_many(self, values: Mapping[Key, bytes], *, ttl_seconds: int) -> None:
        """Store the values. Raises CacheUnavailableError."""
        try:
            # Not a transaction: each entry stands for itself.
            with self._client.pipeline(transaction=False) as pipeline:
                for key, value in values.items():
                    pipeline.set(key, value, ex=ttl_seconds)
                pipeline.execute()
        except Exception as error:
            raise CacheUnavailableError(f"SET failed: {type(error).__name__}") from error

    def close(self) -> None:
        """Drop the connections."""
        self._client.close()
