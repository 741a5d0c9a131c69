"""The two child servers of the system: ministack for AWS, and Redis. Neither keeps anything after it ends."""

from __future__ import annotations

import http.client
import importlib.metadata
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from local.environment import REGION, base_environment
from local.processes import LOOPBACK, ServerProcess, ServerSpec, start_server

_PROBE_TIMEOUT_SECONDS = 1.0


def start_ministack(folder: Path) -> ServerProcess:
    """Start the AWS emulator on a free port; all its files go to `folder`. Raises ServerStartError."""
    version = importlib.metadata.version("ministack")
    spec = ServerSpec(
        name="ministack",
        description=f"ministack {version}",
        command=lambda _port: [sys.executable, "-m", "ministack"],
        environment=lambda port: _ministack_environment(folder, port),
        answers=_ministack_answers,
    )
    return start_server(spec, folder=folder)


def start_redis(folder: Path, *, port: int | None = None, executable: str | None = None) -> ServerProcess:
    """Start Redis without persistence: `executable`, else `redis-server` from PATH, else fakeredis over TCP.

    Raises ServerStartError.
    """
    found = executable or shutil.which("redis-server")
    spec = _fake_redis_spec() if found is None else _redis_spec(found, folder)
    return start_server(spec, folder=folder, port=port)


def start_fake_redis(folder: Path, *, port: int | None = None) -> ServerProcess:
    """Start fakeredis over TCP whatever is on PATH. Raises ServerStartError."""
    return start_server(_fake_redis_spec(), folder=folder, port=port)


def _ministack_environment(folder: Path, port: int) -> Mapping[str, str]:
    # Its own switches in the developer's shell (persistence, TLS, authentication, a service filter) must not leak in.
    switches = ("PERSIST_STATE", "S3_PERSIST", "LOCALSTACK_PERSISTENCE", "USE_SSL", "AUTH", "SERVICES", "EDGE_PORT")
    inherited = {name: value for name, value in base_environment(os.environ).items() if name not in switches}
    return inherited | {
        "BIND_HOST": LOOPBACK,
        "MINISTACK_HOST": LOOPBACK,
        "GATEWAY_PORT": str(port),
        "MINISTACK_REGION": REGION,
        "TMPDIR": str(folder),
        "STATE_DIR": str(folder / "ministack-state"),
        "S3_DATA_DIR": str(folder / "ministack-s3"),
        # Both would listen on fixed ports.
        "SFTP_ENABLED": "0",
        "IOT_MTLS_ENABLED": "0",
        # At its start ministack removes the containers of every other ministack that the Docker daemon knows.
        "DOCKER_HOST": f"unix://{folder}/no-docker.sock",
        "LOG_LEVEL": "WARNING",
    }


def _ministack_answers(port: int) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_PROBE_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/_ministack/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _redis_spec(executable: str, folder: Path) -> ServerSpec:
    options = {"--bind": LOOPBACK, "--dir": str(folder), "--save": "", "--appendonly": "no", "--daemonize": "no"}
    arguments = [part for option in options.items() for part in option]
    return ServerSpec(
        name="redis",
        description=f"redis-server {_redis_version(executable)}",
        command=lambda port: [executable, "--port", str(port), *arguments],
        environment=lambda _port: base_environment(os.environ),
        answers=_redis_answers,
    )


def _fake_redis_spec() -> ServerSpec:
    return ServerSpec(
        name="redis",
        description=f"fakeredis {importlib.metadata.version('fakeredis')}",
        command=lambda port: [sys.executable, "-m", "local.fake_redis", str(port)],
        environment=lambda _port: base_environment(os.environ),
        answers=_redis_answers,
    )


def _redis_version(executable: str) -> str:
    try:
        answer = subprocess.run(  # noqa: S603 - asks the server found on PATH for its version
            [executable, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "of unknown version"
    match = re.search(r"v=(\S+)", answer.stdout)
    return match.group(1) if match else "of unknown version"


def _redis_answers(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=_PROBE_TIMEOUT_SECONDS) as connection:
            connection.sendall(b"*1\r\n$4\r\nPING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
