"""The `embakery` command, as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from handler_helpers import eventually, rows, unique
from overlap_reranker import bake_beside

from cli.bake import bake
from cli.commands import RERANK_METHOD
from embakery import Embedder
from embakery.rerank import RERANK_METHODS
from local.environment import aws_environment
from local.system import LocalSystem
from model_bake.bake import Order
from model_bake.gates import Gates


def embakery(
    *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "embakery", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, env={**os.environ, **(env or {})})


def test_inspect_embed_and_rerank(default_artifact: Path) -> None:
    manifest = json.loads(embakery("inspect", str(default_artifact), "--json").stdout)["manifest"]
    assert manifest["model_id"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert "encoder.onnx" in embakery("inspect", str(default_artifact)).stdout

    done = embakery("embed", "--artifact", str(default_artifact), stdin="first line\nsecond line\n")
    vectors = np.array([json.loads(line) for line in done.stdout.splitlines()], dtype=np.float32)
    assert vectors.tobytes() == Embedder.load(default_artifact).embed(["first line", "second line"]).tobytes()

    ranked = embakery("rerank", "--artifact", str(default_artifact), "capital of France", "I like cheese", "Paris")
    assert [line.partition("\t")[2] for line in ranked.stdout.splitlines()] == ["Paris", "I like cheese"]


def test_what_the_command_line_repeats_is_what_the_library_says() -> None:
    """It repeats, because importing the library takes longer than printing a help text."""
    assert tuple(RERANK_METHOD.choices) == RERANK_METHODS
    defaults = {option.name: option.default for option in bake.params}
    assert {name: defaults[name] for name in asdict(Gates())} == asdict(Gates())
    order = Order("any")
    assert (defaults["precision"], defaults["route"]) == (order.precision, order.route)


def test_what_can_be_baked_is_listed() -> None:
    done = embakery("bake", "--list-supported")
    assert done.returncode == 0
    listed = {line.strip() for line in done.stdout.splitlines()}
    assert {"bert", "mpnet", "xlm-roberta", "modernbert", "weightedmean", "lasttoken", "Normalize", "fp32"} <= listed


def test_rerank_by_method(default_artifact: Path, tmp_path: Path) -> None:
    folder = str(bake_beside(default_artifact, tmp_path / "artifact"))
    asked = ("rerank", "--artifact", folder, "the quick fox", "the end", "a quick fox")
    assert embakery(*asked).stdout == "3.0000\ta quick fox\n2.0000\tthe end\n"
    assert embakery(*asked, "--method", "cross-encoder", "--top-n", "1").stdout == "3.0000\ta quick fox\n"
    late = embakery(*asked, "--method", "late-interaction").stdout.splitlines()
    assert [line.partition("\t")[2] for line in late] == ["a quick fox", "the end"]
    assert "reranker/" in embakery("inspect", folder).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("embed", "--artifact", "nowhere", "x"), 4, "nowhere: no manifest.json can be read there"),
        (("embed", " "), 2, "texts[0]: must not be empty or blank"),
        (("rerank", "--method", "cross-encoder", "x", "y"), 2, "method: no cross-encoder was baked here"),
        (("embed", "--dimensions", "7", "x"), 2, "dimensions: this model gives 384"),
        (("bake", "./nowhere", "--out", "build/never"), 3, "./nowhere: no such folder"),
        (("bake", "all-MiniLM-L6-v2", "--out", "embakery"), 3, "embakery: is there already and not empty"),
        (("local", "--artifact", "nowhere"), 4, "nowhere: no manifest.json can be read there"),
        (("enqueue", "LICENSE", "--dry-run"), 2, "LICENSE:1: is not valid JSON"),
        (
            ("bake", "all-MiniLM-L6-v2", "--revision", "main", "--out", "build/never"),
            3,
            "only a hub model has revisions",
        ),
    ],
)
def test_a_failure_is_one_line_and_a_code_of_its_kind(
    default_artifact: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = embakery(*arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_what_aws_says_is_one_line_too(system: LocalSystem) -> None:
    env = aws_environment(system.endpoints["aws"])
    done = embakery(
        "enqueue", "-", "--queue-url", "https://nowhere/1/absent", stdin='{"id": "a", "text": "b"}\n', env=env
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("embakery: ")


def test_enqueue_sends_json_lines(system: LocalSystem) -> None:
    names = [unique("line") for _ in range(25)]
    lines = "".join(json.dumps({"id": name, "text": f"enqueued as {name}"}) + "\n" for name in names)
    env = aws_environment(system.endpoints["aws"])
    done = embakery("enqueue", "-", "--queue-url", system.endpoints["queue_url"], stdin=lines, env=env)
    assert done.stdout.startswith("25 documents sent in 3 messages (")
    eventually(lambda: set(names) <= rows(system).keys())


def test_local_prints_where_it_is_and_stops_on_interrupt(default_artifact: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments = ["local", "--artifact", str(default_artifact), "--http-port", str(port), "--try"]
        command = [sys.executable, "-m", "embakery", *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("LOCAL "):
                    break
            endpoints = json.loads(lines[-1].removeprefix("LOCAL "))
            assert endpoints["http"] != f"http://127.0.0.1:{port}"
            with urllib.request.urlopen(endpoints["http"] + "/health", timeout=30) as response:
                assert json.load(response)["status"] == "ok"
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 0
    assert any("curl" in line for line in lines)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(endpoints["http"] + "/health", timeout=5)
