"""Settings from an environment, and the services that are made of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from embakery.errors import ConfigurationError
from handlers.services import services
from handlers.settings import Settings

REDIS = {"EMBAKERY_REDIS_URL": "redis://127.0.0.1:1", "EMBAKERY_CACHE_SECRET": "secret"}


@pytest.fixture(autouse=True)
def _fresh_services() -> Iterator[None]:
    services.cache_clear()
    yield
    services.cache_clear()


def test_defaults_are_a_function_without_cache_and_destinations() -> None:
    settings = Settings.from_env({})
    assert settings.artifact == Path("/opt/artifact")
    assert (settings.engine, settings.tenant, settings.redis) == ("auto", "default", None)
    assert settings.destinations == {}
    assert settings.rerank_method is None


@pytest.mark.parametrize(
    ("megabytes", "threads"), [("512", 1), ("1768", 1), ("1769", os.cpu_count()), ("", os.cpu_count())]
)
def test_less_than_a_cpu_gets_one_thread(megabytes: str, threads: int) -> None:
    assert Settings.from_env({"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": megabytes}).threads == threads


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ({"EMBAKERY_THREADS": "two"}, "EMBAKERY_THREADS"),
        ({"EMBAKERY_THREADS": "0"}, "EMBAKERY_THREADS"),
        ({"EMBAKERY_DESTINATIONS": "{"}, "EMBAKERY_DESTINATIONS"),
        ({"EMBAKERY_DESTINATIONS": '["s3://bucket/"]'}, "EMBAKERY_DESTINATIONS"),
        ({"EMBAKERY_DESTINATIONS": '{"default": 7}'}, "EMBAKERY_DESTINATIONS"),
        ({"EMBAKERY_TENANT": "a#b"}, "EMBAKERY_TENANT"),
        ({"EMBAKERY_REDIS_URL": "redis://cache"}, "EMBAKERY_CACHE_SECRET"),
        ({"EMBAKERY_RERANK_METHOD": "bm25"}, "EMBAKERY_RERANK_METHOD='bm25' must be auto or late-interaction or"),
    ],
)
def test_a_wrong_setting_is_named(env: dict[str, str], name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Settings.from_env(env)


@pytest.mark.parametrize(
    ("value", "method"),
    [("", None), ("auto", None), ("late-interaction", "late-interaction"), ("cross-encoder", "cross-encoder")],
)
def test_the_rerank_method(value: str, method: str | None) -> None:
    assert Settings.from_env({"EMBAKERY_RERANK_METHOD": value}).rerank_method == method


def test_no_secret_is_shown() -> None:
    assert "hunter2" not in repr(Settings.from_env(REDIS | {"EMBAKERY_CACHE_SECRET": "hunter2"}))


def set_environment(monkeypatch: pytest.MonkeyPatch, artifact: Path, env: dict[str, str]) -> None:
    aws = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**aws, "EMBAKERY_ARTIFACT": str(artifact), **env}.items():
        monkeypatch.setenv(name, value)


def test_the_cache_secret_may_come_from_secrets_manager(
    monkeypatch: pytest.MonkeyPatch, default_artifact: Path
) -> None:
    set_environment(monkeypatch, default_artifact, {"EMBAKERY_REDIS_URL": "redis://127.0.0.1:1"})
    with mock_aws():
        secret = boto3.client("secretsmanager").create_secret(Name="cache", SecretString="from the manager")
        monkeypatch.setenv("EMBAKERY_CACHE_SECRET_ARN", secret["ARN"])
        managed = services()
    services.cache_clear()
    monkeypatch.setenv("EMBAKERY_CACHE_SECRET", "from the manager")
    plain = services()
    assert managed.cache is not None
    assert plain.cache is not None
    assert managed.cache.key("tenant", (1, 2)) == plain.cache.key("tenant", (1, 2))


def test_a_secret_that_cannot_be_read_is_the_operator_s_affair(
    monkeypatch: pytest.MonkeyPatch, default_artifact: Path
) -> None:
    arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:absent"
    set_environment(
        monkeypatch, default_artifact, {"EMBAKERY_REDIS_URL": "redis://c", "EMBAKERY_CACHE_SECRET_ARN": arn}
    )
    with (
        mock_aws(),
        pytest.raises(ConfigurationError, match="ResourceNotFoundException; check it and the function's role"),
    ):
        services()


def test_an_unknown_destination_scheme_is_the_operator_s_affair(
    monkeypatch: pytest.MonkeyPatch, default_artifact: Path
) -> None:
    set_environment(monkeypatch, default_artifact, {"EMBAKERY_DESTINATIONS": '{"default": "ftp://host/"}'})
    with pytest.raises(ConfigurationError, match=r"destination default: .* s3://"):
        services().destinations["default"]()
