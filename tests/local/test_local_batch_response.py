"""Lambda's rules for a batch response, case by case."""

from __future__ import annotations

import pytest

from local.batch_response import MalformedResponseError, failed_message_ids

BATCH = {"a", "b"}


@pytest.mark.parametrize("response", [None, {}, {"other": 1}, {"batchItemFailures": None}, {"batchItemFailures": []}])
def test_empty_or_null_means_success_of_all(response: object) -> None:
    assert failed_message_ids(response, BATCH) == frozenset()


def test_named_messages_failed() -> None:
    response = {"batchItemFailures": [{"itemIdentifier": "b"}, {"itemIdentifier": "b"}]}
    assert failed_message_ids(response, BATCH) == {"b"}


@pytest.mark.parametrize(
    "response",
    [
        "",
        "done",
        3,
        True,
        [],
        [{"itemIdentifier": "a"}],
        {"batchItemFailures": "a"},
        {"batchItemFailures": {}},
        {"batchItemFailures": ["a"]},
        {"batchItemFailures": [None]},
        {"batchItemFailures": [{}]},
        {"batchItemFailures": [{"ItemIdentifier": "a"}]},
        {"batchItemFailures": [{"itemIdentifier": None}]},
        {"batchItemFailures": [{"itemIdentifier": ""}]},
        {"batchItemFailures": [{"itemIdentifier": 1}]},
        {"batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": "stranger"}]},
    ],
)
def test_malformed_means_failure_of_all(response: object) -> None:
    with pytest.raises(MalformedResponseError):
        failed_message_ids(response, BATCH)
