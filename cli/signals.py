"""Ctrl-C and SIGTERM, at a moment when nothing is half done."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import click


class Interrupted(BaseException):
    """The user asked to stop. Not an Exception: no library is to mistake it for a failure of its own."""


class Stop:
    """Whether to stop. A signal raises Interrupted where it finds the program, or, held off, at the next `check`."""

    def __init__(self) -> None:
        self._requested = False
        self._held_off = False

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM while this lasts. A second signal does not wait: it raises KeyboardInterrupt."""
        previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def held_off(self) -> Iterator[None]:
        """Run something to its end. Raises Interrupted before it, or after it, if a signal came."""
        self._held_off = True
        try:
            # After the flag is up: a signal that came before it has raised by itself.
            self.check()
            yield
        finally:
            self._held_off = False
        self.check()

    def check(self) -> None:
        """Raise Interrupted if a signal came."""
        if self._requested:
            raise Interrupted

    def is_requested(self) -> bool:
        """Say whether a signal came, to what is held off and can end early by itself."""
        return self._requested

    def _handle(self, _: int, __: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
        if not self._held_off:
            raise Interrupted


@contextmanager
def ending_early() -> Iterator[Callable[[], bool]]:
    """Yield what says whether to end early. A signal only asks for it; once all has ended, the command is aborted."""
    stop = Stop()
    try:
        with stop.on_signals(), stop.held_off():
            yield stop.is_requested
    except Interrupted:
        raise click.Abort from None
