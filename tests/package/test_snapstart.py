"""What a snapshot keeps, and what a restored process makes anew."""

from __future__ import annotations

import ast
import importlib
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from embakery import Embedder
from embakery.engines.native.engine import NativeEngine
from embakery.engines.native.library import Library, default_library
from embakery.errors import ConfigurationError, EncodingError, UnavailableError
from handlers import snapstart
from handlers.services import services
from storage import clients
from storage.clients import open_client

ROOT = Path(__file__).parents[2]
EVENTS = ROOT / "events"
PACKAGES = ("embakery", "handlers", "storage")
SECRET_ARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:cache"


@pytest.fixture(autouse=True)
def served(default_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The API's function, before its INIT."""
    monkeypatch.setenv("_HANDLER", "handlers.snapstart.api")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("EMBAKERY_ARTIFACT", str(default_artifact))
    snapstart.let_go()
    yield
    snapstart.let_go()


class Context:
    """What Lambda gives a handler."""

    function_name, memory_limit_in_mb, aws_request_id = "api", 1769, "8476a536-e9f4-11e8-9739-2dfe598c3fcd"
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:api"

    def get_remaining_time_in_millis(self) -> int:
        return 20_000


def health() -> dict[str, Any]:
    event = json.loads((EVENTS / "api-health.json").read_text(encoding="utf-8"))
    content: dict[str, Any] = json.loads(snapstart.api(event, Context())["body"])  # type: ignore[arg-type]
    return content


def is_cached(function: ast.stmt) -> bool:
    decorators = function.decorator_list if isinstance(function, ast.FunctionDef) else []
    return any("cache" in ast.unparse(decorator) for decorator in decorators)


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Every module of ours that a function may load."""
    for path in (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def test_whatever_outlives_an_invocation_is_let_go() -> None:
    cached = [
        (module, function.name)
        for module, tree in trees()
        for function in tree.body
        if isinstance(function, ast.FunctionDef) and is_cached(function)
    ]
    assert ("handlers.services", "services") in cached
    kept = [getattr(importlib.import_module(module), name) for module, name in cached]
    found = list(snapstart.remembering())
    assert [one for one in kept if one not in found] == []


def test_modules_keep_nothing_else() -> None:
    assert [name for name, tree in trees() if any(isinstance(node, ast.Global) for node in ast.walk(tree))] == []


def test_a_snapshot_holds_no_model_and_no_client() -> None:
    open_client("sqs")
    session = clients._session()
    embedder = services().embedder
    snapstart.before_snapshot()
    assert [one for one in snapstart.remembering() if one.cache_info().currsize] == []
    # The old one keeps credentials.
    assert clients._session() is not session
    with pytest.raises(EncodingError, match="closed"):
        embedder.engine.encode([(101, 102)])


def test_a_restored_process_takes_the_instructions_that_are_there(
    monkeypatch: pytest.MonkeyPatch, default_artifact: Path
) -> None:
    isas = default_library().isas
    if len(isas) < 2:
        pytest.skip("this machine has one instruction set only")
    expected = Embedder.load(default_artifact, engine="native").embed(["a text"])
    snapstart.before_snapshot()
    of_the_bakery = Library.__init__

    def of_an_older_machine(library: Library, path: Path) -> None:
        of_the_bakery(library, path)
        library.isas = library.isas[1:]

    monkeypatch.setattr(Library, "__init__", of_an_older_machine)
    snapstart.after_restore()
    embedder = services().embedder
    assert isinstance(embedder.engine, NativeEngine)
    assert embedder.engine.isa == isas[1]
    assert embedder.golden_matches
    assert embedder.embed(["a text"]).tobytes() == expected.tobytes()


def test_a_machine_of_other_bits_degrades_as_at_any_start(monkeypatch: pytest.MonkeyPatch) -> None:
    snapstart.before_snapshot()
    encode = NativeEngine.encode
    monkeypatch.setattr(NativeEngine, "encode", lambda engine, batch: encode(engine, batch) + 1)
    snapstart.after_restore()
    assert health()["status"] == "degraded"


def test_a_restored_process_is_ready_and_well() -> None:
    snapstart.before_snapshot()
    assert services.cache_info().currsize == 0
    snapstart.after_restore()
    assert services.cache_info().currsize == 1
    assert health()["status"] == "ok"


def keep_secret(monkeypatch: pytest.MonkeyPatch, ask: Callable[[], str]) -> None:
    """Let Secrets Manager hold the cache's secret."""

    class SecretsManager:
        def get_secret_value(self, **_: str) -> dict[str, str]:
            return {"SecretString": ask()}

    monkeypatch.setattr("storage.clients.open_client", lambda *_: SecretsManager())
    monkeypatch.setenv("EMBAKERY_REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("EMBAKERY_CACHE_SECRET_ARN", SECRET_ARN)


def test_secrets_are_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ["of the day of the snapshot", "of today"]
    keep_secret(monkeypatch, lambda: secrets.pop(0))
    snapstart.before_snapshot()
    assert secrets == ["of today"]
    snapstart.after_restore()
    assert secrets == []
    cache = services().cache
    assert cache is not None
    assert not cache.breaker.is_open


def throttled() -> str:
    raise ClientError({"Error": {"Code": "ThrottlingException"}}, "GetSecretValue")


def test_no_snapshot_is_taken_of_a_function_that_was_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_secret(monkeypatch, throttled)
    with pytest.raises(UnavailableError, match="cannot be read now: ThrottlingException"):
        snapstart.before_snapshot()


def test_a_restored_process_may_get_ready_later(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_secret(monkeypatch, lambda: "a secret")
    snapstart.before_snapshot()
    keep_secret(monkeypatch, throttled)
    snapstart.after_restore()
    assert services.cache_info().currsize == 0
    keep_secret(monkeypatch, lambda: "a secret")
    assert health()["status"] == "ok"


def test_a_restored_process_refuses_what_is_wrong_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    snapstart.before_snapshot()
    monkeypatch.setenv("EMBAKERY_THREADS", "0")
    with pytest.raises(ConfigurationError, match="EMBAKERY_THREADS"):
        snapstart.after_restore()


def test_processes_of_one_snapshot_do_not_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    snapstart.before_snapshot()
    state, drawn = random.getstate(), set()
    for _ in range(3):
        random.setstate(state)
        snapstart.after_restore()
        drawn.add(random.random())
    assert len(drawn) == 3


def test_importing_it_does_nothing_elsewhere() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import handlers.snapstart, sys; print('handlers.api' in sys.modules)"],
        cwd=ROOT,
        env={"PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
