"""Events from events/, rows as the stores hold them, and patience."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from local.system import LocalSystem
from storage.s3 import current_rows, read_rows

EVENTS = Path(__file__).parents[2] / "events"


def event(name: str) -> Any:
    """Read events/NAME.json."""
    return json.loads((EVENTS / f"{name}.json").read_text(encoding="utf-8"))


def sqs_event(*bodies: str) -> dict[str, Any]:
    """Make a batch of messages, with ids 0, 1, ... after one real record."""
    record = event("sqs-documents")["Records"][0]
    return {"Records": [{**record, "messageId": str(number), "body": body} for number, body in enumerate(bodies)]}


def api_event(method: str, path: str, body: str | None = None) -> dict[str, Any]:
    """Make a request after a real one."""
    made = event("api-health")
    made["rawPath"] = path
    made["requestContext"]["http"] = {**made["requestContext"]["http"], "method": method, "path": path}
    return made if body is None else {**made, "body": body}


def failed(response: Any) -> list[str]:
    """Return the ids that must come again."""
    return [failure["itemIdentifier"] for failure in response["batchItemFailures"]]


def rows(system: LocalSystem) -> dict[str, dict[str, Any]]:
    """Return the current row of every id in the bucket."""
    found = read_rows(system.parts.clients.s3, bucket=system.endpoints["bucket"], prefix="results/")
    return {row["id"]: row for row in current_rows(found)}


def unique(name: str) -> str:
    """Return an id that no other test uses."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


def documents(*items: dict[str, Any], destination: str = "default") -> str:
    """Return a message's body."""
    return json.dumps({"v": 1, "documents": items, "destination": destination})


def eventually(holds: Callable[[], bool], *, seconds: float = 60) -> None:
    """Wait until something holds; fail if it never does."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.05)
