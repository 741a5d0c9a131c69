"""The package as Lambda runs it: unzipped, in an interpreter without other packages, under the runtime's client."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import package
import pytest
from built_package import Built
from runtime_api import RuntimeApi

from embakery import Embedder

EVENTS = Path(__file__).parents[2] / "events"
TEXTS = ["The quick brown fox.", "größer als 3 µm", "a " * 700, ""]


@pytest.fixture(scope="module")
def task(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unzipped package."""
    if sys.platform != "linux":
        pytest.skip("the package is for Linux")
    folder = tmp_path_factory.mktemp("task")
    zipfile.ZipFile(built.archive).extractall(folder)
    return folder


@contextmanager
def function(
    built: Built, task: Path, api: RuntimeApi, handler: str, **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """A process of the managed runtime; what it writes is in `stdout`."""
    python = package.find_interpreter(built.target.python)
    if python is None:
        pytest.skip("no Python 3.12 or 3.13 here")
    environment = {
        # Before the runtime's own packages, as on Lambda.
        "PYTHONPATH": f"{task}:{built.runtime}",
        "AWS_LAMBDA_RUNTIME_API": api.address,
        "AWS_REGION": "us-east-1",
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{built.target.python}",
        "_HANDLER": handler,
        "EMBAKERY_ARTIFACT": str(task / "artifact"),
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONNODEBUGRANGES": "1",
        **variables,
    }
    # No site-packages, and nothing of this environment.
    command = [python, "-S", "-m", "awslambdaric", handler]
    process = subprocess.Popen(
        command, cwd=task, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def embeddings(texts: list[str]) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((EVENTS / "api-embeddings.json").read_text(encoding="utf-8"))
    return event | {"body": json.dumps({"input": texts, "encoding_format": "base64"})}


def vectors(answer: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    assert answer["statusCode"] == 200, answer
    data = json.loads(answer["body"])["data"]
    return np.stack([np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4") for item in data])


def test_a_restored_function_computes_the_librarys_bits(built: Built, task: Path, default_artifact: Path) -> None:
    with (
        RuntimeApi() as api,
        function(built, task, api, "handlers.snapstart.api", AWS_LAMBDA_INITIALIZATION_TYPE="snap-start"),
    ):
        assert api.snapshot.wait(60)
        assert api.calls == ["restore/next"]
        api.restored.set()
        found = vectors(api.invoke(embeddings(TEXTS[:3])))
        assert api.invoke(json.loads((EVENTS / "api-health.json").read_text()))["statusCode"] == 200
    assert api.calls[:5] == ["restore/next", *("invocation/next", "response") * 2]
    assert found.tobytes() == Embedder.load(default_artifact).embed(TEXTS[:3]).tobytes()


def test_without_snapstart_it_is_ready_before_the_first_event(built: Built, task: Path) -> None:
    with (
        RuntimeApi() as api,
        function(built, task, api, "handlers.snapstart.queue", AWS_LAMBDA_INITIALIZATION_TYPE="on-demand") as process,
    ):
        assert api.invoke({"Records": []}) == {"batchItemFailures": []}
        process.kill()
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    said = [json.loads(line) for line in lines if line.startswith("{") and '"message"' in line]
    engine = next(line for line in said if line["message"] == "engine")
    assert engine["engine"] == "native"
    # INIT has no request.
    assert "function_request_id" not in engine


def test_a_version_that_could_not_serve_is_not_published(built: Built, task: Path) -> None:
    with (
        RuntimeApi() as api,
        function(
            built,
            task,
            api,
            "handlers.snapstart.api",
            AWS_LAMBDA_INITIALIZATION_TYPE="snap-start",
            EMBAKERY_THREADS="none",
        ) as process,
    ):
        kind, answer = api.answers.get(timeout=60)
        assert process.wait(timeout=10) == 64
    assert (kind, api.calls) == ("error", ["init/error"])
    assert answer["errorType"] == "ConfigurationError"
    assert answer["errorMessage"] == "EMBAKERY_THREADS='none' is not a whole number"
