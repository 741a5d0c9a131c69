"""OpenSearch on loopback, as far as its store goes: indexes, and documents with external versions."""

from __future__ import annotations

import json
from typing import Any

from recording_servers import Answer, RecordingServer, Request


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
