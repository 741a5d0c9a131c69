"""Results in S3 Vectors: an append-only log, in an index for each space.

PutVectors has no condition and overwrites a key, so a key carries the version: `digest#version`. A duplicate puts the
same bytes under its key again, and an older version has a key of its own, so nothing newer is ever overwritten. A
reader takes, for each (tenant, kind, id, space), the highest version: `current_vectors` for whole listings,
`drop_outdated` for the hits of a search, among which the newer version of an old hit may be missing.

Limits (Amazon S3 user guide, "Limitations and restrictions" of S3 Vectors): 500 vectors and 20 MiB a request, 40 KB of
metadata a vector, 2 KB of it filterable, 4096 dimensions.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from embakery.batches import batches
from embakery.errors import StoreUnavailableError
from embakery.results import EmbeddingResult, Result, WriteOutcome
from embakery.vectors import to_base64
from storage.advice import explain
from storage.clients import error_code
from storage.identities import identity_digest, searched_set, write_newest
from storage.parts import write_parts

_MAX_VECTORS = 500
_MAX_REQUEST_BYTES = 19 * 1024 * 1024
# KB in the guide; read as the smaller of its meanings.
_MAX_METADATA_BYTES = 40_000
_MAX_DIMENSION = 4096
# A number of float32 is at most this long as JSON.
_NUMBER_BYTES = 26
# Faults of what was sent, which the same request would meet again.
_REFUSED = "ValidationException"
# The one vector of a ranking: S3 Vectors has no row without a vector.
_NO_VECTOR = [1.0]
_SPLIT_KEY = "row"


class S3VectorsStore:
    """Puts vectors into the indexes `index-<first 16 of the space id>` and, for rankings, `...-rankings`.

    Indexes that are missing are created, for cosine. client: boto3's `s3vectors`.
    """

    def __init__(self, client: Any, *, bucket: str, index: str) -> None:
        self._client = client
        self._bucket = bucket
        self._index = index

    def write(self, results: Sequence[Result]) -> list[WriteOutcome]:
        """Put each result under its version's key; one with more metadata than S3 Vectors takes fails alone.

        Raises StoreUnavailableError if none could be written though it might have been.
        """
        return write_newest(results, self._write)

    def _write(self, results: Sequence[Result]) -> list[WriteOutcome]:
        groups: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        for index, result in enumerate(results):
            vector = to_vector(result)
            if not is_too_large(vector):
                groups.setdefault(searched_set(self._index, result), []).append((index, vector))
        split = functools.partial(batches, size=_size, max_items=_MAX_VECTORS, max_bytes=_MAX_REQUEST_BYTES)
        return write_parts(len(results), groups, self._put, split=split)

    def _put(self, name: str, vectors: Sequence[dict[str, Any]]) -> list[WriteOutcome]:
        try:
            self._put_or_create(name, list(vectors))
        except ClientError as error:
            code = error_code(error)
            if code != _REFUSED:
                raise StoreUnavailableError(f"s3vectors refused a write: {explain(error)}") from error
            if len(vectors) == 1:
                return [WriteOutcome.FAILED]
        except BotoCoreError as error:
            raise StoreUnavailableError(f"s3vectors cannot be reached: {explain(error)}") from error
        else:
            return [WriteOutcome.WRITTEN] * len(vectors)
        # A request is refused whole: halved until the vectors at fault stand alone.
        middle = len(vectors) // 2
        return self._put(name, vectors[:middle]) + self._put(name, vectors[middle:])

    def _put_or_create(self, name: str, vectors: list[dict[str, Any]]) -> None:
        """Put vectors; if there is no such index, create it first."""
        try:
            self._client.put_vectors(vectorBucketName=self._bucket, indexName=name, vectors=vectors)
        except ClientError as error:
            if error_code(error) != "NotFoundException":
                raise
            self._create_index(name, vectors[0])
            self._client.put_vectors(vectorBucketName=self._bucket, indexName=name, vectors=vectors)

    def _create_index(self, name: str, example: dict[str, Any]) -> None:
        try:
            self._client.create_index(
                vectorBucketName=self._bucket,
                indexName=name,
                dataType="float32",
                dimension=len(example["data"]["float32"]),
                distanceMetric="cosine",
                # All but what a search filters by: only 2 KB of metadata may be filterable.
                metadataConfiguration={"nonFilterableMetadataKeys": [_SPLIT_KEY]},
            )
        except ClientError as error:
            # Another writer made it at this moment.
            if error_code(error) != "ConflictException":
                raise


def to_vector(result: Result) -> dict[str, Any]:
    """Return a result as an entry of PutVectors.

    Metadata: `document` (its identity's digest), `tenant`, `kind` and `version` can be filtered by; `row`, the row as
    JSON without its vector, cannot.
    """
    digest = identity_digest(result)
    row = {name: value for name, value in result.to_json().items() if name != "vector"}
    return {
        "key": f"{digest}#{result.version}",
        "data": {"float32": result.vector.tolist() if isinstance(result, EmbeddingResult) else _NO_VECTOR},
        "metadata": {
            "document": digest,
            "tenant": result.tenant,
            "kind": result.kind,
            "version": result.version,
            _SPLIT_KEY: json.dumps(row, sort_keys=True, ensure_ascii=False),
        },
    }


def is_too_large(vector: Mapping[str, Any]) -> bool:
    """Say whether S3 Vectors would refuse an entry for its metadata or dimension, however often it came."""
    metadata = len(json.dumps(vector["metadata"], ensure_ascii=False).encode())
    return metadata > _MAX_METADATA_BYTES or len(vector["data"]["float32"]) > _MAX_DIMENSION


def current_vectors(vectors: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the vectors that count among all of an index, with metadata: of each document the highest version."""
    current: dict[str, Mapping[str, Any]] = {}
    for vector in vectors:
        metadata = vector["metadata"]
        known = current.get(metadata["document"])
        if known is None or metadata["version"] > known["metadata"]["version"]:
            current[metadata["document"]] = vector
    return list(current.values())


def drop_outdated(
    client: Any, *, bucket: str, index: str, query: Sequence[float], hits: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return those hits of a search, in their order, of which no newer version is in the index.

    hits: of QueryVectors for `query`, with metadata. Asks once for each whether a higher version exists: a search finds
    a text that has changed since by the vector it had. As good as S3 Vectors' filtered search, which is approximate.
    """
    current: list[Mapping[str, Any]] = []
    for hit in hits:
        metadata = hit["metadata"]
        newer = {"$and": [{"document": metadata["document"]}, {"version": {"$gt": metadata["version"]}}]}
        answer = client.query_vectors(
            vectorBucketName=bucket, indexName=index, queryVector={"float32": list(query)}, topK=1, filter=newer
        )
        if not answer["vectors"]:
            current.append(hit)
    return current


def to_row(vector: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of `Result.to_json` from a vector of ListVectors or GetVectors, with data and metadata."""
    import numpy as np

    row: dict[str, Any] = json.loads(vector["metadata"][_SPLIT_KEY])
    if row["kind"] == "embedding":
        row["vector"] = to_base64(np.array(vector["data"]["float32"], dtype=np.float32))
    return row


def _size(entry: tuple[int, dict[str, Any]]) -> int:
    _, vector = entry
    return len(json.dumps(vector["metadata"])) + _NUMBER_BYTES * len(vector["data"]["float32"])
