"""The API handler, unchanged, in its own process: every API event of events/, and what callers get wrong."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handler_helpers import api_event, event, eventually

from embakery import Embedder
from embakery.vectors import from_base64
from local.system import LocalSystem


@pytest.fixture(scope="module")
def embedder(default_artifact: Path) -> Embedder:
    return Embedder.load(default_artifact, threads=1)


def call(system: LocalSystem, made: dict[str, Any]) -> tuple[int, Any]:
    response = system.parts.api_function.invoke(made, wait_seconds=30)
    return response["statusCode"], json.loads(response["body"])


def post(system: LocalSystem, path: str, content: Any) -> tuple[int, Any]:
    return call(system, api_event("POST", path, json.dumps(content)))


def test_embeddings_equal_the_library_s_bit_for_bit(system: LocalSystem, embedder: Embedder) -> None:
    made = event("api-embeddings")
    texts = json.loads(made["body"])["input"]
    status, answer = call(system, made)
    assert status == 200
    vectors = np.array([item["embedding"] for item in answer["data"]], dtype=np.float32)
    assert vectors.tobytes() == embedder.embed(texts).tobytes()
    assert [item["index"] for item in answer["data"]] == [0, 1]
    assert answer["usage"]["prompt_tokens"] == sum(len(embedder.tokenize(text).ids) for text in texts)
    assert answer["space_id"] == embedder.manifest.space_id


def test_embeddings_as_base64_from_a_base64_body(system: LocalSystem, embedder: Embedder) -> None:
    made = event("api-embeddings-base64")
    text = json.loads(base64.b64decode(made["body"]))["input"]
    status, answer = call(system, made)
    assert status == 200
    assert from_base64(answer["data"][0]["embedding"]).tobytes() == embedder.embed([text])[0].tobytes()


def test_the_second_answer_comes_from_the_cache_with_the_same_bits(system: LocalSystem) -> None:
    before = system.metrics().get("CacheHits", 0)
    request = {"input": ["a text of this test alone: quince, medlar, sorb"], "encoding_format": "base64"}
    first, second = post(system, "/v1/embeddings", request), post(system, "/v1/embeddings", request)
    assert first == second
    eventually(lambda: system.metrics().get("CacheHits", 0) == before + 1)


def test_a_long_text_says_that_it_was_truncated(system: LocalSystem) -> None:
    status, answer = post(system, "/v1/embeddings", {"input": ["short", "long " * 1000]})
    assert status == 200
    assert [(item["tokens"], item["truncated"]) for item in answer["data"]] == [(3, False), (256, True)]
    status, answer = post(system, "/v1/embeddings", {"input": ["short", "long " * 1000], "truncate": "NONE"})
    assert (status, answer["error"]["param"]) == (413, "input[1]")


def test_the_largest_answers_fit_into_what_lambda_gives_back(system: LocalSystem) -> None:
    for encoding, items in (("float", 642), ("base64", 2048)):
        texts = [f"text number {number}" for number in range(items)]
        made = api_event("POST", "/v1/embeddings", json.dumps({"input": texts, "encoding_format": encoding}))
        response = system.parts.api_function.invoke(made, wait_seconds=30)
        assert response["statusCode"] == 200
        assert len(json.dumps(response)) < 6 * 1024 * 1024


def test_rerank(system: LocalSystem, embedder: Embedder) -> None:
    status, answer = call(system, event("api-rerank"))
    assert status == 200
    best, second = answer["results"]
    assert best["index"] == 1
    assert best["document"] == {"text": "A dead-letter queue keeps the messages that failed on every try."}
    assert best["relevance_score"] > second["relevance_score"]


def test_health_and_models(system: LocalSystem, embedder: Embedder) -> None:
    assert call(system, event("api-health")) == (
        200,
        {"status": "ok", "golden": True, "engine": "native", "space_id": embedder.manifest.space_id},
    )
    status, answer = call(system, event("api-models"))
    assert status == 200
    (model,) = answer["data"]
    assert model["id"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert (model["dimensions"], model["max_tokens"]) == ([384], 256)
    assert model["certificate"]["cosine"]["mean"] > 0.998


@pytest.mark.parametrize(
    ("content", "status", "field"),
    [
        ({}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"input": 7}, 400, "input"),
        ({"input": ["fine", ""]}, 400, "input[1]"),
        ({"input": ["fine", 7]}, 400, "input[1]"),
        ({"input": "  "}, 400, "input[0]"),
        ({"input": "a\0b"}, 400, "input[0]"),
        ({"input": "\ud800"}, 400, "input[0]"),
        ({"input": "x" * 1_000_000}, 413, "input[0]"),
        ({"input": ["x"] * 2049}, 413, "input"),
        ({"input": "x", "dimensions": 7}, 400, "dimensions"),
        ({"input": "x", "dimensions": True}, 400, "dimensions"),
        ({"input": "x", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"input": "x", "encoding_format": 0}, 400, "encoding_format"),
        ({"input": ["x"] * 1000}, 413, "input"),
        ({"input": "x", "model": []}, 404, "model"),
        ({"input": "x", "input_type": "poem"}, 400, "input_type"),
        ({"input": "x", "truncate": "MIDDLE"}, 400, "truncate"),
        ({"input": "x", "model": "text-embedding-3-small"}, 404, "model"),
    ],
)
def test_a_bad_request_for_embeddings_names_field_and_item(
    system: LocalSystem, content: Any, status: int, field: str
) -> None:
    got, answer = post(system, "/v1/embeddings", content)
    assert (got, answer["error"]["param"]) == (status, field)
    assert answer["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"documents": ["x"]}, "query"),
        ({"query": "x"}, "documents"),
        ({"query": "x", "documents": []}, "documents"),
        ({"query": "x", "documents": ["fine", ""]}, "documents[1]"),
        ({"query": "x", "documents": ["fine", {"title": "no text"}]}, "documents[1]"),
        ({"query": " ", "documents": ["fine"]}, "query"),
        ({"query": "x", "documents": ["fine"], "top_n": 0}, "top_n"),
        ({"query": "x", "documents": ["fine"], "top_n": "2"}, "top_n"),
        ({"query": "x", "documents": ["fine"], "return_documents": "yes"}, "return_documents"),
    ],
)
def test_a_bad_request_for_a_ranking_names_field_and_item(system: LocalSystem, content: Any, field: str) -> None:
    got, answer = post(system, "/v1/rerank", content)
    assert (got, answer["error"]["param"]) == (400, field)


def test_what_is_not_json_and_what_is_not_there(system: LocalSystem) -> None:
    for body in ("", "{", "[1]", "nul", "[" * 100_000):
        status, answer = call(system, api_event("POST", "/v1/embeddings", body))
        assert (status, answer["error"]["param"]) == (400, "body")
    assert call(system, api_event("GET", "/v1/embeddings"))[0] == 404
    assert call(system, api_event("GET", "/nowhere"))[0] == 404


def test_the_local_server_speaks_http(system: LocalSystem, embedder: Embedder) -> None:
    http = system.endpoints["http"]
    body = json.dumps({"input": "über HTTP", "encoding_format": "base64"}).encode()
    # As `curl -d` sends it: without a JSON content type.
    with urllib.request.urlopen(urllib.request.Request(f"{http}/v1/embeddings", body), timeout=30) as response:
        answer = json.load(response)
    assert from_base64(answer["data"][0]["embedding"]).tobytes() == embedder.embed(["über HTTP"])[0].tobytes()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{http}/nowhere", timeout=30)
    with refused.value as response:
        assert response.status == 404
    with urllib.request.urlopen(f"{http}/metrics", timeout=30) as response:
        assert "embakery_requests_total" in response.read().decode()
