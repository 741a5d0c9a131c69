"""Keys, framing, breaker and counts of the vector cache, on a backend that fails when it is told."""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from unit_fakes import FakeBackend, FakeClock

from embakery.breaker import Breaker
from embakery.cache import CacheCounts, CacheSecret, MemoryBackend, VectorCache
from embakery.vectors import Vector

SECRET = b"a secret of the deployment"
VECTOR = np.array([1.5, -2.0, 0.25], dtype=np.float32)
OTHER = np.array([0.5, 0.5, 0.5], dtype=np.float32)


def make(
    backend: FakeBackend | MemoryBackend | None = None,
    *,
    secret: bytes = SECRET,
    space_id: str = "space",
    dimension: int = 3,
    breaker: Breaker | None = None,
) -> VectorCache:
    return VectorCache(
        backend or FakeBackend(),
        secret=CacheSecret(secret),
        space_id=space_id,
        dimension=dimension,
        ttl_seconds=60,
        breaker=breaker,
    )


def framed(vector: Vector = VECTOR, *, cache: VectorCache, backend: FakeBackend) -> bytes:
    """The value that the cache writes for the token ids (1, 2)."""
    cache.set_many({cache.key("t", (1, 2)): vector}, CacheCounts())
    return backend.values[cache.key("t", (1, 2))]


# Keys


def test_the_key_is_an_hmac_over_length_prefixed_fields() -> None:
    message = (
        b"\x10\x00\x00\x00embakery/cache/1"
        b"\x04\x00\x00\x00acme"
        b"\x05\x00\x00\x00space"
        b"\x0c\x00\x00\x00\x01\x00\x00\x00\x00\x01\x00\x00\x70\x11\x01\x00"
    )
    expected = hmac.new(SECRET, message, hashlib.sha256).hexdigest()
    assert make().key("acme", (1, 256, 70_000)) == b"embakery:" + expected.encode()


def test_equal_content_has_an_equal_key() -> None:
    assert make().key("acme", (1, 2)) == make().key("acme", (1, 2))


def test_the_key_differs_by_secret_tenant_space_and_ids() -> None:
    keys = [
        make().key("acme", (1, 2)),
        make(secret=b"another").key("acme", (1, 2)),
        make().key("other", (1, 2)),
        make().key("", (1, 2)),
        make(space_id="other").key("acme", (1, 2)),
        make().key("acme", (2, 1)),
        make().key("acme", (1,)),
        make().key("acme", (1, 2, 0)),
        make().key("acme", (513,)),
        make().key("acme", ()),
    ]
    assert len(set(keys)) == len(keys)


def test_fields_cannot_run_into_one_another() -> None:
    assert make(space_id="c").key("ab", (1,)) != make(space_id="bc").key("a", (1,))
    # A tenant that ends in what a space and its tokens would be.
    assert make(space_id="").key("a\x01", (1,)) != make(space_id="\x01").key("a", (1,))


@given(
    st.tuples(st.text(max_size=5), st.text(max_size=5), st.lists(st.integers(0, 2**31 - 1), max_size=4)),
    st.tuples(st.text(max_size=5), st.text(max_size=5), st.lists(st.integers(0, 2**31 - 1), max_size=4)),
)
def test_different_content_has_different_keys(
    first: tuple[str, str, list[int]], second: tuple[str, str, list[int]]
) -> None:
    keys = [make(space_id=space).key(tenant, tuple(ids)) for tenant, space, ids in (first, second)]
    assert (keys[0] == keys[1]) == (first == second)


def test_the_key_shows_nothing_of_the_content() -> None:
    key = make().key("acme", (1, 2))
    assert len(key) == len(b"embakery:") + 64
    assert b"acme" not in key


def test_the_secret_is_never_shown() -> None:
    secret = CacheSecret(b"hush")
    assert "hush" not in f"{secret!r} {secret!s} {make(secret=b'hush')!r}"
    assert repr(secret) == "CacheSecret()"


# Framing


def test_a_value_is_magic_version_dtype_dimension_payload_and_mac() -> None:
    backend = FakeBackend()
    cache = make(backend)
    value = framed(cache=cache, backend=backend)
    body = b"EBV\x01\x01\x03\x00\x00\x00" + VECTOR.astype("<f4").tobytes()
    assert value[:-16] == body
    key = cache.key("t", (1, 2))
    expected = hmac.new(SECRET, b"value" + len(key).to_bytes(4, "little") + key + body, hashlib.sha256).digest()
    assert value[-16:] == expected[:16]


@given(hnp.arrays(np.float32, 3, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)).filter(np.any))
def test_a_hit_has_the_bits_that_were_put(vector: Vector) -> None:
    cache, counts = make(), CacheCounts()
    key = cache.key("t", (1, 2))
    cache.set_many({key: vector}, counts)
    found = cache.get_many([key], counts)[key]
    assert found.dtype == np.float32
    assert found.tobytes() == vector.tobytes()
    assert counts == CacheCounts()


@given(st.data())
def test_any_mutation_of_a_value_is_refused(data: st.DataObject) -> None:
    backend = FakeBackend()
    cache, counts = make(backend), CacheCounts()
    key, value = cache.key("t", (1, 2)), framed(cache=cache, backend=backend)
    start = data.draw(st.integers(0, len(value)))
    end = data.draw(st.integers(start, len(value)))
    changed = value[:start] + data.draw(st.binary(max_size=8)) + value[end:]
    backend.values[key] = changed
    assert (key in cache.get_many([key], counts)) == (changed == value)
    assert counts == CacheCounts(corrupt=int(changed != value))


def test_every_flipped_bit_is_refused() -> None:
    backend = FakeBackend()
    cache, counts = make(backend), CacheCounts()
    key, value = cache.key("t", (1, 2)), framed(cache=cache, backend=backend)
    for bit in range(8 * len(value)):
        flipped = bytearray(value)
        flipped[bit // 8] ^= 1 << bit % 8
        backend.values[key] = bytes(flipped)
        assert cache.get_many([key], counts) == {}
    assert counts == CacheCounts(corrupt=8 * len(value))


def test_values_swapped_between_keys_are_refused() -> None:
    backend = FakeBackend()
    cache, counts = make(backend), CacheCounts()
    first, second = cache.key("t", (1,)), cache.key("t", (2,))
    cache.set_many({first: VECTOR, second: OTHER}, counts)
    backend.values[first], backend.values[second] = backend.values[second], backend.values[first]
    assert cache.get_many([first, second], counts) == {}
    assert counts == CacheCounts(corrupt=2)


def test_a_value_of_another_secret_is_refused() -> None:
    backend = FakeBackend()
    key = make().key("t", (1,))
    make(backend, secret=b"another").set_many({key: VECTOR}, CacheCounts())
    counts = CacheCounts()
    assert make(backend).get_many([key], counts) == {}
    assert counts == CacheCounts(corrupt=1)


@pytest.mark.parametrize("dimension", [2, 4])
def test_a_rightly_signed_value_of_another_dimension_is_refused(dimension: int) -> None:
    backend = FakeBackend()
    key = make().key("t", (1,))
    make(backend, dimension=dimension).set_many({key: np.ones(dimension, dtype=np.float32)}, CacheCounts())
    counts = CacheCounts()
    assert make(backend).get_many([key], counts) == {}
    assert counts == CacheCounts(corrupt=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_rightly_signed_value_that_must_not_leave_is_refused(value: float) -> None:
    cache, counts = make(), CacheCounts()
    key = cache.key("t", (1,))
    cache.set_many({key: np.full(3, value, dtype=np.float32)}, counts)
    assert cache.get_many([key], counts) == {}
    assert counts == CacheCounts(corrupt=1)


def test_a_corrupt_value_harms_no_neighbour() -> None:
    backend = FakeBackend()
    cache, counts = make(backend), CacheCounts()
    keys = [cache.key("t", (number,)) for number in range(4)]
    cache.set_many({keys[0]: VECTOR, keys[1]: VECTOR, keys[3]: OTHER}, counts)
    backend.values[keys[1]] = b"rubbish"
    found = cache.get_many(keys, counts)
    assert {key: vector.tolist() for key, vector in found.items()} == {keys[0]: [1.5, -2.0, 0.25], keys[3]: [0.5] * 3}
    assert counts == CacheCounts(corrupt=1)


# Round trips


def test_a_batch_is_one_call_and_carries_the_ttl() -> None:
    backend = FakeBackend()
    cache, counts = make(backend), CacheCounts()
    keys = [cache.key("t", (number,)) for number in range(5)]
    cache.set_many(dict.fromkeys(keys, VECTOR), counts)
    cache.get_many(keys, counts)
    assert (backend.calls, backend.ttls) == (["set", "get"], [60])


def test_nothing_to_do_is_no_call() -> None:
    backend = FakeBackend()
    cache, counts = make(backend), CacheCounts()
    assert cache.get_many([], counts) == {}
    cache.set_many({}, counts)
    assert (backend.calls, counts) == ([], CacheCounts())


def test_values_in_memory_expire() -> None:
    clock = FakeClock()
    cache, counts = make(MemoryBackend(clock)), CacheCounts()
    key = cache.key("t", (1,))
    cache.set_many({key: VECTOR}, counts)
    clock.now += 59.9
    assert key in cache.get_many([key], counts)
    clock.now += 0.1
    assert cache.get_many([key], counts) == {}
    assert counts == CacheCounts()


# A backend in trouble


def test_trouble_is_a_miss_and_is_counted_until_the_breaker_spares_it() -> None:
    backend, clock = FakeBackend(is_down=True), FakeClock()
    cache, counts = make(backend, breaker=Breaker(clock=clock)), CacheCounts()
    key = cache.key("t", (1,))
    for _ in range(2):
        assert cache.get_many([key], counts) == {}
    cache.set_many({key: VECTOR}, counts)
    assert (counts, cache.breaker.is_open) == (CacheCounts(errors=3), True)
    assert cache.get_many([key], counts) == {}
    cache.set_many({key: VECTOR}, counts)
    assert counts == CacheCounts(errors=3, skipped=2)
    assert backend.calls == ["get", "get", "set"]


def test_the_cache_serves_again_when_the_backend_is_back() -> None:
    backend, clock = FakeBackend(), FakeClock()
    cache, counts = make(backend, breaker=Breaker(clock=clock)), CacheCounts()
    key = cache.key("t", (1,))
    cache.set_many({key: VECTOR}, counts)
    backend.is_down = True
    for _ in range(3):
        cache.get_many([key], counts)
    backend.is_down = False
    assert cache.get_many([key], counts) == {}
    clock.now += 5
    assert key in cache.get_many([key], counts)
    assert cache.breaker.is_open is False
    assert counts == CacheCounts(errors=3, skipped=1)


def test_a_success_between_failures_keeps_the_breaker_closed() -> None:
    backend = FakeBackend()
    cache, counts = make(backend), CacheCounts()
    for is_down in (True, True, False, True, True):
        backend.is_down = is_down
        cache.get_many([b"key"], counts)
    assert (counts, cache.breaker.is_open) == (CacheCounts(errors=4), False)


# The breaker alone


def opened(clock: FakeClock) -> Breaker:
    breaker = Breaker(clock=clock)
    for _ in range(3):
        breaker.failed()
    return breaker


def test_the_breaker_opens_at_the_third_failure_in_a_row() -> None:
    breaker = Breaker(clock=FakeClock())
    breaker.failed()
    breaker.failed()
    assert (breaker.allows(), breaker.is_open) == (True, False)
    breaker.failed()
    assert (breaker.allows(), breaker.is_open) == (False, True)


def test_after_five_seconds_the_breaker_lets_one_call_through() -> None:
    clock = FakeClock()
    breaker = opened(clock)
    clock.now += 4.999
    assert breaker.allows() is False
    clock.now += 0.001
    assert [breaker.allows(), breaker.allows(), breaker.allows()] == [True, False, False]


def test_a_success_closes_the_breaker_and_forgets_the_failures() -> None:
    clock = FakeClock()
    breaker = opened(clock)
    clock.now += 5
    assert breaker.allows()
    breaker.succeeded()
    assert [breaker.allows(), breaker.allows(), breaker.is_open] == [True, True, False]
    breaker.failed()
    breaker.failed()
    assert breaker.allows()


def test_one_more_failure_opens_the_half_open_breaker_again() -> None:
    clock = FakeClock()
    breaker = opened(clock)
    clock.now += 5
    assert breaker.allows()
    clock.now += 1
    breaker.failed()
    clock.now += 4.999
    assert breaker.allows() is False
    clock.now += 0.001
    assert breaker.allows() is True


def test_a_caller_that_never_comes_back_does_not_keep_the_breaker_open() -> None:
    clock = FakeClock()
    breaker = opened(clock)
    clock.now += 5
    assert breaker.allows()
    clock.now += 5
    assert [breaker.allows(), breaker.allows()] == [True, False]
