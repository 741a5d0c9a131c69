"""Pairs in, scores out: on a real tokenizer and a scorer that counts shared tokens."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit_fakes import CLS, SEP, FakeDeadline, FakeScorer, change_manifest, write_artifact, write_cross_encoder

import embakery.cross_encoder
from embakery import CrossEncoder
from embakery.artifact import Artifact, Golden, file_facts
from embakery.errors import (
    ArtifactError,
    ConfigurationError,
    DeadlineExceededError,
    EncodingError,
    GoldenMismatchError,
    InvalidRequestError,
)
from embakery.texts import TextLimits


def make(folder: Path, scorer: FakeScorer | None = None, **more: Any) -> CrossEncoder:
    """A cross-encoder over the fake, whose golden check is forgotten from its record."""
    scorer = scorer or FakeScorer()
    artifact = Artifact.load(write_cross_encoder(folder, labels=scorer.labels, **more))
    made = CrossEncoder(artifact, scorer)
    scorer.scored.clear()
    return made


@pytest.fixture
def judge(tmp_path: Path) -> CrossEncoder:
    return make(tmp_path / "judge")


# Scores


def test_predict_gives_a_row_for_each_pair_in_their_order(judge: CrossEncoder) -> None:
    scores = judge.predict([("a", "b"), ("a b", "a b a"), ("a", "a")])
    assert scores.dtype == np.float32
    assert scores.tolist() == [[0], [3], [1]]


def test_predict_gives_all_labels(tmp_path: Path) -> None:
    judge = make(tmp_path / "judge", FakeScorer(labels=3))
    assert judge.predict([("a", "a"), ("b", "a")]).tolist() == [[1, 1, 1], [0, 0, 0]]
    assert judge.predict([]).shape == (0, 3)


def test_a_pair_is_what_the_tokenizer_makes_of_it(tmp_path: Path) -> None:
    scorer = FakeScorer()
    make(tmp_path / "judge", scorer).predict([("a b", "c"), ("a b c d e a", "a b c d e")])
    # Nine tokens at most, three of them special.
    assert scorer.scored == [[(CLS, 3, 4, SEP, 5, SEP), (CLS, 3, 4, 5, SEP, 3, 4, 5, SEP)]]


def test_scores_of_a_query_s_documents(judge: CrossEncoder) -> None:
    assert judge.scores("a b", ["a", "c", "b a"]) == [1.0, 0.0, 2.0]
    assert judge.scores("a b", []) == []


@pytest.mark.parametrize("value", ["nan", "refused"])
def test_what_must_not_leave_is_an_encoding_error(judge: CrossEncoder, value: str) -> None:
    with pytest.raises(EncodingError):
        judge.predict([("a", "b"), ("a", value)])
    with pytest.raises(EncodingError):
        judge.scores("a", ["b", value])


@pytest.mark.parametrize("offset", [float("inf"), float("-inf"), float("nan")])
def test_nan_and_infinity_are_encoding_errors(tmp_path: Path, offset: float) -> None:
    with pytest.raises(EncodingError, match="NaN or infinity"):
        make(tmp_path / "judge", FakeScorer(offset=offset)).predict([("a", "b")])


def test_a_wrong_number_of_labels_is_an_encoding_error(tmp_path: Path) -> None:
    scorer = FakeScorer()
    judge = make(tmp_path / "judge", scorer)
    scorer.labels = 2
    with pytest.raises(EncodingError, match=r"gave \(2,\) scores for a pair"):
        judge.predict([("a", "b")])


def test_a_model_of_several_labels_cannot_rank(tmp_path: Path) -> None:
    judge = make(tmp_path / "judge", FakeScorer(labels=2))
    with pytest.raises(ConfigurationError) as caught:
        judge.scores("a", ["b"])
    assert str(caught.value) == "owner/judge gives 2 labels: only a cross-encoder of one can rank"


# Rounds


def test_many_long_pairs_run_in_rounds_and_each_score_finds_its_document(tmp_path: Path) -> None:
    scorer = FakeScorer()
    judge = make(tmp_path / "judge", scorer, max_tokens=6000)
    documents = ["a", " ".join(["b"] * 5000), "c", " ".join(["a"] * 5500), "a a"]
    assert judge.scores("a", documents) == [1.0, 0.0, 0.0, 5500.0, 2.0]
    assert [len(batch) for batch in scorer.scored] == [3, 2]


def test_time_that_runs_out_between_rounds_gives_no_half_ranking(tmp_path: Path) -> None:
    judge = make(tmp_path / "judge", max_tokens=6000)
    documents = [" ".join(["b"] * 5000), " ".join(["a"] * 5500)]
    assert judge.scores("a", documents, deadline=FakeDeadline(questions=2)) == [0.0, 5500.0]
    with pytest.raises(DeadlineExceededError):
        judge.scores("a", documents, deadline=FakeDeadline(questions=1))
    # The first round always runs: a message that is handed back again and again must still get somewhere.
    assert judge.scores("a", ["a"], deadline=FakeDeadline(questions=1)) == [1.0]


# What is refused


@pytest.mark.parametrize(
    ("query", "documents", "error"),
    [
        ("", ["a"], "query: must not be empty or blank"),
        (" ", [], "query: must not be empty or blank"),
        (None, ["a"], "query: must be a string, not null"),
        ("a\0", ["a"], "query: must not contain the NUL character"),
        ("\u200b", ["a", "b"], "query: holds nothing that the model's tokenizer knows"),
        ("a", ["a", "\t"], "documents[1]: must not be empty or blank"),
        ("a", ["a", 7], "documents[1]: must be a string, not a number"),
        ("a", ["a", "b", "\u200b"], "documents[2]: holds nothing that the model's tokenizer knows"),
        ("a", ["\ud800"], "documents[0]: must not contain lone surrogates (it is not valid Unicode)"),
    ],
)
def test_a_bad_text_is_named(judge: CrossEncoder, query: Any, documents: Any, error: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        judge.scores(query, documents)
    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("pairs", "error"),
    [
        ([("a", "b"), ("a", "")], "pairs[1][1]: must not be empty or blank"),
        ([("\u200b", "b")], "pairs[0][0]: holds nothing that the model's tokenizer knows"),
        ([("a", "\u200b")], "pairs[0][1]: holds nothing that the model's tokenizer knows"),
        (["ab"], "pairs[0]: must be a query and a document"),
        ([("a", "b"), ("a", "b", "c")], "pairs[1]: must be a query and a document"),
        ([None], "pairs[0]: must be a query and a document"),
    ],
)
def test_a_bad_pair_is_named(judge: CrossEncoder, pairs: Any, error: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        judge.predict(pairs)
    assert str(caught.value) == error


def test_limits_hold_for_query_and_documents(tmp_path: Path) -> None:
    artifact = Artifact.load(write_cross_encoder(tmp_path / "judge"))
    judge = CrossEncoder(artifact, FakeScorer(), limits=TextLimits(max_characters=3))
    assert judge.predict([("a b", "b")]).tolist() == [[1]]
    with pytest.raises(InvalidRequestError, match=r"^pairs\[0\]\[0\]: 4 characters, the limit is 3$"):
        judge.predict([("a b ", "b")])


# Golden scores


def test_the_bakes_own_scores_may_be_written(judge: CrossEncoder) -> None:
    assert judge.golden_matches is True
    judge.require_golden()


def test_other_scores_than_the_bakes_may_not_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="embakery"):
        judge = make(tmp_path / "judge", FakeScorer(offset=1e-6))
    assert judge.golden_matches is False
    assert [record.getMessage() for record in caplog.records] == ["golden_mismatch"]
    with pytest.raises(GoldenMismatchError, match=judge.manifest.space_id):
        judge.require_golden()
    assert judge.predict([("a", "a")]).shape == (1, 1)


def test_golden_vectors_without_pairs_are_an_artifact_error(tmp_path: Path) -> None:
    folder = write_cross_encoder(tmp_path / "judge")
    Golden(((CLS, SEP),), np.zeros((1, 1), dtype=np.float32)).save(folder / "golden.npz")
    change_manifest(
        folder, lambda old: replace(old, files={**old.files, "golden.npz": file_facts(folder / "golden.npz")})
    )
    with pytest.raises(ArtifactError, match=r"^golden\.npz: holds no pairs"):
        CrossEncoder(Artifact.load(folder), FakeScorer())


# Loading


def test_loading_checks_opens_and_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_cross_encoder(tmp_path / "judge")
    scorer = FakeScorer()
    monkeypatch.setattr(embakery.cross_encoder, "open_pair_scorer", lambda *_: scorer)
    judge = CrossEncoder.load(folder, threads=1)
    assert (judge.manifest.model_id, judge.certificate) == ("owner/judge", {"cosine": 1.0})
    judge.close()
    assert scorer.closed
    (folder / "certificate.json").write_text(json.dumps({"cosine": 0.0}))
    with pytest.raises(ArtifactError, match=r"^certificate\.json: its sha256 differs"):
        CrossEncoder.load(folder)


def test_an_encoder_is_not_opened_as_a_cross_encoder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds an encoder, not a cross-encoder; Embedder\.load opens it"):
        CrossEncoder.load(write_artifact(tmp_path / "artifact"))


def test_an_unknown_engine_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="engine 'cuda' is unknown: use auto, native, onnx"):
        CrossEncoder.load(write_cross_encoder(tmp_path / "judge"), engine="cuda")
