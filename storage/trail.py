"""The worker's marks in DynamoDB: one item for each message that came again, gone by itself some days later.

pk = "trail#message id", sk = "marks"; each unit is a number attribute `u:unit` (see `embakery.isolation`). The table is
not the results': what is written here matters for hours.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from embakery.isolation import Marks
from storage.clients import error_code

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import AttributeValueTypeDef

log = logging.getLogger("embakery")

# A message lives fourteen days at most.
_LIFE_SECONDS = 15 * 24 * 3600
_PREFIX = "u:"
_MAX_KEYS = 100


class DynamoDBTrail:
    """Keeps marks in one table with keys `pk` (S) and `sk` (S), whose TTL attribute is `expires_at`.

    client: gives it when it is first needed, which is when a message comes again.
    """

    def __init__(self, client: Callable[[], DynamoDBClient], *, table: str) -> None:
        self._client = client
        self._table = table

    def read(self, message_ids: Sequence[str]) -> dict[str, Marks]:
        """Return the marks of those messages that have any; none at all where the table cannot be read."""
        marks: dict[str, Marks] = {}
        for start in range(0, len(message_ids), _MAX_KEYS):
            marks |= self._read(message_ids[start : start + _MAX_KEYS])
        return marks

    def begin(self, message_id: str, unit: str) -> None:
        """Count one more beginning."""
        self._update("begin", message_id, unit, "ADD #unit :mark SET expires_at = :expires", 1)

    def end(self, message_id: str, unit: str, mark: int) -> None:
        """Put a mark in the place of the beginning."""
        self._update("end", message_id, unit, "SET #unit = :mark, expires_at = :expires", mark)

    def _read(self, message_ids: Sequence[str]) -> dict[str, Marks]:
        # Consistent: the process that left the mark may have been killed a moment ago.
        keys = [_key(message_id) for message_id in message_ids]
        try:
            answer = self._client().batch_get_item(RequestItems={self._table: {"Keys": keys, "ConsistentRead": True}})
        except (ClientError, BotoCoreError) as error:
            _warn("read", error)
            return {}
        if answer.get("UnprocessedKeys"):
            log.warning("trail_incomplete")
        return {
            item["pk"]["S"].partition("#")[2]: {
                name.removeprefix(_PREFIX): int(value["N"]) for name, value in item.items() if name.startswith(_PREFIX)
            }
            for item in answer["Responses"].get(self._table, [])
        }

    def _update(self, what: str, message_id: str, unit: str, expression: str, mark: int) -> None:
        try:
            self._client().update_item(
                TableName=self._table,
                Key=_key(message_id),
                UpdateExpression=expression,
                ExpressionAttributeNames={"#unit": f"{_PREFIX}{unit}"},
                ExpressionAttributeValues={
                    ":mark": {"N": str(mark)},
                    ":expires": {"N": str(int(time.time()) + _LIFE_SECONDS)},
                },
            )
        except (ClientError, BotoCoreError) as error:
            _warn(what, error)


def _key(message_id: str) -> dict[str, AttributeValueTypeDef]:
    return {"pk": {"S": f"trail#{message_id}"}, "sk": {"S": "marks"}}


def _warn(what: str, error: ClientError | BotoCoreError) -> None:
    log.warning("trail_unavailable", extra={"call": what, "reason": error_code(error)})
