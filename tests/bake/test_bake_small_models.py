"""The bake on small random models: faithful, reproducible, and all or nothing."""

from __future__ import annotations

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
from sentence_transformers.sentence_transformer.modules import Dense

from embakery import Embedder
from embakery.artifact import Artifact
from embakery.errors import ConfigurationError, DigestMismatchError, EmbakeryError, EncodingError
from model_bake import source
from model_bake.bake import bake
from model_bake.corpus import standard_library_passages

# Random weights of width 32 quantize worse than trained ones of width 384.
LOWEST_COSINE = 0.98

TEXTS = [passage.text for passage in standard_library_passages(limit=40)]


def bake_small(model: Path, out: Path) -> Artifact:
    return bake(str(model), out, min_cosine=LOWEST_COSINE).artifact


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken"])
@pytest.mark.parametrize("normalize", [True, False])
def test_every_pooling_is_that_of_the_original(tmp_path: Path, pooling: str, normalize: bool) -> None:
    original = save_model(tmp_path / "model", pooling=pooling, normalize=normalize)
    artifact = bake_small(tmp_path / "model", tmp_path / "artifact")
    assert (artifact.manifest.pooling, artifact.manifest.normalize) == (pooling, normalize)
    assert artifact.manifest.max_tokens == 48
    certificate = artifact.certificate()
    assert certificate["export_max_abs_difference"] <= 1e-4
    assert certificate["batch_invariant_texts"] == 300

    ours = Embedder.load(tmp_path / "artifact").embed(TEXTS)
    theirs = original.encode(TEXTS)
    lengths = np.linalg.norm(ours, axis=1)
    cosines = (ours * theirs).sum(axis=1) / (lengths * np.linalg.norm(theirs, axis=1))
    assert cosines.min() >= LOWEST_COSINE
    assert bool(np.allclose(lengths, 1, atol=1e-5)) is normalize


def test_prompts_go_to_their_input_types(tmp_path: Path) -> None:
    prompts = {"query": "the question is ", "document": "the text is "}
    original = save_model(tmp_path / "model", prompts=prompts)
    bake_small(tmp_path / "model", tmp_path / "artifact")
    embedder = Embedder.load(tmp_path / "artifact")
    for input_type, prompt in prompts.items():
        ours = embedder.embed(TEXTS, input_type=input_type)
        assert (ours * original.encode(TEXTS, prompt=prompt)).sum(axis=1).min() >= LOWEST_COSINE
    assert embedder.embed(TEXTS[:1], input_type="query").tobytes() != embedder.embed(TEXTS[:1]).tobytes()


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
        ({"extra": (Dense(HIDDEN, 16),)}, "modules Transformer -> Pooling -> Dense -> Normalize"),
        ({"pooling": "weightedmean"}, "pooling weightedmean"),
        ({"pooling": ("mean", "max"), "normalize": False}, "pooling"),
        ({"prompts": {"query": "ask "}, "include_prompt": False}, "include_prompt=false"),
    ],
)
def test_what_cannot_be_baked_is_refused_by_name(tmp_path: Path, shape: dict[str, Any], message: str) -> None:
    save_model(tmp_path / "model", **shape)
    assert refusal(tmp_path / "model", tmp_path / "artifact", ConfigurationError).startswith(message)
    assert not (tmp_path / "artifact").exists()


def test_below_the_gate_nothing_is_left(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    with pytest.raises(EncodingError, match=r"the gate asks for 1\.1"):
        bake(str(tmp_path / "model"), tmp_path / "out" / "artifact", min_cosine=1.1)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert "not empty" in refusal(tmp_path, tmp_path, ConfigurationError)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_without_a_model_and_one_with_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "cannot load it" in refusal(tmp_path / "empty", tmp_path / "out", ConfigurationError)
    save_model(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    assert "cannot load it" in refusal(tmp_path / "model", tmp_path / "out", ConfigurationError)
    assert not (tmp_path / "out").exists()


def test_other_weights_than_the_default_model_s_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(source, "_DEFAULT_WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(DigestMismatchError, match=r"model\.safetensors"):
        bake("all-MiniLM-L6-v2", tmp_path / "artifact")


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
        bake(str(model), out)
    return str(refused.value)
