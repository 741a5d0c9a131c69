"""The queue handler, unchanged, in its own process: every SQS event of events/, and every bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handler_helpers import EVENTS, documents, event, eventually, failed, rows, sqs_event, unique

from embakery import Embedder
from embakery.vectors import from_base64
from local.system import LocalSystem


def invoke(system: LocalSystem, made: dict[str, Any]) -> Any:
    return system.parts.queue_function.invoke(made, wait_seconds=30)


def logs(system: LocalSystem) -> str:
    return "".join(path.read_text() for path in system.parts.folder.rglob("*.log"))


@pytest.fixture(scope="module")
def embedder(default_artifact: Path) -> Embedder:
    return Embedder.load(default_artifact, threads=1)


def test_documents_go_to_the_destinations_that_their_messages_name(system: LocalSystem, embedder: Embedder) -> None:
    made = event("sqs-documents")
    assert invoke(system, made) == {"batchItemFailures": []}

    text = json.loads(made["Records"][0]["body"])["documents"][0]["text"]
    row = rows(system)["handbook-1"]
    assert from_base64(row["vector"]).tobytes() == embedder.embed([text])[0].tobytes()
    assert (row["version"], row["tenant"], row["space_id"]) == (1, "default", embedder.manifest.space_id)

    key = {"pk": {"S": "default#handbook-2"}, "sk": {"S": f"{embedder.manifest.space_id}#embedding"}}
    item = system.parts.clients.dynamodb.get_item(TableName=system.endpoints["table"], Key=key)["Item"]
    second = json.loads(made["Records"][1]["body"])
    expected = embedder.embed([second["documents"][0]["text"]])[0]
    assert np.frombuffer(item["vector"]["B"], "<f4").tobytes() == expected.tobytes()
    assert item["version"]["N"] == "3"
    assert item["job_id"]["S"] == second["job_id"]
    assert json.loads(item["metadata"]["S"]) == second["documents"][0]["metadata"]


def test_a_batch_delivered_twice_is_written_once(system: LocalSystem) -> None:
    made = sqs_event(documents({"id": unique("twice"), "text": "delivered twice"}))

    def objects() -> int:
        answer = system.parts.clients.s3.list_objects_v2(Bucket=system.endpoints["bucket"], Prefix="results/")
        return answer["KeyCount"]

    assert failed(invoke(system, made)) == []
    once = objects()
    assert failed(invoke(system, made)) == []
    assert objects() == once


def test_an_older_version_that_comes_late_is_a_success_and_changes_nothing(system: LocalSystem) -> None:
    name = unique("late")
    newer = documents({"id": name, "text": "the newer text", "version": 2}, destination="table")
    older = documents({"id": name, "text": "the older text", "version": 1}, destination="table")
    assert failed(invoke(system, sqs_event(newer))) == []
    assert failed(invoke(system, sqs_event(older))) == []
    items = system.parts.clients.dynamodb.scan(TableName=system.endpoints["table"])["Items"]
    assert [item["version"]["N"] for item in items if item["id"]["S"] == name] == ["2"]


def test_a_claim_check_names_a_payload_in_the_bucket(system: LocalSystem, embedder: Embedder) -> None:
    payload = (EVENTS / "sources" / "manual.jsonl").read_bytes()
    made = event("sqs-source")
    source = json.loads(made["Records"][0]["body"])["source"]
    system.parts.clients.s3.put_object(Bucket=system.endpoints["bucket"], Key=source["key"], Body=payload)
    assert failed(invoke(system, made)) == []
    written = rows(system)
    assert {id_ for id_ in written if id_.startswith("manual-")} == {"manual-1", "manual-2", "manual-3#0", "manual-3#1"}
    (expected,) = embedder.embed(["One such line may hold several texts."])
    assert from_base64(written["manual-3#1"]["vector"]).tobytes() == expected.tobytes()
    assert (written["manual-1"]["metadata"], written["manual-1"]["job_id"]) == ({"page": 1}, "manual-2026-11")


def test_a_rerank_message_ranks_its_documents(system: LocalSystem, embedder: Embedder) -> None:
    made = event("sqs-rerank")
    assert failed(invoke(system, made)) == []
    query = json.loads(made["Records"][0]["body"])["rerank"][0]
    expected = embedder.rerank(query["query"], [document["text"] for document in query["documents"]], top_n=2)
    assert rows(system)["question-9"]["ranking"] == [
        {"id": query["documents"][line.index]["id"], "index": line.index, "score": line.score} for line in expected
    ]
    assert rows(system)["question-9"]["ranking"][0]["id"] == "handbook-2"


def test_a_line_of_an_openai_batch_file_is_a_message(system: LocalSystem, embedder: Embedder) -> None:
    made = event("sqs-openai-batch-line")
    assert failed(invoke(system, made)) == []
    text = json.loads(made["Records"][0]["body"])["body"]["input"]
    assert from_base64(rows(system)["request-1"]["vector"]).tobytes() == embedder.embed([text])[0].tobytes()


def test_broken_messages_fail_alone(system: LocalSystem) -> None:
    made = event("sqs-broken")
    good = next(record["messageId"] for record in made["Records"] if "good-1" in record["body"])
    assert failed(invoke(system, made)) == [
        record["messageId"] for record in made["Records"] if record["messageId"] != good
    ]
    assert "good-1" in rows(system)


def test_on_a_fifo_queue_a_hopeless_message_does_not_take_its_followers_with_it(system: LocalSystem) -> None:
    made = event("sqs-fifo")
    assert failed(invoke(system, made)) == []
    first_of_a = made["Records"][0]
    first_of_a["body"] = "not JSON"
    assert failed(invoke(system, made)) == [first_of_a["messageId"]]


CANARY = "canary-7f3a"
BAD_MESSAGES = {
    "invalid JSON": '{"v": 1, "documents": [{"id": "a", "text": "' + CANARY,
    "not an object": f'["{CANARY}"]',
    "unknown version": json.dumps({"v": 2, "documents": [{"id": "a", "text": CANARY}]}),
    "no version": json.dumps({"documents": [{"id": "a", "text": CANARY}]}),
    "neither documents nor rerank": json.dumps({"v": 1, "text": CANARY}),
    "documents not an array": json.dumps({"v": 1, "documents": CANARY}),
    "no documents": json.dumps({"v": 1, "documents": []}),
    "too many documents": json.dumps({"v": 1, "documents": [{"id": str(n), "text": CANARY} for n in range(101)]}),
    "missing id": json.dumps({"v": 1, "documents": [{"text": CANARY}]}),
    "id of a wrong type": json.dumps({"v": 1, "documents": [{"id": 7, "text": CANARY}]}),
    "missing text": json.dumps({"v": 1, "documents": [{"id": "a"}]}),
    "text of a wrong type": json.dumps({"v": 1, "documents": [{"id": "a", "text": [CANARY]}]}),
    "empty text": json.dumps({"v": 1, "documents": [{"id": "a", "text": ""}]}),
    "blank text": json.dumps({"v": 1, "documents": [{"id": "a", "text": " \t\n\u3000"}]}),
    "lone surrogate": '{"v": 1, "documents": [{"id": "a", "text": "' + CANARY + ' \\ud800"}]}',
    "NUL": '{"v": 1, "documents": [{"id": "a", "text": "' + CANARY + ' \\u0000"}]}',
    "1 MB of text": json.dumps({"v": 1, "documents": [{"id": "a", "text": CANARY * 90_000}]}),
    "unknown destination": json.dumps({"v": 1, "documents": [{"id": "a", "text": CANARY}], "destination": "nowhere"}),
    "unknown input type": json.dumps({"v": 1, "documents": [{"id": "a", "text": CANARY}], "input_type": CANARY}),
    "version of a wrong type": json.dumps({"v": 1, "documents": [{"id": "a", "text": CANARY, "version": "3"}]}),
    "metadata of a wrong type": json.dumps({"v": 1, "documents": [{"id": "a", "text": CANARY, "metadata": []}]}),
    "nested too deeply": "[" * 100_000,
    "rerank without a query": json.dumps({"v": 1, "rerank": [{"id": "a", "documents": [{"id": "b", "text": CANARY}]}]}),
}


def test_every_bad_message_fails_alone_and_none_is_quoted_in_the_logs(system: LocalSystem) -> None:
    """All bad messages in one batch, a good one between each two of them."""
    bodies: list[str] = []
    good: list[str] = []
    for body in BAD_MESSAGES.values():
        good.append(unique("neighbour"))
        bodies += [documents({"id": good[-1], "text": f"{CANARY} but well formed"}), body]
    # As large as a Lambda payload may be: 1 MB of text among them.
    assert failed(invoke(system, sqs_event(*bodies))) == [str(number) for number in range(1, len(bodies), 2)]
    assert set(good) <= rows(system).keys()
    # Lines come through a pipe, after the answer.
    eventually(lambda: "message_failed" in logs(system))
    assert CANARY not in logs(system)


def test_each_error_names_field_and_item(system: LocalSystem) -> None:
    second_bad = documents({"id": unique("first"), "text": "fine"}, {"id": "b", "text": ""}, {"id": 3, "text": "x"})
    invoke(system, sqs_event(second_bad))
    eventually(lambda: "documents[2].id: must be a string, not a number" in logs(system))
    assert "documents[1].text: must not be empty or blank" in logs(system)


def test_the_good_documents_of_a_message_with_a_bad_one_are_written(system: LocalSystem) -> None:
    name = unique("good")
    assert failed(invoke(system, sqs_event(documents({"id": name, "text": "fine"}, {"id": "b", "text": ""})))) == ["0"]
    assert name in rows(system)


def test_the_followers_of_a_passing_failure_come_again_and_only_on_a_fifo_queue(
    system: LocalSystem,
) -> None:
    """The table is gone for a moment: what was meant for it fails, and on a FIFO queue what follows in its group."""
    made = event("sqs-fifo")
    for record, destination in zip(made["Records"], ("table", "default", "default", "default"), strict=True):
        body = json.loads(record["body"])
        record["body"] = json.dumps({**body, "destination": destination})
    table = system.endpoints["table"]
    description = system.parts.clients.dynamodb.describe_table(TableName=table)["Table"]
    system.parts.clients.dynamodb.delete_table(TableName=table)
    try:
        first_of_a, _, second_of_a, _ = made["Records"]
        assert failed(invoke(system, made)) == [first_of_a["messageId"], second_of_a["messageId"]]
        for record in made["Records"]:
            record["eventSourceARN"] = record["eventSourceARN"].removesuffix(".fifo")
        assert failed(invoke(system, made)) == [first_of_a["messageId"]]
    finally:
        system.parts.clients.dynamodb.create_table(
            TableName=table,
            KeySchema=description["KeySchema"],
            AttributeDefinitions=description["AttributeDefinitions"],
            BillingMode="PAY_PER_REQUEST",
        )
