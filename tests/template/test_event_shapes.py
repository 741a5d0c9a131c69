"""Every file in events/ is what Lambda would hand over. What the handlers make of them is tested in tests/handlers."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from template_source import ROOT, functions, load_template, sources

EVENTS = {path.stem: path for path in sorted((ROOT / "events").glob("*.json"))}
FROM_A_QUEUE = ["sqs-broken", "sqs-documents", "sqs-fifo", "sqs-openai-batch-line", "sqs-rerank", "sqs-source"]
OVER_HTTP = ["api-embeddings", "api-embeddings-base64", "api-health", "api-models", "api-rerank"]
QUEUE_ARN = "arn:aws:sqs:us-east-1:123456789012:embakery-documents"
RECORD_KEYS = {
    *("messageId", "receiptHandle", "body", "attributes", "messageAttributes", "md5OfBody"),
    *("eventSource", "eventSourceARN", "awsRegion"),
}
ATTRIBUTES = {"ApproximateReceiveCount", "SentTimestamp", "SenderId", "ApproximateFirstReceiveTimestamp"}
FIFO_ATTRIBUTES = ATTRIBUTES | {"SequenceNumber", "MessageGroupId", "MessageDeduplicationId"}


def read(name: str) -> dict[str, Any]:
    event = json.loads(EVENTS[name].read_text(encoding="utf-8"))
    assert isinstance(event, dict)
    return event


def messages(name: str) -> list[dict[str, Any]]:
    """The parsed bodies of a queue event."""
    return [json.loads(record["body"]) for record in read(name)["Records"]]


def request_body(name: str) -> dict[str, Any]:
    event = read(name)
    raw = base64.b64decode(event["body"], validate=True) if event["isBase64Encoded"] else event["body"]
    body = json.loads(raw)
    assert isinstance(body, dict)
    return body


def test_no_event_is_left_out() -> None:
    assert sorted(EVENTS) == sorted(FROM_A_QUEUE + OVER_HTTP)


@pytest.mark.parametrize("path", EVENTS.values(), ids=lambda path: path.stem)
def test_files_are_json_as_we_write_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("name", FROM_A_QUEUE)
def test_queue_records_are_complete(name: str) -> None:
    records = read(name)["Records"]
    fifo = name == "sqs-fifo"
    assert len({record["messageId"] for record in records}) == len(records) > 0
    for record in records:
        assert set(record) == RECORD_KEYS
        assert set(record["attributes"]) == (FIFO_ATTRIBUTES if fifo else ATTRIBUTES)
        assert all(isinstance(value, str) for value in record["attributes"].values())
        assert record["md5OfBody"] == hashlib.md5(record["body"].encode(), usedforsecurity=False).hexdigest()
        assert record["eventSource"] == "aws:sqs"
        assert record["eventSourceARN"] == QUEUE_ARN + (".fifo" if fifo else "")


@pytest.mark.parametrize("name", OVER_HTTP)
def test_http_payloads_are_version_2(name: str) -> None:
    event = read(name)
    context, method = event["requestContext"], event["requestContext"]["http"]["method"]
    assert event["version"] == "2.0"
    assert event["routeKey"] == context["routeKey"] == f"{method} {event['rawPath']}"
    assert context["http"]["path"] == event["rawPath"]
    assert context["stage"] == "$default"
    assert context["accountId"] == context["authorizer"]["iam"]["accountId"] == "123456789012"
    assert all(header == header.lower() for header in event["headers"])
    assert ("body" in event) == (method == "POST")


@pytest.mark.parametrize("name", ["api-embeddings", "api-embeddings-base64", "api-rerank"])
def test_content_length_counts_the_body_as_sent(name: str) -> None:
    event = read(name)
    sent = base64.b64decode(event["body"]) if event["isBase64Encoded"] else event["body"].encode()
    assert event["headers"]["content-length"] == str(len(sent))


def test_every_route_of_the_template_has_an_event() -> None:
    routes = sources(functions(load_template())["ApiFunction"], "HttpApi").values()
    assert {f"{route['Method']} {route['Path']}" for route in routes} == {read(name)["routeKey"] for name in OVER_HTTP}


def test_documents_come_alone_and_together() -> None:
    first, second = messages("sqs-documents")
    assert [set(document) for document in first["documents"]] == [{"id", "text"}]
    assert [document["id"] for document in second["documents"]] == ["handbook-2", "handbook-3", "handbook-4"]
    assert set(second) == {"v", "documents", "input_type", "destination", "job_id"}
    assert [set(document) - {"id", "text"} for document in second["documents"]] == [
        {"version", "metadata"},
        {"version", "metadata"},
        set(),
    ]


def test_rerank_message_and_batch_line_have_their_own_shapes() -> None:
    (rerank,) = messages("sqs-rerank")
    (line,) = messages("sqs-openai-batch-line")
    assert [set(request) for request in rerank["rerank"]] == [{"id", "query", "documents", "top_n"}]
    assert set(line) == {"custom_id", "method", "url", "body"}
    assert line["url"] == "/v1/embeddings"


def test_broken_event_has_one_good_message_among_five_bad_ones() -> None:
    bodies = [record["body"] for record in read("sqs-broken")["Records"]]
    with pytest.raises(json.JSONDecodeError):
        json.loads(bodies[0])
    no_id, good, empty, version, destination = (json.loads(body) for body in bodies[1:])
    assert set(no_id["documents"][0]) == {"text"}
    assert (good["v"], good["documents"][0]["id"]) == (1, "good-1")
    assert empty["documents"][0]["text"] == ""
    assert version["v"] == 99
    assert destination["destination"] == "nowhere"


def test_fifo_event_interleaves_two_groups() -> None:
    records = read("sqs-fifo")["Records"]
    assert [record["attributes"]["MessageGroupId"] for record in records] == ["tenant-a", "tenant-b"] * 2
    numbers = [int(record["attributes"]["SequenceNumber"]) for record in records]
    assert numbers == sorted(set(numbers))


def test_http_bodies_are_those_of_the_apis_followed() -> None:
    assert request_body("api-embeddings")["encoding_format"] == "float"
    assert len(request_body("api-embeddings")["input"]) == 2
    assert read("api-embeddings-base64")["isBase64Encoded"] is True
    assert request_body("api-embeddings-base64")["encoding_format"] == "base64"
    assert set(request_body("api-rerank")) == {"model", "query", "documents", "top_n", "return_documents"}
