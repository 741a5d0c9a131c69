"""Packs documents into messages: by count, by bytes, by group on a FIFO queue; large ones into claim checks.

The same documents with the same options give the same messages in the same order. Resuming rests on it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from cli.inputs.checking import Checked
from embakery.errors import RequestTooLargeError
from embakery.sources import Source

# SQS takes 1 MiB, for one message and for a batch of ten alike.
MAX_MESSAGE_BYTES = 1024 * 1024
MAX_PAYLOAD_BYTES = 16 * 1024 * 1024
DOCUMENTS_PER_MESSAGE = 10
# All that waits, over all groups, for its message to be full.
_MAX_WAITING_BYTES = 32 * 1024 * 1024

_NUMBERED = re.compile(r"#[0-9]+\Z")

ClaimCheckMode = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True)
class Packed:
    """A message. payload: JSON lines to be kept under `source` before it is sent. group: on a FIFO queue."""

    body: str
    documents: int
    group: str | None = None
    payload: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes that SQS counts."""
        return len(self.body.encode())

    @property
    def deduplication_id(self) -> str:
        """What a FIFO queue knows it again by."""
        return hashlib.sha256(self.body.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every message says beside its documents."""

    input_type: str = "document"
    destination: str = "default"
    job_id: str | None = None

    def around(self, documents: Iterable[str]) -> str:
        """Return the body of a message of documents."""
        return f'{{"v":1,"documents":[{",".join(documents)}],{self._rest()}}}'

    def around_source(self, source: Source) -> str:
        """Return the body of a message that names its payload."""
        named = json.dumps({"key": source.key, "sha256": source.sha256, "size": source.size}, separators=(",", ":"))
        return f'{{"v":1,"source":{named},{self._rest()}}}'

    def _rest(self) -> str:
        rest = {"input_type": self.input_type, "destination": self.destination}
        if self.job_id is not None:
            rest["job_id"] = self.job_id
        return json.dumps(rest, separators=(",", ":"))[1:-1]


@dataclass(frozen=True, slots=True)
class Groups:
    """Message groups of a FIFO queue. An id is always in the same one, so its versions arrive in order.

    name: one group for everything; else `count` groups by a stable hash of the id.
    """

    count: int = 64
    name: str | None = None

    def of(self, identity: str) -> str:
        """Return an id's group. The documents of an OpenAI Batch request, `x#0`, `x#1`, ..., are in that of `x`."""
        if self.name is not None:
            return self.name
        number = int.from_bytes(hashlib.sha256(_NUMBERED.sub("", identity).encode()).digest()[:8])
        return f"enqueue-{number % self.count}"


@dataclass(slots=True)
class _Waiting:
    lines: list[str] = field(default_factory=list)
    documents: int = 0
    size: int = 0


class Packer:
    """Packs documents. describe: names a payload of a claim check; None: there are no claim checks."""

    def __init__(
        self,
        envelope: Envelope,
        *,
        documents: int = DOCUMENTS_PER_MESSAGE,
        groups: Groups | None = None,
        claim_check: ClaimCheckMode = "never",
        describe: Callable[[bytes], Source] | None = None,
    ) -> None:
        self._envelope = envelope
        self._documents = documents
        self._groups = groups
        self._always = claim_check == "always"
        self._describe = None if claim_check == "never" else describe
        self._overhead = len(envelope.around(()).encode())
        self._room = MAX_PAYLOAD_BYTES if self._always else MAX_MESSAGE_BYTES - self._overhead
        self._waiting: dict[str | None, _Waiting] = {}
        self._total = 0

    def pack(self, documents: Iterable[Checked], reject: Callable[[str, str], None]) -> Iterator[Packed]:
        """Yield messages; `reject` takes where a document came from that no message holds, and why."""
        for document in documents:
            group = self._groups.of(document.id) if self._groups else None
            size = len(document.content.encode())
            try:
                if not self._always and (document.is_message or size > self._room):
                    yield from self._alone(document, size, group)
                else:
                    yield from self._add(document, size, group)
            except RequestTooLargeError as error:
                reject(document.where, error.problem)
        for group in list(self._waiting):
            yield from self._flush(group)

    def _alone(self, document: Checked, size: int, group: str | None) -> Iterator[Packed]:
        """Make a message of its own, behind what waits in its group: there, order counts."""
        if document.is_message and size <= MAX_MESSAGE_BYTES:
            message = Packed(document.content, document.documents, group)
        elif self._describe is not None:
            message = self._claim_check([document.content], document.documents, group)
        else:
            problem = f"{size} bytes, a message holds {MAX_MESSAGE_BYTES}; larger ones need --claim-check-bucket"
            raise RequestTooLargeError("", problem)
        if group is not None:
            yield from self._flush(group)
        yield message

    def _add(self, document: Checked, size: int, group: str | None) -> Iterator[Packed]:
        waiting = self._waiting.setdefault(group, _Waiting())
        # A comma, or a line end.
        size += 1
        if waiting.lines and waiting.size + size > self._room:
            yield from self._flush(group)
            waiting = self._waiting.setdefault(group, _Waiting())
        waiting.lines.append(document.content)
        waiting.documents += document.documents
        waiting.size += size
        self._total += size
        if waiting.documents >= self._documents:
            yield from self._flush(group)
        elif self._total > _MAX_WAITING_BYTES:
            yield from self._flush(max(self._waiting, key=lambda name: self._waiting[name].size))

    def _flush(self, group: str | None) -> Iterator[Packed]:
        waiting = self._waiting.pop(group, None)
        if waiting is None:
            return
        self._total -= waiting.size
        if self._always:
            yield self._claim_check(waiting.lines, waiting.documents, group)
        else:
            yield Packed(self._envelope.around(waiting.lines), waiting.documents, group)

    def _claim_check(self, lines: list[str], documents: int, group: str | None) -> Packed:
        if self._describe is None:
            raise ValueError("a claim check needs a place to be kept")
        payload = "".join(f"{line}\n" for line in lines).encode()
        return Packed(self._envelope.around_source(self._describe(payload)), documents, group, payload)
