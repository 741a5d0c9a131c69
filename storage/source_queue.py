"""The queue that feeds a function, as the function sees it: what it says of itself, and what can be told to it.

Everything here helps and nothing is needed: the handler's answer alone decides what Lambda deletes. So no call raises;
one that fails is logged by its kind, and the messages take the long way.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from embakery.dead_letters import DeadLetters
from storage.clients import error_code
from storage.dead_letters import SqsDeadLetters

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

log = logging.getLogger("embakery")

_TROUBLE = (ClientError, BotoCoreError)
_MAX_ENTRIES = 10


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """What a queue says of itself. Of its redrive policy: how many receives, and the dead-letter queue's URL."""

    url: str
    visibility_timeout_seconds: int
    max_receive_count: int | None
    dead_letter_url: str | None


class QueueFactsReader:
    """Asks each queue once in the life of the process. client: gives it when it is first needed."""

    def __init__(self, client: Callable[[], SQSClient]) -> None:
        self._client = client
        self._known: dict[str, QueueFacts] = {}

    def of(self, arn: str) -> QueueFacts | None:
        """Return the facts, or None if they cannot be had just now."""
        if arn not in self._known:
            try:
                self._known[arn] = self._ask(arn)
            except _TROUBLE as error:
                log.warning("queue_facts_unavailable", extra={"reason": error_code(error)})
                return None
        return self._known[arn]

    def _ask(self, arn: str) -> QueueFacts:
        url = self._url(arn)
        answer = self._client().get_queue_attributes(
            QueueUrl=url, AttributeNames=["VisibilityTimeout", "RedrivePolicy"]
        )
        attributes = answer.get("Attributes", {})
        redrive = json.loads(attributes.get("RedrivePolicy") or "{}")
        return QueueFacts(
            url=url,
            visibility_timeout_seconds=int(attributes.get("VisibilityTimeout", 30)),
            max_receive_count=int(redrive["maxReceiveCount"]) if redrive else None,
            dead_letter_url=self._url(redrive["deadLetterTargetArn"]) if redrive else None,
        )

    def _url(self, arn: str) -> str:
        *_, account, name = arn.split(":")
        return self._client().get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]


class SqsSourceQueue:
    """The queue of one batch. receipts: the batch's receipt handles by message id, the latest of each."""

    def __init__(
        self,
        client: Callable[[], SQSClient],
        facts: QueueFactsReader,
        *,
        arn: str,
        receipts: Mapping[str, Sequence[str]],
    ) -> None:
        self._client = client
        self._facts = facts
        self._arn = arn
        self._receipts = receipts

    @property
    def max_receive_count(self) -> int | None:
        """After how many receives it gives a message up to its dead-letter queue; None if unknown."""
        facts = self._facts.of(self._arn)
        return None if facts is None else facts.max_receive_count

    @property
    def dead_letters(self) -> DeadLetters | None:
        """Its dead-letter queue, if it has one that can be found."""
        facts = self._facts.of(self._arn)
        if facts is None or facts.dead_letter_url is None:
            return None
        return SqsDeadLetters(self._client(), queue_url=facts.dead_letter_url)

    def delete(self, message_ids: Sequence[str]) -> None:
        """Delete messages of the batch."""
        for entries in self._tens(message_ids):
            try:
                answer = self._client().delete_message_batch(QueueUrl=self._url, Entries=entries)  # type: ignore[arg-type]
                _warn_of("delete", answer.get("Failed", ()))
            except (*_TROUBLE, _UnknownQueueError) as error:
                _warn("delete", error)

    def show_again(self, message_ids: Sequence[str], *, seconds: int | None = None) -> None:
        """Make messages of the batch visible again after so many seconds, or the queue's own timeout if None."""
        if seconds is None:
            facts = self._facts.of(self._arn)
            if facts is None:
                return
            seconds = facts.visibility_timeout_seconds
        for entries in self._tens(message_ids):
            timed = [{**entry, "VisibilityTimeout": seconds} for entry in entries]
            try:
                answer = self._client().change_message_visibility_batch(QueueUrl=self._url, Entries=timed)  # type: ignore[arg-type]
                _warn_of("show_again", answer.get("Failed", ()))
            except (*_TROUBLE, _UnknownQueueError) as error:
                _warn("show_again", error)

    @property
    def _url(self) -> str:
        facts = self._facts.of(self._arn)
        if facts is None:
            raise _UnknownQueueError
        return facts.url

    def _tens(self, message_ids: Sequence[str]) -> list[list[dict[str, str]]]:
        handles = [handle for message_id in message_ids for handle in self._receipts.get(message_id, ())]
        entries = [{"Id": str(index), "ReceiptHandle": handle} for index, handle in enumerate(handles)]
        return [entries[start : start + _MAX_ENTRIES] for start in range(0, len(entries), _MAX_ENTRIES)]


class _UnknownQueueError(Exception):
    """The queue's URL cannot be had just now."""


def _warn(call: str, error: Exception) -> None:
    reason = error_code(error) if isinstance(error, ClientError | BotoCoreError) else "UnknownQueue"
    log.warning("queue_call_failed", extra={"call": call, "reason": reason})


def _warn_of(call: str, failures: Sequence[Mapping[str, object]]) -> None:
    if failures:
        log.warning(
            "queue_call_failed", extra={"call": call, "reason": failures[0].get("Code"), "messages": len(failures)}
        )
