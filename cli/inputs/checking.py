"""From rows to documents that the worker will take: the library's own rules, before anything is sent."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cli.inputs.json_lines import is_openai
from cli.inputs.rows import BadRow, Columns, Row
from embakery.errors import InvalidRequestError
from embakery.messages import Document, EmbedMessage, Rejected, parse_document, parse_message
from embakery.texts import TextLimits

# 16 MiB for as many hashes at half load; beyond that, duplicates are no longer looked for.
_SLOTS = 2**21


@dataclass(frozen=True, slots=True)
class Checked:
    """A document, or an OpenAI Batch request, as JSON for a message.

    documents: how many it makes. is_message: whether it is a message of its own.
    """

    where: str
    id: str
    version: int
    content: str
    documents: int = 1
    is_message: bool = False


@dataclass(frozen=True, slots=True)
class Checker:
    """The rules. plain: whether OpenAI Batch requests may be sent, which can say no destination, job or input type."""

    limits: TextLimits
    columns: Columns = field(default_factory=Columns)
    plain: bool = True

    def check(self, rows: Iterable[Row | BadRow]) -> Iterator[Checked | BadRow]:
        """Yield each row as a document, or as why it is none."""
        for row in rows:
            if isinstance(row, BadRow):
                yield row
                continue
            try:
                yield self._request(row) if is_openai(row.value, self.columns) else self._document(row)
            except InvalidRequestError as error:
                yield BadRow(row.where, str(error))

    def _document(self, row: Row) -> Checked:
        document = parse_document(row.value, limits=self.limits)
        return Checked(row.where, document.id, document.version, document_json(document))

    def _request(self, row: Row) -> Checked:
        if not self.plain:
            raise InvalidRequestError("custom_id", "an OpenAI Batch request takes no destination, job or input type")
        # Parsed from JSON, so that a lone surrogate comes to the check, which names it.
        message = parse_message(json.dumps(row.value), limits=self.limits)
        if not isinstance(message, EmbedMessage):
            raise InvalidRequestError("", "holds no documents")
        for document in message.documents:
            if isinstance(document, Rejected):
                raise document.error
        first, content = message.documents[0], to_json(row.value)
        try:
            content.encode()
        except UnicodeEncodeError:
            raise InvalidRequestError("", "must not contain lone surrogates (it is not valid Unicode)") from None
        # The first document's id is the request's, or that and #0: one for all, so that they keep together.
        identity = first.id if isinstance(first, Document) else ""
        return Checked(row.where, identity, 1, content, documents=len(message.documents), is_message=True)


def document_json(document: Document) -> str:
    """Return a document as a message has it."""
    fields: dict[str, Any] = {"id": document.id, "text": document.text}
    if document.version != 1:
        fields["version"] = document.version
    if document.metadata:
        fields["metadata"] = document.metadata
    return to_json(fields)


def to_json(value: object) -> str:
    """Return compact JSON that SQS takes: it refuses U+FFFE and U+FFFF, which can stand only within strings."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")


class Seen:
    """Which (id, version) have been seen, by 64-bit hashes in a table that does not grow."""

    def __init__(self, slots: int = _SLOTS) -> None:
        self._table = array("Q", (0,)) * slots
        self._free = slots // 2

    def add(self, identity: str, version: int) -> bool:
        """Say whether it was there before; once the table is half full, always no."""
        key = f"{version}\0{identity}".encode()
        number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) or 1
        slot = number % len(self._table)
        while self._table[slot] not in (0, number):
            slot = (slot + 1) % len(self._table)
        if self._table[slot] == number:
            return True
        if self._free > 0:
            self._free -= 1
            self._table[slot] = number
        return False
