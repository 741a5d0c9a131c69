"""Results in DynamoDB: one item for each (tenant, id) and (space, kind), written only over an older version.

pk = "tenant#id", sk = "space#kind"; `vector` is a Binary of little-endian float32, so that nothing is lost to decimal
numbers. Conditional writes are PutItem, since BatchWriteItem takes no condition; they run side by side.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from botocore.exceptions import BotoCoreError, ClientError

from embakery.breaker import Breaker
from embakery.errors import StoreUnavailableError
from embakery.results import EmbeddingResult, RerankResult, Result, WriteOutcome
from storage.advice import explain
from storage.clients import error_code
from storage.identities import write_newest

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import UniversalAttributeValueTypeDef

# boto3's default connection pool holds ten.
_WRITERS = 10
# DynamoDB's limit for an item, names and values together.
MAX_ITEM_BYTES = 400 * 1024
# After so many calls in a row without an answer the rest would only wait in vain.
_ENOUGH_FAILURES = 3
# Answers that every other item would get too.
_NO_TABLE = frozenset({"ResourceNotFoundException", "AccessDeniedException", "UnrecognizedClientException"})


class DynamoDBStore:
    """Writes items to one table with keys `pk` (S) and `sk` (S)."""

    def __init__(self, client: DynamoDBClient, *, table: str) -> None:
        self._client = client
        self._table = table

    def write(self, results: Sequence[Result]) -> list[WriteOutcome]:
        """Put each result if it is newer than what is there. Raises StoreUnavailableError if none could be put.

        An item that is throttled fails alone, and so does one above DynamoDB's 400 KB, which is not tried. When the
        table does not answer, the rest of a batch is not tried either.
        """
        return write_newest(results, self._write)

    def _write(self, results: Sequence[Result]) -> list[WriteOutcome]:
        items = [to_item(result) for result in results]
        fitting = [index for index, item in enumerate(items) if item_bytes(item) <= MAX_ITEM_BYTES]
        # For this batch: the next one asks again.
        breaker = Breaker(threshold=_ENOUGH_FAILURES, pause_seconds=math.inf)
        with ThreadPoolExecutor(min(_WRITERS, len(fitting) or 1)) as pool:
            answers = list(pool.map(lambda index: self._put(items[index], breaker), fitting))
        failures = [answer for answer in answers if isinstance(answer, StoreUnavailableError)]
        if fitting and len(failures) == len(fitting):
            raise StoreUnavailableError(f"dynamodb took no write: {failures[0]}")
        outcomes = [WriteOutcome.FAILED] * len(results)
        for index, answer in zip(fitting, answers, strict=True):
            outcomes[index] = answer if isinstance(answer, WriteOutcome) else WriteOutcome.FAILED
        return outcomes

    def _put(
        self, item: Mapping[str, UniversalAttributeValueTypeDef], breaker: Breaker
    ) -> WriteOutcome | StoreUnavailableError:
        if not breaker.allows():
            return StoreUnavailableError("not tried")
        try:
            self._client.put_item(
                TableName=self._table,
                Item=item,
                ConditionExpression="attribute_not_exists(pk) OR #version < :version",
                ExpressionAttributeNames={"#version": "version"},
                ExpressionAttributeValues={":version": item["version"]},
            )
        except ClientError as error:
            code = error_code(error)
            if code in _NO_TABLE:
                breaker.failed()
            else:
                breaker.succeeded()
            if code == "ConditionalCheckFailedException":
                return WriteOutcome.SUPERSEDED
            return StoreUnavailableError(explain(error))
        except BotoCoreError as error:
            breaker.failed()
            return StoreUnavailableError(explain(error))
        breaker.succeeded()
        return WriteOutcome.WRITTEN


def item_bytes(item: Mapping[str, Any]) -> int:
    """Return an item's size as DynamoDB counts it: names and values; numbers a byte for two digits, and one."""
    return sum(len(name.encode()) + _value_bytes(value) for name, value in item.items())


def _value_bytes(value: Mapping[str, Any]) -> int:
    ((kind, content),) = value.items()
    if kind == "N":
        return (len(content) + 1) // 2 + 1
    if kind == "B":
        return len(content)
    return len(content.encode()) if kind == "S" else 1


def to_item(result: Result) -> dict[str, UniversalAttributeValueTypeDef]:
    """Return a result as a DynamoDB item."""
    item: dict[str, UniversalAttributeValueTypeDef] = {
        "pk": {"S": f"{result.tenant}#{result.id}"},
        "sk": {"S": f"{result.space_id}#{result.kind}"},
        "id": {"S": result.id},
        "tenant": {"S": result.tenant},
        "kind": {"S": result.kind},
        "version": {"N": str(result.version)},
        "space_id": {"S": result.space_id},
        "model": {"S": result.model},
    }
    if result.job_id is not None:
        item["job_id"] = {"S": result.job_id}
    return item | (_embedding(result) if isinstance(result, EmbeddingResult) else _ranking(result))


def _embedding(result: EmbeddingResult) -> dict[str, UniversalAttributeValueTypeDef]:
    return {
        "dtype": {"S": "float32"},
        "dim": {"N": str(result.vector.shape[0])},
        "vector": {"B": np.ascontiguousarray(result.vector, dtype="<f4").tobytes()},
        "tokens": {"N": str(result.tokens)},
        "truncated": {"BOOL": result.truncated},
        # As JSON text: a caller's numbers would not survive DynamoDB's own.
        "metadata": {"S": json.dumps(result.to_json()["metadata"], sort_keys=True)},
    }


def _ranking(result: RerankResult) -> dict[str, UniversalAttributeValueTypeDef]:
    return {"ranking": {"S": json.dumps(result.to_json()["ranking"])}}
