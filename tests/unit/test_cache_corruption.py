"""Ten thousand values that somebody changed or exchanged: none is served, each is counted."""

from __future__ import annotations

import random

import numpy as np
from unit_fakes import FakeBackend

from embakery.cache import CacheCounts, CacheSecret, Key, VectorCache

CORRUPTIONS = 10_000
DIMENSION = 16


def make_cache(backend: FakeBackend, *, secret: bytes = b"secret", space: str = "space") -> VectorCache:
    return VectorCache(backend, secret=CacheSecret(secret), space_id=space, dimension=DIMENSION, ttl_seconds=60)


def fill(cache: VectorCache, tenant: str, count: int) -> dict[Key, np.ndarray]:
    draw = np.random.default_rng(7)
    vectors = {
        cache.key(tenant, (number,)): draw.standard_normal(DIMENSION).astype(np.float32) for number in range(count)
    }
    cache.set_many(vectors, CacheCounts())
    return vectors


def corrupt(draw: random.Random, value: bytes, others: list[bytes]) -> bytes:
    """Return something else in the place of a value."""
    way = draw.randrange(7)
    if way == 0:
        place = draw.randrange(len(value))
        return value[:place] + bytes([value[place] ^ (1 << draw.randrange(8))]) + value[place + 1 :]
    if way == 1:
        return value[: draw.randrange(len(value))]
    if way == 2:
        return value + draw.randbytes(draw.randint(1, 20))
    if way == 3:
        return draw.randbytes(draw.choice([0, 1, 9, len(value), 5000]))
    if way == 4:
        start = draw.randrange(len(value) - 4)
        return value[:start] + draw.randbytes(4) + value[start + 4 :] if draw.random() < 0.5 else bytes(len(value))
    if way == 5:
        other = draw.choice(others)
        return value[:20] + other[20:]
    # A sound value, but of another text, tenant, secret or space.
    return draw.choice(others)


def test_no_corrupted_or_swapped_value_is_served() -> None:
    backend, draw = FakeBackend(), random.Random(20261125)
    cache = make_cache(backend)
    vectors = fill(cache, "acme", 100)
    pristine = dict(backend.values)
    fill(cache, "other tenant", 20)
    fill(make_cache(backend, secret=b"older secret"), "acme", 20)
    fill(make_cache(backend, space="another model"), "acme", 20)
    everything = list(backend.values.values())
    keys = list(vectors)
    corrupted = served = counted = 0
    while corrupted < CORRUPTIONS:
        chosen = draw.sample(keys, 10)
        for key in chosen:
            changed = corrupt(draw, pristine[key], [value for value in everything if value != pristine[key]])
            backend.values[key] = changed
            corrupted += changed != pristine[key]
        counts = CacheCounts()
        found = cache.get_many(keys, counts)
        served += sum(found[key].tobytes() != vectors[key].tobytes() for key in found)
        served += sum(key in found for key in chosen if backend.values[key] != pristine[key])
        counted += counts.corrupt
        assert len(found) + counts.corrupt == len(keys)
        backend.values.update({key: pristine[key] for key in chosen})
    assert (served, counted) == (0, corrupted)
