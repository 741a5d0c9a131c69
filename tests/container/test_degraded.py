"""A function that cannot do all of its work does the rest, and says so in one line for each batch or request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from broken_artifacts import broken_copy, of_other_bits
from lambda_emulator import Emulated, emulated
from lambda_world import API, CANARY, QUEUE, LambdaWorld, batch, embeddings, event, message, unique
from refusing_servers import refusing_aws, stubborn_redis

from embakery import Embedder
from embakery.vectors import from_base64
from local.processes import LOOPBACK, free_port

ARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:cache"
TEXTS = [f"{CANARY} number {number}" for number in range(5)]


def with_destination(world: LambdaWorld, prefix: str) -> dict[str, str]:
    destinations = {"default": f"s3://{world.resources.bucket}/{prefix}/"}
    return dict(world.env) | {"EMBAKERY_DESTINATIONS": json.dumps(destinations)}


def vectors(function: Emulated, *texts: str) -> bytes:
    answer = function.invoke(embeddings(*texts))
    assert answer.content["statusCode"] == 200
    return b"".join(from_base64(item["embedding"]).tobytes() for item in answer.body["data"])


@pytest.fixture(scope="module")
def other_bits(default_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return broken_copy(default_artifact, tmp_path_factory.mktemp("golden") / "artifact", of_other_bits)


def test_other_bits_are_answered_without_the_cache(world: LambdaWorld, other_bits: Path, embedder: Embedder) -> None:
    with emulated(API, dict(world.env) | {"EMBAKERY_ARTIFACT": str(other_bits)}) as api:
        assert [vectors(api, *TEXTS) for _ in range(2)] == [embedder.embed(TEXTS).tobytes()] * 2
        health = api.invoke(event("api-health"))
    assert (health.content["statusCode"], health.body["status"], health.body["golden"]) == (200, "degraded", False)
    assert (api.metric("CacheHits"), api.metric("CacheMisses")) == (0, 10)
    assert api.trouble()["message"] == "golden_mismatch"
    assert api.unstructured == []


def test_other_bits_are_not_written(world: LambdaWorld, other_bits: Path) -> None:
    """Every message comes again: the whole batch is an error."""
    prefix, name = unique("golden"), unique("doc")
    env = with_destination(world, prefix) | {"EMBAKERY_ARTIFACT": str(other_bits)}
    with emulated(QUEUE, env) as queue:
        answer = queue.invoke(batch(message(name), message(unique("doc"))))
        assert answer.error.startswith("GoldenMismatchError: ")
        lines = queue.troubles
        assert [line["message"] for line in lines] == ["golden_mismatch", "event_refused"]
        for line in lines:
            assert (line["code"], line["reason"]) == ("artifact_golden", answer.content["errorMessage"])
        assert "bake the model on this kind of CPU" in lines[0]["reason"]
        assert [line.partition(":")[0] for line in queue.unstructured] == ["[ERROR] GoldenMismatchError"]
        assert CANARY not in queue.log
    assert world.rows(prefix) == {}


@contextmanager
def redis_that(kind: str, world: LambdaWorld) -> Iterator[str]:
    """Yield the URL of a Redis that something is wrong with, or of a right one with something wrong in the URL."""
    right = world.env["EMBAKERY_REDIS_URL"].removeprefix("redis://")
    answers = {
        "silent": None,
        "password": b"-WRONGPASS invalid username-password pair or user is disabled.\r\n",
        "rights": b"-NOPERM User cache has no permissions to run the 'mget' command\r\n",
        # What a server that speaks TLS says to one who does not.
        "plain-to-tls": b"\x15\x03\x03\x00\x02\x02\x0a",
    }
    if kind == "tls-to-plain":
        yield f"rediss://{right}"
    elif kind == "unreachable":
        yield f"redis://{LOOPBACK}:{free_port()}/0"
    else:
        user = "cache:hunter2@" if kind == "password" else ""
        with stubborn_redis(answers[kind], hangs_up=kind == "plain-to-tls") as address:
            yield f"redis://{user}{address}/0"


REDIS = {
    "unreachable": "ConnectionError; check EMBAKERY_REDIS_URL",
    "silent": "TimeoutError; check EMBAKERY_REDIS_URL",
    "password": "check user and password: EMBAKERY_REDIS_USERNAME, EMBAKERY_REDIS_PASSWORD_SECRET_ARN",
    "rights": "check the user's rights: GET, MGET and SET on embakery:*",
    # Each waits for the other to begin, or hangs up: nobody says TLS.
    "tls-to-plain": "rediss:// only where the server speaks TLS",
    "plain-to-tls": "rediss:// where the server speaks TLS",
}


@pytest.mark.parametrize("kind", REDIS)
def test_a_redis_that_cannot_serve_is_done_without(world: LambdaWorld, kind: str, embedder: Embedder) -> None:
    with redis_that(kind, world) as url, emulated(API, dict(world.env) | {"EMBAKERY_REDIS_URL": url}) as api:
        # Two requests of five texts: a line for each, none for each text.
        for served in (1, 2):
            assert vectors(api, *TEXTS) == embedder.embed(TEXTS).tobytes()
            assert [line["message"] for line in api.troubles] == ["cache_unavailable"] * served
    line = api.troubles[0]
    assert (line["code"], line["errors"]) == ("cache_unavailable", 1)
    assert REDIS[kind] in line["reason"]
    assert (api.metric("CacheErrors"), api.metric("CacheMisses")) == (2, 10)
    assert api.unstructured == []
    for unwanted in (CANARY, "hunter2", world.env["EMBAKERY_CACHE_SECRET"]):
        assert unwanted not in api.log


def test_a_redis_that_cannot_serve_fails_no_batch(world: LambdaWorld) -> None:
    prefix, names = unique("redis"), [unique("doc") for _ in range(3)]
    env = with_destination(world, prefix) | {"EMBAKERY_REDIS_URL": f"redis://{LOOPBACK}:{free_port()}/0"}
    with emulated(QUEUE, env) as queue:
        assert queue.invoke(batch(*map(message, names))).failed == []
        assert queue.trouble()["message"] == "cache_unavailable"
        assert queue.metric("CacheErrors") == 1
    assert world.rows(prefix).keys() == set(names)


@pytest.mark.parametrize(
    ("status", "code", "setting"),
    [
        (400, "ResourceNotFoundException", "EMBAKERY_CACHE_SECRET_ARN"),
        (400, "AccessDeniedException", "EMBAKERY_CACHE_SECRET_ARN"),
        (400, "AccessDeniedException", "EMBAKERY_REDIS_PASSWORD_SECRET_ARN"),
    ],
)
def test_a_secret_that_may_not_be_read_refuses_to_start(
    world: LambdaWorld, status: int, code: str, setting: str
) -> None:
    with refusing_aws() as secrets:
        secrets.refusal = status, code
        env = dict(world.env) | {setting: ARN, "AWS_ENDPOINT_URL_SECRETS_MANAGER": secrets.url}
        if setting == "EMBAKERY_CACHE_SECRET_ARN":
            env["EMBAKERY_CACHE_SECRET"] = ""
        with emulated(API, env) as api:
            answer = api.invoke(embeddings(*TEXTS))
            assert answer.error.startswith("ConfigurationError: ")
            line = api.trouble()
    assert (line["message"], line["code"]) == ("start_refused", "configuration")
    for words in (setting, ARN, code, "check it and the function's role"):
        assert words in line["reason"]


def test_a_secret_that_the_emulated_manager_does_not_know(world: LambdaWorld) -> None:
    env = dict(world.env) | {"EMBAKERY_CACHE_SECRET": "", "EMBAKERY_CACHE_SECRET_ARN": ARN}
    with emulated(API, env) as api:
        assert "ResourceNotFoundException" in api.invoke(embeddings(*TEXTS)).error


def test_a_secret_of_bytes(world: LambdaWorld) -> None:
    with refusing_aws() as secrets:
        secrets.content = {"ARN": ARN, "SecretBinary": "c2VjcmV0"}
        env = {"EMBAKERY_CACHE_SECRET": "", "EMBAKERY_CACHE_SECRET_ARN": ARN}
        aws = {"AWS_ENDPOINT_URL_SECRETS_MANAGER": secrets.url}
        with emulated(API, dict(world.env) | env | aws) as api:
            assert "holds bytes; it must hold text" in api.invoke(embeddings(*TEXTS)).error
            assert api.trouble()["code"] == "configuration"


def managed_secret(world: LambdaWorld, url: str, prefix: str = "results") -> dict[str, str]:
    secret = {"EMBAKERY_CACHE_SECRET": "", "EMBAKERY_CACHE_SECRET_ARN": ARN, "AWS_ENDPOINT_URL_SECRETS_MANAGER": url}
    return with_destination(world, prefix) | secret


def test_an_api_that_gets_no_secret_yet_recovers_without_a_restart(world: LambdaWorld, embedder: Embedder) -> None:
    with refusing_aws() as secrets:
        secrets.refusal = 400, "ThrottlingException"
        secrets.content = {"ARN": ARN, "SecretString": "hunter2"}
        with emulated(API, managed_secret(world, secrets.url)) as api:
            answers = [api.invoke(embeddings(*TEXTS)) for _ in range(2)]
            assert [answer.content["statusCode"] for answer in answers] == [503, 503]
            assert [(line["message"], line["code"]) for line in api.troubles] == [
                ("not_ready_yet", "unavailable"),
                ("request_failed", "unavailable"),
                ("request_failed", "unavailable"),
            ]
            assert all("ThrottlingException" in line["reason"] for line in api.troubles)
            secrets.refusal = None
            assert vectors(api, *TEXTS) == embedder.embed(TEXTS).tobytes()
            assert len(api.troubles) == 3
    # One process, which has loaded the model once.
    assert (api.log.count("INIT START"), api.log.count('"message":"engine"')) == (1, 1)
    assert "hunter2" not in api.log
    assert api.unstructured == []


def test_a_queue_that_gets_no_secret_yet_lets_its_messages_come_again(world: LambdaWorld) -> None:
    """Here nothing listens where Secrets Manager should be."""
    prefix, name = unique("secret"), unique("doc")
    url = f"http://{LOOPBACK}:{free_port()}"
    with emulated(QUEUE, managed_secret(world, url, prefix)) as queue:
        assert queue.invoke(batch(message(name))).error.startswith("UnavailableError: ")
    assert [line["message"] for line in queue.troubles] == ["not_ready_yet", "event_refused"]
    for line in queue.troubles:
        for words in ("EMBAKERY_CACHE_SECRET_ARN", "EndpointConnectionError", "check the function's way there"):
            assert words in line["reason"]
    assert CANARY not in queue.log
    assert world.rows(prefix) == {}
