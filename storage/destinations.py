"""Destinations are named in the settings, never by a message: this turns a setting into a store.

s3://bucket/prefix/                          one compressed JSONL object for a batch
dynamodb://table                             one item for each document
sqs+https://queue-url                        one message for each result
postgresql://user@host/database?table=name   one row for each document
qdrant+https://host:port/collection          one point for each document; qdrant+local:///folder/collection
opensearch+https://host/index                one document each
s3vectors://bucket/index                     one vector for each version

Clients are made on the way and packages imported by need: a store's package is in the extra of its name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from urllib.parse import parse_qsl, urlsplit

from embakery.errors import ConfigurationError
from embakery.results import ResultStore

Opener = Callable[[str, Mapping[str, str]], ResultStore | None]
"""From what follows `scheme://`, and the environment, to a store; None where the rest is not one of this scheme."""


def open_store(name: str, url: str, *, env: Mapping[str, str] = os.environ) -> ResultStore:
    """Open the store of one destination. Raises ConfigurationError, which never quotes the URL: it may hold a password.

    env: where API keys and passwords are looked for.
    """
    scheme, _, rest = url.partition("://")
    opener = _OPENERS.get(scheme)
    try:
        store = opener(url, env) if opener is not None and rest else None
    except ConfigurationError as error:
        raise ConfigurationError(f"destination {name}: {error}") from error
    except ValueError:
        # Not chained: urllib's errors quote a part of what they could not read.
        store = None
    if store is None:
        raise _not_a_destination(name)
    return store


def check_destination(name: str, url: str) -> None:
    """Check what can be checked before anything is opened. Raises ConfigurationError."""
    scheme, _, rest = url.partition("://")
    if scheme not in _OPENERS or not rest:
        raise _not_a_destination(name)


def _not_a_destination(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"destination {name}: its URL must be one of {', '.join(_SHAPES)}; mend EMBAKERY_DESTINATIONS"
    )


def _s3(url: str, _env: Mapping[str, str]) -> ResultStore | None:
    from storage.clients import open_client
    from storage.s3 import S3Store

    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    folder = f"{prefix.rstrip('/')}/" if prefix else ""
    return S3Store(open_client("s3"), bucket=bucket, prefix=folder) if bucket else None


def _dynamodb(url: str, _env: Mapping[str, str]) -> ResultStore:
    from storage.clients import open_client
    from storage.dynamodb import DynamoDBStore

    return DynamoDBStore(open_client("dynamodb"), table=url.removeprefix("dynamodb://"))


def _sqs(url: str, _env: Mapping[str, str]) -> ResultStore:
    from storage.clients import open_client
    from storage.sqs import SqsStore

    return SqsStore(open_client("sqs"), queue_url=url.removeprefix("sqs+"))


def _s3_vectors(url: str, _env: Mapping[str, str]) -> ResultStore | None:
    from storage.clients import open_client
    from storage.s3_vectors import S3VectorsStore

    bucket, _, index = url.removeprefix("s3vectors://").partition("/")
    if not bucket or not index or "/" in index:
        return None
    return S3VectorsStore(open_client("s3vectors"), bucket=bucket, index=index)


def _postgres(url: str, _env: Mapping[str, str]) -> ResultStore:
    _need("psycopg", extra="postgres")
    from storage.postgres import PostgresStore

    return PostgresStore(url)


def _qdrant(url: str, env: Mapping[str, str]) -> ResultStore:
    _need("qdrant_client", extra="qdrant")
    from storage.qdrant import open_qdrant

    return open_qdrant(url, api_key=env.get("EMBAKERY_QDRANT_API_KEY"))


def _opensearch(url: str, env: Mapping[str, str]) -> ResultStore | None:
    from storage.opensearch import OpenSearchStore, check_index_name
    from storage.opensearch_access import choose_access

    parts = urlsplit(url.removeprefix("opensearch+"))
    index = parts.path.removeprefix("/")
    options = dict(parse_qsl(parts.query))
    if not parts.hostname or not index or parts.username is not None or set(options) - _OPENSEARCH_OPTIONS:
        return None
    return OpenSearchStore(
        f"{parts.scheme}://{parts.netloc}",
        index=check_index_name(index),
        authorize=choose_access(parts.hostname, options, env),
        knn=options.get("knn", "true") != "false",
    )


def _need(package: str, *, extra: str) -> None:
    try:
        import_module(package)
    except ImportError as error:
        raise ConfigurationError(f"needs a package that is not here: pip install 'embakery[{extra}]'") from error


_OPENERS: Mapping[str, Opener] = {
    "s3": _s3,
    "dynamodb": _dynamodb,
    "sqs+http": _sqs,
    "sqs+https": _sqs,
    "postgres": _postgres,
    "postgresql": _postgres,
    "qdrant+http": _qdrant,
    "qdrant+https": _qdrant,
    "qdrant+local": _qdrant,
    "opensearch+http": _opensearch,
    "opensearch+https": _opensearch,
    "s3vectors": _s3_vectors,
}
_OPENSEARCH_OPTIONS = frozenset({"region", "service", "knn"})
_SHAPES = (
    "s3://bucket/prefix/",
    "dynamodb://table",
    "sqs+https://queue-url",
    "postgresql://user@host/database?table=name",
    "qdrant+https://host:port/collection",
    "opensearch+https://host/index",
    "s3vectors://bucket/index",
)
