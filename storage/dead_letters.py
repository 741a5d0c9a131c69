"""Sending to a dead-letter queue on SQS, with the reason.

The reason travels in one message attribute, `embakery_failure`, a JSON object of code, reason, message_id, receives and
failed_at. One, because SQS takes ten for a message and the message's own are kept beside it.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from embakery.batches import batches
from embakery.dead_letters import DeadLetter
from storage.parcels import MAX_BYTES, MAX_ENTRIES, Parcel, ParcelSender

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageAttributeValueTypeDef

log = logging.getLogger("embakery")

FAILURE_ATTRIBUTE = "embakery_failure"
MAX_REASON_CHARACTERS = 1000
# SQS's own limit.
_MAX_ATTRIBUTES = 10
_NOT_FOR_SQS = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MESSAGE_ID = re.compile(r"[!-~]{1,128}")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a message was sent here. message_id: its id on the queue it failed on. failed_at: ISO 8601, UTC."""

    code: str
    reason: str
    message_id: str
    receives: int
    failed_at: str

    def to_json(self) -> dict[str, Any]:
        """Return the attribute's object."""
        return {name: getattr(self, name) for name in ("code", "reason", "message_id", "receives", "failed_at")}

    @classmethod
    def parse(cls, text: str) -> Failure | None:
        """Read the attribute; None for what we did not write."""
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            raw = json.loads(text)
            words = {name: raw[name] for name in ("code", "reason", "message_id", "failed_at")}
            well_formed = all(isinstance(word, str) for word in words.values()) and type(raw["receives"]) is int
            if well_formed and _MESSAGE_ID.fullmatch(words["message_id"]):
                return cls(receives=raw["receives"], **words)
        return None


class SqsDeadLetters:
    """Sends messages to one dead-letter queue. Implements the port `embakery.dead_letters.DeadLetters`."""

    def __init__(self, client: SQSClient, *, queue_url: str) -> None:
        self._sender = ParcelSender(client, queue_url)

    def send(self, letters: Sequence[DeadLetter]) -> frozenset[str]:
        """Send them; returns the ids of those that were surely taken. Raises nothing for an unreachable queue.

        A message that leaves no room for the reason (ten attributes of its own, or 1 MiB) is not sent.
        """
        parcels = [parcel for parcel in map(_dead, letters) if parcel is not None]
        reasons = {"does_not_fit"} if len(parcels) < len(letters) else set()
        taken: set[str] = set()
        for batch in batches(parcels, size=lambda parcel: parcel.size, max_items=MAX_ENTRIES, max_bytes=MAX_BYTES):
            answer = self._sender.send(batch)
            taken |= answer.taken
            reasons |= answer.reasons
            if not answer.reached:
                # What is unreachable stays so for longer than a function may wait, batch after batch.
                break
        if reasons:
            left = len({letter.message_id for letter in letters} - taken)
            log.warning("dead_letters_not_sent", extra={"letters": left, "reasons": sorted(reasons)})
        return frozenset(taken)


def _dead(letter: DeadLetter) -> Parcel | None:
    """Pack a message with its reason; None if there is no room for it."""
    reason = _NOT_FOR_SQS.sub("\ufffd", letter.reason)[:MAX_REASON_CHARACTERS]
    failed_at = datetime.now(UTC).isoformat(timespec="seconds")
    failure = Failure(letter.code, reason, letter.message_id, letter.receive_count, failed_at)
    # A message that was redriven by SQS itself still has the reason of its last failure.
    own = {name: value for name, value in letter.attributes.items() if name != FAILURE_ATTRIBUTE}
    if len(own) >= _MAX_ATTRIBUTES:
        return None
    try:
        attributes = {name: _from_event(value) for name, value in own.items()}
    except (KeyError, ValueError):
        return None
    text = json.dumps(failure.to_json(), ensure_ascii=False)
    attributes[FAILURE_ATTRIBUTE] = {"DataType": "String", "StringValue": text}
    group = letter.group_id or letter.message_id
    parcel = Parcel(letter.message_id, letter.body, attributes, group, letter.message_id)
    return parcel if parcel.size <= MAX_BYTES else None


def _from_event(value: Mapping[str, Any]) -> MessageAttributeValueTypeDef:
    """Return an attribute of a Lambda event as boto3 takes it. Raises KeyError or ValueError for one without value."""
    kind = value["dataType"]
    if kind.split(".")[0] == "Binary":
        return {"DataType": kind, "BinaryValue": base64.b64decode(value["binaryValue"], validate=True)}
    if not isinstance(value["stringValue"], str):
        raise ValueError("an attribute without value")
    return {"DataType": kind, "StringValue": value["stringValue"]}
