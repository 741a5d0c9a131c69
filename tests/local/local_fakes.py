"""Fakes that these tests own, and what several of them share."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from local.errors import QueueCallError
from local.sqs import DeleteFailure, Message

HERE = Path(__file__).resolve().parent
EVENTS = HERE.parent.parent / "events"
# Lets a child process import sample_handlers.
HANDLER_ENV = {"PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE)])}


def eventually(condition: Callable[[], object], *, seconds: float = 15.0) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


@dataclass
class LogLines:
    """A log sink."""

    lines: list[str] = field(default_factory=list)

    def line(self, source: str, line: str) -> None:
        self.lines.append(line)

    def add(self, line: str) -> None:
        self.lines.append(line)


class FakeQueue:
    """An SQS queue in memory: visibility, receive counts, one group in flight at a time."""

    def __init__(self, *, visibility_seconds: float = 60.0) -> None:
        self.visibility_seconds = visibility_seconds
        self.deleted: list[str] = []
        self.requested: list[int] = []
        self.failing_receives = 0
        self.delete_failures: dict[str, list[str]] = {}
        self._messages: dict[str, Message] = {}
        self._visible_at: dict[str, float] = {}
        self._changed = threading.Condition()

    def send(self, *ids: str, group: str | None = None, body: str = "{}") -> None:
        attributes = {"ApproximateReceiveCount": "0"} | ({"MessageGroupId": group} if group else {})
        with self._changed:
            for id_ in ids:
                self._messages[id_] = Message(id_, f"handle-{id_}", body, "md5", attributes)
                self._visible_at[id_] = 0.0
            self._changed.notify_all()

    def make_visible(self, id_: str) -> None:
        with self._changed:
            self._visible_at[id_] = 0.0
            self._changed.notify_all()

    def receive_count(self, id_: str) -> int:
        return int(self._messages[id_].attributes["ApproximateReceiveCount"])

    def receive(self, *, max_messages: int, wait_seconds: int) -> list[Message]:
        assert 1 <= max_messages <= 10
        with self._changed:
            self.requested.append(max_messages)
            if self.failing_receives:
                self.failing_receives -= 1
                raise QueueCallError("no answer")
            deadline = time.monotonic() + min(wait_seconds, 0.2)
            while not (ids := self._receivable()[:max_messages]) and time.monotonic() < deadline:
                self._changed.wait(0.01)
            return [self._received(id_) for id_ in ids]

    def delete(self, messages: Sequence[Message]) -> list[DeleteFailure]:
        failures = []
        with self._changed:
            for message in messages:
                if codes := self.delete_failures.get(message.id):
                    code = codes.pop(0)
                    failures.append(DeleteFailure(message, code, retryable=code == "InternalError"))
                    continue
                self.deleted.append(message.id)
                del self._messages[message.id], self._visible_at[message.id]
            self._changed.notify_all()
        return failures

    def _receivable(self) -> list[str]:
        now = time.monotonic()
        busy = {m.group_id for i, m in self._messages.items() if m.group_id and self._visible_at[i] > now}
        return [i for i, m in self._messages.items() if self._visible_at[i] <= now and m.group_id not in busy]

    def _received(self, id_: str) -> Message:
        before = self._messages[id_]
        count = {"ApproximateReceiveCount": str(int(before.attributes["ApproximateReceiveCount"]) + 1)}
        self._messages[id_] = replace(before, attributes={**before.attributes, **count})
        self._visible_at[id_] = time.monotonic() + self.visibility_seconds
        return self._messages[id_]


class FakeFunction:
    """A function in this process. `respond` takes the batch's message ids and returns or raises."""

    def __init__(self, respond: Callable[[list[str]], Any] = lambda ids: None) -> None:
        self.respond = respond
        self.batches: list[list[str]] = []
        self.events: list[Any] = []

    def invoke(self, event: Any) -> Any:
        ids = [record["messageId"] for record in event["Records"]]
        self.batches.append(ids)
        self.events.append(event)
        return self.respond(ids)
