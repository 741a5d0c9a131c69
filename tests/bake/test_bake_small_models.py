"""The bake on small random models: faithful, reproducible, and all or nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bake_models import HIDDEN, save_model
from sentence_transformers.sentence_transformer.modules import Dense, Dropout
from torch import nn

from embakery.artifact import Artifact
from embakery.errors import ConfigurationError, DigestMismatchError, EmbakeryError, EncodingError
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
