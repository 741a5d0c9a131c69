"""Messages opened: parsed, checked against this deployment, and their items brought to light."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

from embakery.delivery import Received, SourceQueue
from embakery.errors import InvalidRequestError
from embakery.isolation import Markbook, Span
from embakery.messages import (
    EmbedMessage,
    Message,
    Rejected,
    RerankMessage,
    SourceMessage,
    parse_message,
    parse_source_line,
)
from embakery.sources import BulkQueue, SourceReader
from embakery.work import Envelope, Item, Ledger, Resources

# So many lines of a payload are worked on, written and marked together: seconds of work on the slowest machine.
_LINES = 50


@dataclass(frozen=True, slots=True)
class SourcePolicy:
    """Where payloads are read, and which go to the bulk worker: those of more than `max_documents` lines.

    reader, bulk: give what is named when it is first needed.
    """

    reader: Callable[[], SourceReader] | None = None
    bulk: Callable[[], BulkQueue] | None = None
    max_documents: int = 5000


@dataclass(frozen=True, slots=True)
class Opened:
    """A message and its items; those of a claim check are read later, a few at a time."""

    envelope: Envelope
    items: Sequence[Item]
    source: SourceMessage | None

    @property
    def received(self) -> Received:
        """The message as the queue gave it."""
        return self.envelope.received

    @property
    def message_id(self) -> str:
        """The queue's id of it."""
        return self.received.message_id

    @property
    def size(self) -> int:
        """Characters of its texts, or bytes of its payload."""
        return sum(item.size for item in self.items) if self.source is None else self.source.source.size

    @property
    def has_work(self) -> bool:
        """Whether anything of it can be worked on."""
        return bool(self.items) or self.source is not None


class Opener:
    """Opens the messages of one batch. What is wrong with them goes to the ledger."""

    def __init__(
        self,
        resources: Resources,
        sources: SourcePolicy,
        ledger: Ledger,
        queue: SourceQueue,
    ) -> None:
        self._resources = resources
        self._sources = sources
        self._failures = ledger.failures
        self._counts = ledger.counts
        self._queue = queue
        self._waves: dict[str | None, int] = {}

    def open(self, received: Received) -> Opened | None:
        """Open a message, or return None if it cannot be worked on at all."""
        try:
            message = parse_message(received.body, limits=self._resources.embedder.limits)
            self._check(message)
        except InvalidRequestError as error:
            self._failures.add(received.message_id, error)
            return None
        envelope = self._envelope(received, message)
        if isinstance(message, SourceMessage):
            return Opened(envelope, (), message)
        items = message.documents if isinstance(message, EmbedMessage) else message.queries
        name = "documents" if isinstance(message, EmbedMessage) else "rerank"
        accepted = []
        for index, item in enumerate(items):
            if isinstance(item, Rejected):
                self._failures.add(received.message_id, item.error)
            else:
                accepted.append(Item(envelope, f"{name}[{index}]", item))
        return Opened(envelope, accepted, None)

    def units(self, opened: Opened, book: Markbook) -> Iterator[tuple[Span, Sequence[Item]]]:
        """Yield what is left to do of a message, span by span, with its items.

        Raises what reading its payload raises; yields nothing for a payload that went to the bulk worker.
        """
        if opened.source is not None:
            yield from self._units_of_payload(opened, opened.source, book)
            return
        for span in book.spans(opened.message_id, 0, len(opened.items)) if opened.items else ():
            yield span, opened.items[span.start : span.stop]

    def _units_of_payload(
        self, opened: Opened, message: SourceMessage, book: Markbook
    ) -> Iterator[tuple[Span, Sequence[Item]]]:
        if self._sources.reader is None:
            raise InvalidRequestError(
                "source", "this deployment reads no claim checks: EMBAKERY_SOURCE_BUCKET is unset"
            )
        payload = Span(0, message.source.size)
        with self._sources.reader().lines(message.source) as lines:
            if self._goes_to_bulk(lines, opened, message):
                return
            each = iter(lines)
            for first in count(0, _LINES):
                chunk = list(islice(each, _LINES))
                if not chunk:
                    return
                # All lines, the bad ones of what is done too: their failures must not be forgotten.
                items = [self._items_of_line(opened, line, number) for number, line in enumerate(chunk, start=first)]
                # The full span even for the last lines: its name must not depend on how many there are.
                for span in book.spans(opened.message_id, first, first + _LINES, within=payload):
                    part = [item for some in items[span.start - first : span.stop - first] for item in some]
                    if part:
                        yield span, part

    def _goes_to_bulk(self, lines: Iterable[bytes], opened: Opened, message: SourceMessage) -> bool:
        """Hand over a payload of too many lines, or one that will not get through in the receives that are left."""
        if self._sources.bulk is None:
            return False
        most = self._sources.max_documents
        is_too_long = sum(1 for _ in islice(lines, most + 1)) > most
        if not is_too_long and not self._is_last_receive(opened):
            return False
        self._sources.bulk().hand_over(
            message.source,
            message_id=opened.message_id,
            input_type=message.input_type,
            destination=message.destination,
            job_id=message.job_id,
        )
        self._counts.handed_over += 1
        return True

    def _is_last_receive(self, opened: Opened) -> bool:
        most = self._queue.max_receive_count
        return most is not None and opened.received.receive_count >= most

    def _items_of_line(self, opened: Opened, line: bytes, number: int) -> list[Item]:
        embedder, place, items = self._resources.embedder, f"source.lines[{number}]", []
        for document in parse_source_line(line, limits=embedder.limits, check_model=embedder.manifest.check_model):
            if isinstance(document, Rejected):
                self._failures.add(opened.message_id, document.error.within(place))
            else:
                items.append(Item(opened.envelope, place, document))
        return items

    def _envelope(self, received: Received, message: Message) -> Envelope:
        wave = self._waves.get(received.group_id, 0)
        if received.group_id is not None:
            self._waves[received.group_id] = wave + 1
        return Envelope(
            received,
            destination=message.destination,
            job_id=message.job_id,
            input_type="query" if isinstance(message, RerankMessage) else message.input_type,
            rerank_method=message.method if isinstance(message, RerankMessage) else None,
            wave=wave,
        )

    def _check(self, message: Message) -> None:
        """Raise InvalidRequestError if this deployment cannot do what a message asks for."""
        if message.destination not in self._resources.destinations:
            known = ", ".join(sorted(self._resources.destinations))
            raise InvalidRequestError("destination", f"is not one of this deployment's: {known}")
        if isinstance(message, EmbedMessage):
            self._resources.embedder.manifest.check_model(message.model, "body.model")
        elif isinstance(message, RerankMessage):
            self._resources.embedder.rerank_method(message.method)
