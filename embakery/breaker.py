"""Spares what does not answer: after some failures in a row nobody waits for it, until it may be tried again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Breaker:
    """Opens after `threshold` failures in a row; after `pause_seconds` one call at a time may try again."""

    def __init__(
        self, *, threshold: int = 3, pause_seconds: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._threshold = threshold
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether calls are refused just now."""
        with self._lock:
            return self._open_until is not None and self._clock() < self._open_until

    def allows(self) -> bool:
        """Say whether a call may be made. Half-open, it lets one caller through and keeps the others off."""
        with self._lock:
            if self._open_until is None:
                return True
            if self._clock() < self._open_until:
                return False
            self._open_until = self._clock() + self._pause_seconds
            return True

    def succeeded(self) -> None:
        """Close again."""
        with self._lock:
            self._failures = 0
            self._open_until = None

    def failed(self) -> None:
        """Count a failure; open at the threshold."""
        with self._lock:
            self._failures += 1
            if self._failures >= self._threshold:
                self._open_until = self._clock() + self._pause_seconds
