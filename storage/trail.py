"""The worker's marks in DynamoDB: one item for each message that came again, gone by itself some days later.

pk = "trail#message id", sk = the space that the message is embedded into; each unit is a string attribute `u:unit`,
such as "begun 1 1795576797" (see `embakery.isolation.Mark`). Marks are put whole, never added to: a call that is made
twice, because its first answer was lost, says the same. The table is not the results': what is written here matters for
hours.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from embakery.breaker import Breaker
from embakery.isolation import Mark, Marks, State
from storage.advice import explain

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

    client: gives it when it is first needed, which is when a message comes again. A table that fails three times in a
    row is spared for some seconds: a batch must not spend its time on waiting for it.
    """

    def __init__(self, client: Callable[[], DynamoDBClient], *, table: str, space_id: str) -> None:
        self._client = client
        self._table = table
        self._space_id = space_id
        self._breaker = Breaker()
        self._is_reported = False

    def read(self, message_ids: Sequence[str]) -> dict[str, Marks]:
        """Return the marks of those messages that have any; none at all where the table cannot be read."""
        # A batch begins with it: its trouble is told once.
        self._is_reported = False
        marks: dict[str, Marks] = {}
        for start in range(0, len(message_ids), _MAX_KEYS):
            marks |= self._read([self._key(message_id) for message_id in message_ids[start : start + _MAX_KEYS]])
        return marks

    def write(self, message_id: str, unit: str, mark: Mark) -> None:
        """Put a mark in the place of the one before."""
        if not self._breaker.allows():
            return
        try:
            self._client().update_item(
                TableName=self._table,
                Key=self._key(message_id),
                UpdateExpression="SET #unit = :mark, expires_at = :expires",
                ExpressionAttributeNames={"#unit": f"{_PREFIX}{unit}"},
                ExpressionAttributeValues={
                    ":mark": {"S": f"{mark.state.value} {mark.sightings} {mark.until:.0f}"},
                    ":expires": {"N": str(int(time.time()) + _LIFE_SECONDS)},
                },
            )
        except (ClientError, BotoCoreError) as error:
            self._note("write", error)
        else:
            self._breaker.succeeded()

    def _read(self, keys: list[dict[str, AttributeValueTypeDef]]) -> dict[str, Marks]:
        if not self._breaker.allows():
            return {}
        # Consistent: the process that left the mark may have been killed a moment ago.
        asked = {self._table: {"Keys": keys, "ConsistentRead": True}}
        try:
            answer = self._client().batch_get_item(RequestItems=asked)  # type: ignore[arg-type]
        except (ClientError, BotoCoreError) as error:
            self._note("read", error)
            return {}
        self._breaker.succeeded()
        if answer.get("UnprocessedKeys"):
            log.warning("trail_incomplete")
        return {item["pk"]["S"].partition("#")[2]: _marks(item) for item in answer["Responses"].get(self._table, [])}

    def _key(self, message_id: str) -> dict[str, AttributeValueTypeDef]:
        return {"pk": {"S": f"trail#{message_id}"}, "sk": {"S": self._space_id}}

    def _note(self, call: str, error: ClientError | BotoCoreError) -> None:
        self._breaker.failed()
        if not self._is_reported:
            self._is_reported = True
            reason = f"table {self._table}: {explain(error)}"
            log.warning("trail_unavailable", extra={"code": "trail_unavailable", "call": call, "reason": reason})


def _marks(item: Mapping[str, Mapping[str, object]]) -> Marks:
    """Read an item's marks; what nobody here wrote is left out."""
    marks = {}
    for name, value in item.items():
        words = str(value.get("S", "")).split(" ")
        if name.startswith(_PREFIX) and len(words) == 3 and words[0] in set(State) and words[1].isdigit():
            marks[name.removeprefix(_PREFIX)] = Mark(State(words[0]), int(words[1]), float(words[2]))
    return marks
