"""Results in OpenSearch: one document for each (tenant, kind, id, space), in an index for each space.

The condition is OpenSearch's external versioning: a document's `_version` is ours, and an index action whose version
is not higher than the one there answers 409, which is SUPERSEDED. Requests are signed for AWS (es, aoss) by botocore
and sent by urllib3, which botocore brings: three kinds of request need no client library.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import urllib3

from embakery.batches import batches
from embakery.errors import ConfigurationError, StoreUnavailableError
from embakery.results import EmbeddingResult, Result, WriteOutcome
from storage.identities import identity_digest, searched_set, write_newest
from storage.opensearch_access import Authorize
from storage.parts import write_parts

_TIMEOUT = urllib3.Timeout(connect=2, read=5)
# Once more for a broken connection, whatever the method: what was written already answers 409 then.
_RETRIES = urllib3.Retry(total=1, redirect=0, status=0, backoff_factor=0.1, allowed_methods=None)
# The smallest domains of Amazon OpenSearch Service take 10 MiB.
_MAX_BYTES = 8 * 1024 * 1024
_MAX_DOCUMENTS = 500
_NOT_FOUND, _BAD_REQUEST, _CONFLICT = 404, 400, 409
# A result, and the lines of a bulk request that index it.
_Action = tuple[Result, bytes]
_KEYWORDS = ("tenant", "id", "kind", "space_id", "model", "job_id", "dtype")


class OpenSearchStore:
    """Writes documents to the indexes `index-<first 16 of the space id>` and, for rankings, `...-rankings`.

    endpoint: `https://host`. authorize: gives the headers that let a request in. knn: whether the vectors of an index
    made here can be searched; without it they are only kept, for collections that have no k-NN.
    """

    def __init__(self, endpoint: str, *, index: str, authorize: Authorize, knn: bool = True) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._index = index
        self._authorize = authorize
        self._knn = knn
        self._pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=_RETRIES)
        self._ready: set[str] = set()

    def write(self, results: Sequence[Result]) -> list[WriteOutcome]:
        """Index each result if it is newer than what is there; a document that is refused fails alone.

        Raises StoreUnavailableError if none could be written.
        """
        return write_newest(results, self._write)

    def close(self) -> None:
        """Drop the connections."""
        self._pool.clear()

    def _write(self, results: Sequence[Result]) -> list[WriteOutcome]:
        groups: dict[str, list[tuple[int, _Action]]] = {}
        for index, result in enumerate(results):
            groups.setdefault(searched_set(self._index, result), []).append((index, (result, to_action(result))))
        split = functools.partial(batches, size=_size, max_items=_MAX_DOCUMENTS, max_bytes=_MAX_BYTES)
        return write_parts(len(results), groups, self._bulk, split=split)

    def _bulk(self, name: str, actions: Sequence[_Action]) -> list[WriteOutcome]:
        self._ensure_index(name, actions[0][0])
        path = f"/{name}/_bulk?filter_path=items.*.status,items.*.error.type"
        body = b"".join(action for _, action in actions)
        status, answer = self._send("POST", path, body, content_type="application/x-ndjson")
        items = answer.get("items", [])
        if status != 200 or len(items) != len(actions):
            self._ready.discard(name)
            raise StoreUnavailableError(f"opensearch answered {status} to a bulk request")
        return [_outcome(item["index"]["status"]) for item in items]

    def _ensure_index(self, name: str, example: Result) -> None:
        """Create the index if it is missing: made by the first document, its vectors could not be searched."""
        if name in self._ready:
            return
        status, _ = self._send("HEAD", f"/{name}")
        if status == _NOT_FOUND:
            body = json.dumps(index_body(example, knn=self._knn)).encode()
            status, answer = self._send("PUT", f"/{name}", body)
            # Another writer made it at this moment.
            if status == _BAD_REQUEST and answer.get("error", {}).get("type") == "resource_already_exists_exception":
                status = 200
        if status != 200:
            raise StoreUnavailableError(f"opensearch answered {status} for index {name}")
        self._ready.add(name)

    def _send(
        self, method: str, path: str, body: bytes = b"", *, content_type: str = "application/json"
    ) -> tuple[int, dict[str, Any]]:
        url = self._endpoint + path
        headers: Mapping[str, str] = {"Content-Type": content_type} if body else {}
        try:
            response = self._pool.request(
                method, url, body=body or None, headers=self._authorize(method, url, body, headers)
            )
        except urllib3.exceptions.HTTPError as error:
            # Not chained: the message holds the URL.
            raise StoreUnavailableError(f"opensearch cannot be reached: {type(error).__name__}") from None
        try:
            answer = json.loads(response.data or b"{}")
        except ValueError:
            answer = {}
        return response.status, answer if isinstance(answer, dict) else {}


def to_action(result: Result) -> bytes:
    """Return the two lines of a bulk request that index a result, unless its version or a higher one is there."""
    action = {"_id": identity_digest(result), "version": result.version, "version_type": "external"}
    source = result.to_json()
    if isinstance(result, EmbeddingResult):
        # As JSON numbers; a float32's double is exact, and so is the way back.
        source["vector"] = result.vector.tolist()
    return f"{json.dumps({'index': action})}\n{json.dumps(source)}\n".encode()


def index_body(example: Result, *, knn: bool) -> dict[str, Any]:
    """Return settings and mapping of an index for results like one. Metadata and rankings are kept, not indexed."""
    fields: dict[str, Any] = {name: {"type": "keyword"} for name in _KEYWORDS}
    fields |= {"version": {"type": "long"}, "dim": {"type": "integer"}, "tokens": {"type": "integer"}}
    fields |= {"truncated": {"type": "boolean"}}
    fields |= {name: {"type": "object", "enabled": False} for name in ("metadata", "ranking")}
    if not isinstance(example, EmbeddingResult):
        return {"mappings": {"dynamic": False, "properties": fields}}
    if not knn:
        fields["vector"] = {"type": "float", "index": False, "doc_values": False}
        return {"mappings": {"dynamic": False, "properties": fields}}
    fields["vector"] = {
        "type": "knn_vector",
        "dimension": example.vector.shape[0],
        "method": {"name": "hnsw", "engine": "faiss", "space_type": "innerproduct"},
    }
    return {"settings": {"index": {"knn": True}}, "mappings": {"dynamic": False, "properties": fields}}


def _size(entry: tuple[int, _Action]) -> int:
    return len(entry[1][1])


def _outcome(status: int) -> WriteOutcome:
    if status == _CONFLICT:
        return WriteOutcome.SUPERSEDED
    return WriteOutcome.WRITTEN if status in {200, 201} else WriteOutcome.FAILED


def check_index_name(name: str) -> str:
    """Return a name that OpenSearch takes. Raises ConfigurationError."""
    if not name or name != name.lower() or name[0] in "_-+" or set(name) & set('\\/*?"<>| ,#:'):
        raise ConfigurationError("the index must be a name in lower case, without spaces and any of _-+ at its start")
    return name
