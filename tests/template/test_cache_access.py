"""The created cache's user may do what the backend does, and nothing else: tried on a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from redis.credentials import UsernamePasswordCredentialProvider
from template_source import load_template

from embakery.errors import CacheUnavailableError
from local.servers import start_redis
from storage.redis_backend import RedisBackend

USER, PASSWORD = "embakery", "of this test"
CREDENTIALS = UsernamePasswordCredentialProvider(USER, PASSWORD)


@pytest.fixture(scope="module")
def url(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on which the template's user is the only one."""
    access = load_template()["Resources"]["CacheUser"]["Properties"]["AccessString"].split()
    server = start_redis(tmp_path_factory.mktemp("redis"), executable=redis_server)
    try:
        with redis.Redis(port=server.port) as admin:
            admin.execute_command("ACL", "SETUSER", USER, f">{PASSWORD}", *access)
            admin.execute_command("ACL", "SETUSER", "default", "off")
        yield f"redis://{server.address}"
    finally:
        server.stop()


@pytest.fixture
def backend(url: str) -> Iterator[RedisBackend]:
    opened = RedisBackend(url, credentials=CREDENTIALS, timeout_seconds=2)
    yield opened
    opened.close()


def test_backend_reads_and_writes_with_these_rights(backend: RedisBackend) -> None:
    backend.set_many({b"embakery:a": b"1", b"embakery:b": b"2"}, ttl_seconds=60)
    assert backend.get_many([b"embakery:a", b"embakery:none", b"embakery:b"]) == [b"1", None, b"2"]


def test_keys_of_others_are_out_of_reach(backend: RedisBackend) -> None:
    with pytest.raises(CacheUnavailableError):
        backend.get_many([b"session:a"])
    with pytest.raises(CacheUnavailableError):
        backend.set_many({b"session:a": b"1"}, ttl_seconds=60)


@pytest.mark.parametrize("command", ["FLUSHALL", "KEYS *", "SCAN 0", "DEL embakery:a", "CONFIG GET *", "EVAL x 0"])
def test_other_commands_are_refused(url: str, command: str) -> None:
    with (
        redis.Redis.from_url(url, credential_provider=CREDENTIALS) as client,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        client.execute_command(*command.split())


def test_nobody_else_gets_in(url: str) -> None:
    with redis.Redis.from_url(url) as client, pytest.raises(redis.exceptions.AuthenticationError):
        client.get("embakery:a")
