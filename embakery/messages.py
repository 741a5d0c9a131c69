"""What a queue message says. Parsed once, here; inside, the types are trusted.

A message that is wrong as a whole raises InvalidRequestError. A document that is wrong alone becomes a `Rejected` in
its place, so that its neighbours go on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from embakery.errors import InvalidRequestError, RequestTooLargeError
from embakery.rerank import RERANK_METHODS
from embakery.texts import INPUT_TYPES, TextLimits, check_text, json_type

SCHEMA_VERSION = 1
MAX_DOCUMENTS = 100
# Four bytes a character at most: within the 2,048 bytes that DynamoDB gives a key.
MAX_ID_CHARACTERS = 256
# A result must fit an SQS message and a DynamoDB item (400 KB) beside its vector.
MAX_METADATA_BYTES = 64 * 1024
# Far below Python's recursion limit: wherever metadata is written as JSON again, the stack is another one.
MAX_METADATA_DEPTH = 32
# DynamoDB numbers and JSON readers agree up to here.
MAX_DOCUMENT_VERSION = 2**53 - 1

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
class RerankMessage:
    """Queries to rerank by `method`, the deployment's own if None; the rankings go to `destination`."""

    queries: tuple[RerankQuery | Rejected, ...]
    destination: str = "default"
    job_id: str | None = None
    method: str | None = None


Message = EmbedMessage | RerankMessage


def parse_message(body: str, *, limits: TextLimits) -> Message:
    """Parse a message's body. Raises InvalidRequestError naming the field."""
    try:
        raw = json.loads(body, parse_constant=_no_constant)
    except RecursionError as error:
        raise InvalidRequestError("body", "is nested too deeply") from error
    except ValueError as error:
        # Not chained: the decoder's error carries the whole body.
        position = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidRequestError("body", f"is not valid JSON{position}") from None
    message = _object(raw, "body")
    if "custom_id" in message:
        return _parse_openai_batch_line(message, limits)
    version = message.get("v")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise InvalidRequestError("v", f"must be {SCHEMA_VERSION}")
    kinds = [kind for kind in ("documents", "rerank", "source") if kind in message]
    if len(kinds) != 1:
        raise InvalidRequestError("body", "must hold one of documents, rerank and source")
    if kinds == ["rerank"]:
        return _parse_rerank(message, limits)
    if kinds == ["source"]:
        raise InvalidRequestError(
            "source", "claim-check messages are not read by this version; redrive it to one that does"
        )
    return _parse_embed(message, limits)


def _parse_embed(message: Mapping[str, Any], limits: TextLimits) -> EmbedMessage:
    def parse_one(raw: object, _: int) -> Document:
        return _document(raw, limits)

    return EmbedMessage(
        documents=_each(message["documents"], "documents", parse_one),
        input_type=_choice(message, "input_type", INPUT_TYPES, default="document"),
        destination=_optional_id(message, "destination") or "default",
        job_id=_optional_id(message, "job_id"),
    )


def _parse_rerank(message: Mapping[str, Any], limits: TextLimits) -> RerankMessage:
    def parse_one(raw: object, _: int) -> RerankQuery:
        query = _object(raw, "")
        documents = query.get("documents")
        items = _array(documents, "documents")
        return RerankQuery(
            id=_id(query.get("id"), "id"),
            query=_text(query.get("query"), "query", limits),
            documents=tuple(_candidate(item, f"documents[{index}]", limits) for index, item in enumerate(items)),
            top_n=_optional_integer(query, "top_n", low=1),
            version=_version(query),
        )

    return RerankMessage(
        queries=_each(message["rerank"], "rerank", parse_one),
        destination=_optional_id(message, "destination") or "default",
        job_id=_optional_id(message, "job_id"),
        method=None if message.get("method") is None else _choice(message, "method", RERANK_METHODS, default=""),
    )


def _parse_openai_batch_line(message: Mapping[str, Any], limits: TextLimits) -> EmbedMessage:
    """Read a line of an OpenAI Batch input file; several inputs become documents `custom_id#0`, `custom_id#1`, ..."""
    custom_id = _id(message["custom_id"], "custom_id")
    if message.get("url") != "/v1/embeddings":
        raise InvalidRequestError("url", "must be /v1/embeddings")
    if message.get("method", "POST") != "POST":
        raise InvalidRequestError("method", "must be POST")
    body = _object(message.get("body"), "body")
    if "dimensions" in body:
        raise InvalidRequestError("body.dimensions", "is not supported in queue messages: whole vectors are written")
    model = _optional_id(body, "model", parent="body.")
    value = body.get("input")
    if isinstance(value, str):
        return EmbedMessage((Document(custom_id, _text(value, "body.input", limits)),), model=model)

    def parse_numbered(raw: object, index: int) -> Document:
        return Document(f"{custom_id}#{index}", check_text(raw, limits=limits))

    return EmbedMessage(_each(value, "body.input", parse_numbered), model=model)


def _document(raw: object, limits: TextLimits) -> Document:
    document = _object(raw, "")
    return Document(
        id=_id(document.get("id"), "id"),
        text=_text(document.get("text"), "text", limits),
        version=_version(document),
        metadata=_metadata(document.get("metadata")),
    )


def _metadata(raw: object) -> Mapping[str, Any]:
    metadata = _object({} if raw is None else raw, "metadata")
    if _is_deeper(metadata, MAX_METADATA_DEPTH):
        raise InvalidRequestError("metadata", f"is nested more than {MAX_METADATA_DEPTH} deep")
    try:
        size = len(json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode())
    except ValueError:
        raise InvalidRequestError("metadata", "must not contain lone surrogates or numbers beyond JSON's") from None
    if size > MAX_METADATA_BYTES:
        raise RequestTooLargeError("metadata", f"{size} bytes, the limit is {MAX_METADATA_BYTES}")
    return metadata


def _is_deeper(value: object, depth: int) -> bool:
    """Say whether arrays and objects are nested more than `depth` deep. Level by level, not recursive."""
    level = [value]
    for _ in range(depth + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)]
        if not containers:
            return False
    return True


def _candidate(raw: object, name: str, limits: TextLimits) -> Document:
    document = _object(raw, name)
    return Document(_id(document.get("id"), f"{name}.id"), _text(document.get("text"), f"{name}.text", limits))


def _each(raw: object, name: str, parse_one: Callable[[object, int], Item]) -> tuple[Item | Rejected, ...]:
    def parse_or_reject(index: int, item: object) -> Item | Rejected:
        try:
            return parse_one(item, index)
        except InvalidRequestError as error:
            return Rejected(error.within(f"{name}[{index}]"))

    return tuple(parse_or_reject(index, item) for index, item in enumerate(_array(raw, name)))


def _array(raw: object, name: str) -> Sequence[object]:
    if not isinstance(raw, list):
        raise InvalidRequestError(name, f"must be an array, not {json_type(raw)}")
    if not raw:
        raise InvalidRequestError(name, "must not be empty")
    if len(raw) > MAX_DOCUMENTS:
        raise RequestTooLargeError(name, f"{len(raw)} items, the limit is {MAX_DOCUMENTS}")
    return raw


def _object(raw: object, name: str) -> Mapping[str, Any]:
    if not isinstance(raw, dict):
        raise InvalidRequestError(name, f"must be an object, not {json_type(raw)}")
    return raw


def _text(raw: object, name: str, limits: TextLimits) -> str:
    try:
        return check_text(raw, limits=limits)
    except InvalidRequestError as error:
        raise error.within(name) from None


def _id(raw: object, name: str) -> str:
    return _text(raw, name, TextLimits(max_characters=MAX_ID_CHARACTERS))


def _optional_id(message: Mapping[str, Any], name: str, *, parent: str = "") -> str | None:
    return None if message.get(name) is None else _id(message[name], f"{parent}{name}")


def _optional_integer(message: Mapping[str, Any], name: str, *, low: int) -> int | None:
    value = message.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequestError(name, f"must be a whole number, not {json_type(value)}")
    if not low <= value <= MAX_DOCUMENT_VERSION:
        raise InvalidRequestError(name, f"must be from {low} to {MAX_DOCUMENT_VERSION}")
    return value


def _version(item: Mapping[str, Any]) -> int:
    version = _optional_integer(item, "version", low=0)
    return 1 if version is None else version


def _choice(message: Mapping[str, Any], name: str, choices: Sequence[str], *, default: str) -> str:
    value = message.get(name, default)
    if value not in choices:
        raise InvalidRequestError(name, f"must be one of {', '.join(choices)}")
    return str(value)


def _no_constant(_: str) -> None:
    raise ValueError("NaN and Infinity are not JSON")
