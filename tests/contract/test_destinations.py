"""From a setting to a store."""

from __future__ import annotations

import subprocess
import sys

import pytest
from contract_fakes import embedding

from embakery.errors import ConfigurationError
from embakery.results import ResultStore, WriteOutcome
from local.resources import AwsClients
from storage.destinations import open_store
from storage.dynamodb import DynamoDBStore
from storage.opensearch import OpenSearchStore
from storage.postgres import PostgresStore
from storage.qdrant import QdrantStore
from storage.s3 import S3Store
from storage.s3_vectors import S3VectorsStore
from storage.sqs import SqsStore

CANARY = "canary"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a function has it: a region and credentials, and nothing of this machine's own."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("s3://bucket", S3Store),
        ("s3://bucket/results/", S3Store),
        ("dynamodb://table", DynamoDBStore),
        ("sqs+https://sqs.us-east-1.amazonaws.com/1/q.fifo", SqsStore),
        ("sqs+http://127.0.0.1:4566/000000000000/q", SqsStore),
        ("s3vectors://bucket/index", S3VectorsStore),
        ("postgres://me@host/db", PostgresStore),
        ("postgresql://me@host:5433/db?table=results.vectors&sslmode=require", PostgresStore),
        ("qdrant+https://host:6334/documents", QdrantStore),
        ("qdrant+http://host/behind/a/proxy/documents", QdrantStore),
        ("opensearch+https://search-x.eu-west-1.es.amazonaws.com/documents", OpenSearchStore),
        ("opensearch+https://host:9200/documents?region=eu-west-1&service=es&knn=false", OpenSearchStore),
    ],
)
def test_the_scheme_chooses_the_store(url: str, kind: type[ResultStore]) -> None:
    assert type(open_store("default", url)) is kind


@pytest.mark.parametrize(
    "url",
    [
        "",
        "canary",
        "s3://",
        "s3:///canary/",
        "s3:/canary",
        "dynamodb://",
        "sqs+https://",
        "https://canary",
        "sqs://canary",
        "S3://canary",
        "s3vectors://canary",
        "s3vectors://canary/a/b",
        "qdrant://canary",
        "opensearch+https://canary",
        "opensearch+https://me:canary@host/index",
        "opensearch+https://host/index?canary=1",
        "opensearch+https://[canary/index",
        "qdrant+https://[canary/index",
        "qdrant+https://host:canary/index",
        "mysql://user:canary@host/db",
    ],
)
def test_any_other_url_is_refused_naming_the_destination_and_not_the_url(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_store("archive", url)
    assert str(caught.value).startswith("destination archive: its URL must be one of s3://bucket/prefix/, dynamodb://")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgres://me:canary@host/db?table=not%20a%20name",
        "postgresql://me:canary@[host/db",
        "qdrant+https://canary",
        "qdrant+local://canary",
        "qdrant+https://me:canary@host/c",
        "opensearch+https://host/Canary",
        "opensearch+https://host/canary/again",
    ],
)
def test_a_url_that_its_store_refuses_names_the_destination_and_is_not_quoted(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_store("archive", url)
    assert str(caught.value).startswith("destination archive: ")
    assert "canary" not in str(caught.value).lower()


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [("postgres://me@host/db", "psycopg", "postgres"), ("qdrant+https://host/c", "qdrant_client", "qdrant")],
)
def test_a_missing_package_says_what_to_install(
    url: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError) as caught:
        open_store("archive", url)
    assert str(caught.value).endswith(f"pip install 'embakery[{extra}]'")


def test_importing_destinations_imports_no_clients() -> None:
    """What a destination needs is imported when it is opened: a function pays for its own alone."""
    program = "import sys, storage.destinations; print(*sorted(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(answer.stdout.split())
    assert not loaded & {"psycopg", "qdrant_client", "pyarrow", "boto3", "botocore", "urllib3", "numpy.random"}


@pytest.mark.parametrize("url", ["s3://contract/slash/prefix/", "s3://contract/bare/prefix"])
def test_an_s3_url_says_bucket_and_prefix(url: str, aws: AwsClients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.s3.meta.endpoint_url)
    store = open_store("default", url)
    assert store.write([embedding("via-url")]) == [WriteOutcome.WRITTEN]
    prefix = url.removeprefix("s3://contract/").rstrip("/")
    listed = aws.s3.list_objects_v2(Bucket="contract", Prefix=f"{prefix}/space-1/embedding/")
    assert listed["KeyCount"] == 1


def test_an_sqs_url_is_the_queues_own(aws: AwsClients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.sqs.meta.endpoint_url)
    url = aws.sqs.create_queue(QueueName="destination")["QueueUrl"]
    assert open_store("default", f"sqs+{url}").write([embedding()]) == [WriteOutcome.WRITTEN]
    assert len(aws.sqs.receive_message(QueueUrl=url)["Messages"]) == 1
