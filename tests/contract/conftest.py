"""The servers that the contracts are tried on: started once, on free loopback ports."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from emulated_aws import emulated_aws
from postgres_server import NoPostgresError, PostgresServer

from local.errors import ServerStartError
from local.processes import ServerProcess
from local.resources import AwsClients
from local.servers import start_redis


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsClients]:
    with emulated_aws(tmp_path_factory.mktemp("ministack")) as clients:
        clients.s3.create_bucket(Bucket="contract")
        yield clients


@pytest.fixture(scope="session")
def shared_redis(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for tests which leave it as it is."""
    server = start_redis(tmp_path_factory.mktemp("redis"), executable=redis_server)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_in_slots(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server in cluster mode that holds every slot: what ElastiCache Serverless looks like to a client."""
    folder = tmp_path_factory.mktemp("redis-in-slots")
    in_slots = folder / "redis-server-in-slots"
    in_slots.write_text(f'#!/bin/sh\nexec {redis_server} "$@" --cluster-enabled yes\n')
    in_slots.chmod(0o755)
    server = start_redis(folder, executable=str(in_slots))
    with redis.Redis.from_url(f"redis://{server.address}") as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        deadline = time.monotonic() + 30
        while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok" and time.monotonic() < deadline:
            time.sleep(0.01)
    yield server
    server.stop()


@pytest.fixture
def own_redis(redis_server: str, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server for a test which changes its settings or ends it."""
    server = start_redis(tmp_path, executable=redis_server)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A Postgres with pgvector. Without one tests skip, but in CI they fail."""
    try:
        server = PostgresServer()
    except (NoPostgresError, ServerStartError) as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no Postgres: {error}")
        pytest.skip(f"no Postgres: {error}")
    yield server
    server.stop()


@pytest.fixture
def own_postgres(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server for a test which ends it. After the shared one, so that it skips or fails alike."""
    server = PostgresServer()
    yield server
    server.stop()
