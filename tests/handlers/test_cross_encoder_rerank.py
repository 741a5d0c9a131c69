"""A cross-encoder beside the encoder: over HTTP and by queue, unchanged handlers in their own processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from handler_helpers import api_event, event, failed, rows, sqs_event, unique
from overlap_reranker import MODEL_ID, SHARED_ALWAYS, bake_beside

from embakery import Embedder
from embakery.artifact import Artifact
from embakery.errors import ConfigurationError
from handlers import api
from handlers.services import services
from local.settings import LocalSettings
from local.system import LocalSystem

QUERY = "the quick brown fox"
DOCUMENTS = ["nothing in common", "a quick fox", "the brown quick fox", "the end"]
RANKED = [(2, 4.0 + SHARED_ALWAYS), (1, 2.0 + SHARED_ALWAYS), (3, 1.0 + SHARED_ALWAYS), (0, 0.0 + SHARED_ALWAYS)]
ENCODER_ID = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def artifact(default_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bake_beside(default_artifact, tmp_path_factory.mktemp("reranked") / "artifact")


@pytest.fixture(scope="module")
def reranked(artifact: Path) -> Iterator[LocalSystem]:
    with LocalSystem(LocalSettings(artifact, threads=2), report=lambda _: None) as running:
        yield running


@pytest.fixture(scope="module")
def spaces(artifact: Path) -> dict[str, str]:
    baked = Artifact.load(artifact)
    assert baked.reranker is not None
    return {"late-interaction": baked.manifest.space_id, "cross-encoder": baked.reranker.manifest.space_id}


def call(system: LocalSystem, made: dict[str, Any]) -> tuple[int, Any]:
    response = system.parts.api_function.invoke(made, wait_seconds=30)
    return response["statusCode"], json.loads(response["body"])


def rerank(system: LocalSystem, **more: Any) -> tuple[int, Any]:
    content = {"query": QUERY, "documents": DOCUMENTS, **more}
    return call(system, api_event("POST", "/v1/rerank", json.dumps(content)))


# Over HTTP


@pytest.mark.parametrize(
    "asked",
    [{}, {"method": "cross-encoder"}, {"method": None}, {"model": MODEL_ID}, {"model": "overlap"}],
    ids=["by default", "by method", "by no method", "by model", "by the model's short name"],
)
def test_the_cross_encoder_ranks(reranked: LocalSystem, spaces: dict[str, str], asked: dict[str, Any]) -> None:
    status, answer = rerank(reranked, **asked)
    assert status == 200
    assert [(line["index"], line["relevance_score"]) for line in answer["results"]] == RANKED
    assert (answer["model"], answer["method"]) == (MODEL_ID, "cross-encoder")
    assert answer["space_id"] == spaces["cross-encoder"]


@pytest.mark.parametrize(
    "asked", [{"method": "late-interaction"}, {"model": ENCODER_ID}], ids=["by method", "by model"]
)
def test_late_interaction_on_demand(
    reranked: LocalSystem, artifact: Path, spaces: dict[str, str], asked: dict[str, Any]
) -> None:
    """Whoever names the encoder gets its scores: another model's would be a silent exchange."""
    status, answer = rerank(reranked, top_n=2, **asked)
    assert status == 200
    expected = Embedder.load(artifact).rerank(QUERY, DOCUMENTS, top_n=2, method="late-interaction")
    assert [(line["index"], line["relevance_score"]) for line in answer["results"]] == [
        (line.index, line.score) for line in expected
    ]
    assert (answer["model"], answer["method"]) == (ENCODER_ID, "late-interaction")
    assert answer["space_id"] == spaces["late-interaction"]


@pytest.mark.parametrize(
    ("content", "status", "field"),
    [
        ({"method": "bm25"}, 400, "method"),
        ({"method": ""}, 400, "method"),
        ({"method": False}, 400, "method"),
        ({"method": ["cross-encoder"]}, 400, "method"),
        ({"method": "late-interaction", "model": MODEL_ID}, 400, "method"),
        ({"method": "cross-encoder", "model": ENCODER_ID}, 400, "method"),
        ({"model": "rerank-v3.5"}, 404, "model"),
        ({"model": []}, 404, "model"),
        ({"query": " "}, 400, "query"),
        ({"query": 7}, 400, "query"),
        ({"query": "\u200b"}, 400, "query"),
        ({"documents": []}, 400, "documents"),
        ({"documents": ["fine", ""]}, 400, "documents[1]"),
        ({"documents": ["fine", "\u200b"]}, 400, "documents[1]"),
        ({"documents": ["fine", {"text": "a\0b"}]}, 400, "documents[1]"),
        ({"documents": ["x" * 1_000_000]}, 413, "documents[0]"),
        ({"top_n": 0}, 400, "top_n"),
    ],
)
def test_a_bad_request_names_field_and_item(reranked: LocalSystem, content: Any, status: int, field: str) -> None:
    got, answer = rerank(reranked, **content)
    assert (got, answer["error"]["param"]) == (status, field)


def test_a_cross_encoder_that_was_not_baked_is_refused_by_name(system: LocalSystem) -> None:
    status, answer = rerank(system, method="cross-encoder")
    assert (status, answer["error"]["param"]) == (400, "method")
    assert answer["error"]["message"] == "method: no cross-encoder was baked here: use late-interaction"
    assert rerank(system, model=MODEL_ID)[1]["error"]["message"] == f"model: this deployment reranks by {ENCODER_ID}"


def test_two_texts_of_the_largest_size_are_cut_and_scored(reranked: LocalSystem) -> None:
    status, answer = rerank(reranked, query="fox " * 50_000, documents=["fox " * 50_000, "dog"])
    assert status == 200
    # 64 tokens, three of them special: each fox of the query with each of the document's.
    assert [line["relevance_score"] for line in answer["results"]] == [30 * 31 + SHARED_ALWAYS, SHARED_ALWAYS]


def test_models_lists_both(reranked: LocalSystem, spaces: dict[str, str]) -> None:
    status, answer = call(reranked, event("api-models"))
    assert status == 200
    assert [(model["id"], model["kind"], model["space_id"]) for model in answer["data"]] == [
        (ENCODER_ID, "encoder", spaces["late-interaction"]),
        (MODEL_ID, "cross-encoder", spaces["cross-encoder"]),
    ]
    assert answer["data"][1]["certificate"] == {"rank_agreement": {"mean": 1.0}}


def test_health_tells_of_both(reranked: LocalSystem, spaces: dict[str, str]) -> None:
    assert call(reranked, event("api-health")) == (
        200,
        {
            "status": "ok",
            "golden": True,
            "engine": "native",
            "space_id": spaces["late-interaction"],
            "reranker": {"golden": True, "space_id": spaces["cross-encoder"]},
        },
    )


# By queue


def message(name: str, **more: Any) -> str:
    documents = [{"id": f"d{number}", "text": text} for number, text in enumerate(DOCUMENTS)]
    return json.dumps({"v": 1, "rerank": [{"id": name, "query": QUERY, "documents": documents}], **more})


def test_rankings_by_queue_are_stamped_by_whoever_scored(reranked: LocalSystem, spaces: dict[str, str]) -> None:
    judged, late, bad = unique("judged"), unique("late"), unique("bad")
    bodies = (message(judged), message(late, method="late-interaction"), message(bad, method="bm25"))
    assert failed(reranked.parts.queue_function.invoke(sqs_event(*bodies), wait_seconds=30)) == ["2"]
    written = rows(reranked)
    assert [(line["index"], line["score"]) for line in written[judged]["ranking"]] == RANKED
    assert (written[judged]["model"], written[judged]["space_id"]) == (MODEL_ID, spaces["cross-encoder"])
    assert (written[late]["model"], written[late]["space_id"]) == (ENCODER_ID, spaces["late-interaction"])
    assert bad not in written


def test_without_a_cross_encoder_its_messages_fail_alone(system: LocalSystem) -> None:
    good, bad = unique("good"), unique("bad")
    made = sqs_event(message(bad, method="cross-encoder"), message(good))
    assert failed(system.parts.queue_function.invoke(made, wait_seconds=30)) == ["0"]
    assert good in rows(system)


# Settings, in this process


@pytest.fixture
def _fresh_services() -> Iterator[None]:
    services.cache_clear()
    yield
    services.cache_clear()


def answer_here(path: str, content: Any = None) -> tuple[int, Any]:
    made = api_event("GET", path) if content is None else api_event("POST", path, json.dumps(content))
    context: Any = SimpleNamespace(
        get_remaining_time_in_millis=lambda: 30_000,
        function_name="embakery-api",
        memory_limit_in_mb=1769,
        invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:embakery-api",
        aws_request_id="request",
    )
    response = api.handler(made, context)
    return response["statusCode"], json.loads(response["body"])


@pytest.mark.usefixtures("_fresh_services")
def test_the_setting_chooses_and_a_request_may_choose_otherwise(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBAKERY_ARTIFACT", str(artifact))
    monkeypatch.setenv("EMBAKERY_RERANK_METHOD", "late-interaction")
    request = {"query": QUERY, "documents": DOCUMENTS}
    assert answer_here("/v1/rerank", request)[1]["method"] == "late-interaction"
    assert answer_here("/v1/rerank", {**request, "method": "cross-encoder"})[1]["method"] == "cross-encoder"
    assert answer_here("/v1/rerank", {**request, "model": MODEL_ID})[1]["method"] == "cross-encoder"


@pytest.mark.usefixtures("_fresh_services")
def test_a_setting_that_the_artifact_cannot_meet_is_refused_at_start(
    default_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBAKERY_ARTIFACT", str(default_artifact))
    monkeypatch.setenv("EMBAKERY_RERANK_METHOD", "cross-encoder")
    with pytest.raises(ConfigurationError) as caught:
        services()
    assert str(caught.value) == (
        "EMBAKERY_RERANK_METHOD: no cross-encoder was baked here: use late-interaction, or bake with --reranker"
    )


@pytest.mark.usefixtures("_fresh_services")
def test_health_is_degraded_where_the_cross_encoder_s_bits_are_others(
    default_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBAKERY_ARTIFACT", str(bake_beside(default_artifact, tmp_path / "other", golden_offset=1e-3)))
    status, answer = answer_here("/health")
    assert (status, answer["status"], answer["golden"], answer["reranker"]["golden"]) == (200, "degraded", True, False)
    # It answers, as an encoder of other bits does: only writing is refused.
    assert answer_here("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS})[0] == 200
