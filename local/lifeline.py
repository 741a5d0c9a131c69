"""Runs a server so that it never outlives the process that started it, even when that one is killed with -9.

    python -m local.lifeline FD COMMAND...

FD is the read end of a pipe whose write end only the parent holds: when the parent is gone, for whatever reason, the
kernel closes it and the pipe reads end-of-file. The command replaces this process, so the pid that the parent knows is
the server's own; a small watcher, its child, waits for whichever ends first. Nothing here is Linux only.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

TERM_GRACE_SECONDS = 3.0


def main(arguments: Sequence[str]) -> NoReturn:
    """Fork the watcher, then become the command."""
    lifeline, command = int(arguments[0]), list(arguments[1:])
    # The server holds the write end through exec: end-of-file on it means that the server ended.
    server_gone, held_by_server = os.pipe()
    os.set_inheritable(held_by_server, True)
    server_pid = os.getpid()
    if os.fork() == 0:
        os.close(held_by_server)
        _watch(lifeline, server_gone, server_pid)
        os._exit(0)
    os.close(lifeline)
    os.close(server_gone)
    os.execvp(command[0], command)  # noqa: S606 - the command is the project's own, started without a shell


def _watch(lifeline: int, server_gone: int, server_pid: int) -> None:
    """Wait until the parent or the server is gone; end the server in the first case."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    if server_gone in _readable((lifeline, server_gone), timeout=None):
        return
    for ending in (signal.SIGTERM, signal.SIGKILL):
        # Not our parent any more: the server has ended and its pid may be someone else's.
        if os.getppid() != server_pid:
            return
        os.kill(server_pid, ending)
        if _readable((server_gone,), timeout=TERM_GRACE_SECONDS):
            return


def _readable(descriptors: Sequence[int], *, timeout: float | None) -> set[int]:
    with selectors.DefaultSelector() as selector:
        for descriptor in descriptors:
            selector.register(descriptor, selectors.EVENT_READ)
        return {key.fd for key, _ in selector.select(timeout)}


if __name__ == "__main__":
    main(sys.argv[1:])
