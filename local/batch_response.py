"""Reads what a queue function returned, as strictly as Lambda does with ReportBatchItemFailures on.

Success of the whole batch: null, {}, or `batchItemFailures` absent, null or empty. Failure of the whole batch: anything
else that is not a list of {"itemIdentifier": id of a message of this batch}.
See https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
"""

from __future__ import annotations

from collections.abc import Collection


class MalformedResponseError(Exception):
    """The response names no message of the batch where it should: the whole batch is retried."""


def failed_message_ids(response: object, batch_ids: Collection[str]) -> frozenset[str]:
    """Return the ids of the messages to keep. Raises MalformedResponseError: keep them all."""
    if response is None:
        return frozenset()
    if not isinstance(response, dict):
        raise MalformedResponseError(f"the response is a {type(response).__name__}, not an object")
    failures = response.get("batchItemFailures")
    if failures is None:
        return frozenset()
    if not isinstance(failures, list):
        raise MalformedResponseError(f"batchItemFailures is a {type(failures).__name__}, not a list")
    return frozenset(_identifier(failure, index, batch_ids) for index, failure in enumerate(failures))


def _identifier(failure: object, index: int, batch_ids: Collection[str]) -> str:
    where = f"batchItemFailures[{index}]"
    if not isinstance(failure, dict) or "itemIdentifier" not in failure:
        raise MalformedResponseError(f"{where} has no itemIdentifier")
    identifier = failure["itemIdentifier"]
    if not isinstance(identifier, str) or not identifier:
        raise MalformedResponseError(f"{where}.itemIdentifier is null, empty or not a string")
    if identifier not in batch_ids:
        raise MalformedResponseError(f"{where}.itemIdentifier is not the id of a message of this batch")
    return identifier
