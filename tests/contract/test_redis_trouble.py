"""Redis dead, silent, locked, full or lying: a miss within bounds, and never an error of a request."""

from __future__ import annotations

import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import redis

from embakery.breaker import Breaker
from embakery.cache import CacheBackend, CacheCounts, CacheSecret, VectorCache
from embakery.errors import CacheUnavailableError, ConfigurationError
from local.processes import LOOPBACK, ServerProcess, free_port
from storage.redis_backend import RedisBackend

VECTOR = np.array([1.0, 2.0], dtype=np.float32)
# By its own defaults redis-py takes 3.6 s for a refused and 59 s for a silent server. Ours end after 0.1 s if idle.
BOUND_SECONDS = 2.0


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def open_backend() -> Iterator[Callable[..., RedisBackend]]:
    opened: list[RedisBackend] = []

    def open_one(url: str, **options: object) -> RedisBackend:
        opened.append(RedisBackend(url, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield open_one
    for backend in opened:
        backend.close()


@pytest.fixture
def admin(own_redis: ServerProcess) -> Iterator[redis.Redis]:
    with redis.Redis(host=LOOPBACK, port=own_redis.port) as client:
        yield client


def make_cache(backend: CacheBackend, clock: Clock) -> VectorCache:
    return VectorCache(
        backend, secret=CacheSecret(b"s"), space_id="space", dimension=2, ttl_seconds=60, breaker=Breaker(clock=clock)
    )


def assert_unavailable(backend: CacheBackend) -> None:
    """Both calls end soon, with CacheUnavailableError and nothing else."""
    for call in (lambda: backend.get_many([b"key"]), lambda: backend.set_many({b"key": b"value"}, ttl_seconds=60)):
        started = time.monotonic()
        with pytest.raises(CacheUnavailableError):
            call()
        assert time.monotonic() - started < BOUND_SECONDS


def assert_spared(backend: CacheBackend) -> None:
    """Under VectorCache it is three counted misses, and then silence."""
    clock = Clock()
    cache, counts = make_cache(backend, clock), CacheCounts()
    key = cache.key("t", (1,))
    assert cache.get_many([key], counts) == {}
    cache.set_many({key: VECTOR}, counts)
    assert not cache.breaker.is_open
    assert cache.get_many([key], counts) == {}
    assert (cache.breaker.is_open, counts) == (True, CacheCounts(errors=3))
    cache.set_many({key: VECTOR}, counts)
    assert counts == CacheCounts(errors=3, skipped=1)
    clock.now += 5
    assert cache.get_many([key], counts) == {}
    assert counts == CacheCounts(errors=4, skipped=1)


def test_nobody_listens(open_backend: Callable[..., RedisBackend]) -> None:
    backend = open_backend(f"redis://{LOOPBACK}:{free_port()}")
    assert_unavailable(backend)
    assert_spared(backend)


def test_a_server_that_never_answers(open_backend: Callable[..., RedisBackend]) -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        backend = open_backend(f"redis://{LOOPBACK}:{silent.getsockname()[1]}")
        assert_unavailable(backend)
        assert_spared(backend)


@dataclass
class Answering:
    """A server that gives one answer to whatever it is asked, and hangs up; it counts how often."""

    port: int
    asked: int = 0


@contextmanager
def answering(answer: bytes) -> Iterator[Answering]:
    """Run such a server."""
    with socket.create_server((LOOPBACK, 0)) as listening:
        listening.settimeout(0.05)
        server = Answering(int(listening.getsockname()[1]))
        stopped = threading.Event()

        def serve() -> None:
            while not stopped.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                server.asked += 1
                with connection:
                    connection.settimeout(1)
                    try:
                        connection.recv(65536)
                        connection.sendall(answer)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server
        finally:
            stopped.set()
            thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="hangs up"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="http"),
        pytest.param(b"-\xff\xfe not unicode\r\n", id="error in other bytes"),
        pytest.param(b"-LOADING Redis is loading the dataset in memory\r\n", id="loading"),
        pytest.param(b"*1\r\n$1000\r\ncut", id="cut short"),
        pytest.param(b":not-a-number\r\n" * 9, id="broken number"),
        pytest.param(b"%1\r\n*1\r\n:1\r\n:1\r\n" * 9, id="an array as a map's key"),
        pytest.param(b"*1\r\n" * 9000, id="nested too deeply"),
        pytest.param(b"*99999999999\r\n", id="as many values as nobody has"),
    ],
)
def test_a_server_that_is_no_redis(open_backend: Callable[..., RedisBackend], answer: bytes) -> None:
    with answering(answer) as server:
        assert_unavailable(open_backend(f"redis://{LOOPBACK}:{server.port}"))


def test_nothing_is_tried_twice(open_backend: Callable[..., RedisBackend]) -> None:
    """Patient, so that the count is of tries and not of what a busy machine was in time to accept."""
    with answering(b"") as server:
        backend = open_backend(f"redis://{LOOPBACK}:{server.port}", timeout_seconds=5)
        with pytest.raises(CacheUnavailableError):
            backend.get_many([b"key"])
        assert server.asked == 1
        with pytest.raises(CacheUnavailableError):
            backend.set_many({b"key": b"value"}, ttl_seconds=60)
        assert server.asked == 2


def test_killed_between_two_calls_and_started_again(
    own_redis: ServerProcess, open_backend: Callable[..., RedisBackend]
) -> None:
    # Patient where it serves: only the failing calls are under test here.
    clock = Clock()
    backend = open_backend(f"redis://{own_redis.address}", timeout_seconds=1)
    cache, counts = make_cache(backend, clock), CacheCounts()
    key = cache.key("t", (1,))
    cache.set_many({key: VECTOR}, counts)
    assert list(cache.get_many([key], counts)) == [key]
    own_redis.kill()
    assert_unavailable(backend)
    for _ in range(4):
        assert cache.get_many([key], counts) == {}
    assert (counts, cache.breaker.is_open) == (CacheCounts(errors=3, skipped=1), True)
    own_redis.restart()
    clock.now += 5
    # It keeps nothing: a miss, not an error; and from then on it serves.
    assert cache.get_many([key], counts) == {}
    cache.set_many({key: VECTOR}, counts)
    assert list(cache.get_many([key], counts)) == [key]
    assert (counts, cache.breaker.is_open) == (CacheCounts(errors=3, skipped=1), False)


def test_a_restart_that_nobody_noticed_costs_one_error_at_most(
    own_redis: ServerProcess, open_backend: Callable[..., RedisBackend]
) -> None:
    backend = open_backend(f"redis://{own_redis.address}", timeout_seconds=1)
    cache, counts = make_cache(backend, Clock()), CacheCounts()
    key = cache.key("t", (1,))
    cache.set_many({key: VECTOR}, counts)
    own_redis.restart()
    cache.get_many([key], counts)
    cache.set_many({key: VECTOR}, counts)
    assert list(cache.get_many([key], counts)) == [key]
    assert counts.errors <= 1


def test_a_hung_server_answers_nothing_to_the_wrong_question(
    own_redis: ServerProcess, admin: redis.Redis, open_backend: Callable[..., RedisBackend]
) -> None:
    """A late answer on a pooled connection must not be taken for the next one's."""
    backend = open_backend(f"redis://{own_redis.address}", timeout_seconds=0.2)
    cache, counts = make_cache(backend, Clock()), CacheCounts()
    first, second = cache.key("t", (1,)), cache.key("t", (2,))
    cache.set_many({first: VECTOR, second: VECTOR[::-1].copy()}, counts)
    admin.client_pause(500)
    assert cache.get_many([first], counts) == {}
    time.sleep(0.5)
    found = cache.get_many([second], counts)
    assert {key: vector.tolist() for key, vector in found.items()} == {second: [2.0, 1.0]}
    assert counts == CacheCounts(errors=1)


def test_a_password_that_was_not_given(
    own_redis: ServerProcess, admin: redis.Redis, open_backend: Callable[..., RedisBackend]
) -> None:
    admin.config_set("requirepass", "open sesame/1")
    assert_unavailable(open_backend(f"redis://{own_redis.address}"))
    assert_unavailable(open_backend(f"redis://:wrong@{own_redis.address}"))
    assert_unavailable(open_backend(f"redis://nobody:open%20sesame%2F1@{own_redis.address}"))
    backend = open_backend(f"redis://:open%20sesame%2F1@{own_redis.address}", timeout_seconds=5)
    backend.set_many({b"key": b"value"}, ttl_seconds=60)
    assert backend.get_many([b"key"]) == [b"value"]


def test_credentials_sign_in_as_a_user(
    own_redis: ServerProcess, admin: redis.Redis, open_backend: Callable[..., RedisBackend]
) -> None:
    admin.acl_setuser(
        "worker", enabled=True, passwords=["+a-token"], keys=["embakery:*"], commands=["+mget", "+set", "+ping"]
    )
    credentials = redis.UsernamePasswordCredentialProvider("worker", "a-token")
    url = f"redis://{own_redis.address}"
    backend = open_backend(url, credentials=credentials, timeout_seconds=5)
    backend.set_many({b"embakery:1": b"value"}, ttl_seconds=60)
    assert backend.get_many([b"embakery:1"]) == [b"value"]
    # What the user may not touch is trouble, too.
    assert_unavailable(backend)
    assert_unavailable(open_backend(url, credentials=redis.UsernamePasswordCredentialProvider("worker", "an-old-one")))


def test_a_full_server_still_reads(
    own_redis: ServerProcess, admin: redis.Redis, open_backend: Callable[..., RedisBackend]
) -> None:
    backend = open_backend(f"redis://{own_redis.address}", timeout_seconds=5)
    backend.set_many({b"key": b"value"}, ttl_seconds=60)
    admin.config_set("maxmemory", "1")
    with pytest.raises(CacheUnavailableError):
        backend.set_many({b"other": b"value"}, ttl_seconds=60)
    assert backend.get_many([b"key", b"other"]) == [b"value", None]


def test_a_key_of_another_type_is_a_miss_and_can_be_overwritten(
    own_redis: ServerProcess, admin: redis.Redis, open_backend: Callable[..., RedisBackend]
) -> None:
    backend = open_backend(f"redis://{own_redis.address}", timeout_seconds=5)
    cache, counts = make_cache(backend, Clock()), CacheCounts()
    bad, good = cache.key("t", (1,)), cache.key("t", (2,))
    cache.set_many({good: VECTOR}, counts)
    admin.rpush(bad, b"a list")
    assert list(cache.get_many([bad, good], counts)) == [good]
    cache.set_many({bad: VECTOR}, counts)
    assert list(cache.get_many([bad, good], counts)) == [bad, good]
    assert counts == CacheCounts()


def test_every_key_has_a_ttl(
    own_redis: ServerProcess, admin: redis.Redis, open_backend: Callable[..., RedisBackend]
) -> None:
    cache = make_cache(open_backend(f"redis://{own_redis.address}", timeout_seconds=5), Clock())
    cache.set_many({cache.key("t", (number,)): VECTOR for number in range(10)}, CacheCounts())
    keys = list(admin.scan_iter())
    assert len(keys) == 10
    assert {50 < int(admin.ttl(key)) <= 60 for key in keys} == {True}


def test_a_batch_is_one_round_trip(
    own_redis: ServerProcess, admin: redis.Redis, open_backend: Callable[..., RedisBackend]
) -> None:
    backend = open_backend(f"redis://{own_redis.address}", timeout_seconds=5)
    with admin.monitor() as monitor:  # type: ignore[no-untyped-call]
        backend.set_many({b"a": b"1", b"b": b"2"}, ttl_seconds=60)
        backend.get_many([b"a", b"b", b"c"])
        seen: list[str] = []
        while "MGET a b c" not in seen:
            seen.append(monitor.next_command()["command"])
    # The first call on a connection agrees on a protocol; a client's name is not worth another round trip.
    assert [command for command in seen if command != "HELLO 3"] == ["SET a 1 EX 60", "SET b 2 EX 60", "MGET a b c"]


@pytest.mark.parametrize(
    "url",
    ["", "localhost:6379", "http://localhost", "redis:/localhost", "redis://:canary/tail@localhost:6379"],
)
def test_a_url_that_cannot_be_read_is_a_configuration_error_which_does_not_quote_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RedisBackend(url)
    assert str(caught.value).startswith("EMBAKERY_REDIS_URL: must be redis:// or rediss://")
    assert "canary" not in "".join(traceback.format_exception(caught.value))
