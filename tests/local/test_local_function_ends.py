"""How processes of a function end: timeouts, crashes, kills and the closing of the host."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from local_fakes import MakeFunction, eventually

from local.errors import FunctionCrashedError, FunctionTimeoutError, InvocationError, ThrottledError
from local.functions import FunctionStatistics, LocalFunction


def test_a_timeout_kills_the_process_and_the_next_invocation_is_cold(make: MakeFunction) -> None:
    function = make("act", timeout_seconds=0.5)
    before = function.invoke({"do": "nothing"})["pid"]
    with pytest.raises(FunctionTimeoutError, match=r"timed out after 0\.50 seconds"):
        function.invoke({"do": "sleep", "seconds": 60})
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)
    assert function.invoke({"do": "nothing"})["pid"] != before
    assert function.statistics.timeouts == 1


@pytest.mark.parametrize(("deed", "status"), [("exit", "3"), ("kill", "-9")])
def test_a_crash_is_named_and_the_next_invocation_is_cold(make: MakeFunction, deed: str, status: str) -> None:
    function = make("act")
    with pytest.raises(FunctionCrashedError, match=f"exited with status {status}"):
        function.invoke({"do": deed})
    function.invoke({"do": "nothing"})
    assert function.statistics == FunctionStatistics(invocations=2, cold_starts=2, crashes=1)


def test_a_process_that_died_while_idle_is_replaced(make: MakeFunction) -> None:
    function = make("act")
    pid = function.invoke({"do": "nothing"})["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: function.host_pids() == [])
    assert function.invoke({"do": "nothing"})["pid"] != pid


def test_a_process_that_cannot_be_started_is_a_crash(make: MakeFunction, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    function = make("act")
    with monkeypatch.context() as patched:
        patched.setattr("local.hosts.subprocess.Popen", refuse)
        with pytest.raises(FunctionCrashedError, match="Resource temporarily unavailable"):
            function.invoke({"do": "nothing"})
    assert function.invoke({"do": "nothing"})["pid"]


def call(function: LocalFunction, event: object, outcomes: list[object]) -> threading.Thread:
    """Invoke in a thread; its outcome, a response or an error, goes to the list."""

    def invoke() -> None:
        try:
            outcomes.append(function.invoke(event))
        except InvocationError as error:
            outcomes.append(error)

    thread = threading.Thread(target=invoke)
    thread.start()
    return thread


def test_kill_one_kills_a_busy_process_and_leaves_the_idle(make: MakeFunction) -> None:
    function, outcomes = make("act", concurrency=2), list[object]()
    function.warm(2)
    assert function.kill_one() is None
    thread = call(function, {"do": "sleep", "seconds": 60}, outcomes)
    eventually(lambda: function.statistics.invocations == 1)
    killed = function.kill_one()
    thread.join(10)
    assert isinstance(outcomes[0], FunctionCrashedError)
    assert "exited with status -9" in str(outcomes[0])
    assert function.kill_one() is None
    assert killed not in function.host_pids()
    assert len(function.host_pids()) == 1
    function.warm(2)
    assert function.statistics == FunctionStatistics(invocations=1, cold_starts=3, crashes=1)


def test_kill_one_reaches_what_the_handler_started(make: MakeFunction, tmp_path: Path) -> None:
    function, outcomes, note = make("act"), list[object](), tmp_path / "pid"
    thread = call(function, {"do": "start and sleep", "note": str(note)}, outcomes)
    eventually(lambda: note.exists() and note.read_text())
    assert function.kill_one()
    thread.join(10)
    eventually(lambda: not is_alive(int(note.read_text())))


@pytest.mark.parametrize("deed", ["start and exit", "start and sleep"])
def test_what_the_handler_started_does_not_outlive_a_crash_or_a_timeout(
    make: MakeFunction, tmp_path: Path, deed: str
) -> None:
    note = tmp_path / "pid"
    with pytest.raises((FunctionCrashedError, FunctionTimeoutError)):
        make("act", timeout_seconds=3).invoke({"do": deed, "note": str(note)})
    eventually(lambda: not is_alive(int(note.read_text())))


def is_alive(pid: int) -> bool:
    try:
        # A zombie that nobody reaps here is dead as well.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_kill_one_never_signals_a_reaped_pid(make: MakeFunction, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed from three threads while it is invoked: every signal goes to a child that is not reaped yet."""
    function, stopped, astray = make("act", concurrency=2), threading.Event(), list[int]()
    kill_group = os.killpg

    def checked(group: int, number: int) -> None:
        try:
            os.waitid(os.P_PID, group, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            astray.append(group)
        kill_group(group, number)

    monkeypatch.setattr(os, "killpg", checked)
    killed: list[int | None] = []

    def kill() -> None:
        while not stopped.is_set():
            killed.append(function.kill_one())
            stopped.wait(0.01)

    killers = [threading.Thread(target=kill) for _ in range(3)]
    for killer in killers:
        killer.start()
    outcomes: list[object] = []
    for _ in range(10):
        call(function, {"do": "nothing"}, outcomes).join()
    stopped.set()
    for killer in killers:
        killer.join()
    pids = [pid for pid in killed if pid is not None]
    assert astray == []
    assert len(pids) == len(set(pids)) >= function.statistics.crashes >= 1


def test_close_ends_an_invocation_in_flight(make: MakeFunction) -> None:
    function, outcomes = make("act"), list[object]()
    thread = call(function, {"do": "sleep", "seconds": 60}, outcomes)
    eventually(lambda: function.host_pids() and function.statistics.invocations == 1)
    function.close()
    thread.join(10)
    assert isinstance(outcomes[0], FunctionCrashedError)
    with pytest.raises(ThrottledError):
        function.invoke({})
