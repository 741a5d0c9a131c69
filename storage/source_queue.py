"""The queue that feeds a function, as the function sees it: what it says of itself, and what can be told to it.

Everything here helps and nothing is needed: the handler's answer alone decides what Lambda deletes. So no call raises;
one that fails is logged by its kind, and the messages take the long way.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from embakery.dead_letters import DeadLetters
from storage.advice import explain
from storage.clients import queue_url
from storage.dead_letters import SqsDeadLetters
from storage.parcels import MAX_ENTRIES

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import DeleteMessageBatchRequestEntryTypeDef

    _Entries = list[DeleteMessageBatchRequestEntryTypeDef]
    _Tell = Callable[["QueueFacts", _Entries], Sequence[Mapping[str, Any]]]

log = logging.getLogger("embakery")

_TROUBLE = (ClientError, BotoCoreError)


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
                log.warning("queue_facts_unavailable", extra={"reason": explain(error)})
                return None
        return self._known[arn]

    def _ask(self, arn: str) -> QueueFacts:
        url = queue_url(self._client(), arn)
        answer = self._client().get_queue_attributes(
            QueueUrl=url, AttributeNames=["VisibilityTimeout", "RedrivePolicy"]
        )
        attributes = answer.get("Attributes", {})
        redrive = json.loads(attributes.get("RedrivePolicy") or "{}")
        return QueueFacts(
            url=url,
            visibility_timeout_seconds=int(attributes.get("VisibilityTimeout", 30)),
            max_receive_count=int(redrive["maxReceiveCount"]) if redrive else None,
            dead_letter_url=self._dead_letter_url(redrive["deadLetterTargetArn"]) if redrive else None,
        )

    def _dead_letter_url(self, arn: str) -> str | None:
        try:
            return queue_url(self._client(), arn)
        except ClientError as error:
            # Not allowed to: the source queue can still be told things.
            log.warning("dead_letter_queue_unavailable", extra={"reason": explain(error)})
            return None


class SqsSourceQueue:
    """The queue of one batch. receipts: the batch's receipt handles by message id.

    What cannot be asked of it once is not asked again for this batch.
    """

    def __init__(
        self,
        client: Callable[[], SQSClient],
        facts: QueueFactsReader,
        *,
        arn: str,
        receipts: Mapping[str, Sequence[str]],
    ) -> None:
        self._client = client
        self._reader = facts
        self._arn = arn
        self._receipts = receipts

    @functools.cached_property
    def _facts(self) -> QueueFacts | None:
        return self._reader.of(self._arn)

    @property
    def max_receive_count(self) -> int | None:
        """After how many receives it gives a message up to its dead-letter queue; None if unknown."""
        return None if self._facts is None else self._facts.max_receive_count

    @property
    def dead_letters(self) -> DeadLetters | None:
        """Its dead-letter queue, if it has one that can be found."""
        if self._facts is None or self._facts.dead_letter_url is None:
            return None
        return SqsDeadLetters(self._client(), queue_url=self._facts.dead_letter_url)

    def delete(self, message_ids: Sequence[str]) -> None:
        """Delete messages of the batch."""

        def delete(facts: QueueFacts, entries: _Entries) -> Sequence[Mapping[str, Any]]:
            return self._client().delete_message_batch(QueueUrl=facts.url, Entries=entries).get("Failed", ())

        self._tell("delete", delete, message_ids)

    def show_again(self, message_ids: Sequence[str], *, seconds: int | None = None) -> None:
        """Make messages of the batch visible again after so many seconds, or the queue's own timeout if None.

        Never after more than that: a clock that is wrong must not hide them for an hour.
        """

        def show(facts: QueueFacts, entries: _Entries) -> Sequence[Mapping[str, Any]]:
            longest = facts.visibility_timeout_seconds
            wanted = longest if seconds is None else min(seconds, longest)
            timed: list[Any] = [{**entry, "VisibilityTimeout": wanted} for entry in entries]
            return self._client().change_message_visibility_batch(QueueUrl=facts.url, Entries=timed).get("Failed", ())

        self._tell("show_again", show, message_ids)

    def _tell(self, call: str, tell: _Tell, message_ids: Sequence[str]) -> None:
        """Tell the queue something of messages, ten at a time; a call that fails is the last."""
        if not message_ids or self._facts is None:
            return
        for entries in self._tens(message_ids):
            try:
                failed = tell(self._facts, entries)
            except _TROUBLE as error:
                log.warning("queue_call_failed", extra={"call": call, "reason": explain(error)})
                return
            if failed:
                extra = {"call": call, "reason": failed[0].get("Code"), "messages": len(failed)}
                log.warning("queue_call_failed", extra=extra)

    def _tens(self, message_ids: Sequence[str]) -> list[_Entries]:
        handles = [handle for message_id in message_ids for handle in self._receipts.get(message_id, ())]
        entries: _Entries = [{"Id": str(index), "ReceiptHandle": handle} for index, handle in enumerate(handles)]
        return [entries[start : start + MAX_ENTRIES] for start in range(0, len(entries), MAX_ENTRIES)]
