"""What became of everything: counts that must be zero, and what they were counted among."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from chaos_plan import Plan
from chaos_world import World

from embakery.vectors import to_base64
from storage.s3 import current_rows, read_rows


@dataclass(frozen=True, slots=True)
class Verdict:
    """The counts of one run; all but `poison_dead` and `dead_letters_twice` must be 0."""

    lost: int
    wrong_vectors: int
    stale_overwrites: int
    inversions: int
    healthy_dead: int
    poison_missing: int
    poison_dead: int
    dead_letters_twice: int
    dead_without_reason: int

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, wrong, stale, out of order or in the wrong queue."""
        return not (
            self.lost
            or self.wrong_vectors
            or self.stale_overwrites
            or self.inversions
            or self.healthy_dead
            or self.poison_missing
        )

    def as_json(self) -> dict[str, int]:
        """Return the counts."""
        return asdict(self)


def judge(world: World, plan: Plan, vectors: Mapping[str, str]) -> Verdict:
    """Read every store and the dead-letter queue. vectors: base64 of the right one, by text."""
    ordered = list(_drain(world, world.ordered))
    rows = [json.loads(message["Body"]) for message in ordered]
    unordered = [*_s3_rows(world), *_table_rows(world)]
    wrong = sum(not _is_right(row, plan, vectors) for row in [*rows, *unordered])
    current = {row["id"]: row["version"] for row in [*current_rows(_s3_rows(world)), *_table_rows(world)]}
    expected = {id_: version for id_, version in plan.newest.items() if not id_.startswith("g")}
    written = {(row["id"], row["version"]) for row in rows}
    lost = len(expected.keys() - current.keys()) + len(
        {identity for identity in plan.written if identity[0].startswith("g")} - written
    )
    dead = list(_drain(world, world.dead_letters.url))
    markers = [found[0] for message in dead if (found := re.search(r"poison-\d+", message["Body"]))]
    return Verdict(
        lost=lost,
        wrong_vectors=wrong,
        stale_overwrites=sum(current[id_] < version for id_, version in expected.items() if id_ in current),
        inversions=_inversions(rows),
        healthy_dead=len(dead) - len(markers),
        poison_missing=len(plan.markers - set(markers)),
        poison_dead=len(set(markers)),
        dead_letters_twice=len(markers) - len(set(markers)),
        dead_without_reason=sum("embakery_failure" not in message.get("MessageAttributes", {}) for message in dead),
    )


def _is_right(row: Mapping[str, Any], plan: Plan, vectors: Mapping[str, str]) -> bool:
    wanted = plan.written.get((row["id"], row["version"]))
    return wanted is not None and row["vector"] == vectors[wanted.text]


def _inversions(rows: Iterable[Mapping[str, Any]]) -> int:
    """Count results that come after a newer one of their group; SQS itself has dropped what was sent twice."""
    newest: dict[str, int] = {}
    inversions = 0
    for row in rows:
        inversions += row["version"] < newest.get(row["id"], 0)
        newest[row["id"]] = max(row["version"], newest.get(row["id"], 0))
    return inversions


def _s3_rows(world: World) -> list[dict[str, Any]]:
    return list(read_rows(world.clients.s3, bucket=world.resources.bucket, prefix="results/"))


def _table_rows(world: World) -> Iterator[dict[str, Any]]:
    pages = world.clients.dynamodb.get_paginator("scan").paginate(TableName=world.resources.table)
    for item in (item for page in pages for item in page["Items"]):
        vector = base64.b64encode(item["vector"]["B"]).decode()
        yield {"id": item["id"]["S"], "version": int(item["version"]["N"]), "vector": vector}


def _drain(world: World, queue_url: str) -> Iterator[Any]:
    """Yield and delete every message."""
    sqs = world.clients.sqs
    while messages := sqs.receive_message(
        QueueUrl=queue_url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], WaitTimeSeconds=0
    ).get("Messages"):
        yield from messages
        entries = [
            {"Id": str(place), "ReceiptHandle": message["ReceiptHandle"]} for place, message in enumerate(messages)
        ]
        sqs.delete_message_batch(QueueUrl=queue_url, Entries=entries)  # type: ignore[arg-type]


def right_vectors(plan: Plan, embed: Any) -> dict[str, str]:
    """Return the base64 of each text's vector, as an embedder alone gives it."""
    texts = sorted({written.text for written in plan.written.values()})
    return {text: to_base64(vector) for text, vector in zip(texts, embed(texts), strict=True)}
