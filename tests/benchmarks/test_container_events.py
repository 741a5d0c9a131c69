"""The queue's batches, within Lambda's and SQS's limits and of the length that they are said to have."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
from tokenizers import Tokenizer

from benchmarks.containers_events import BATCHES, MAX_EVENT_BYTES, MAX_MESSAGE_BYTES, Texts, cut_texts, usual_batch
from benchmarks.process import SystemFailedError
from embakery.messages import EmbedMessage, RerankMessage, parse_message
from embakery.texts import TextLimits
from model_bake.corpus import standard_library_passages
from model_bake.source import DEFAULT_MODEL, find_model

ARN = "arn:aws:sqs:us-east-1:000000000000:documents"
TOKENS = 60
TOKENIZER = find_model(DEFAULT_MODEL).folder / "tokenizer.json"


@functools.cache
def texts() -> Texts:
    return cut_texts(
        TOKENIZER, " ".join(passage.text for passage in standard_library_passages(limit=2500)), tokens=TOKENS
    )


def bodies(event: dict[str, Any]) -> list[str]:
    return [record["body"] for record in event["Records"]]


def test_texts_are_of_one_length_and_distinct() -> None:
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    assert {len(each.ids) for each in tokenizer.encode_batch(list(texts().usual))} == {TOKENS}
    assert {len(each.ids) for each in tokenizer.encode_batch(list(texts().short))} == {12}
    assert len(set(texts().usual)) == len(set(texts().short)) == 1000


def test_too_little_text_is_said() -> None:
    with pytest.raises(SystemFailedError, match="not enough text"):
        cut_texts(TOKENIZER, "A few words. " * 50, tokens=TOKENS)


@pytest.mark.parametrize("name", BATCHES)
def test_each_batch_keeps_the_limits_and_the_worker_reads_it(name: str) -> None:
    event = BATCHES[name](texts(), ARN)
    assert len(json.dumps(event, ensure_ascii=False).encode()) <= MAX_EVENT_BYTES
    assert all(len(body.encode()) <= MAX_MESSAGE_BYTES for body in bodies(event))
    for body in bodies(event):
        message = parse_message(body, limits=TextLimits())
        assert isinstance(message, EmbedMessage | RerankMessage)


def test_the_largest_batch_is_near_the_limit() -> None:
    assert len(json.dumps(BATCHES["largest"](texts(), ARN), ensure_ascii=False).encode()) > 0.9 * MAX_EVENT_BYTES


def test_every_batch_has_ids_of_its_own() -> None:
    ids = [
        document["id"]
        for event in (usual_batch(texts(), ARN), usual_batch(texts(), ARN))
        for body in bodies(event)
        for document in json.loads(body)["documents"]
    ]
    assert len(ids) == len(set(ids)) == 2000
