"""Results in DynamoDB: one item for each (tenant, id) and (space, kind), written only over an older version.

pk = "tenant#id", sk = "space#kind"; `vector` is a Binary of little-endian float32, so that nothing is lost to decimal
numbers. Conditional writes are PutItem, since BatchWriteItem takes no condition; they run side by side.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from botocore.exceptions import BotoCoreError, ClientError

from embakery.errors import StoreUnavailableError
from embakery.results import EmbeddingResult, RerankResult, Result, WriteOutcome

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import UniversalAttributeValueTypeDef

# boto3's default connection pool holds ten.
_WRITERS = 10


class DynamoDBStore:
    """Writes items to one table with keys `pk` (S) and `sk` (S)."""

    def __init__(self, client: DynamoDBClient, *, table: str) -> None:
        self._client = client
        self._table = table

    def write(self, results: Sequence[Result]) -> list[WriteOutcome]:
        """Put each result if it is newer than what is there. Raises StoreUnavailableError if none could be put."""
        with ThreadPoolExecutor(min(_WRITERS, len(results) or 1)) as pool:
            outcomes = list(pool.map(self._put, results))
        if results and all(isinstance(outcome, Exception) for outcome in outcomes):
            raise StoreUnavailableError(f"dynamodb took no write: {outcomes[0]}")
        return [outcome if isinstance(outcome, WriteOutcome) else WriteOutcome.FAILED for outcome in outcomes]

    def _put(self, result: Result) -> WriteOutcome | StoreUnavailableError:
        try:
            self._client.put_item(
                TableName=self._table,
                Item=to_item(result),
                ConditionExpression="attribute_not_exists(pk) OR #version < :version",
                ExpressionAttributeNames={"#version": "version"},
                ExpressionAttributeValues={":version": {"N": str(result.version)}},
            )
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "ConditionalCheckFailedException":
                return WriteOutcome.SUPERSEDED
            return StoreUnavailableError(code)
        except BotoCoreError as error:
            return StoreUnavailableError(type(error).__name__)
        return WriteOutcome.WRITTEN


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
