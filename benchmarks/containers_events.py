"""Batches of the queue as its event source mapping hands them to the function, of texts with so many tokens."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.process import SystemFailedError

MESSAGES = 10
DOCUMENTS = 100
# What Lambda gives a function at once, and what one SQS message holds.
MAX_EVENT_BYTES = 6 * 1024 * 1024
MAX_MESSAGE_BYTES = 1024 * 1024
_LARGE_MESSAGES = 6
_LARGE_CHARACTERS = 9_900
_SHORT_TOKENS = 12

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Texts:
    """usual and short: texts of exactly so many tokens, special ones included. stream: what they were cut from."""

    usual: tuple[str, ...]
    short: tuple[str, ...]
    stream: str


def cut_texts(tokenizer_file: Path, stream: str, *, tokens: int) -> Texts:
    """Cut the texts of one batch. Raises SystemFailedError if the stream is too short."""
    count = MESSAGES * DOCUMENTS
    exact = tuple(itertools.islice(_exact(tokenizer_file, stream, tokens), count))
    short = tuple(itertools.islice(_exact(tokenizer_file, stream, _SHORT_TOKENS), count))
    if len(exact) < count or len(short) < count or len(stream) < _LARGE_CHARACTERS + count:
        raise SystemFailedError(f"there is not enough text for {count} documents")
    return Texts(exact, short, stream)


def _exact(tokenizer_file: Path, stream: str, tokens: int) -> Iterator[str]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    size = tokens - tokenizer.num_special_tokens_to_add(is_pair=False)
    offsets = tokenizer.encode(stream, add_special_tokens=False).offsets
    seen: set[str] = set()
    for start in range(0, len(offsets) - size + 1, size):
        text = stream[offsets[start][0] : offsets[start + size - 1][1]]
        # Some words are cut otherwise where a text begins in their midst.
        if text not in seen and len(tokenizer.encode(text).ids) == tokens:
            seen.add(text)
            yield text


def usual_batch(texts: Texts, arn: str) -> Event:
    """Return ten messages of a hundred documents each. Every call gives new ids: all of it is to be written."""
    return _batch(arn, [_documents(part) for part in _parts(texts.usual)])


def short_batch(texts: Texts, arn: str) -> Event:
    """Return ten messages of a hundred short documents."""
    return _batch(arn, [_documents(part) for part in _parts(texts.short)])


def largest_batch(texts: Texts, arn: str) -> Event:
    """Return the most text that Lambda gives a function at once: messages near SQS's limit, documents that are cut."""
    room = len(texts.stream) - _LARGE_CHARACTERS
    count = _LARGE_MESSAGES * DOCUMENTS
    starts = [number * room // count for number in range(count)]
    long = [texts.stream[start : start + _LARGE_CHARACTERS] for start in starts]
    return _batch(arn, [_documents(part) for part in _parts(long)])


def rerank_batch(texts: Texts, arn: str) -> Event:
    """Return ten messages, in each a query and a hundred documents to rank."""
    bodies = []
    for part in _parts(texts.usual):
        documents = _documents(part)["documents"]
        bodies.append({"v": 1, "rerank": [{"id": _new_id(), "query": part[0], "documents": documents, "top_n": 10}]})
    return _batch(arn, bodies)


BATCHES: dict[str, Callable[[Texts, str], Event]] = {
    "usual": usual_batch,
    "short": short_batch,
    "largest": largest_batch,
    "rerank": rerank_batch,
}


def _parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), DOCUMENTS):
        yield texts[start : start + DOCUMENTS]


def _documents(texts: Sequence[str]) -> dict[str, Any]:
    return {"v": 1, "documents": [{"id": _new_id(), "text": text} for text in texts]}


def _new_id() -> str:
    return uuid.uuid4().hex


def _batch(arn: str, bodies: Sequence[Mapping[str, Any]]) -> Event:
    event = {"Records": [_record(arn, json.dumps(body, ensure_ascii=False)) for body in bodies]}
    size = len(json.dumps(event, ensure_ascii=False).encode())
    if size > MAX_EVENT_BYTES:
        raise SystemFailedError(f"an event of {size} bytes: Lambda gives {MAX_EVENT_BYTES} at most")
    return event


def _record(arn: str, body: str) -> dict[str, Any]:
    if len(body.encode()) > MAX_MESSAGE_BYTES:
        raise SystemFailedError(f"a message of {len(body.encode())} bytes: SQS takes {MAX_MESSAGE_BYTES} at most")
    return {
        "messageId": str(uuid.uuid4()),
        "receiptHandle": _new_id(),
        "body": body,
        "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1767225600000"},
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": "us-east-1",
    }
