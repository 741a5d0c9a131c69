"""Qdrant on loopback, as far as its store goes: collections, and points with update filters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recording_servers import Answer, RecordingServer, Request


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
