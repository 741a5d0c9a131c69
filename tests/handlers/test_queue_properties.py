"""Random events through the unchanged handler, over a model and an SQS that this file owns.

What must hold for each: the answer is one that Lambda reads; it names messages of the event only; a message that it
does not name was wholly written, or sent to the dead-letter queue: nothing is lost by an answer too short.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from unit_fakes import FakeStore, Killed, MemoryTrail, Tiny, make_tiny

import handlers.queue
from embakery.errors import InvalidRequestError, StoreUnavailableError
from embakery.isolation import Mark, State
from embakery.results import Result, WriteOutcome
from embakery.texts import TokenIds
from embakery.vectors import Vectors
from embakery.work import Resources
from embakery.worker import Worker
from local.batch_response import failed_message_ids
from storage.source_queue import QueueFactsReader

EVENTS = 5_000
MARKS = [Mark(State.BEGUN), Mark(State.BEGUN, 1), Mark(State.WRITING), Mark(State.DONE), Mark(State.SPLIT)]
ARNS = ("arn:aws:sqs:us-east-1:000000000000:documents", "arn:aws:sqs:us-east-1:000000000000:documents.fifo")


@dataclass
class RandomStore:
    """A store that fails for a share of ids, and now and then as a whole or by an exception of its own."""

    draw: random.Random
    written: set[str] = field(default_factory=set)

    def write(self, results: Sequence[Result]) -> list[WriteOutcome]:
        chance = self.draw.random()
        if chance < 0.05:
            raise StoreUnavailableError("down")
        if chance < 0.07:
            raise ValueError("a text, perhaps")
        return [self._write(result) for result in results]

    def _write(self, result: Result) -> WriteOutcome:
        if self.draw.random() < 0.1:
            return WriteOutcome.FAILED
        self.written.add(result.id)
        return self.draw.choice([WriteOutcome.WRITTEN, WriteOutcome.SUPERSEDED])


@dataclass
class FakeSqs:
    """As much of SQS as the handler asks for; every call may fail."""

    draw: random.Random
    buried: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)

    def get_queue_url(self, *, QueueName: str, QueueOwnerAWSAccountId: str) -> Any:  # noqa: N803 - boto3's names
        return {"QueueUrl": f"https://sqs.example/{QueueOwnerAWSAccountId}/{QueueName}"}

    def get_queue_attributes(self, *, QueueUrl: str, AttributeNames: Sequence[str]) -> Any:  # noqa: N803
        target = "arn:aws:sqs:us-east-1:000000000000:dead" + (".fifo" if QueueUrl.endswith(".fifo") else "")
        policy = json.dumps({"deadLetterTargetArn": target, "maxReceiveCount": 10})
        return {"Attributes": {"VisibilityTimeout": "780", "RedrivePolicy": policy}}

    def send_message_batch(self, *, QueueUrl: str, Entries: Sequence[Any]) -> Any:  # noqa: N803
        failed = [entry for entry in Entries if self.draw.random() < 0.2]
        taken = [entry for entry in Entries if entry not in failed]
        for entry in taken:
            failure = json.loads(entry["MessageAttributes"]["embakery_failure"]["StringValue"])
            self.buried.add(failure["message_id"])
        return {
            "Successful": [{"Id": entry["Id"]} for entry in taken],
            "Failed": [{"Id": entry["Id"], "Code": "InternalError", "SenderFault": False} for entry in failed],
        }

    def delete_message_batch(self, *, QueueUrl: str, Entries: Sequence[Any]) -> Any:  # noqa: N803
        self.deleted |= {entry["ReceiptHandle"] for entry in Entries}
        return {}

    def change_message_visibility_batch(self, *, QueueUrl: str, Entries: Sequence[Any]) -> Any:  # noqa: N803
        return {"Failed": [{"Id": "0", "Code": "ReceiptHandleIsInvalid"}]} if self.draw.random() < 0.1 else {}


class Clock:
    """A Lambda context whose time runs with every look at it."""

    function_name = "queue"
    memory_limit_in_mb = "1769"
    invoked_function_arn = "arn:aws:lambda:us-east-1:000000000000:function:queue"
    aws_request_id = "request"

    def __init__(self, looks: int) -> None:
        self.milliseconds = looks * 1000

    def get_remaining_time_in_millis(self) -> int:
        self.milliseconds -= 1000
        return max(0, self.milliseconds)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    made = make_tiny(tmp_path_factory.mktemp("tiny") / "artifact")
    encode = made.engine.encode

    def moody(batch: Sequence[TokenIds]) -> Vectors:
        if any(6 in ids for ids in batch):
            raise ValueError("an engine's bug, with a text in its words")
        if any(7 in ids for ids in batch):
            raise Killed
        return encode(batch)

    made.engine.encode = moody  # type: ignore[method-assign]
    return made


def random_body(draw: random.Random, name: str) -> object:
    kind = draw.random()
    if kind < 0.1:
        return draw.choice([None, 7, "", "{", "null", "[]", '{"v": 1}', "\x00", '{"v": 1, "documents": []}', "é" * 50])
    texts = draw.choices(
        ["a", "b c", "a b c", " ", "nan", "zero", "refused", "d", "a e"], [9, 9, 9, 1, 1, 1, 1, 1, 0.3], k=3
    )
    documents: list[Any] = [{"id": f"{name}.{n}", "text": text} for n, text in enumerate(texts[: draw.randint(1, 3)])]
    if kind < 0.15:
        documents.insert(0, draw.choice([None, [], {"id": "", "text": "a"}, {"text": "a"}, {"id": "x"}]))
    if kind < 0.2:
        return json.dumps({"v": 1, "rerank": [{"id": f"{name}.0", "query": "a", "documents": documents}]})
    destination = "default" if draw.random() < 0.95 else "nowhere"
    return json.dumps({"v": 1, "documents": documents, "destination": destination})


def random_event(draw: random.Random) -> dict[str, Any]:
    arn = draw.choice(ARNS)
    records = []
    for number in range(draw.choice([0, 1, 1, 2, 5, 10])):
        name = f"m{number}"
        record: dict[str, Any] = {"messageId": name, "receiptHandle": f"r-{name}", "eventSourceARN": arn}
        record["body"] = random_body(draw, name)
        if draw.random() < 0.95:
            record["attributes"] = {"ApproximateReceiveCount": str(draw.choice([1, 1, 1, 2, 3, 9, 10, 11]))}
            if draw.random() < 0.8:
                record["attributes"]["MessageGroupId"] = draw.choice("xyz")
        if draw.random() < 0.2:
            record["messageAttributes"] = {"trace": {"stringValue": "t", "dataType": "String"}}
        records.append(record)
        if draw.random() < 0.05:
            records.append({**record, "receiptHandle": f"r-{name}-again"})
    return {"Records": records}


def wanted_ids(record: dict[str, Any]) -> set[str]:
    """Return the ids that must have been written for the message to be a success."""
    body = json.loads(record["body"])
    return {str(item["id"]) for item in body.get("documents") or body["rerank"]}


@pytest.mark.filterwarnings("ignore:No application metrics")
@pytest.mark.parametrize("part", range(5))
def test_the_answer_is_well_formed_and_names_all_that_is_not_done(
    tiny: Tiny, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers.queue, "services", lambda: SimpleNamespace(cache=None))
    kills = answers = 0
    for seed in range(part * EVENTS // 5, (part + 1) * EVENTS // 5):
        draw = random.Random(seed)
        event, store, sqs = random_event(draw), RandomStore(draw), FakeSqs(draw)
        trail = MemoryTrail({f"m{n}": {"0-1": draw.choice(MARKS)} for n in range(10) if draw.random() < 0.03})
        done_before = {name for name, marks in trail.marks.items() if marks["0-1"].state is State.DONE}
        worker = Worker(Resources(tiny.embedder, None, {"default": lambda s=store: s}, "acme"), trail=trail)  # type: ignore[misc]
        monkeypatch.setattr(handlers.queue, "worker", lambda w=worker: w)
        monkeypatch.setattr(handlers.queue, "_sqs", lambda s=sqs: s)
        monkeypatch.setattr(handlers.queue, "_facts", lambda s=sqs: QueueFactsReader(lambda: s))
        response = None
        with contextlib.suppress(Killed):
            response = handlers.queue.handler(event, Clock(draw.choice([2, 4, 50])))
        ids = {record["messageId"] for record in event["Records"]}
        if response is None:
            kills += 1
            gone = {handle.removeprefix("r-").removesuffix("-again") for handle in sqs.deleted}
        else:
            answers += 1
            assert response.keys() == {"batchItemFailures"}, seed
            named = [failure["itemIdentifier"] for failure in response["batchItemFailures"]]
            assert len(set(named)) == len(named), seed
            assert failed_message_ids(response, ids) == frozenset(named), seed
            gone = ids - set(named)
        for record in event["Records"]:
            name = record["messageId"]
            if name in gone - sqs.buried - done_before:
                assert wanted_ids(record) <= store.written, (seed, name)
    assert kills > 3
    assert answers > 800


def test_a_record_without_an_id_fails_the_whole_batch(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be named: an answer that leaves it out would delete it."""
    resources = Resources(tiny.embedder, None, {"default": FakeStore}, "acme")
    monkeypatch.setattr(handlers.queue, "worker", lambda: Worker(resources))
    with pytest.raises(InvalidRequestError, match=r"event.Records\[0\]: has no messageId"):
        handlers.queue.handler({"Records": [{"body": "{}"}]}, Clock(50))
