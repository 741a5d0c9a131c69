"""Documents through the real queue: dead letters alone, order in FIFO groups, and Redis dying on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from handler_helpers import documents, eventually, rows, unique

from cli.sender import send_documents
from embakery import Embedder
from embakery.vectors import from_base64
from local.settings import LocalSettings
from local.system import LocalSystem
from model_bake.corpus import Passage, standard_library_passages


def visible(system: LocalSystem, queue: str) -> int:
    answer = system.parts.clients.sqs.get_queue_attributes(
        QueueUrl=system.endpoints[queue], AttributeNames=["ApproximateNumberOfMessages"]
    )
    return int(answer["Attributes"]["ApproximateNumberOfMessages"])


def test_a_message_that_cannot_succeed_reaches_the_dead_letter_queue_alone(system: LocalSystem) -> None:
    sqs, queue_url = system.parts.clients.sqs, system.endpoints["queue_url"]
    already, good = visible(system, "dlq_url"), [unique("healthy") for _ in range(20)]
    for number, name in enumerate(good):
        sqs.send_message(QueueUrl=queue_url, MessageBody=documents({"id": name, "text": f"healthy text {number}"}))
        if number % 10 == 5:
            sqs.send_message(QueueUrl=queue_url, MessageBody="not JSON")
    eventually(lambda: visible(system, "dlq_url") == already + 2)
    eventually(lambda: set(good) <= rows(system).keys())
    answer = sqs.receive_message(QueueUrl=system.endpoints["dlq_url"], MaxNumberOfMessages=10, VisibilityTimeout=0)
    bodies = [message["Body"] for message in answer["Messages"]]
    assert bodies.count("not JSON") == 2
    # Other tests have dead letters of their own here.
    assert not [body for body in bodies if any(name in body for name in good)]


def test_versions_in_a_fifo_group_arrive_in_order(system: LocalSystem) -> None:
    name = unique("fifo")
    for version in range(1, 6):
        system.parts.clients.sqs.send_message(
            QueueUrl=system.endpoints["fifo_queue_url"],
            MessageBody=documents({"id": name, "text": f"revision {version}", "version": version}, destination="table"),
            MessageGroupId=name,
            MessageDeduplicationId=f"{name}-{version}",
        )

    def stored_version() -> str | None:
        items = system.parts.clients.dynamodb.scan(TableName=system.endpoints["table"])["Items"]
        return next((item["version"]["N"] for item in items if item["id"]["S"] == name), None)

    eventually(lambda: stored_version() == "5")


@pytest.mark.usefixtures("redis_server")
def test_redis_killed_half_way_through_the_second_pass_loses_nothing(default_artifact: Path) -> None:
    passages = standard_library_passages(limit=600)
    with LocalSystem(LocalSettings(default_artifact, threads=2), report=lambda _: None) as system:
        _send(system, passages, version=1)
        eventually(lambda: system.metrics().get("ResultsWritten", 0) == 600, seconds=120)
        _send(system, passages, version=2)
        eventually(lambda: system.metrics().get("CacheHits", 0) >= 100)
        system.redis_process.kill()
        eventually(lambda: system.metrics()["ResultsWritten"] == 1200, seconds=120)
        assert 0 < system.metrics()["CacheHits"] < 600
        assert system.metrics()["CacheErrors"] > 0
        assert system.metrics()["MessagesFailed"] == 0
        written = rows(system)
    assert len(written) == 600
    assert {row["version"] for row in written.values()} == {2}
    expected = Embedder.load(default_artifact).embed([passage.text for passage in passages])
    wrong = [
        number
        for number, vector in enumerate(expected)
        if from_base64(written[f"p{number}"]["vector"]).tobytes() != vector.tobytes()
    ]
    assert wrong == []


def _send(system: LocalSystem, passages: Sequence[Passage], *, version: int) -> None:
    made = [{"id": f"p{number}", "text": passage.text, "version": version} for number, passage in enumerate(passages)]
    sent = send_documents(system.parts.clients.sqs, system.endpoints["queue_url"], made)
    assert sent == len(passages)
