"""What `embakery enqueue` tells: each bad row as it comes, to standard error, and the counts at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import click

from cli.inputs.checking import Checked, Seen
from cli.inputs.rows import BadRow, Row
from cli.packing import Packed

_NAMED_DUPLICATES = 5
_NAMED_FIELDS = 10


@dataclass(slots=True)
class Counts:
    """What happened. documents, messages, claim_checks, bytes: sent by this run; resumed: documents sent before it."""

    documents: int = 0
    messages: int = 0
    claim_checks: int = 0
    bytes: int = 0
    rejected: int = 0
    duplicates: int = 0
    resumed: int = 0


@dataclass(slots=True)
class Report:
    """Counts, and says what the user must know. quiet: counts only."""

    quiet: bool = False
    counts: Counts = field(default_factory=Counts)
    _unsent: dict[str, None] = field(default_factory=dict)
    _seen: Seen = field(default_factory=Seen)
    _started: float = field(default_factory=time.monotonic)

    def rows(self, rows: Iterable[Row | BadRow]) -> Iterator[Row | BadRow]:
        """Pass rows on; remember names of fields that are not sent."""
        for row in rows:
            if isinstance(row, Row) and row.unsent and len(self._unsent) < _NAMED_FIELDS:
                self._unsent.update(dict.fromkeys(row.unsent))
            yield row

    def documents(self, checked: Iterable[Checked | BadRow]) -> Iterator[Checked]:
        """Pass documents on; report bad rows and duplicates."""
        for item in checked:
            if isinstance(item, BadRow):
                self.reject(item.where, item.problem)
                continue
            if self._seen.add(item.id, item.version):
                self.counts.duplicates += 1
                if self.counts.duplicates <= _NAMED_DUPLICATES:
                    self.say(f"{item.where}: has the id and version of another one before it")
            yield item

    def reject(self, where: str, problem: str, documents: int = 1) -> None:
        """Count and report what is not sent."""
        self.counts.rejected += documents
        self.say(f"{where}: {problem}")

    def sent(self, message: Packed) -> None:
        """Count a message."""
        self.counts.documents += message.documents
        self.counts.messages += 1
        self.counts.bytes += message.size
        self.counts.claim_checks += message.payload is not None

    def refused(self, message: Packed, code: str) -> None:
        """Count a message that SQS will never take."""
        self.reject("sqs", f"refused a message of {message.documents} documents: {code}", message.documents)

    def say(self, line: str) -> None:
        """Print to standard error."""
        if not self.quiet:
            click.echo(click.format_filename(line), err=True)

    def finish(self, *, dry_run: bool, done: bool, as_json: bool) -> None:
        """Print the counts: a line of words, or of JSON."""
        seconds = time.monotonic() - self._started
        if self._unsent and not self.quiet:
            names = ", ".join(list(self._unsent)[:_NAMED_FIELDS])
            self.say(f"fields that a document does not have were left out: {names}")
        if as_json:
            counts = {name: getattr(self.counts, name) for name in Counts.__slots__}
            click.echo(json.dumps(counts | {"seconds": round(seconds, 3), "dry_run": dry_run, "done": done}))
        else:
            click.echo(self._words(seconds, dry_run=dry_run))

    def _words(self, seconds: float, *, dry_run: bool) -> str:
        counts = self.counts
        verb = "would be sent" if dry_run else "sent"
        size = f"{counts.bytes:,} bytes, {seconds:.1f} s"
        line = f"{counts.documents} documents {verb} in {counts.messages} messages ({size})"
        more = (
            (counts.claim_checks, "claim checks"),
            (counts.rejected, "rejected"),
            (counts.duplicates, "duplicates among them"),
            (counts.resumed, "sent before"),
        )
        return ", ".join([line, *(f"{count} {what}" for count, what in more if count)])
