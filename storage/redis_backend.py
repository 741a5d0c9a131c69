"""The cache's backend on Redis (>= 6) or Valkey."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from embakery.cache import Key
from embakery.errors import CacheUnavailableError, ConfigurationError

if TYPE_CHECKING:
    from redis.credentials import CredentialProvider

# A cache slower than this is worth less than encoding.
TIMEOUT_SECONDS = 0.05
_TLS = "check whether it speaks TLS: rediss:// in EMBAKERY_REDIS_URL if it does, redis:// if not"
# The first that fits.
_ADVICE: tuple[tuple[type[Exception], str], ...] = (
    (
        exceptions.AuthenticationError,
        "check user and password: EMBAKERY_REDIS_USERNAME, EMBAKERY_REDIS_PASSWORD_SECRET_ARN, EMBAKERY_REDIS_URL",
    ),
    (exceptions.NoPermissionError, "check the user's rights: GET, MGET and SET on embakery:*"),
    (exceptions.ReadOnlyError, "EMBAKERY_REDIS_URL names a replica: it must name the primary"),
    (exceptions.OutOfMemoryError, "the server's memory is full and its maxmemory-policy evicts nothing"),
    (exceptions.InvalidResponse, _TLS),
    (
        exceptions.TimeoutError,
        "check EMBAKERY_REDIS_URL, with rediss:// only where the server speaks TLS, the security groups, and its load",
    ),
    (
        exceptions.ConnectionError,
        "check EMBAKERY_REDIS_URL, with rediss:// where the server speaks TLS, the security groups, and that it runs",
    ),
)


class RedisBackend:
    """Bytes in Redis: one MGET to read, one pipeline of SET EX to write.

    A cache that keeps its keys in slots behind one address, as ElastiCache Serverless does, refuses an MGET of several
    slots: from then on one pipeline of GETs reads.

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
            self._keeps_slots = False
        except ValueError:
            # Not chained: the error of a badly quoted password holds a part of it.
            raise ConfigurationError(
                "EMBAKERY_REDIS_URL: must be redis:// or rediss://, with user and password percent-encoded"
            ) from None

    def get_many(self, keys: Sequence[Key]) -> list[bytes | None]:
        """Return the values in the keys' order. Raises CacheUnavailableError."""
        try:
            values = self._get(list(keys))
        except Exception as error:
            raise CacheUnavailableError(f"GET failed: {_explain(error)}") from error
        if not isinstance(values, list) or len(values) != len(keys):
            raise CacheUnavailableError("GET failed: its answer is not a list of as many values as keys")
        return [value if isinstance(value, bytes) else None for value in values]

    def _get(self, keys: list[Key]) -> object:
        if not self._keeps_slots:
            try:
                return self._client.mget(keys)
            except exceptions.ClusterCrossSlotError:
                self._keeps_slots = True
        with self._client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.get(key)
            return pipeline.execute()

    def set_many(self, values: Mapping[Key, bytes], *, ttl_seconds: int) -> None:
        """Store the values. Raises CacheUnavailableError."""
        try:
            # Not a transaction: each entry stands for itself.
            with self._client.pipeline(transaction=False) as pipeline:
                for key, value in values.items():
                    pipeline.set(key, value, ex=ttl_seconds)
                pipeline.execute()
        except Exception as error:
            raise CacheUnavailableError(f"SET failed: {_explain(error)}") from error

    def close(self) -> None:
        """Drop the connections."""
        self._client.close()


def _explain(error: Exception) -> str:
    """Return an error's kind and what to check. Its own words are left out: they may hold what a server made up."""
    advice = next((text for kinds, text in _ADVICE if isinstance(error, kinds)), None)
    if "SSL" in str(error) or isinstance(error.__cause__, ssl.SSLError):
        advice = _TLS
    return type(error).__name__ if advice is None else f"{type(error).__name__}; {advice}"
