"""A function that cannot serve does not start: one line of its log says why and what to do, and so does the error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from broken_artifacts import Break, broken_copy, flipped, of_another_schema, of_other_settings, without
from lambda_emulator import Emulated, emulated
from lambda_world import API, CANARY, QUEUE, LambdaWorld, batch, event, message, unique
from stand_ins import lacking, other_machines_library, python_path

NATIVE_FILES = ("encoder.pack", "golden.native.npz")
ONNX_FILES = ("encoder.onnx", "golden.npz")


def refused(function: Emulated, code: str, *words: str) -> None:
    """Check that a function refuses each of two invocations in the same words, in one line of the log each time."""
    before = len(function.troubles)
    answers = [function.invoke(batch(message(unique("refused")))) for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0].status == 502
    lines = function.troubles[before:]
    assert [(line["message"], line["code"]) for line in lines] == [("start_refused", code)] * 2
    assert lines[0]["reason"] == answers[0].content["errorMessage"]
    assert answers[0].content["stackTrace"] == []
    for word in words:
        assert word in lines[0]["reason"]
    assert function.log.count("exit status 1") >= 2
    assert function.unstructured == []
    for unwanted in (CANARY, "INVOKE RTDONE(status: success"):
        assert unwanted not in function.log


def refuses(env: Mapping[str, str], code: str, *words: str, handler: str = QUEUE) -> None:
    with emulated(handler, env) as function:
        refused(function, code, *words)


def test_no_artifact(world: LambdaWorld, tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing-here")
    refuses(dict(world.env) | {"EMBAKERY_ARTIFACT": missing}, "artifact", missing, "manifest.json", "embakery bake")


BROKEN: dict[str, tuple[Break, str, tuple[str, ...]]] = {
    "tokenizer-missing": (without("tokenizer.json"), "artifact_digest", ("tokenizer.json: missing", "deploy")),
    "pack-missing": (without("encoder.pack"), "artifact_digest", ("encoder.pack: missing", "deploy")),
    "pack-flipped": (flipped("encoder.pack"), "artifact_digest", ("encoder.pack: its sha256 differs", "deploy")),
    "manifest-changed": (of_other_settings, "artifact_digest", ("manifest.json: changed since it was baked", "deploy")),
    "other-schema": (of_another_schema, "artifact", ("manifest.json", "schema", "bake the model again")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_artifact_writes_nothing(
    world: LambdaWorld, default_artifact: Path, tmp_path: Path, name: str
) -> None:
    breaking, code, words = BROKEN[name]
    broken = broken_copy(default_artifact, tmp_path / "artifact", breaking)
    prefix = unique("refused")
    destinations = json.dumps({"default": f"s3://{world.resources.bucket}/{prefix}/"})
    env = dict(world.env) | {"EMBAKERY_ARTIFACT": str(broken), "EMBAKERY_DESTINATIONS": destinations}
    with emulated(QUEUE, env) as function:
        refused(function, code, *words)
        assert world.rows(prefix) == {}
        assert f'"{code}"' in function.log


def test_it_starts_once_the_artifact_is_mended(world: LambdaWorld, default_artifact: Path, tmp_path: Path) -> None:
    """Proves that what refuses is the artifact, and that a refusal leaves nothing behind."""
    artifact = broken_copy(default_artifact, tmp_path / "artifact", without("tokenizer.json"))
    with emulated(API, dict(world.env) | {"EMBAKERY_ARTIFACT": str(artifact)}) as function:
        refused(function, "artifact_digest", "tokenizer.json")
        (artifact / "tokenizer.json").write_bytes((default_artifact / "tokenizer.json").read_bytes())
        assert function.invoke(event("api-health")).body["status"] == "ok"


def test_an_artifact_for_onnxruntime_in_an_image_without_it(
    world: LambdaWorld, default_artifact: Path, tmp_path: Path
) -> None:
    artifact = broken_copy(default_artifact, tmp_path / "artifact", without(*NATIVE_FILES))
    env = dict(world.env) | lacking(tmp_path / "lacking", "onnxruntime") | {"EMBAKERY_ARTIFACT": str(artifact)}
    refuses(env, "configuration", "onnxruntime is not installed", "EXTRAS=onnx")


@pytest.fixture(scope="module")
def other_machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return other_machines_library(tmp_path_factory.mktemp("other-machine"))


def test_a_library_for_another_architecture_and_nothing_to_fall_back_on(
    world: LambdaWorld, default_artifact: Path, other_machine: Path, tmp_path: Path
) -> None:
    artifact = broken_copy(default_artifact, tmp_path / "artifact", without(*ONNX_FILES))
    env = dict(world.env) | python_path(other_machine) | {"EMBAKERY_ARTIFACT": str(artifact)}
    refuses(env, "configuration", "native", "it was built for", "build it for this machine")


def test_a_library_for_another_architecture_is_replaced_by_onnxruntime(world: LambdaWorld, other_machine: Path) -> None:
    with emulated(API, dict(world.env) | python_path(other_machine)) as function:
        health = function.invoke(event("api-health")).body
    assert (health["status"], health["engine"]) == ("ok", "onnx")
    (line,) = function.lines
    assert (line["message"], line["engine"]) == ("engine", "onnx")
    assert "it was built for" in line["reason"]


WRONG_SETTINGS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "engine": ({"EMBAKERY_ENGINE": "tensorrt"}, ("EMBAKERY_ENGINE='tensorrt'", "auto", "native")),
    "threads": ({"EMBAKERY_THREADS": "two"}, ("EMBAKERY_THREADS='two'", "whole number")),
    "destinations": ({"EMBAKERY_DESTINATIONS": "s3://bucket/"}, ("EMBAKERY_DESTINATIONS", "not JSON")),
    "default-scheme": (
        {"EMBAKERY_DESTINATIONS": '{"default": "ftp://who:hunter2@host/"}'},
        ("destination default", "s3://bucket/prefix/", "EMBAKERY_DESTINATIONS"),
    ),
    "other-scheme": (
        {"EMBAKERY_DESTINATIONS": '{"default": "s3://bucket/", "archive": "s4://bucket/"}'},
        ("destination archive", "s3://bucket/prefix/", "EMBAKERY_DESTINATIONS"),
    ),
    "redis-without-secret": ({"EMBAKERY_CACHE_SECRET": ""}, ("EMBAKERY_REDIS_URL", "EMBAKERY_CACHE_SECRET_ARN")),
    "redis-scheme": (
        {"EMBAKERY_REDIS_URL": "https://:hunter2@cache:6379"},
        ("EMBAKERY_REDIS_URL", "redis:// or rediss://"),
    ),
    "redis-password-unquoted": (
        {"EMBAKERY_REDIS_URL": "redis://u:hunter2]@[cache:6379"},
        ("EMBAKERY_REDIS_URL", "encoded"),
    ),
}


@pytest.mark.parametrize("name", WRONG_SETTINGS)
def test_a_wrong_setting_is_named_and_its_secrets_are_not(world: LambdaWorld, name: str) -> None:
    wrong, words = WRONG_SETTINGS[name]
    with emulated(QUEUE, dict(world.env) | wrong) as function:
        refused(function, "configuration", *words)
        assert "hunter2" not in function.log


def test_a_destination_whose_package_is_not_in_the_image(world: LambdaWorld, tmp_path: Path) -> None:
    destinations = {"EMBAKERY_DESTINATIONS": '{"default": "postgresql://who:hunter2@host/database?table=vectors"}'}
    with emulated(QUEUE, dict(world.env) | destinations | lacking(tmp_path / "lacking", "psycopg")) as function:
        refused(function, "configuration", "destination default", "embakery[postgres]")
        assert "hunter2" not in function.log


def test_a_handler_that_is_not_there(world: LambdaWorld) -> None:
    """Named wrongly in the image's command: the runtime client says so."""
    for handler, words in (("handlers.kew.handler", "handlers.kew"), ("handlers.api.handle", "handle")):
        with emulated(handler, world.env) as function:
            assert words in function.invoke({}).error
