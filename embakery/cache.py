"""The content-hash cache: keys, value framing, and what happens when it is slow, dead or lying.

A key is made of final token ids, so prompt, Unicode handling and truncation are in it by construction. It is keyed with
the deployment's secret: plain hashes of guessable texts could be confirmed offline. A value carries a MAC over key and
payload; anything that does not check is a miss and is counted.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from embakery.breaker import Breaker
from embakery.errors import CacheUnavailableError
from embakery.texts import TokenIds
from embakery.vectors import Vector, is_sound

Key = bytes

SCHEMA = b"embakery/cache/1"
_MAGIC = b"EBV"
_VERSION = 1
_DTYPE_FLOAT32 = 1
_HEADER = struct.Struct("<3sBBI")
_MAC_BYTES = 16


@dataclass(frozen=True, slots=True)
class CacheSecret:
    """The deployment's secret. Never shown: neither repr nor logs hold it."""

    value: bytes = field(repr=False)


class CacheBackend(Protocol):
    """A store of bytes with expiry. When it cannot serve, it raises CacheUnavailableError and nothing else."""

    def get_many(self, keys: Sequence[Key]) -> list[bytes | None]:
        """Return the values in the keys' order, None where there is none. One round trip."""

    def set_many(self, values: Mapping[Key, bytes], *, ttl_seconds: int) -> None:
        """Store all values, each to expire after `ttl_seconds`. One round trip."""


class MemoryBackend:
    """A backend inside the process, for tests and for `Embedder` without Redis."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._values: dict[Key, tuple[bytes, float]] = {}

    def get_many(self, keys: Sequence[Key]) -> list[bytes | None]:
        """Return the values that have not expired."""
        now = self._clock()
        found = (self._values.get(key) for key in keys)
        return [entry[0] if entry is not None and entry[1] > now else None for entry in found]

    def set_many(self, values: Mapping[Key, bytes], *, ttl_seconds: int) -> None:
        """Store the values."""
        expires = self._clock() + ttl_seconds
        self._values.update({key: (value, expires) for key, value in values.items()})


@dataclass(slots=True)
class CacheCounts:
    """What went wrong, for metrics: corrupt values (served to nobody), failed calls, calls that the breaker spared.

    reason: why the first of the failed calls did.
    """

    corrupt: int = 0
    errors: int = 0
    skipped: int = 0
    reason: str | None = field(default=None, compare=False)


class VectorCache:
    """Vectors by content. Never raises for a backend's trouble: a cache that cannot serve is a cache that misses."""

    def __init__(
        self,
        backend: CacheBackend,
        *,
        secret: CacheSecret,
        space_id: str,
        dimension: int,
        ttl_seconds: int = 30 * 24 * 3600,
        breaker: Breaker | None = None,
    ) -> None:
        self._backend = backend
        self._secret = secret.value
        self._space_id = space_id
        self._dimension = dimension
        self._ttl_seconds = ttl_seconds
        self.breaker = breaker or Breaker()

    def key(self, tenant: str, ids: TokenIds) -> Key:
        """Derive the key: HMAC-SHA-256 over length-prefixed schema, tenant, space id and token ids."""
        tokens = np.asarray(ids, dtype="<i4").tobytes()
        fields = (SCHEMA, tenant.encode(), self._space_id.encode(), tokens)
        message = b"".join(struct.pack("<I", len(part)) + part for part in fields)
        return b"embakery:" + hmac.new(self._secret, message, hashlib.sha256).hexdigest().encode()

    def get_many(self, keys: Sequence[Key], counts: CacheCounts) -> dict[Key, Vector]:
        """Return the vectors found, float32 (dim,) each."""
        values = self._fetch(keys, counts) if keys else []
        found: dict[Key, Vector] = {}
        for key, value in zip(keys, values, strict=True):
            vector = None if value is None else self._unframe(key, value)
            if vector is not None:
                found[key] = vector
            elif value is not None:
                counts.corrupt += 1
        return found

    def set_many(self, vectors: Mapping[Key, Vector], counts: CacheCounts) -> None:
        """Store the vectors, all in one round trip."""
        if not vectors or not self._allows(counts):
            return
        framed = {key: self._frame(key, vector) for key, vector in vectors.items()}
        try:
            self._backend.set_many(framed, ttl_seconds=self._ttl_seconds)
        except CacheUnavailableError as error:
            self._note_failure(counts, error)
        else:
            self.breaker.succeeded()

    def _fetch(self, keys: Sequence[Key], counts: CacheCounts) -> list[bytes | None]:
        if self._allows(counts):
            try:
                values = self._backend.get_many(keys)
            except CacheUnavailableError as error:
                self._note_failure(counts, error)
            else:
                self.breaker.succeeded()
                return values
        return [None] * len(keys)

    def _allows(self, counts: CacheCounts) -> bool:
        allowed = self.breaker.allows()
        counts.skipped += not allowed
        return allowed

    def _note_failure(self, counts: CacheCounts, error: CacheUnavailableError) -> None:
        self.breaker.failed()
        counts.errors += 1
        counts.reason = counts.reason or str(error)

    def _frame(self, key: Key, vector: Vector) -> bytes:
        payload = np.ascontiguousarray(vector, dtype="<f4").tobytes()
        body = _HEADER.pack(_MAGIC, _VERSION, _DTYPE_FLOAT32, vector.shape[0]) + payload
        return body + self._mac(key, body)

    def _unframe(self, key: Key, value: bytes) -> Vector | None:
        body, mac = value[:-_MAC_BYTES], value[-_MAC_BYTES:]
        expected = _HEADER.pack(_MAGIC, _VERSION, _DTYPE_FLOAT32, self._dimension)
        if not body.startswith(expected) or len(body) != len(expected) + 4 * self._dimension:
            return None
        if not hmac.compare_digest(mac, self._mac(key, body)):
            return None
        vector = np.frombuffer(body, dtype="<f4", offset=len(expected)).astype(np.float32, copy=False)
        return vector if is_sound(vector, self._dimension) else None

    def _mac(self, key: Key, body: bytes) -> bytes:
        message = struct.pack("<I", len(key)) + key + body
        return hmac.new(self._secret, b"value" + message, hashlib.sha256).digest()[:_MAC_BYTES]
