"""Each fault of the proxy before Redis, with a real server behind it and the project's own client before it."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis
from redis_proxy import FaultyRedis, Mode

from embakery.errors import CacheUnavailableError
from local.processes import LOOPBACK, ServerProcess
from local.servers import start_redis
from storage.redis_backend import RedisBackend


@pytest.fixture(scope="module")
def target(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = start_redis(tmp_path_factory.mktemp("redis"), executable=redis_server)
    yield server
    server.stop()


@pytest.fixture
def proxy(target: ServerProcess) -> Iterator[FaultyRedis]:
    with redis.Redis(host=LOOPBACK, port=target.port) as client:
        client.flushall()
    with FaultyRedis(target.port, seed=1) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: FaultyRedis) -> Iterator[Callable[..., RedisBackend]]:
    """Backends before the proxy, patient unless told otherwise: a busy machine is no fault."""
    opened: list[RedisBackend] = []

    def open_one(timeout_seconds: float = 5) -> RedisBackend:
        opened.append(RedisBackend(proxy.url, timeout_seconds=timeout_seconds))
        return opened[-1]

    yield open_one
    for backend in opened:
        backend.close()


Connect = Callable[..., RedisBackend]


def store(backend: RedisBackend, key: bytes, value: bytes = b"value") -> None:
    backend.set_many({key: value}, ttl_seconds=60)


def test_off_passes_everything_through(proxy: FaultyRedis, connect: Connect) -> None:
    backend = connect()
    values = {b"key-%d" % number: bytes([number]) * 20_000 for number in range(100)}
    backend.set_many(values, ttl_seconds=60)
    assert backend.get_many([*values, b"other"]) == [*values.values(), None]
    assert proxy.injected.total() == 0


@pytest.mark.parametrize(
    ("mode", "carried_out"),
    [
        (Mode.REFUSED, False),
        (Mode.SILENT, False),
        (Mode.SLOW, True),
        (Mode.NOAUTH, False),
        (Mode.OOM, False),
        (Mode.RESET_MID_REPLY, True),
        (Mode.GARBAGE, False),
    ],
)
def test_a_mode_meets_open_connections_and_new_ones_and_goes_away(
    proxy: FaultyRedis, connect: Connect, mode: Mode, carried_out: bool
) -> None:
    opened = connect(0.2)
    store(opened, b"before")
    proxy.switch(mode, delay_seconds=1)
    with pytest.raises(CacheUnavailableError):
        store(opened, b"during")
    counted = proxy.injected[mode]
    assert counted == 1
    with pytest.raises(CacheUnavailableError):
        store(connect(0.2), b"elsewhere")
    # Who is refused by the kernel is not seen.
    assert (proxy.injected[mode] > counted) is (mode is not Mode.REFUSED)
    proxy.switch(Mode.OFF)
    after = connect()
    assert after.get_many([b"before", b"during"]) == [b"value", b"value" if carried_out else None]


@pytest.mark.parametrize("mode", [Mode.REFUSED, Mode.SILENT, Mode.SLOW, Mode.NOAUTH, Mode.RESET_MID_REPLY])
def test_reads_meet_it_too(proxy: FaultyRedis, connect: Connect, mode: Mode) -> None:
    backend = connect(0.2)
    assert backend.get_many([b"key"]) == [None]
    proxy.switch(mode, delay_seconds=1)
    with pytest.raises(CacheUnavailableError):
        backend.get_many([b"key"])


def test_a_refusing_proxy_keeps_its_port(proxy: FaultyRedis, connect: Connect) -> None:
    for _ in range(3):
        proxy.switch(Mode.REFUSED)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, proxy.port), timeout=5)
        proxy.switch(Mode.OFF)
        assert connect().get_many([b"key"]) == [None]


def test_oom_still_reads(proxy: FaultyRedis, connect: Connect) -> None:
    backend = connect()
    store(backend, b"key")
    proxy.switch(Mode.OOM)
    with pytest.raises(CacheUnavailableError, match="OutOfMemoryError"):
        store(backend, b"other")
    assert backend.get_many([b"key", b"other"]) == [b"value", None]


def test_wrong_types_come_in_turn_and_spare_the_handshake(proxy: FaultyRedis) -> None:
    proxy.switch(Mode.WRONG_TYPE)
    with redis.Redis(port=proxy.port) as client:
        assert client.ping()
        assert client.execute_command("GET", "key") == 1
        with pytest.raises(redis.ResponseError, match="wrong kind of value"):
            client.execute_command("GET", "key")
    assert proxy.injected == {Mode.WRONG_TYPE: 2}


@pytest.mark.parametrize("mode", [Mode.WRONG_TYPE, Mode.GARBAGE])
def test_an_answer_of_another_shape_is_trouble_of_the_cache(proxy: FaultyRedis, connect: Connect, mode: Mode) -> None:
    for _ in range(60):
        proxy.switch(Mode.OFF)
        backend = connect(0.05)
        backend.get_many([b"key"])
        proxy.switch(mode)
        try:
            values = backend.get_many([b"key", b"other"])
        except CacheUnavailableError:
            continue
        assert len(values) == 2


def test_slow_delays_each_answer_once_however_many_there_are(proxy: FaultyRedis, connect: Connect) -> None:
    backend = connect()
    backend.get_many([b"key"])
    proxy.switch(Mode.SLOW, delay_seconds=0.2)
    began = time.monotonic()
    backend.set_many({b"%d" % number: b"value" for number in range(20)}, ttl_seconds=60)
    assert 0.2 <= time.monotonic() - began < 2
    assert proxy.injected == {Mode.SLOW: 20}


def test_a_switch_ends_the_waiting(proxy: FaultyRedis, connect: Connect) -> None:
    backend = connect(20)
    backend.get_many([b"key"])
    proxy.switch(Mode.SLOW, delay_seconds=30)
    threading.Timer(0.1, proxy.switch, (Mode.OFF,)).start()
    began = time.monotonic()
    assert backend.get_many([b"key"]) == [None]
    assert time.monotonic() - began < 10


def test_a_connection_that_fell_silent_answers_nothing_later(proxy: FaultyRedis) -> None:
    with socket.create_connection((LOOPBACK, proxy.port), timeout=0.3) as client:
        proxy.switch(Mode.SILENT)
        client.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            client.recv(1)
        proxy.switch(Mode.OFF)
        client.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_half_an_answer_and_a_reset(proxy: FaultyRedis) -> None:
    proxy.switch(Mode.RESET_MID_REPLY)
    with socket.create_connection((LOOPBACK, proxy.port), timeout=5) as client:
        client.sendall(b"*2\r\n$4\r\nECHO\r\n$8\r\nabcdefgh\r\n")
        assert client.recv(64) == b"$8\r\nabc"
        with pytest.raises(ConnectionResetError):
            client.recv(64)


def test_switching_at_random_under_load_leaves_a_proxy_that_serves(proxy: FaultyRedis, connect: Connect) -> None:
    stopped, wrong = threading.Event(), list[object]()

    def work(number: int) -> None:
        backend, key = connect(0.05), b"%d" % number
        while not stopped.is_set():
            try:
                store(backend, key, key)
                if (values := backend.get_many([key])) not in ([key], [None], []):
                    wrong.append(values)
            except (CacheUnavailableError, TypeError):
                continue

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    source = random.Random(7)
    for _ in range(100):
        # Garbage and wrong types may look like any value.
        proxy.switch(source.choice([mode for mode in Mode if mode not in (Mode.GARBAGE, Mode.WRONG_TYPE)]))
        time.sleep(0.02)
    stopped.set()
    for thread in threads:
        thread.join()
    proxy.switch(Mode.OFF)
    store(connect(), b"key")
    assert wrong == []
    assert len([mode for mode, count in proxy.injected.items() if count]) >= 5
