"""S3 Vectors on loopback, as far as its store goes: indexes of float32 vectors, with the service's limits."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from recording_servers import Answer, RecordingServer, Request


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
