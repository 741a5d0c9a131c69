"""Events that are not for the function that gets them: it says which it takes, and takes nothing for done."""

from __future__ import annotations

from typing import Any

import pytest
from lambda_emulator import Emulated
from lambda_world import CANARY, NO_QUEUE, LambdaWorld, batch, embeddings, event, message, unique

NO_EVENTS: dict[str, Any] = {
    "empty": {},
    "null": None,
    "list": [{"messageId": "m0", "body": CANARY}],
    "string": CANARY,
    "number": 7,
    "scheduled": {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}},
    "records-null": {"Records": None},
    "notification": {"Records": [{"EventSource": "aws:sns", "Sns": {"MessageId": "m0", "Message": CANARY}}]},
    "object-created": {"Records": [{"eventSource": "aws:s3", "s3": {"object": {"key": CANARY}}}]},
    "rest-api": {"resource": "/", "path": "/health", "httpMethod": "GET", "requestContext": {"stage": "prod"}},
    "no-path": {"requestContext": {"http": {"method": "GET"}}},
    "no-method": {"requestContext": {"http": {}}, "rawPath": "/health"},
}


def refused(function: Emulated, sent: Any, taken: str) -> str:
    """Check that an event is refused, in one line of the log; return the reason."""
    lines, others, counted = len(function.troubles), len(function.unstructured), function.metric("EventsRefused")
    answer = function.invoke(sent)
    assert answer.error.startswith("InvalidRequestError: event")
    (line,) = function.troubles[lines:]
    assert (line["message"], line["code"], line["level"]) == ("event_refused", "invalid_request", "ERROR")
    assert line["reason"] == answer.content["errorMessage"]
    assert taken in line["reason"]
    # The runtime client's own line, which it writes for every error of a handler.
    assert [line.partition(":")[0] for line in function.unstructured[others:]] == ["[ERROR] InvalidRequestError"]
    assert function.metric("EventsRefused") == counted + 1
    assert CANARY not in function.log
    return str(line["reason"])


@pytest.mark.parametrize("name", [*NO_EVENTS, "of-the-api"])
def test_the_queue_s_function_takes_batches_of_messages_alone(queue: Emulated, name: str) -> None:
    sent = embeddings(CANARY) if name == "of-the-api" else NO_EVENTS[name]
    refused(queue, sent, "this function takes batches of an SQS queue")


@pytest.mark.parametrize("name", [*NO_EVENTS, "of-the-queue"])
def test_the_api_s_function_takes_requests_alone(api: Emulated, name: str) -> None:
    sent = batch(message("m0")) if name == "of-the-queue" else NO_EVENTS[name]
    refused(api, sent, "this function takes those of an HTTP API or a function URL, payload format 2.0")


def test_an_empty_batch_is_done(queue: Emulated) -> None:
    before = len(queue.unstructured)
    assert queue.invoke({"Records": []}).content == {"batchItemFailures": []}
    assert len(queue.unstructured) == before


@pytest.mark.parametrize("broken", [None, "m1", {}, {"body": CANARY}, {"messageId": 7, "body": CANARY}])
def test_a_record_that_cannot_be_named_lets_the_whole_batch_come_again(
    queue: Emulated, world: LambdaWorld, broken: Any
) -> None:
    """An answer cannot name it: without it, it would be deleted; nothing is worked on, and nothing is lost."""
    name = unique("doc")
    sent = batch(message(name))
    sent["Records"].insert(1, broken)
    assert "event.Records[1]: has no messageId" in refused(queue, sent, "SQS")
    assert name not in world.rows()


ODD_FIELDS: dict[str, dict[str, Any]] = {
    "attributes-missing": {"attributes": None},
    "attributes-a-list": {"attributes": ["ApproximateReceiveCount"]},
    "count-a-word": {"attributes": {"ApproximateReceiveCount": "many"}},
    "message-attributes-a-string": {"messageAttributes": "none"},
    "receipt-missing": {"receiptHandle": None},
    "source-missing": {"eventSourceARN": None},
}


@pytest.mark.parametrize("name", ODD_FIELDS)
def test_a_record_made_by_hand_is_worked_on(queue: Emulated, world: LambdaWorld, name: str) -> None:
    """What a queue always says may be missing from an event that somebody typed."""
    names = [unique("doc") for _ in range(3)]
    sent = batch(*map(message, names))
    sent["Records"][1] |= ODD_FIELDS[name]
    assert queue.invoke(sent).failed == []
    assert set(names) <= world.rows().keys()


@pytest.mark.parametrize("body", [None, 7, {}, [CANARY], "", CANARY, '{"v": 1}'])
def test_a_body_that_says_nothing_fails_alone(queue: Emulated, world: LambdaWorld, body: Any) -> None:
    names = [unique("doc") for _ in range(2)]
    sent = batch(message(names[0]), "", message(names[1]), arn=NO_QUEUE)
    sent["Records"][1]["body"] = body
    assert queue.invoke(sent).failed == ["m1"]
    assert set(names) <= world.rows().keys()
    assert CANARY not in queue.log


def test_bodies_of_requests_that_are_not_what_they_say(api: Emulated) -> None:
    """Those are requests: their senders get an answer, and no line of trouble."""
    lines = len(api.troubles)
    for body, is_base64 in (("%%%", True), ("{", False), ("[]", False), (f'"{CANARY}"', False)):
        answer = api.invoke(event("api-embeddings") | {"body": body, "isBase64Encoded": is_base64})
        assert answer.content["statusCode"] == 400
        assert answer.body["error"]["param"] == "body"
    assert len(api.troubles) == lines
    assert CANARY not in api.log
