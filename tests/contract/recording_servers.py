"""Servers on loopback that record what they are asked, and answer as OpenSearch, Qdrant and S3 Vectors do.

Only as far as the stores go, but there really: external versions, update filters and float32 are kept by them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np


@dataclass(frozen=True)
class Request:
    """What was asked. `path` is without its query."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


class RecordingServer:
    """Answers by `answer`, one request at a time, and keeps the requests. `broken`, while it is set, answers all."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.broken: Answer | None = None
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def answer(self, request: Request) -> Answer:
        raise NotImplementedError

    def paths(self) -> list[str]:
        return [f"{request.method} {request.path}" for request in self.requests]

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def running(server: RecordingServer) -> Iterator[None]:
    try:
        yield
    finally:
        server.stop()


def _handler(server: RecordingServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_any(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            parts = urlsplit(self.path)
            request = Request(
                self.command, unquote(parts.path), parts.query, dict(self.headers.items()), self.rfile.read(length)
            )
            with server.lock:
                server.requests.append(request)
                answer = server.broken or server.answer(request)
            body = b"" if answer.body is None or self.command == "HEAD" else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_HEAD = do_any  # noqa: N815 - http.server's own names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's own name
            pass

    return Handler


class FakeOpenSearch(RecordingServer):
    """Indexes of documents, with external versions."""

    def __init__(self) -> None:
        self.indexes: dict[str, dict[str, Any]] = {}
        self.documents: dict[tuple[str, str], tuple[int, dict[str, Any]]] = {}
        super().__init__()

    def answer(self, request: Request) -> Answer:
        name, _, action = request.path.removeprefix("/").partition("/")
        if action == "_bulk":
            lines = request.body.decode().split("\n")
            assert lines.pop() == "", "a bulk request ends with a newline"
            pairs = zip(lines[::2], lines[1::2], strict=True)
            return Answer(body={"items": [{"index": self._index(name, *map(json.loads, pair))} for pair in pairs]})
        if request.method == "PUT" and name in self.indexes:
            return Answer(400, {"error": {"type": "resource_already_exists_exception"}, "status": 400})
        if request.method == "PUT":
            self.indexes[name] = request.json()
            return Answer(body={"acknowledged": True})
        return Answer(200 if name in self.indexes else 404)

    def _index(self, name: str, action: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
        about = action["index"]
        assert about["version_type"] == "external"
        assert 0 <= about["version"] < 2**63
        assert len(about["_id"].encode()) <= 512
        there = self.documents.get((name, about["_id"]))
        if there is not None and about["version"] <= there[0]:
            return {"status": 409, "error": {"type": "version_conflict_engine_exception"}}
        field_type = self.indexes[name]["mappings"]["properties"].get("vector", {})
        if field_type.get("dimension") not in {None, len(source.get("vector", ()))}:
            return {"status": 400, "error": {"type": "mapper_parsing_exception"}}
        self.documents[name, about["_id"]] = (about["version"], source)
        return {"status": 201 if there is None else 200}


class FakeQdrant(RecordingServer):
    """Collections of points; `update_filter` of one range on one payload key."""

    def __init__(self, version: str = "1.16.3") -> None:
        self.version = version
        self.collections: dict[str, dict[str, Any]] = {}
        self.points: dict[tuple[str, str], dict[str, Any]] = {}
        super().__init__()

    def answer(self, request: Request) -> Answer:
        _, _, name, *rest = [*request.path.split("/"), ""]
        if request.path == "/":
            return Answer(body={"title": "qdrant - vector search engine", "version": self.version})
        match request.method, rest[0], "/".join(rest[:2]):
            case "GET", "exists", _:
                return _result({"exists": name in self.collections})
            case "PUT", "", _:
                if name in self.collections:
                    return Answer(409, {"status": {"error": f"Wrong input: Collection `{name}` already exists!"}})
                self.collections[name] = request.json()
                return _result(True)
            case "GET", "", _:
                return _result(_collection_info(self.collections[name]))
            case "PUT", "index", _:
                return _result({"operation_id": 1, "status": "completed"})
            case "POST", "points", "points/batch":
                return self._batch(name, request.json()["operations"])
            case "POST", "points", _:
                wanted = [(name, id_) for id_ in request.json()["ids"]]
                return _result([self._record(*key) for key in wanted if key in self.points])
        raise AssertionError(f"nobody asks Qdrant for {request.path}")

    def _record(self, name: str, id_: str) -> dict[str, Any]:
        return {"id": id_, "payload": {"version": self.points[name, id_]["payload"]["version"]}}

    def _batch(self, name: str, operations: list[dict[str, Any]]) -> Answer:
        size = (self.collections[name].get("vectors") or {}).get("size")
        for operation in operations:
            for point in operation["upsert"]["points"]:
                if size is not None and len(point["vector"]) != size:
                    return Answer(400, {"status": {"error": "Wrong input: Vector dimension error"}})
        for operation in operations:
            self._upsert(name, operation["upsert"])
        return _result([{"operation_id": 1, "status": "completed"}] * len(operations))

    def _upsert(self, name: str, upsert: dict[str, Any]) -> None:
        for point in upsert["points"]:
            there = self.points.get((name, point["id"]))
            if there is not None and not _matches(upsert.get("update_filter"), there["payload"]):
                continue
            self.points[name, point["id"]] = point


def _matches(condition: Any, payload: Mapping[str, Any]) -> bool:
    if condition is None:
        return True
    (must,) = condition["must"]
    return bool(payload[must["key"]] < must["range"]["lt"])


def _collection_info(config: dict[str, Any]) -> dict[str, Any]:
    optimizers = {"deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0}
    hnsw = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000}
    return {
        "status": "green",
        "optimizer_status": "ok",
        "segments_count": 1,
        "points_count": 0,
        "payload_schema": {},
        "config": {
            "params": {"vectors": config.get("vectors") or {}},
            "hnsw_config": hnsw,
            "optimizer_config": optimizers | {"flush_interval_sec": 5},
        },
    }


def _result(result: Any) -> Answer:
    return Answer(body={"result": result, "status": "ok", "time": 0.001})


class FakeS3Vectors(RecordingServer):
    """Indexes of vectors, with the service's limits."""

    def __init__(self) -> None:
        self.indexes: dict[str, dict[str, Any]] = {}
        self.vectors: dict[tuple[str, str], dict[str, Any]] = {}
        super().__init__()

    def answer(self, request: Request) -> Answer:
        body = request.json()
        name = body["indexName"]
        match request.path:
            case "/CreateIndex" if name in self.indexes:
                return _fault(409, "ConflictException")
            case "/CreateIndex":
                assert 3 <= len(name) <= 63
                self.indexes[name] = body
                return Answer(body={"indexArn": "arn:aws:s3vectors:us-east-1:000000000000:bucket/b/index/i"})
            case _ if name not in self.indexes:
                return _fault(404, "NotFoundException")
            case "/PutVectors":
                return self._put(name, body["vectors"])
            case "/ListVectors":
                return Answer(body={"vectors": [v for (index, _), v in self.vectors.items() if index == name]})
            case "/QueryVectors":
                return self._query(name, body)
        raise AssertionError(f"nobody asks S3 Vectors for {request.path}")

    def _put(self, name: str, vectors: list[dict[str, Any]]) -> Answer:
        hidden = self.indexes[name]["metadataConfiguration"]["nonFilterableMetadataKeys"]
        assert 1 <= len(vectors) <= 500
        for vector in vectors:
            filterable = {key: value for key, value in vector["metadata"].items() if key not in hidden}
            sizes = [len(json.dumps(part).encode()) for part in (filterable, vector["metadata"])]
            fits = sizes[0] <= 2000 and sizes[1] <= 200_000 and len(vector["key"]) <= 1024
            if not fits or len(vector["data"]["float32"]) != self.indexes[name]["dimension"]:
                return _fault(400, "ValidationException")
        for vector in vectors:
            # The service keeps float32, whatever is sent.
            kept = np.array(vector["data"]["float32"], dtype=np.float32).tolist()
            self.vectors[name, vector["key"]] = {**vector, "data": {"float32": kept}}
        return Answer(body={})

    def _query(self, name: str, body: dict[str, Any]) -> Answer:
        document, version = body["filter"]["$and"]
        found = [
            {"key": vector["key"]}
            for (index, _), vector in self.vectors.items()
            if index == name
            and vector["metadata"]["document"] == document["document"]
            and vector["metadata"]["version"] > version["version"]["$gt"]
        ]
        return Answer(body={"vectors": found[: body["topK"]], "distanceMetric": "cosine"})


def _fault(status: int, code: str) -> Answer:
    return Answer(status, {"message": "no"}, {"x-amzn-errortype": code})
