"""The bake on small random models: faithful, reproducible, and all or nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bake_models import HIDDEN, save_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Dropout
from torch import nn

from embakery.artifact import REPORT, Artifact
from embakery.errors import ConfigurationError, DigestMismatchError, EmbakeryError, EncodingError
from evaluation.metrics import spearman
from model_bake import source
from model_bake.bake import Order, bake
from model_bake.gates import Gates

# Random weights of width 32 quantize worse than trained ones of width 384.
LOOSE = Gates(min_cosine=0.97, min_mean_cosine=0.99, min_overlap=0.7)


def bake_small(model: Path, out: Path) -> Artifact:
    return bake(Order(str(model), gates=LOOSE), out).artifact


def test_two_bakes_are_equal_and_a_name_changes_nothing(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    first = bake_small(tmp_path / "model", tmp_path / "first")
    (tmp_path / "model").rename(tmp_path / "renamed")
    second = bake_small(tmp_path / "renamed", tmp_path / "second")
    assert first.manifest.files == second.manifest.files
    assert first.manifest.space_id == second.manifest.space_id
    assert (first.manifest.model_id, second.manifest.model_id) == ("model", "renamed")


@pytest.mark.parametrize("change", [{"max_tokens": 32}, {"pooling": "cls"}, {"prompts": {"query": "ask "}}])
def test_what_changes_a_vector_changes_the_space(tmp_path: Path, change: dict[str, Any]) -> None:
    save_model(tmp_path / "model")
    save_model(tmp_path / "changed", **change)
    unchanged = bake_small(tmp_path / "model", tmp_path / "first").manifest.space_id
    assert bake_small(tmp_path / "changed", tmp_path / "second").manifest.space_id != unchanged


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"extra": (Dropout(0.1),)}, "modules Transformer -> Pooling -> Dropout -> Normalize: Dropout"),
        ({"extra": (Dense(HIDDEN, 16, activation_function=nn.ELU()),)}, "module Dense with ELU"),
        ({"prompts": {"query": "ask "}, "include_prompt": False}, "include_prompt=false"),
    ],
)
def test_what_cannot_be_baked_is_refused_by_name(tmp_path: Path, shape: dict[str, Any], message: str) -> None:
    save_model(tmp_path / "model", **shape)
    assert refusal(tmp_path / "model", tmp_path / "artifact", ConfigurationError).startswith(message)
    assert not (tmp_path / "artifact").exists()


def test_below_the_gate_nothing_is_left(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    for gates in (Gates(min_cosine=1.1), Gates(0.5, min_mean_cosine=1.1), Gates(0.5, 0.5, min_overlap=1.1)):
        with pytest.raises(EncodingError, match=r"the gate asks for 1\.1"):
            bake(Order(str(tmp_path / "model"), gates=gates), tmp_path / "out" / "artifact")
        assert list((tmp_path / "out").iterdir()) == []


def unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_given_data_is_judged_with_the_original_and_the_baked_model(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    given = tmp_path / "data"
    (given / "stsb").mkdir(parents=True)
    rows = (
        "score\tsentence1\tsentence2",
        '5\tthe "list" of names\tthe list of names',
        "3\ta list of numbers\tthe number of names",
        "0\tthe file is closed\ta list of numbers and names",
        "1\tthe file is open\tthe name of a list",
    )
    (given / "stsb" / "test.tsv").write_text("\n".join(rows), encoding="utf-8")
    only_pairs = bake(
        Order(str(model := tmp_path / "model"), gates=LOOSE, evaluation=given), tmp_path / "first"
    ).artifact
    assert only_pairs.certificate()["evaluation"].keys() == {"STS-B Spearman"}

    (given / "scifact").mkdir()
    texts = {"docs": {"1": "a list of names", "2": "the file is open"}, "queries": {"q": "names"}}
    for name, lines in texts.items():
        (given / "scifact" / f"{name}.jsonl").write_text(
            "".join(json.dumps({"id": key, "text": text}) + "\n" for key, text in lines.items()), encoding="utf-8"
        )
    (given / "scifact" / "qrels.tsv").write_text("query_id\tdoc_id\trelevance\nq\t1\t1\n", encoding="utf-8")
    artifact = bake(Order(str(model), gates=LOOSE, evaluation=given), tmp_path / "second").artifact
    figures = artifact.certificate()["evaluation"]
    original: SentenceTransformer = SentenceTransformer(str(model), device="cpu")
    left, right, scores = ([row.split("\t")[column] for row in rows[1:]] for column in (1, 2, 0))
    cosines = (unit(original.encode(left)) * unit(original.encode(right))).sum(axis=1)
    expected = round(spearman(cosines, np.array(scores, dtype=float)), 5)
    assert figures["STS-B Spearman"]["original"] == expected
    assert figures["SciFact nDCG@10"]["baked"] in {1, round(float(1 / np.log2(3)), 5)}
    assert "On given data" in (tmp_path / "second" / REPORT).read_text(encoding="utf-8")
    assert artifact.manifest.space_id == only_pairs.manifest.space_id


def test_given_data_that_cannot_be_read_is_refused_before_the_bake(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    for make, message in (("", "has neither"), ("scifact", "docs.jsonl: cannot be read")):
        (tmp_path / "data" / make).mkdir(parents=True, exist_ok=True)
        with pytest.raises(ConfigurationError, match=message):
            bake(Order(str(tmp_path / "model"), evaluation=tmp_path / "data"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert "not empty" in refusal(tmp_path, tmp_path, ConfigurationError)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_without_a_model_and_one_with_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "config.json: is missing" in refusal(tmp_path / "empty", tmp_path / "out", ConfigurationError)
    save_model(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    assert "pickled weights are refused" in refusal(tmp_path / "model", tmp_path / "out", ConfigurationError)
    assert not (tmp_path / "out").exists()


def test_other_weights_than_the_default_model_s_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(source, "_DEFAULT_WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(DigestMismatchError, match=r"model\.safetensors"):
        bake(Order("all-MiniLM-L6-v2"), tmp_path / "artifact")


def test_a_killed_bake_leaves_nothing_that_loads(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    command = [sys.executable, "-m", "embakery", "bake", str(tmp_path / "model"), "--out", str(tmp_path / "artifact")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        # Killed once files are being written: the staging folder is there and holds the encoder.
        while not list(tmp_path.glob(".artifact-*/encoder.onnx")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "artifact").exists()
    with pytest.raises(EmbakeryError):
        Artifact.load(tmp_path / "artifact")
    assert bake_small(tmp_path / "model", tmp_path / "artifact").manifest.dimension == HIDDEN


def refusal(model: Path, out: Path, kind: type[EmbakeryError]) -> str:
    with pytest.raises(kind) as refused:
        bake(Order(str(model)), out)
    return str(refused.value)
