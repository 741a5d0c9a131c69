"""What a cold start imports: a fresh interpreter says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "optimum", "sentence_transformers", "onnx", "scipy", "sklearn", "pydantic", "moto"}
CLIENTS = {"boto3", "redis"}


def modules_after(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter holds after a statement."""
    script = f"{statement}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_the_library_imports_neither_torch_nor_aws_nor_redis() -> None:
    loaded = packages(modules_after("import embakery"))
    assert not loaded & (HEAVY | CLIENTS | {"botocore", "aws_lambda_powertools", "handlers", "storage"})


@pytest.mark.parametrize("handler", ["handlers.queue", "handlers.api"])
def test_a_handler_imports_no_more_than_its_budget(handler: str) -> None:
    loaded = modules_after(f"import {handler}")
    assert not packages(loaded) & (HEAVY | CLIENTS)
    # Powertools registers itself with botocore, whose first module is small.
    assert "botocore.session" not in loaded
    # 308 and 318 on Python 3.11 when this was written: an unwelcome import is some dozens.
    assert len(loaded) <= 330


def test_the_api_handler_serves_without_an_aws_client_where_no_secret_must_be_read(default_artifact: object) -> None:
    loaded = modules_after(
        f"import os; os.environ.update(EMBAKERY_ARTIFACT={str(default_artifact)!r})\n"
        "from handlers.services import services; services().embedder.embed(['hello'])"
    )
    assert not packages(loaded) & (HEAVY | CLIENTS)
    assert "botocore.session" not in loaded


# Where onnxruntime looks for a reason to stay silent: with these gone, it is our doing that it does.
AUTOMATION = {"CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "TF_BUILD", "GITHUB_ACTIONS", "JENKINS_URL"}


@pytest.mark.parametrize(
    "statement",
    [
        "from embakery import Embedder; Embedder.load({artifact!r}).embed(['hello'])",
        "import handlers.queue, handlers.api",
        "import model_bake.bake, model_bake.export, benchmarks.quantization",
    ],
)
def test_nothing_is_reported_to_anybody(default_artifact: Path, tmp_path: Path, statement: str) -> None:
    """onnxruntime's telemetry leaves a device's identifier and a queue of events behind, and holds sockets."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in AUTOMATION}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "HF_HUB_OFFLINE": "1"}
    script = statement.format(artifact=str(default_artifact)) + (
        "\nimport os, time; time.sleep(0.5)"
        "\nfds = '/proc/self/fd'"
        "\nlinks = [os.path.realpath(f'{fds}/{n}') for n in (os.listdir(fds) if os.path.isdir(fds) else ())]"
        "\nprint([link for link in links if 'socket:' in link])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"
    assert [path for path in home.rglob("*") if "microsoft" in str(path.relative_to(home)).lower()] == []
