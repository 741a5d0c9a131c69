"""What `embakery dlq` prints: letters as a table or facts, and what a redrive came to. Never a text."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cli.dlq_redrive import Result
    from storage.letters import Letter

# Ids are not texts, but a column has an end.
_SHOWN_IDS = 3
_MAX_ID_CHARACTERS = 256
# All columns fit a terminal of this width; a narrower one shows some.
_WIDE = 110
_NARROW = frozenset({"id", "code", "reason", "receives", "age"})


def summary(letter: Letter, *, shown_ids: int | None = _SHOWN_IDS) -> dict[str, Any]:
    """Return what may be shown of a letter. shown_ids: how many of its documents' ids, None for all."""
    failure = letter.failure
    kind, items, ids = contents(letter.body)
    return {
        "id": letter.message_id,
        "original_id": letter.original_id,
        "code": letter.code,
        "reason": letter.reason,
        "receives": failure.receives if failure else letter.receive_count,
        "age_seconds": max(0, round((datetime.now(UTC) - letter.sent_at).total_seconds())),
        "bytes": letter.size,
        "kind": kind,
        "items": items,
        "ids": ids[:shown_ids],
        "sent_at": letter.sent_at.isoformat(timespec="seconds"),
        "first_received": letter.first_received.isoformat(timespec="seconds") if letter.first_received else None,
        "failed_at": failure.failed_at if failure else None,
        "source_arn": letter.source_arn,
    }


def contents(body: str) -> tuple[str | None, int | None, list[str]]:
    """Return what a message holds, how many, and their ids; None for what cannot be parsed."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return None, None, []
    if not isinstance(message, dict):
        return None, None, []
    if isinstance(name := message.get("custom_id"), str):
        return "openai_batch", None, [name] if len(name) <= _MAX_ID_CHARACTERS else []
    for kind in ("documents", "rerank"):
        if isinstance(items := message.get(kind), list):
            names = [item.get("id") for item in items if isinstance(item, dict)]
            ids = [name for name in names if isinstance(name, str) and len(name) <= _MAX_ID_CHARACTERS]
            return kind, len(items), ids
    return ("source" if "source" in message else None), None, []


def print_table(listed: Iterable[Letter]) -> None:
    """Print a table on a terminal, tab-separated lines elsewhere."""
    heads = ("id", "code", "reason", "receives", "age", "bytes", "items", "ids")
    lines = []
    for letter in listed:
        facts = summary(letter)
        facts |= {"age": _age(facts["age_seconds"]), "ids": " ".join(name[:40] for name in facts["ids"])}
        lines.append([_printable("" if facts[head] is None else str(facts[head])) for head in heads])
    if not sys.stdout.isatty():
        for line in (list(heads), *lines):
            click.echo("\t".join(line))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    shown = [index for index, head in enumerate(heads) if console.width >= _WIDE or head in _NARROW]
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for head in (heads[index] for index in shown):
        is_number = head in ("receives", "age", "bytes", "items")
        # Where it is tight, reasons and ids are cut; the rest is not.
        table.add_column(head, justify="right" if is_number else "left", no_wrap=head not in ("reason", "ids"))
    for line in lines:
        # Not markup: ids may hold brackets.
        table.add_row(*(Text(line[index], no_wrap=True, overflow="ellipsis") for index in shown))
    console.print(table)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print one letter's facts, a line each."""
    for name, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        click.echo(f"{name:15}{text if name == 'body' else _printable(text)}")


def print_result(result: Result, *, target_url: str, about_left: int, as_json: bool) -> None:
    """Print what was moved and what was not. about_left: messages on the dead-letter queue, as SQS says."""
    figures = {
        "moved": result.moved,
        "failed": result.failed,
        "sent_but_still_here": result.undeleted,
        "about_left": about_left,
        "reasons": sorted(result.reasons),
        "by": result.by,
        "target_url": target_url,
    }
    if as_json:
        click.echo(json.dumps(figures))
        return
    why = f" ({', '.join(sorted(result.reasons))})" if result.reasons else ""
    click.echo(f"{result.moved} moved, {result.failed} failed{why}; about {about_left} left on the queue")
    if result.undeleted:
        click.echo(f"{result.undeleted} more were sent but are still here: the next redrive sends them again")


def count_line(by_code: Counter[str]) -> str:
    """Return how many messages there are, and of which codes."""
    parts = ", ".join(f"{count} {_printable(code)}" for code, count in by_code.most_common())
    return f"{by_code.total()} messages" + (f": {parts}" if parts else "")


def _printable(text: str) -> str:
    """Replace what could steer a terminal or break a line: ids and reasons come from whoever may send."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _age(seconds: int) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
