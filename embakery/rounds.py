"""Work in rounds: small enough for the memory and for the time that is left, with a look at the clock between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

# Some seconds of work on one slow core, large enough to keep all cores busy.
ROUND_TOKENS = 8192
# Before the first round was timed: a quarter of a core without int8 instructions does more.
_ASSUMED_TOKENS_PER_SECOND = 500.0
# Half of the time left: the next round may run beside a noisier neighbour than the last.
_SHARE_OF_TIME_LEFT = 0.5
# A shorter round measures the call, not the work.
_TELLING_TOKENS = 256


class Deadline(Protocol):
    """The time a caller has left."""

    def seconds_left(self) -> float:
        """Return the seconds in which new work may still be done; 0 or less: none should be begun."""

    def seconds_to_end(self) -> float:
        """Return the seconds until the process is ended, whatever it does."""


class Pace:
    """Splits work into rounds, and learns from each how fast this machine is. Safe to use from several threads.

    budget_tokens: the most tokens of one round, which bounds its memory.
    """

    def __init__(self, budget_tokens: int = ROUND_TOKENS, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget_tokens = budget_tokens
        self._clock = clock
        self._tokens_per_second = _ASSUMED_TOKENS_PER_SECOND

    def rounds(self, lengths: Sequence[int], deadline: Deadline | None) -> Iterator[list[int]]:
        """Yield indices of texts of so many tokens each, in their order; the caller works on them before it goes on.

        Ends early where the time left would not do for the next text. The first text always comes: work that is handed
        back again and again must still get somewhere. In the order of arrival: where time runs out, whole messages are
        done and whole messages come again.
        """
        start = 0
        while start < len(lengths):
            room = self._room(deadline)
            if start > 0 and room < min(lengths[start], self._budget_tokens):
                return
            stop, tokens = start + 1, lengths[start]
            while stop < len(lengths) and tokens + lengths[stop] <= room:
                tokens += lengths[stop]
                stop += 1
            began = self._clock()
            yield list(range(start, stop))
            self._learn(tokens, self._clock() - began)
            start = stop

    def _room(self, deadline: Deadline | None) -> int:
        """Return how many tokens the next round may have."""
        seconds = float("inf") if deadline is None else deadline.seconds_left()
        return int(max(0.0, min(self._budget_tokens, self._tokens_per_second * seconds * _SHARE_OF_TIME_LEFT)))

    def _learn(self, tokens: int, seconds: float) -> None:
        if tokens >= _TELLING_TOKENS and seconds > 0:
            self._tokens_per_second = (self._tokens_per_second + tokens / seconds) / 2
