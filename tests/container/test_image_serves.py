"""The image as Lambda runs it: read-only, as a user of Lambda's choice, with no network in INIT."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_artifacts import Break, both, broken_copy, flipped, of_other_bits, without
from image_tools import InContainer, in_container, need_image
from lambda_emulator import emulator
from lambda_world import API, CANARY, NO_QUEUE, QUEUE, batch, embeddings, event, message

from embakery import Embedder
from embakery.vectors import from_base64

TEXTS = [
    "A visibility timeout hides a received message from other consumers.",
    "批次大小限制了一次调用的消息数。",
    f"{CANARY} " + "and a long text " * 400,
]
# The image carries no onnxruntime, and not the files for it either.
AS_IN_THE_IMAGE = without("encoder.onnx", "golden.npz")


@pytest.fixture(scope="module")
def rie() -> Path:
    need_image()
    return emulator()


@pytest.fixture(scope="module")
def api(rie: Path) -> Iterator[InContainer]:
    with in_container(rie, API) as function:
        yield function


def test_the_vectors_are_those_of_the_library_bit_for_bit(api: InContainer, embedder: Embedder) -> None:
    answer = api.invoke(embeddings(*TEXTS))
    assert answer.content["statusCode"] == 200
    found = np.stack([from_base64(item["embedding"]) for item in answer.body["data"]])
    assert answer.body["space_id"] == embedder.manifest.space_id
    assert found.tobytes() == embedder.embed(TEXTS).tobytes()
    assert [item["truncated"] for item in answer.body["data"]] == [False, False, True]


def test_every_request_among_the_sample_events_is_answered(api: InContainer) -> None:
    for name in ("api-embeddings", "api-embeddings-base64", "api-health", "api-models", "api-rerank"):
        assert api.invoke(event(name)).content["statusCode"] == 200
    assert api.invoke(event("api-health")).body["status"] == "ok"
    assert (api.log.count("INIT START"), api.log.count('"message":"engine"')) == (1, 1)


def test_nothing_is_left_in_the_one_folder_that_can_be_written_to(api: InContainer) -> None:
    api.invoke(event("api-rerank"))
    assert json.loads(api.run("python3", "-c", "import json, os; print(json.dumps(os.listdir('/tmp')))")) == []
    assert api.run("id", "-u").strip() == "993"
    assert api.unstructured == []
    assert CANARY not in api.log


def test_the_queue_s_function_starts_without_network_and_takes_a_batch(rie: Path) -> None:
    """There is no destination: that is each message's own failure."""
    with in_container(rie, QUEUE) as queue:
        assert queue.invoke(batch(message("doc-1"), "{", arn=NO_QUEUE)).failed == ["m0", "m1"]
        reasons = {line["message"]: line.get("reason", "") for line in queue.lines}
        assert CANARY not in queue.log
    assert reasons["engine"] == "the artifact and this machine have it"


BROKEN: dict[str, tuple[Break, str, str]] = {
    "missing": (both(AS_IN_THE_IMAGE, without("tokenizer.json")), "artifact_digest", "tokenizer.json: missing"),
    "flipped": (both(AS_IN_THE_IMAGE, flipped("encoder.pack")), "artifact_digest", "encoder.pack: its sha256 differs"),
    "native-missing": (without("encoder.pack", "golden.native.npz"), "configuration", "onnxruntime is not installed"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_corrupted_artifact_is_refused(rie: Path, default_artifact: Path, tmp_path: Path, name: str) -> None:
    breaking, code, reason = BROKEN[name]
    folder = broken_copy(default_artifact, tmp_path / "artifact", breaking)
    with in_container(rie, API, mounts=[f"{folder}:/opt/artifact:ro"]) as function:
        answers: list[Any] = [function.invoke(event("api-health")) for _ in range(2)]
        assert answers[0] == answers[1]
        assert answers[0].status == 502
        assert reason in answers[0].error
        assert [(line["message"], line["code"]) for line in function.troubles] == [("start_refused", code)] * 2
        assert function.unstructured == []


def test_other_bits_degrade(rie: Path, default_artifact: Path, tmp_path: Path) -> None:
    folder = broken_copy(default_artifact, tmp_path / "artifact", both(of_other_bits, AS_IN_THE_IMAGE))
    with in_container(rie, API, mounts=[f"{folder}:/opt/artifact:ro"]) as function:
        health = function.invoke(event("api-health"))
        assert (health.content["statusCode"], health.body["status"]) == (200, "degraded")
        assert function.trouble()["code"] == "artifact_golden"
