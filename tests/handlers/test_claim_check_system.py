"""Large files through the whole system: enqueued by claim check, embedded by the function, or handed to bulk, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from handler_helpers import eventually, rows, sqs_event, unique

from embakery import Embedder
from embakery.sources import Source
from embakery.vectors import from_base64
from local.environment import aws_environment, base_environment
from local.functions import LocalFunction
from local.settings import LocalSettings, function_environment
from local.system import LocalSystem
from storage.bulk_queue import SqsBulkQueue
from storage.claim_check import ClaimCheck


def command(system: LocalSystem, *arguments: object) -> subprocess.CompletedProcess[str]:
    env = base_environment(os.environ) | aws_environment(system.endpoints["aws"])
    made = [sys.executable, "-m", "embakery", *map(str, arguments)]
    return subprocess.run(made, capture_output=True, text=True, env=env)


def put(system: LocalSystem, *documents: dict[str, Any]) -> Source:
    check = ClaimCheck(
        system.parts.clients.s3, bucket=system.endpoints["bucket"], prefix="sources/", owner=None, max_bytes=1 << 26
    )
    return check.put("".join(f"{json.dumps(document)}\n" for document in documents).encode())


def message(source: Source, **more: object) -> str:
    return json.dumps({"v": 1, "source": {"key": source.key, "sha256": source.sha256, "size": source.size}, **more})


def failed_ids(system: LocalSystem, function: LocalFunction, *bodies: str, receives: int = 1) -> list[str]:
    event = sqs_event(*bodies)
    for record in event["Records"]:
        record["attributes"] = {**record["attributes"], "ApproximateReceiveCount": str(receives)}
    answer = function.invoke(event, wait_seconds=30)
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


@pytest.fixture
def small(system: LocalSystem, default_artifact: Path) -> Iterator[LocalFunction]:
    """A function that hands over what has more than ten documents."""
    settings = LocalSettings(default_artifact, env={"EMBAKERY_BULK_OVERFLOW_DOCUMENTS": "10"})
    env = function_environment(
        settings,
        aws_url=system.endpoints["aws"],
        redis_url=system.endpoints["redis"],
        resources=system.parts.resources,
    )
    function = LocalFunction("small", handler="handlers.queue.handler", env=env, logs=system.parts.logs)
    yield function
    function.close()


def orders(system: LocalSystem) -> list[dict[str, Any]]:
    """Take every order off the bulk queue."""
    sqs, url, found = system.parts.clients.sqs, system.endpoints["bulk_queue_url"], []
    while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0).get("Messages"):
        for one in messages:
            found.append(json.loads(one["Body"]))
            sqs.delete_message(QueueUrl=url, ReceiptHandle=one["ReceiptHandle"])
    return found


def test_an_enqueued_file_is_embedded_from_its_claim_checks(
    system: LocalSystem, default_artifact: Path, tmp_path: Path
) -> None:
    name = unique("file")
    texts = {f"{name}-{number}": f"line {number} of a large file about {name}" for number in range(130)}
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps({"id": id_, "text": text}) + "\n" for id_, text in texts.items()))
    done = command(
        system, "enqueue", path, "--queue-url", system.endpoints["queue_url"], "--claim-check", "always",
        "--claim-check-bucket", system.endpoints["bucket"], "--no-journal", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    eventually(lambda: texts.keys() <= rows(system).keys())
    written = rows(system)
    expected = Embedder.load(default_artifact, threads=1).embed(list(texts.values()))
    assert all(
        from_base64(written[id_]["vector"]).tobytes() == vector.tobytes()
        for id_, vector in zip(texts, expected, strict=True)
    )


def test_a_payload_that_was_changed_is_refused_and_dead_lettered(system: LocalSystem) -> None:
    source = put(system, {"id": unique("changed"), "text": "the original"})
    system.parts.clients.s3.put_object(Bucket=system.endpoints["bucket"], Key=source.key, Body=b"x" * source.size)
    dead = system.endpoints["dlq_url"]
    sqs = system.parts.clients.sqs
    sqs.send_message(QueueUrl=system.endpoints["queue_url"], MessageBody=message(source))

    def reasons() -> list[str]:
        found = sqs.receive_message(
            QueueUrl=dead, MaxNumberOfMessages=10, MessageAttributeNames=["All"], VisibilityTimeout=0
        ).get("Messages", [])
        mine = [one for one in found if source.key in one["Body"]]
        return [json.loads(one["MessageAttributes"]["embakery_failure"]["StringValue"])["reason"] for one in mine]

    eventually(lambda: bool(reasons()))
    assert reasons()[0].startswith("source.sha256")


def test_too_many_documents_become_one_order_however_often_the_message_comes(
    system: LocalSystem, small: LocalFunction
) -> None:
    name = unique("bulk")
    source = put(system, *({"id": f"{name}-{number}", "text": f"text {number}"} for number in range(11)))
    body = message(source, job_id="job-1", destination="table")
    for receives in (1, 2, 3):
        assert failed_ids(system, small, body, receives=receives) == []
    found = [order for order in orders(system) if order["source"]["key"] == source.key]
    assert len(found) == 1
    assert (found[0]["job_id"], found[0]["destination"], found[0]["input_type"]) == ("job-1", "table", "document")
    # After the queue's own five minutes of memory it is the state table that knows.
    assert failed_ids(system, small, body) == []
    assert [order for order in orders(system) if order["source"]["key"] == source.key] == []
    assert name not in json.dumps(sorted(rows(system)))


def test_a_hand_over_cut_off_before_its_note_gives_the_same_order_again(system: LocalSystem) -> None:
    clients, source = system.parts.clients, Source("sources/x.jsonl", "ab" * 32, 7)
    without_note = SqsBulkQueue(clients.sqs, queue_url=system.endpoints["bulk_queue_url"])
    with_note = SqsBulkQueue(
        clients.sqs,
        queue_url=system.endpoints["bulk_queue_url"],
        dynamodb=clients.dynamodb,
        state_table=system.endpoints["state_table"],
    )
    for queue in (without_note, with_note, with_note):
        queue.hand_over(source, message_id="m", input_type="document", destination="default", job_id=None)
    assert len([order for order in orders(system) if order["source"]["sha256"] == source.sha256]) == 1


def test_results_become_tables(system: LocalSystem) -> None:
    name = unique("table")
    body = json.dumps({"v": 1, "documents": [{"id": name, "text": "to be compacted", "metadata": {"a": 1}}]})
    assert failed_ids(system, system.parts.queue_function, body) == []
    log, out = f"s3://{system.endpoints['bucket']}/results/", f"s3://{system.endpoints['bucket']}/tables/"
    done = command(system, "bulk", "compact", log, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["new"]
    found = []
    for part in made["parts"]:
        local = Path(system.parts.folder) / "part.parquet"
        system.parts.clients.s3.download_file(system.endpoints["bucket"], part["key"], str(local))
        found += [row for row in pq.read_table(local).to_pylist() if row["id"] == name]
    assert len(found) == 1
    assert not json.loads(command(system, "bulk", "compact", log, "--out", out, "--json").stdout)["new"]
    wrong = command(system, "bulk", "compact", log, "--out", log)
    assert (wrong.returncode, "must not lie within" in wrong.stderr) == (2, True)
