"""Child servers: waited for, named when they fail, never outliving the parent."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from local_fakes import HANDLER_ENV, eventually
from redis.backoff import NoBackoff
from redis.retry import Retry

from local.environment import base_environment
from local.errors import ServerStartError
from local.processes import ServerProcess, ServerSpec, free_port, start_server
from local.servers import start_fake_redis, start_redis

STARTS: list[Callable[[Path], ServerProcess]] = [start_fake_redis]
if shutil.which("redis-server"):
    STARTS.append(start_redis)


def spec(script: str, *, answers: Callable[[int], bool] = lambda _port: False) -> ServerSpec:
    return ServerSpec(
        name="sample",
        description="a sample",
        command=lambda port: [sys.executable, "-c", textwrap.dedent(script), str(port)],
        environment=lambda _port: base_environment(os.environ),
        answers=answers,
    )


def connect(server: ServerProcess) -> redis.Redis:
    return redis.Redis(port=server.port, socket_timeout=5, retry=Retry(NoBackoff(), 0))


def is_gone(pid: int) -> bool:
    """Say whether the process has ended; a zombie has. A bare Debian has no ps, a Mac no /proc."""
    if Path("/proc/self/stat").exists():
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return state.strip() in ("", "Z", "Zs")


@pytest.mark.parametrize("start", STARTS)
def test_redis_serves_a_cache_stops_and_restarts_on_its_port(
    start: Callable[[Path], ServerProcess], tmp_path: Path
) -> None:
    server = start(tmp_path)
    try:
        with connect(server) as client:
            with client.pipeline(transaction=False) as pipeline:
                pipeline.set(b"a", b"\x00\xff", ex=60).set(b"b", b"2", ex=60).execute()
            assert client.mget([b"a", b"none", b"b"]) == [b"\x00\xff", None, b"2"]
        server.kill()
        assert not server.is_running()
        with connect(server) as client, pytest.raises(redis.ConnectionError):
            client.ping()
        server.restart()
        with connect(server) as client:
            assert client.get(b"a") is None
    finally:
        server.stop()
    assert not server.is_running()
    server.stop()
    assert [path.name for path in tmp_path.iterdir()] == ["redis.log"]


def test_a_server_that_ends_at_once_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(ServerStartError, match=r"(?s)sample \(a sample\) ended at once.*no such option"):
        start_server(spec("import sys; sys.exit('no such option')"), folder=tmp_path)


def test_a_server_that_does_not_answer_is_ended(tmp_path: Path) -> None:
    script = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(60)"
    with pytest.raises(ServerStartError, match=r"did not answer within 0\.5 s"):
        start_server(spec(script), folder=tmp_path, timeout_seconds=0.5)
    pids = [int(line) for line in (tmp_path / "sample.log").read_text().splitlines()]
    assert all(is_gone(pid) for pid in pids)


def test_a_server_that_ignores_term_is_killed(tmp_path: Path) -> None:
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('ready', 'w'); time.sleep(60)"
    script = f"import os; os.chdir({str(tmp_path)!r}); {script}"
    server = start_server(spec(script, answers=lambda _port: (tmp_path / "ready").exists()), folder=tmp_path)
    server.stop(timeout_seconds=0.2)
    assert not server.is_running()


def test_free_port_is_free() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port()))


PARENT = """
import sys, time
from pathlib import Path
from local.functions import LocalFunction
from local.servers import start_fake_redis
from local_fakes import LogLines
import threading

server = start_fake_redis(Path(sys.argv[1]))
function = LocalFunction("f", handler="sample_handlers.act", env={}, logs=LogLines())
function.warm()
pids = function.host_pids()
threading.Thread(target=function.invoke, args=({"do": "sleep", "seconds": 300},), daemon=True).start()
while function.statistics.invocations < 1:
    time.sleep(0.01)
print(server.pid, *pids, flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_child_outlives_a_killed_parent(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=os.environ | HANDLER_ENV
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert not any(is_gone(pid) for pid in pids)
        parent.send_signal(number)
    eventually(lambda: all(is_gone(pid) for pid in pids))
