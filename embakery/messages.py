"""What a queue message says. Parsed once, here; inside, the types are trusted.

A message that is wrong as a whole raises InvalidRequestError. A document that is wrong alone becomes a `Rejected` in
its place, so that its neighbours go on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from embakery import fields
from embakery.errors import InvalidRequestError
from embakery.rerank import RERANK_METHODS
from embakery.sources import Source
from embakery.texts import INPUT_TYPES, TextLimits, check_text

SCHEMA_VERSION = 1
MAX_DOCUMENTS = 100

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Document:
    """A text to embed. `version` orders writes of one id: a lower one never overwrites a higher one."""

    id: str
    text: str
    version: int = 1
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RerankQuery:
    """A query and its candidates, best `top_n` wanted (all if None)."""

    id: str
    query: str
    documents: tuple[Document, ...]
    top_n: int | None = None
    version: int = 1


@dataclass(frozen=True, slots=True)
class Rejected:
    """An item that failed alone, and why."""

    error: InvalidRequestError


@dataclass(frozen=True, slots=True)
class EmbedMessage:
    """Documents to embed and write to `destination`, a name from the settings. `model`: the one asked for, if any."""

    documents: tuple[Document | Rejected, ...]
    input_type: str = "document"
    destination: str = "default"
    job_id: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class SourceMessage:
    """A claim check: the documents are lines of a payload kept elsewhere."""

    source: Source
    input_type: str = "document"
    destination: str = "default"
    job_id: str | None = None


@dataclass(frozen=True, slots=True)
class RerankMessage:
    """Queries to rerank by `method`, the deployment's own if None; the rankings go to `destination`."""

    queries: tuple[RerankQuery | Rejected, ...]
    destination: str = "default"
    job_id: str | None = None
    method: str | None = None


Message = EmbedMessage | SourceMessage | RerankMessage


def parse_message(body: object, *, limits: TextLimits) -> Message:
    """Parse a message's body. Raises InvalidRequestError naming the field."""
    message = fields.as_object(fields.parse_json(body, "body"), "body")
    if "custom_id" in message:
        return _openai_batch_line(message, limits)
    version = message.get("v")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise InvalidRequestError("v", f"must be {SCHEMA_VERSION}")
    kinds: dict[str, Callable[[Mapping[str, Any], TextLimits], Message]] = {
        "documents": _embed_message,
        "rerank": _rerank_message,
        "source": _source_message,
    }
    named = [kind for kind in kinds if kind in message]
    if len(named) != 1:
        raise InvalidRequestError("body", "must hold one of documents, rerank and source")
    return kinds[named[0]](message, limits)


def parse_source_line(
    line: bytes, *, limits: TextLimits, check_model: Callable[[str | None, str], None]
) -> tuple[Document | Rejected, ...]:
    """Parse a line of a claim check's payload: a document, or a line of an OpenAI Batch file, which may hold several.

    What is wrong with it becomes a `Rejected`: the other lines go on. check_model: raises for a model not served here.
    """
    try:
        raw = fields.as_object(fields.parse_json(line, ""), "")
        if "custom_id" not in raw:
            return (parse_document(raw, limits=limits),)
        message = _openai_batch_line(raw, limits)
        check_model(message.model, "body.model")
        return message.documents
    except InvalidRequestError as error:
        return (Rejected(error),)


def parse_document(raw: object, *, limits: TextLimits) -> Document:
    """Parse one document. Raises InvalidRequestError naming its field."""
    document = fields.as_object(raw, "")
    return Document(
        id=fields.as_id(document.get("id"), "id"),
        text=fields.as_text(document.get("text"), "text", limits),
        version=fields.version(document),
        metadata=fields.as_metadata(document.get("metadata"), "metadata"),
    )


def _embed_message(message: Mapping[str, Any], limits: TextLimits) -> EmbedMessage:
    return EmbedMessage(
        documents=_each(message["documents"], "documents", lambda raw, _: parse_document(raw, limits=limits)),
        input_type=fields.choice(message, "input_type", INPUT_TYPES, default="document"),
        destination=fields.optional_id(message, "destination") or "default",
        job_id=fields.optional_id(message, "job_id"),
    )


def _source_message(message: Mapping[str, Any], _: TextLimits) -> SourceMessage:
    source = fields.as_object(message["source"], "source")
    sha256, size = source.get("sha256"), fields.optional_integer(source, "size", low=1, parent="source.")
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise InvalidRequestError("source.sha256", "must be 64 hexadecimal digits in lower case")
    if size is None:
        raise InvalidRequestError("source.size", "must be the payload's bytes")
    key = fields.as_text(source.get("key"), "source.key", TextLimits(max_characters=1024))
    return SourceMessage(
        source=Source(key, sha256, size),
        input_type=fields.choice(message, "input_type", INPUT_TYPES, default="document"),
        destination=fields.optional_id(message, "destination") or "default",
        job_id=fields.optional_id(message, "job_id"),
    )


def _rerank_message(message: Mapping[str, Any], limits: TextLimits) -> RerankMessage:
    def parse_one(raw: object, _: int) -> RerankQuery:
        query = fields.as_object(raw, "")
        items = fields.as_array(query.get("documents"), "documents", most=MAX_DOCUMENTS)
        return RerankQuery(
            id=fields.as_id(query.get("id"), "id"),
            query=fields.as_text(query.get("query"), "query", limits),
            documents=tuple(_candidate(item, f"documents[{index}]", limits) for index, item in enumerate(items)),
            top_n=fields.optional_integer(query, "top_n", low=1),
            version=fields.version(query),
        )

    asked = message.get("method") is not None
    return RerankMessage(
        queries=_each(message["rerank"], "rerank", parse_one),
        destination=fields.optional_id(message, "destination") or "default",
        job_id=fields.optional_id(message, "job_id"),
        method=fields.choice(message, "method", RERANK_METHODS, default="") if asked else None,
    )


def _openai_batch_line(message: Mapping[str, Any], limits: TextLimits) -> EmbedMessage:
    """Read a line of an OpenAI Batch input file; several inputs become documents `custom_id#0`, `custom_id#1`, ..."""
    custom_id = fields.as_id(message["custom_id"], "custom_id")
    if message.get("url") != "/v1/embeddings":
        raise InvalidRequestError("url", "must be /v1/embeddings")
    if message.get("method", "POST") != "POST":
        raise InvalidRequestError("method", "must be POST")
    body = fields.as_object(message.get("body"), "body")
    if "dimensions" in body:
        raise InvalidRequestError("body.dimensions", "is not supported in queue messages: whole vectors are written")
    model = fields.optional_id(body, "model", parent="body.")
    value = body.get("input")
    if isinstance(value, str):
        return EmbedMessage((Document(custom_id, fields.as_text(value, "body.input", limits)),), model=model)

    def parse_numbered(raw: object, index: int) -> Document:
        return Document(f"{custom_id}#{index}", check_text(raw, limits=limits))

    return EmbedMessage(_each(value, "body.input", parse_numbered), model=model)


def _candidate(raw: object, name: str, limits: TextLimits) -> Document:
    document = fields.as_object(raw, name)
    text = fields.as_text(document.get("text"), f"{name}.text", limits)
    return Document(fields.as_id(document.get("id"), f"{name}.id"), text)


def _each(raw: object, name: str, parse_one: Callable[[object, int], Item]) -> tuple[Item | Rejected, ...]:
    def parse_or_reject(index: int, item: object) -> Item | Rejected:
        try:
            return parse_one(item, index)
        except InvalidRequestError as error:
            return Rejected(error.within(f"{name}[{index}]"))

    items: Sequence[object] = fields.as_array(raw, name, most=MAX_DOCUMENTS)
    return tuple(parse_or_reject(index, item) for index, item in enumerate(items))
