"""What a function works with refuses: its messages come again, one line of the log says where and what to check."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from lambda_emulator import Emulated, emulated
from lambda_world import CANARY, EVENTS, QUEUE, LambdaWorld, batch, event, message, unique
from refusing_servers import RefusingAws, refusing_aws

RIGHTS = "check the function's role, the resource's own policy, and that of its key"
NAME = "check its name, and that it is in the function's region and account"


@dataclass(frozen=True, slots=True)
class Refusing:
    """A queue function of which S3 refuses what it is told to. `table` is a destination that serves."""

    function: Emulated
    s3: RefusingAws


@pytest.fixture(scope="module")
def refusing(world: LambdaWorld) -> Iterator[Refusing]:
    with refusing_aws() as s3, emulated(QUEUE, dict(world.env) | {"AWS_ENDPOINT_URL_S3": s3.url}) as function:
        yield Refusing(function, s3)


@contextmanager
def one_trouble(function: Emulated, code: str, *words: str) -> Iterator[None]:
    """Check that what is done within the block adds one line of trouble, which says these words and quotes no text."""
    before = len(function.troubles)
    yield
    (line,) = function.troubles[before:]
    assert line["code"] == code
    for word in words:
        assert word in line["reason"]
    assert "\n" not in line["reason"]
    assert function.unstructured == []
    assert CANARY not in function.log
    assert "of no use to anyone" not in function.log


REFUSALS: dict[str, tuple[int, str, str]] = {
    "no-permission": (403, "AccessDenied", RIGHTS),
    "no-bucket": (404, "NoSuchBucket", NAME),
    "other-region": (301, "PermanentRedirect", "check its region: it is not the function's"),
    "no-key": (400, "KMS.DisabledException", "check the state and the policy of the key"),
    "old-credentials": (403, "ExpiredToken", "check the function's credentials"),
    "slow-down": (503, "SlowDown", "SlowDown"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_bucket_that_refuses_fails_its_own_messages_in_one_line(
    refusing: Refusing, world: LambdaWorld, name: str
) -> None:
    """Five messages of three documents each, and one between them for a table."""
    status, code, advice = REFUSALS[name]
    refusing.s3.refusal = status, code
    ids = [unique("doc") for _ in range(15)]
    written = unique("doc")
    bodies = [message(*ids[start : start + 3]) for start in range(0, 15, 3)]
    bodies.insert(2, message(written, destination="table"))
    with one_trouble(refusing.function, "store_unavailable", "destination default", code, advice):
        assert refusing.function.invoke(batch(*bodies)).failed == ["m0", "m1", "m3", "m4", "m5"]
    line = refusing.function.troubles[-1]
    assert (line["messages"], line["message_ids"]) == (5, ["m0", "m1", "m3", "m4", "m5"])
    assert written in world.items()
    refusing.s3.refusal = None
    assert refusing.function.invoke(batch(*bodies)).failed == []


@pytest.mark.parametrize(("status", "code", "advice"), [(403, "AccessDenied", RIGHTS), (404, "NoSuchBucket", NAME)])
def test_a_source_bucket_that_refuses(refusing: Refusing, status: int, code: str, advice: str) -> None:
    refusing.s3.refusal = status, code
    source = event("sqs-source")["Records"][0]["body"]
    with one_trouble(refusing.function, "configuration", "EMBAKERY_SOURCE_BUCKET", code, advice):
        answer = refusing.function.invoke(batch(source, message(unique("doc"), destination="table"), source))
        assert answer.failed == ["m0", "m2"]


MISSING = {
    "bucket": ("s3://embakery-no-such-bucket/results/", "NoSuchBucket"),
    "table": ("dynamodb://embakery-no-such-table", "ResourceNotFoundException"),
    "queue": ("sqs+{aws}/000000000000/embakery-no-such-queue", "NonExistentQueue"),
}


@pytest.fixture(scope="module")
def misdirected(world: LambdaWorld) -> Iterator[Emulated]:
    """Destinations and a state table that are not there."""
    missing = {f"missing-{kind}": url.format(aws=world.aws_url) for kind, (url, _) in MISSING.items()}
    destinations = json.loads(world.env["EMBAKERY_DESTINATIONS"]) | missing
    wrong = {"EMBAKERY_DESTINATIONS": json.dumps(destinations), "EMBAKERY_STATE_TABLE": "embakery-no-such-state"}
    with emulated(QUEUE, dict(world.env) | wrong) as function:
        yield function


@pytest.mark.parametrize("kind", MISSING)
def test_a_destination_that_is_not_there(misdirected: Emulated, world: LambdaWorld, kind: str) -> None:
    name = f"missing-{kind}"
    written = unique("doc")
    bodies = [message(unique("doc"), unique("doc"), destination=name) for _ in range(3)]
    bodies.append(message(written))
    with one_trouble(misdirected, "store_unavailable", f"destination {name}", MISSING[kind][1], NAME):
        assert misdirected.invoke(batch(*bodies)).failed == ["m0", "m1", "m2"]
    assert written in world.rows()


def test_a_state_table_that_is_not_there_costs_its_marks_alone(misdirected: Emulated, world: LambdaWorld) -> None:
    """Messages that came before are worked on one by one: without marks, but they are."""
    names = [unique("doc") for _ in range(4)]
    reason = ("table embakery-no-such-state", "ResourceNotFoundException", NAME)
    before = len(misdirected.troubles)
    assert misdirected.invoke(batch(*map(message, names), receives=2)).failed == []
    assert set(names) <= world.rows().keys()
    lines = [line for line in misdirected.troubles[before:] if line["message"] == "trail_unavailable"]
    assert len(lines) == 1
    assert all(words in lines[0]["reason"] for words in reason)


def test_a_state_table_without_permission(world: LambdaWorld) -> None:
    with refusing_aws() as dynamodb:
        dynamodb.refusal = 400, "AccessDeniedException"
        name = unique("doc")
        with emulated(QUEUE, dict(world.env) | {"AWS_ENDPOINT_URL_DYNAMODB": dynamodb.url}) as function:
            assert function.invoke(batch(message(name), receives=2)).failed == []
            lines = [line for line in function.troubles if line["message"] == "trail_unavailable"]
    assert len(lines) == 1
    assert RIGHTS in lines[0]["reason"]
    assert name in world.rows()


def test_a_table_that_refuses_its_key(world: LambdaWorld) -> None:
    """DynamoDB's own word for it. Thirty documents are not thirty lines, nor thirty calls."""
    with refusing_aws() as dynamodb:
        dynamodb.refusal = 400, "AccessDeniedException"
        bodies = [message(*(unique("doc") for _ in range(10)), destination="table") for _ in range(3)]
        with emulated(QUEUE, dict(world.env) | {"AWS_ENDPOINT_URL_DYNAMODB": dynamodb.url}) as function:
            with one_trouble(function, "store_unavailable", "destination table", "AccessDeniedException", RIGHTS):
                assert function.invoke(batch(*bodies)).failed == ["m0", "m1", "m2"]
            # Three failures open the breaker; the other writers had begun by then.
            assert dynamodb.calls < 30


def test_a_prefix_of_sources_that_fences_nothing_in(world: LambdaWorld) -> None:
    (source,) = json.loads((EVENTS / "sqs-source.json").read_bytes())["Records"]
    with (
        emulated(QUEUE, dict(world.env) | {"EMBAKERY_SOURCE_PREFIX": "/"}) as function,
        one_trouble(function, "configuration", "EMBAKERY_SOURCE_PREFIX='/'", "must be a folder, such as sources/"),
    ):
        assert function.invoke(batch(source["body"], message(unique("doc")))).failed == ["m0"]
