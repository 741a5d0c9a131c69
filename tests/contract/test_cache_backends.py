"""One contract over both cache backends, in memory and on a real Redis, alone and under VectorCache."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from embakery.cache import CacheBackend, CacheCounts, CacheSecret, MemoryBackend, VectorCache
from local.processes import ServerProcess
from storage.redis_backend import RedisBackend

VECTOR = np.array([1 / 3, -0.0, 1e-45, 3.4028235e38], dtype=np.float32)
ALL_BYTES = bytes(range(256))


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Place:
    """A backend, and how time passes there."""

    backend: CacheBackend
    wait: Callable[[float], None]

    def cache(self, *, secret: bytes | None = None, space_id: str = "space") -> VectorCache:
        """A cache whose keys no other test has."""
        chosen = CacheSecret(secret or uuid.uuid4().bytes)
        return VectorCache(self.backend, secret=chosen, space_id=space_id, dimension=4, ttl_seconds=60)


@pytest.fixture(params=["memory", "redis", "redis in slots"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "memory":
        clock = Clock()

        def pass_by(seconds: float) -> None:
            clock.now += seconds

        yield Place(MemoryBackend(clock), pass_by)
        return
    server: ServerProcess = request.getfixturevalue("shared_redis" if request.param == "redis" else "redis_in_slots")
    # Patient: these tests are about what comes back, not about how soon on a busy machine.
    backend = RedisBackend(f"redis://{server.address}", timeout_seconds=5)
    yield Place(backend, time.sleep)
    backend.close()


def fresh(count: int) -> list[bytes]:
    """Keys that no other test has."""
    return [f"embakery:{uuid.uuid4().hex}".encode() for _ in range(count)]


def test_values_come_back_byte_for_byte(place: Place) -> None:
    first, second, third = fresh(3)
    place.backend.set_many({first: ALL_BYTES, second: b"", third: b"\r\n$-1\r\n" * 20_000}, ttl_seconds=60)
    assert place.backend.get_many([first, second, third]) == [ALL_BYTES, b"", b"\r\n$-1\r\n" * 20_000]


def test_missing_keys_are_none_in_their_places(place: Place) -> None:
    keys = fresh(4)
    place.backend.set_many({keys[1]: b"one", keys[3]: b"three"}, ttl_seconds=60)
    assert place.backend.get_many(keys) == [None, b"one", None, b"three"]


def test_values_come_in_the_keys_order_and_as_often_as_asked(place: Place) -> None:
    a, b, c = fresh(3)
    place.backend.set_many({a: b"a", b: b"b", c: b"c"}, ttl_seconds=60)
    assert place.backend.get_many([c, a, b, a]) == [b"c", b"a", b"b", b"a"]


def test_a_value_set_again_is_the_new_one(place: Place) -> None:
    (key,) = fresh(1)
    place.backend.set_many({key: b"old"}, ttl_seconds=60)
    place.backend.set_many({key: b"new"}, ttl_seconds=60)
    assert place.backend.get_many([key]) == [b"new"]


def test_values_expire_each_after_its_own_time(place: Place) -> None:
    short, long, renewed = fresh(3)
    place.backend.set_many({short: b"short", renewed: b"old"}, ttl_seconds=1)
    place.backend.set_many({long: b"long", renewed: b"new"}, ttl_seconds=60)
    place.wait(1.1)
    assert place.backend.get_many([short, long, renewed]) == [None, b"long", b"new"]


def test_a_thousand_keys_in_one_call(place: Place) -> None:
    keys = fresh(1000)
    place.backend.set_many({key: key[::-1] for key in keys[::2]}, ttl_seconds=60)
    expected = [key[::-1] if number % 2 == 0 else None for number, key in enumerate(keys)]
    assert place.backend.get_many(keys) == expected


def test_keys_of_any_bytes(place: Place) -> None:
    key = uuid.uuid4().bytes + ALL_BYTES
    place.backend.set_many({key: b"value"}, ttl_seconds=60)
    assert place.backend.get_many([key, key[:-1]]) == [b"value", None]


# Under VectorCache


def test_vectors_come_back_bit_for_bit(place: Place) -> None:
    cache, counts = place.cache(), CacheCounts()
    first, second, missing = (cache.key("t", (number,)) for number in range(3))
    cache.set_many({first: VECTOR, second: VECTOR[::-1].copy()}, counts)
    found = cache.get_many([missing, second, first], counts)
    assert {key: vector.tobytes() for key, vector in found.items()} == {
        first: VECTOR.tobytes(),
        second: VECTOR[::-1].tobytes(),
    }
    assert counts == CacheCounts()


def test_another_process_with_the_same_secret_finds_them_and_one_with_another_does_not(place: Place) -> None:
    counts = CacheCounts()
    writer = place.cache(secret=b"shared")
    ids = tuple(uuid.uuid4().bytes)
    writer.set_many({writer.key("t", ids): VECTOR}, counts)
    for reader, hits in (
        (place.cache(secret=b"shared"), 1),
        (place.cache(secret=b"other"), 0),
        (place.cache(secret=b"shared", space_id="other"), 0),
    ):
        assert len(reader.get_many([reader.key("t", ids)], counts)) == hits
    assert counts == CacheCounts()


@pytest.mark.parametrize("damage", [b"", b"rubbish", ALL_BYTES, b"EBV\x01\x01\x04\x00\x00\x00" + bytes(32)])
def test_what_others_wrote_under_a_key_is_a_counted_miss(place: Place, damage: bytes) -> None:
    cache, counts = place.cache(), CacheCounts()
    good, bad = cache.key("t", (1,)), cache.key("t", (2,))
    cache.set_many({good: VECTOR, bad: VECTOR}, counts)
    place.backend.set_many({bad: damage}, ttl_seconds=60)
    assert list(cache.get_many([bad, good], counts)) == [good]
    assert counts == CacheCounts(corrupt=1)


def test_vectors_expire(place: Place) -> None:
    counts = CacheCounts()
    secret = CacheSecret(uuid.uuid4().bytes)
    cache = VectorCache(place.backend, secret=secret, space_id="space", dimension=4, ttl_seconds=1)
    key = cache.key("t", (1,))
    cache.set_many({key: VECTOR}, counts)
    assert list(cache.get_many([key], counts)) == [key]
    place.wait(1.1)
    assert cache.get_many([key], counts) == {}
    assert counts == CacheCounts()
