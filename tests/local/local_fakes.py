"""Fakes that these tests own, and what several of them share."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from local.errors import QueueCallError
from local.event_source_mapping import EventSourceMapping, Invocable, MappingSettings
from local.functions import LocalFunction
from local.sqs import DeleteFailure, Message, MessageQueue

MakeFunction = Callable[..., LocalFunction]

ARN = "arn:aws:sqs:us-east-1:000000000000:documents"
FIFO_ARN = ARN + ".fifo"

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


@contextlib.contextmanager
def running(
    queue: MessageQueue, function: Invocable, *, log: LogLines | None = None, arn: str = ARN, **settings: Any
) -> Iterator[EventSourceMapping]:
    """A mapping at work, stopped in the end."""
    mapping = EventSourceMapping(
        MappingSettings(queue_arn=arn, **settings), queue=queue, function=function, log=(log or LogLines()).add
    )
    mapping.start()
    try:
        yield mapping
    finally:
        assert mapping.stop()


def failures(*ids: str) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": id_} for id_ in ids]}


def raising(error: Exception) -> Callable[[list[str]], Any]:
    """A response of FakeFunction's that is an error."""

    def respond(ids: list[str]) -> Any:
        raise error

    return respond


@dataclass
class LogLines:
    """A log sink."""

    lines: list[str] = field(default_factory=list)

    def line(self, source: str, line: str) -> None:
        self.lines.append(line)

    def add(self, line: str) -> None:
        self.lines.append(line)


class FakeQueue:
    """An SQS queue in memory: visibility, receive counts, a handle per receive, one group in flight at a time.

    As an emulator does, and SQS does not, it refuses to delete by the handle of a message that is gone.
    """

    def __init__(self, *, visibility_seconds: float = 60.0) -> None:
        self.visibility_seconds = visibility_seconds
        self.deleted: list[str] = []
        self.requested: list[int] = []
        self.failing_receives = 0
        self.failing_deletes = 0
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
        self.hide(id_, seconds=0)

    def hide(self, id_: str, *, seconds: float) -> None:
        """Change the visibility timeout of a message in flight."""
        with self._changed:
            self._visible_at[id_] = time.monotonic() + seconds
            self._changed.notify_all()

    def delete_by_handle(self, handle: str) -> None:
        """What a handler does that deletes a message itself."""
        with self._changed:
            id_ = next(id_ for id_, message in self._messages.items() if message.receipt_handle == handle)
            del self._messages[id_], self._visible_at[id_]
            self._changed.notify_all()

    @property
    def left(self) -> list[str]:
        """The ids of the messages that are not deleted."""
        with self._changed:
            return list(self._messages)

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
            if self.failing_deletes:
                self.failing_deletes -= 1
                raise QueueCallError("no answer")
            for message in messages:
                current = self._messages.get(message.id)
                if current is None or current.receipt_handle != message.receipt_handle:
                    failures.append(DeleteFailure(message, "ReceiptHandleIsInvalid", retryable=False))
                    continue
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
        handle = f"handle-{id_}-{count['ApproximateReceiveCount']}"
        self._messages[id_] = replace(before, receipt_handle=handle, attributes={**before.attributes, **count})
        self._visible_at[id_] = time.monotonic() + self.visibility_seconds
        return self._messages[id_]


class TwiceQueue:
    """A queue that delivers every message twice, to two receives or within one, as at-least-once delivery may."""

    def __init__(self, queue: FakeQueue, *, at_once: bool) -> None:
        self._queue = queue
        self._at_once = at_once
        self._again: list[Message] = []
        self._lock = threading.Lock()

    def receive(self, *, max_messages: int, wait_seconds: int) -> list[Message]:
        with self._lock:
            if self._again:
                again, self._again = self._again, []
                return again
        received = self._queue.receive(max_messages=max_messages, wait_seconds=wait_seconds)
        if self._at_once:
            return [message for message in received for _ in range(2)]
        with self._lock:
            self._again += received
        return received

    def delete(self, messages: Sequence[Message]) -> list[DeleteFailure]:
        return self._queue.delete(messages)


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
