"""Orders for the bulk worker: one message for each payload that is too large for a function.

The order is named by its message and what that asks for, so an order sent twice, by a message that came twice, is one
job: a FIFO queue drops the second within five minutes, a note in the state table after that, and the bulk worker by the
order's id. The same payload in another message is another job: a model may have changed in between.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from embakery.errors import StoreUnavailableError
from embakery.sources import Source
from storage.advice import explain

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import AttributeValueTypeDef
    from mypy_boto3_sqs import SQSClient

log = logging.getLogger("embakery")

_NOTE_LIFE_SECONDS = 15 * 24 * 3600


class SqsBulkQueue:
    """Sends orders to one queue. state_table: where it notes what it sent; keys `pk` (S) and `sk` (S)."""

    def __init__(
        self, sqs: SQSClient, *, queue_url: str, dynamodb: DynamoDBClient | None = None, state_table: str | None = None
    ) -> None:
        self._sqs = sqs
        self._queue_url = queue_url
        self._dynamodb = dynamodb
        self._state_table = state_table

    def hand_over(
        self, source: Source, *, message_id: str, input_type: str, destination: str, job_id: str | None
    ) -> None:
        """Send an order, unless it was sent before. Raises StoreUnavailableError."""
        order = {
            "v": 1,
            "source": {"key": source.key, "sha256": source.sha256, "size": source.size},
            "input_type": input_type,
            "destination": destination,
            "job_id": job_id,
            "message_id": message_id,
        }
        order_id = hashlib.sha256(json.dumps(order, sort_keys=True).encode()).hexdigest()
        if self._is_noted(order_id):
            log.info("bulk_order_known", extra={"order_id": order_id})
            return
        self._send({**order, "order_id": order_id}, order_id)
        # After the sending: a note of what was never sent would lose it.
        self._note(order_id)

    def _send(self, order: dict[str, Any], order_id: str) -> None:
        fifo = {"MessageDeduplicationId": order_id, "MessageGroupId": order_id}
        try:
            self._sqs.send_message(
                QueueUrl=self._queue_url,
                MessageBody=json.dumps(order),
                MessageAttributes={"dedup_id": {"DataType": "String", "StringValue": order_id}},
                **(fifo if self._queue_url.endswith(".fifo") else {}),  # type: ignore[arg-type]
            )
        except (ClientError, BotoCoreError) as error:
            raise StoreUnavailableError(f"the bulk queue took no order: {explain(error)}") from error

    def _is_noted(self, order_id: str) -> bool:
        if self._dynamodb is None or self._state_table is None:
            return False
        try:
            answer = self._dynamodb.get_item(TableName=self._state_table, Key=_key(order_id), ConsistentRead=True)
        except (ClientError, BotoCoreError) as error:
            raise StoreUnavailableError(f"the state table cannot be read: {explain(error)}") from error
        return "Item" in answer

    def _note(self, order_id: str) -> None:
        if self._dynamodb is None or self._state_table is None:
            return
        expires = {"expires_at": {"N": str(int(time.time()) + _NOTE_LIFE_SECONDS)}}
        try:
            self._dynamodb.put_item(TableName=self._state_table, Item={**_key(order_id), **expires})
        except (ClientError, BotoCoreError) as error:
            # The order is sent: a second one would be the same job.
            log.warning("bulk_order_not_noted", extra={"reason": explain(error)})


def _key(order_id: str) -> dict[str, AttributeValueTypeDef]:
    return {"pk": {"S": f"bulk#{order_id}"}, "sk": {"S": "order"}}
