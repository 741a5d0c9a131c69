"""Sending the messages of a dead-letter queue on to another queue, batch by batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embakery.batches import batches
from embakery.errors import EmbakeryError
from storage.dead_letters import FAILURE_ATTRIBUTE
from storage.letters import Hand, Letter
from storage.parcels import MAX_BYTES, MAX_ENTRIES, Parcel, ParcelSender

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient


class RedriveError(EmbakeryError):
    """Not everything that was asked for was moved."""

    code = "redrive"


@dataclass(slots=True)
class MoveCounts:
    """What became of the letters: sent on and deleted; not sent; sent on but not surely deleted."""

    moved: int = 0
    failed: int = 0
    undeleted: int = 0
    reasons: set[str] = field(default_factory=set)


class Mover:
    """Sends letters on to another queue, as they came but without `embakery_failure`, and deletes what was surely sent.

    A letter that was sent when the process is killed before it is deleted is still here, and is sent again by the next
    run: twice at most for one kill. On FIFO queues order within a group is kept, nothing overtakes a letter that
    failed, and SQS drops the second sending if it comes within five minutes.
    """

    def __init__(self, client: SQSClient, hand: Hand, target_url: str, *, per_second: int | None = None) -> None:
        self._sender = ParcelSender(client, target_url)
        self._hand = hand
        self._per_second = per_second
        self._next_at = 0.0
        self._broken_groups: set[str | None] = set()
        self.counts = MoveCounts()

    def move(
        self,
        *,
        wanted: Callable[[Letter], bool],
        stop: Callable[[], bool],
        limit: int | None = None,
        on_letters: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Move what is wanted of the queue, up to a limit. Ends early where the target takes nothing at all."""
        for received in self._hand.receive(stop):
            chosen = [letter for letter in received if wanted(letter)]
            room = None if limit is None else limit - self.counts.moved - self.counts.undeleted
            for wave in self._waves(chosen[:room]):
                if stop() or not self._send(wave):
                    return
            on_letters(len(received))
            if limit is not None and self.counts.moved + self.counts.undeleted >= limit:
                return

    def _waves(self, chosen: Sequence[Letter]) -> Iterator[list[Letter]]:
        """Split for sending; on FIFO queues one of a group at a time, so that a failure stops those behind it."""
        max_items = min(MAX_ENTRIES, self._per_second or MAX_ENTRIES)
        wave: list[Letter] = []
        groups: set[str | None] = set()
        for letter in chosen:
            if self._sender.fifo and letter.group_id in groups:
                yield from batches(wave, size=_letter_size, max_items=max_items, max_bytes=MAX_BYTES)
                wave, groups = [], set()
            wave.append(letter)
            groups.add(letter.group_id)
        yield from batches(wave, size=_letter_size, max_items=max_items, max_bytes=MAX_BYTES)

    def _send(self, wave: list[Letter]) -> bool:
        """Send, delete and count; returns whether the target answered."""
        ready = [letter for letter in wave if not self._sender.fifo or letter.group_id not in self._broken_groups]
        self.counts.failed += len(wave) - len(ready)
        if not ready:
            return True
        self._pace(len(ready))
        answer = self._sender.send([_onward(letter) for letter in ready])
        self._broken_groups |= {letter.group_id for letter in ready if letter.message_id not in answer.taken}
        undeleted = self._hand.delete(answer.taken) if answer.taken else frozenset()
        self.counts.moved += len(answer.taken) - len(undeleted)
        self.counts.undeleted += len(undeleted)
        self.counts.failed += len(ready) - len(answer.taken)
        self.counts.reasons |= answer.reasons
        return answer.reached

    def _pace(self, count: int) -> None:
        if self._per_second is None:
            return
        now = time.monotonic()
        time.sleep(max(0.0, self._next_at - now))
        self._next_at = max(now, self._next_at) + count / self._per_second


def _onward(letter: Letter) -> Parcel:
    """Pack a letter as it was. By its original id SQS knows the second of two runs' sendings, and no one else's."""
    own = {name: value for name, value in letter.attributes.items() if name != FAILURE_ATTRIBUTE}
    group = letter.group_id or letter.message_id
    return Parcel(letter.message_id, letter.body, own, group, letter.original_id)


def _letter_size(letter: Letter) -> int:
    return _onward(letter).size
