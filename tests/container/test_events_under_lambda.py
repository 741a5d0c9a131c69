"""Every sample event through the function that it is for, under Lambda's runtime emulator and awslambdaric."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from lambda_emulator import Emulated, emulated
from lambda_world import API, EVENTS, LambdaWorld, event

from embakery import Embedder
from embakery.vectors import from_base64

SAMPLES = sorted(path.stem for path in EVENTS.glob("*.json"))


def raw(name: str) -> bytes:
    return (EVENTS / f"{name}.json").read_bytes()


def bodies(name: str) -> list[dict[str, Any]]:
    return [json.loads(record["body"]) for record in event(name)["Records"]]


def vectors(world: LambdaWorld, *ids: str) -> list[bytes]:
    rows = world.rows()
    return [from_base64(rows[one]["vector"]).tobytes() for one in ids]


def test_the_model_is_loaded_before_the_first_invocation_and_once(world: LambdaWorld) -> None:
    with emulated(API, world.env) as function:
        answers = [function.invoke_raw(raw("api-embeddings")) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert answers[0] == answers[1] == answers[2]
    log = function.log
    loaded, ready, begun = (log.index(words) for words in ('"message":"engine"', "INIT RTDONE", "INVOKE START"))
    assert loaded < ready < begun
    assert (log.count('"message":"engine"'), log.count("INIT START"), log.count("INVOKE START")) == (1, 1, 3)
    assert function.metric("ColdStart") == 1
    # The first call encodes two texts, the others find them.
    assert (function.metric("CacheMisses"), function.metric("CacheHits")) == (2, 4)
    assert function.troubles == []


def test_sqs_documents(queue: Emulated, world: LambdaWorld, embedder: Embedder) -> None:
    assert queue.invoke_raw(raw("sqs-documents")).content == {"batchItemFailures": []}
    first, second = bodies("sqs-documents")
    assert vectors(world, "handbook-1") == [embedder.embed([first["documents"][0]["text"]])[0].tobytes()]
    items = world.items()
    for document, vector in zip(
        second["documents"], embedder.embed([one["text"] for one in second["documents"]]), strict=True
    ):
        item = items[document["id"]]
        assert item["vector"]["B"] == vector.tobytes()
        assert item["version"] == {"N": str(document.get("version", 1))}
        assert json.loads(item["metadata"]["S"]) == document.get("metadata", {})
        assert item["job_id"] == {"S": "handbook-2026-01"}


def test_sqs_broken_fails_all_but_the_good_one(queue: Emulated, world: LambdaWorld, embedder: Embedder) -> None:
    """Not JSON, no id, empty text, a version that nobody knows, a destination that nobody configured."""
    ids = [record["messageId"] for record in event("sqs-broken")["Records"]]
    answer = queue.invoke_raw(raw("sqs-broken"))
    assert answer.content == {
        "batchItemFailures": [{"itemIdentifier": ids[number]} for number in (0, 1, 3, 4, 5)],
    }
    text = "This document is well formed and must be written although its neighbours fail."
    assert vectors(world, "good-1") == [embedder.embed([text])[0].tobytes()]
    reasons = {line["message_ids"][0]: line["reason"] for line in queue.lines if line["message"] == "message_failed"}
    assert [reasons[ids[number]].partition(":")[0] for number in (0, 1, 3, 4, 5)] == [
        "body",
        "documents[0].id",
        "documents[0].text",
        "v",
        "destination",
    ]


def test_sqs_fifo_leaves_the_newest_revisions(queue: Emulated, world: LambdaWorld) -> None:
    assert queue.invoke_raw(raw("sqs-fifo")).content == {"batchItemFailures": []}
    rows = world.rows()
    assert {one: rows[one]["version"] for one in ("tenant-a-doc", "tenant-b-doc")} == {
        "tenant-a-doc": 2,
        "tenant-b-doc": 2,
    }


def test_sqs_openai_batch_line(queue: Emulated, world: LambdaWorld, embedder: Embedder) -> None:
    assert queue.invoke_raw(raw("sqs-openai-batch-line")).content == {"batchItemFailures": []}
    text = "The food was delicious and the waiter was kind."
    assert vectors(world, "request-1") == [embedder.embed([text])[0].tobytes()]


def test_sqs_rerank(queue: Emulated, world: LambdaWorld, embedder: Embedder) -> None:
    assert queue.invoke_raw(raw("sqs-rerank")).content == {"batchItemFailures": []}
    (query,) = bodies("sqs-rerank")[0]["rerank"]
    expected = embedder.rerank(query["query"], [document["text"] for document in query["documents"]], top_n=2)
    row = world.rows()["question-9"]
    assert (row["kind"], row["ranking"]) == (
        "rerank",
        [{"id": query["documents"][line.index]["id"], "index": line.index, "score": line.score} for line in expected],
    )
    assert row["ranking"][0]["id"] == "handbook-2"


def test_sqs_source(queue: Emulated, world: LambdaWorld, embedder: Embedder) -> None:
    assert queue.invoke_raw(raw("sqs-source")).content == {"batchItemFailures": []}
    lines = [json.loads(line) for line in (EVENTS / "sources" / "manual.jsonl").read_text("utf-8").splitlines()]
    texts = {line["id"]: line["text"] for line in lines if "id" in line}
    texts |= {f"manual-3#{number}": text for number, text in enumerate(lines[2]["body"]["input"])}
    assert vectors(world, *texts) == [vector.tobytes() for vector in embedder.embed(list(texts.values()))]
    assert world.rows()["manual-1"]["metadata"] == {"page": 1}


def test_api_embeddings(api: Emulated, embedder: Embedder) -> None:
    answer = api.invoke_raw(raw("api-embeddings"))
    texts = json.loads(event("api-embeddings")["body"])["input"]
    assert (answer.status, answer.content["statusCode"], answer.content["isBase64Encoded"]) == (200, 200, False)
    assert answer.content["headers"] == {"content-type": "application/json"}
    assert [item["index"] for item in answer.body["data"]] == [0, 1]
    found = np.array([item["embedding"] for item in answer.body["data"]], dtype=np.float32)
    assert found.tobytes() == embedder.embed(texts).tobytes()


def test_api_embeddings_base64(api: Emulated, embedder: Embedder) -> None:
    answer = api.invoke_raw(raw("api-embeddings-base64"))
    assert answer.content["statusCode"] == 200
    (item,) = answer.body["data"]
    request = json.loads(base64.b64decode(event("api-embeddings-base64")["body"]))
    assert from_base64(item["embedding"]).tobytes() == embedder.embed([request["input"]]).tobytes()


def test_api_health_and_models(api: Emulated, embedder: Embedder) -> None:
    space_id = embedder.manifest.space_id
    health = api.invoke_raw(raw("api-health"))
    assert health.content["statusCode"] == 200
    assert health.body == {"status": "ok", "golden": True, "engine": embedder.engine.name, "space_id": space_id}
    models = api.invoke_raw(raw("api-models"))
    assert models.content["statusCode"] == 200
    (model,) = models.body["data"]
    assert (model["id"], model["space_id"]) == (embedder.manifest.model_id, space_id)


def test_api_rerank(api: Emulated, embedder: Embedder) -> None:
    answer = api.invoke_raw(raw("api-rerank"))
    request = json.loads(event("api-rerank")["body"])
    texts = [one if isinstance(one, str) else one["text"] for one in request["documents"]]
    expected = embedder.rerank(request["query"], texts, top_n=2)
    assert answer.content["statusCode"] == 200
    assert [(line["index"], line["relevance_score"], line["document"]["text"]) for line in answer.body["results"]] == [
        (line.index, line.score, texts[line.index]) for line in expected
    ]


def test_no_sample_is_left_out_and_no_text_is_logged(queue: Emulated, api: Emulated, world: LambdaWorld) -> None:
    mine = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    named = {sample for sample in SAMPLES if any(sample.replace("-", "_") in name for name in mine)}
    assert set(SAMPLES) - named == {"api-models"}  # beside api-health
    for function in (queue, api):
        log = function.log
        assert function.unstructured == []
        assert world.env["EMBAKERY_CACHE_SECRET"] not in log
        for words in ("visibility timeout", "well formed", "Revision 1", "delicious", "bucket holds", "gescheiterte"):
            assert words not in log
