"""The demo: every part of the system, for real, on this machine.

Bakes the default model, starts the local system, sends the standard library's own documentation through the queue
twice, some broken messages among it, and asks questions over HTTP.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from cli.commands import DEFAULT_ARTIFACT
from cli.progress import progress
from cli.quiet import quiet_libraries
from cli.sender import send_documents
from embakery.errors import EmbakeryError
from embakery.vectors import Vectors, from_base64
from local.settings import LocalSettings
from local.system import LocalSystem
from model_bake.corpus import Passage, standard_library_passages
from storage.s3 import current_rows, read_rows

QUESTIONS = (
    "How do I catch an error and still run clean-up code?",
    "What decides which method is called with multiple inheritance?",
    "How can I format a number with two decimal places?",
)

BROKEN_BODIES = (
    '{"v": 1, "documents": [{"id": "broken-json", "text": "no end',
    '{"v": 1, "documents": [{"text": "no id"}]}',
    '{"v": 1, "documents": [{"id": "blank", "text": "   "}]}',
    '{"v": 9, "documents": [{"id": "future", "text": "another version"}]}',
    '{"v": 1, "documents": [{"id": "lost", "text": "hello"}], "destination": "nowhere"}',
)

_PATIENCE_SECONDS = 600.0
_CANDIDATES = 30


class DemoError(EmbakeryError):
    """The demo did not see what it should have seen."""

    code = "demo"


@dataclass(frozen=True, slots=True)
class Pass:
    """One trip of all documents through the queue: rows by id, texts embedded, cache hits among them, seconds."""

    rows: Mapping[str, Mapping[str, Any]]
    embedded: int
    hits: int
    seconds: float


def run_demo(count: int) -> None:
    """Run it all and print the `DEMO {json}` line. Raises DemoError where a promise was not kept."""
    seconds_bake = _bake_if_missing(DEFAULT_ARTIFACT)
    passages = standard_library_passages(limit=count)
    settings = LocalSettings(DEFAULT_ARTIFACT, threads=os.cpu_count() or 1)
    with LocalSystem(settings, report=click.echo) as system:
        click.echo(
            f"\n{len(passages)} passages of Python's own documentation, and {len(BROKEN_BODIES)} broken messages"
        )
        first = _send_and_wait(system, passages, version=1, broken=BROKEN_BODIES)
        second = _send_and_wait(system, passages, version=2, broken=())
        dead = _wait_for_dead_letters(system, BROKEN_BODIES)
        _answer_questions(system.endpoints["http"], passages, first.rows)
        engine = _get(system.endpoints["http"] + "/health")["engine"]
    summary = {
        "documents": len(passages),
        "embedded": first.embedded,
        "written": len(first.rows),
        "second_pass_hits": second.hits,
        "bit_identical": _identical(first, second),
        "dlq": dead,
        "seconds_bake": round(seconds_bake, 1),
        "seconds_embed": round(first.seconds, 1),
        "docs_per_s": round(len(passages) / first.seconds, 1),
        "engine": engine,
    }
    _check(summary)
    click.echo(f"\nDEMO {json.dumps(summary)}")


def _bake_if_missing(artifact: Path) -> float:
    """Return the seconds it took: 0 if the model was baked before."""
    if (artifact / "manifest.json").exists():
        click.echo(f"artifact   {artifact}, baked before")
        return 0.0
    quiet_libraries()
    from cli.bake import Terminal
    from model_bake.bake import Order, bake
    from model_bake.source import DEFAULT_MODEL

    click.echo(f"{DEFAULT_MODEL}, baked to {artifact}; the first time takes a minute")
    return bake(Order(DEFAULT_MODEL), artifact, report=Terminal()).seconds


def _send_and_wait(system: LocalSystem, passages: Sequence[Passage], *, version: int, broken: Sequence[str]) -> Pass:
    before = system.metrics()
    documents = [
        {"id": f"passage-{number}", "text": passage.text, "version": version, "metadata": {"name": passage.name}}
        for number, passage in enumerate(passages)
    ]
    started = time.monotonic()
    sqs, queue_url = system.parts.clients.sqs, system.endpoints["queue_url"]
    with progress("enqueue", len(documents)) as advance:
        for body in broken:
            sqs.send_message(QueueUrl=queue_url, MessageBody=body)
        send_documents(sqs, queue_url, documents, on_sent=advance)

    def gained(name: str) -> int:
        return int(system.metrics().get(name, 0) - before.get(name, 0))

    label = "embed" if version == 1 else "again"
    with progress(label, len(documents)) as advance:
        _wait_until(lambda: gained("ResultsWritten") >= len(documents), lambda: gained("ResultsWritten"), advance)
    seconds = time.monotonic() - started
    rows = {row["id"]: row for row in current_rows(_rows(system)) if row["version"] == version}
    return Pass(rows, gained("Embedded"), gained("CacheHits"), seconds)


def _rows(system: LocalSystem) -> list[dict[str, Any]]:
    return list(read_rows(system.parts.clients.s3, bucket=system.endpoints["bucket"], prefix="results/"))


def _wait_for_dead_letters(system: LocalSystem, expected: Sequence[str]) -> int:
    """Wait for the broken messages; check that they came, and came alone. Returns how many they are."""
    bodies: list[str] = []

    def receive() -> int:
        answer = system.parts.clients.sqs.receive_message(
            QueueUrl=system.endpoints["dlq_url"], MaxNumberOfMessages=10, WaitTimeSeconds=1
        )
        bodies.extend(message["Body"] for message in answer.get("Messages", []))
        return len(bodies)

    with progress("dead", len(expected)) as advance:
        _wait_until(lambda: receive() >= len(expected), lambda: len(bodies), advance)
    receive()
    if sorted(bodies) != sorted(expected):
        raise DemoError(f"the dead-letter queue holds {len(bodies)} messages, not just the {len(expected)} broken ones")
    return len(bodies)


def _wait_until(done: Callable[[], bool], level: Callable[[], int], advance: Callable[[int], None]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    shown = 0
    while True:
        finished = done()
        reached = level()
        advance(reached - shown)
        shown = reached
        if finished:
            return
        if time.monotonic() > deadline:
            raise DemoError(f"gave up after {_PATIENCE_SECONDS:.0f} s at {reached}")
        time.sleep(0.1)


def _identical(first: Pass, second: Pass) -> bool:
    return first.rows.keys() == second.rows.keys() and all(
        second.rows[key]["vector"] == row["vector"] for key, row in first.rows.items()
    )


def _answer_questions(http: str, passages: Sequence[Passage], rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Search the written vectors with query vectors from the API, then rerank the best over the API too."""
    matrix: Vectors = np.stack([from_base64(rows[f"passage-{number}"]["vector"]) for number in range(len(passages))])
    for question in QUESTIONS:
        answer = _post(f"{http}/v1/embeddings", {"input": question, "input_type": "query", "encoding_format": "base64"})
        query = from_base64(answer["data"][0]["embedding"])
        nearest = np.argsort(-(matrix @ query))[:_CANDIDATES]
        candidates = [passages[int(number)] for number in nearest]
        texts = [passage.text for passage in candidates]
        ranked = _post(f"{http}/v1/rerank", {"query": question, "documents": texts, "top_n": 3})["results"]
        click.echo(f"\n{click.style(question, bold=True)}")
        for place, line in enumerate(ranked, start=1):
            passage = candidates[line["index"]]
            click.echo(f"  {place}. {line['relevance_score']:.3f}  {passage.name}: {_shorten(passage.text)}")


def _shorten(text: str, length: int = 110) -> str:
    return text if len(text) <= length else text[: length - 1].rsplit(" ", 1)[0] + "…"


def _check(summary: Mapping[str, Any]) -> None:
    count = summary["documents"]
    expected = {
        "embedded": count,
        "written": count,
        "second_pass_hits": count,
        "bit_identical": True,
        "dlq": len(BROKEN_BODIES),
    }
    wrong = {name: summary[name] for name, value in expected.items() if summary[name] != value}
    if wrong:
        raise DemoError(f"expected {expected}, but saw {wrong}")


def _post(url: str, content: Mapping[str, Any]) -> Any:
    request = urllib.request.Request(  # noqa: S310 - our own server's address
        url, json.dumps(content).encode(), {"content-type": "application/json"}
    )
    return _read(request)


def _get(url: str) -> Any:
    return _read(urllib.request.Request(url))  # noqa: S310 - our own server's address


def _read(request: urllib.request.Request) -> Any:
    # No proxy: a machine's proxy has no business between two parts of one machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as response:
        return json.load(response)
