"""What each function answers to each file of events/."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from lambda_world import event as read_event

from embakery import Embedder
from embakery.vectors import Vector

FUNCTIONS = {"sqs": "QueueFunction", "api": "ApiFunction"}


def problem_of(function: str, event: str, answer: Any) -> str | None:
    """Say what is wrong with a function's answer to an event, named after the function that it is for."""
    kind = event.partition("-")[0]
    if FUNCTIONS[kind] != function:
        # Somebody has tied it to the wrong source: it says so, and takes nothing for done.
        refused = answer.get("errorType") == "InvalidRequestError" and kind not in answer["errorMessage"]
        return None if refused else f"took an event that is not for it: {answer}"
    expected: Any = {"batchItemFailures": _failures(event)} if kind == "sqs" else 200
    found = answer if kind == "sqs" else answer.get("statusCode")
    return None if found == expected else f"{found} instead of {expected}"


def wanted_vectors(embedder: Embedder, event: str) -> dict[str, Vector]:
    """Return, by id, the vectors of an event's good documents for the default destination, the bucket."""
    texts: dict[str, str] = {}
    for body in _bodies(event):
        if body.get("destination", "default") == "default":
            texts |= {document["id"]: document["text"] for document in body.get("documents", []) if _is_good(document)}
    return dict(zip(texts, embedder.embed(list(texts.values())), strict=True))


def _bodies(event: str) -> Iterator[dict[str, Any]]:
    for record in read_event(event).get("Records", []):
        with contextlib.suppress(ValueError):
            body = json.loads(record["body"])
            if isinstance(body, dict) and body.get("v") == 1:
                yield body


def _is_good(document: dict[str, Any]) -> bool:
    return isinstance(document.get("text"), str) and bool(document["text"].strip()) and "id" in document


def _failures(event: str) -> list[dict[str, str]]:
    """Every message comes again but those that can be worked on; only events/sqs-broken.json has any that cannot."""
    records = read_event(event)["Records"]
    broken = [record for record in records if event == "sqs-broken" and "good-" not in record["body"]]
    return [{"itemIdentifier": record["messageId"]} for record in broken]
