"""`embakery dlq`: what is on a dead-letter queue and why, and sending it on its way again.

Texts are never shown unless `--with-body` asks for one. Reading hides messages for as long as the command runs; at its
end, after Ctrl-C too, they are visible again.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from embakery.errors import EmbakeryError, InvalidRequestError, NotFoundError

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

    from storage.dead_letters import Letter, MoveCounts

# Ids are not texts, but a column has an end.
_SHOWN_IDS = 3
_MAX_ID_CHARACTERS = 256
# All columns fit a terminal of this width; a narrower one shows some.
_WIDE = 110
_NARROW = frozenset({"id", "code", "reason", "receives", "age"})
_POLL_SECONDS = 1.0
# How services without message move tasks, emulators mostly, say so.
_NOT_SERVED = frozenset(
    {"InvalidAction", "UnknownOperation", "UnknownOperationException", "UnsupportedOperation", "NotImplemented"}
    | {"AWS.SimpleQueueService.UnsupportedOperation"}
)

_queue_option = click.option(
    "--queue-url", required=True, envvar="EMBAKERY_DLQ_URL", show_envvar=True, help="The dead-letter queue."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_codes_option = click.option("--code", "codes", multiple=True, help="Only those with this code; may be repeated.")


class RedriveError(EmbakeryError):
    """Not everything that was asked for was moved."""

    code = "redrive"


@click.group()
def dlq() -> None:
    """Look at a dead-letter queue, and send its messages on their way again."""


@dlq.command("list")
@_queue_option
@_codes_option
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="How many to show.")
@_json_option
def list_(queue_url: str, codes: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List what is there: id, code, reason, receives, age, bytes, documents; never a text.

    A FIFO queue shows only the first ten of each group.
    """
    client = _client()
    about = _Queue.ask(client, queue_url).count
    chosen = _Choice(frozenset(codes))
    with _interruptible() as stop, closing(_letters(client, queue_url, stop)) as found:
        listed = list(islice((letter for letter in found if chosen.wants(letter)), limit))
        if stop():
            raise click.Abort
    by_code = Counter(letter.code for letter in listed)
    if as_json:
        rows = [_summary(letter) for letter in listed]
        click.echo(json.dumps({"queue_url": queue_url, "about": about, "codes": by_code, "letters": rows}))
        return
    if listed:
        _print_table(listed)
    click.echo(f"{_by_code(by_code)}; about {about} on the queue", err=not sys.stdout.isatty())


@dlq.command()
@click.argument("message_id", metavar="ID")
@_queue_option
@click.option("--with-body", is_flag=True, help="Print the message itself: it holds texts.")
@_json_option
def show(message_id: str, queue_url: str, with_body: bool, as_json: bool) -> None:
    """Show everything about one message, by its id here or where it failed; its body only if asked to."""
    chosen = _Choice(ids=frozenset({message_id}))
    with _interruptible() as stop, closing(_letters(_client(), queue_url, stop)) as found:
        letter = next(filter(chosen.wants, found), None)
        if stop():
            raise click.Abort
    if letter is None:
        raise NotFoundError("ID", "no visible message of this queue has it")
    facts = _summary(letter, shown_ids=None) | {
        "group_id": letter.group_id,
        # Their names: values are the sender's own, and may quote a text.
        "attributes": {name: value["DataType"] for name, value in sorted(letter.attributes.items())},
    }
    if with_body:
        facts["body"] = letter.body
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        click.echo(f"{name:15}{text if name == 'body' else _printable(text)}")


@dlq.command()
@_queue_option
@click.option("--to", "target_url", metavar="QUEUE_URL", help="Default: the queue that these messages come from.")
@_codes_option
@click.option("--id", "ids", multiple=True, help="Only this one, by its id here or where it failed; may be repeated.")
@click.option("--max-per-second", type=click.IntRange(1, 500), help="How fast at most.")
@click.option("--limit", type=click.IntRange(min=1), help="How many at most.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_json_option
def redrive(
    queue_url: str,
    target_url: str | None,
    codes: tuple[str, ...],
    ids: tuple[str, ...],
    max_per_second: int | None,
    limit: int | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Send messages back to the queue that they come from, or to another.

    All of them: by a message move task of SQS, where it has them. Some of them, or elsewhere: one batch after the
    other, each deleted here once it was surely taken there; if the command is killed between the two, at most one
    batch is sent twice. Messages that arrive here meanwhile stay. Exit code 1: some were not moved.
    """
    client = _client()
    source = _Queue.ask(client, queue_url)
    target = _Queue.ask(client, target_url or _source_url(client, source))
    _check_pair(source, target)
    chosen = _Choice(frozenset(codes), frozenset(ids), before=source.asked_at)
    order = _Order(client, source, target, chosen, limit, max_per_second)
    if dry_run:
        _say_what_would_move(order, as_json=as_json)
        return
    if not yes:
        what = "The chosen" if chosen.is_selective or limit else "All"
        click.confirm(f"{what} of about {source.count} messages to {target.url}?", abort=True, err=True)
    with _interruptible() as stop:
        result = _move(order, stop)
        _report(order, result, as_json=as_json)
        if stop():
            raise click.Abort
    if result.has_failures or result.missing_ids:
        what = f"{result.failed} not moved, {result.undeleted} sent but still here, {result.missing_ids} ids not found"
        raise RedriveError("; ".join([what, *sorted(result.reasons)]))


@dataclass(frozen=True, slots=True)
class _Queue:
    """A queue, about how many messages it holds, and when by its own clock it said so."""

    url: str
    arn: str
    count: int
    asked_at: datetime

    @property
    def is_fifo(self) -> bool:
        return self.arn.endswith(".fifo")

    @classmethod
    def ask(cls, client: SQSClient, url: str) -> _Queue:
        from email.utils import parsedate_to_datetime

        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        # The stubs know attribute names only as literals.
        answer: Any = client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn", *names])  # type: ignore[list-item]
        said = answer["Attributes"]
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        asked_at = parsedate_to_datetime(date) if date else datetime.now(UTC)
        return cls(url, said["QueueArn"], sum(int(said.get(name, 0)) for name in names), asked_at)


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which letters. before: none that arrived later, which may be one that was redriven and failed again."""

    codes: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    before: datetime | None = None
    found_ids: set[str] = field(default_factory=set)

    @property
    def is_selective(self) -> bool:
        return bool(self.codes or self.ids)

    def wants(self, letter: Letter) -> bool:
        names = {letter.message_id, letter.original_id} & self.ids
        self.found_ids.update(names)
        # The queue's clock says whole seconds.
        is_late = self.before is not None and int(letter.sent_at.timestamp()) > self.before.timestamp()
        return not is_late and (not self.codes or letter.code in self.codes) and (not self.ids or bool(names))


@dataclass(frozen=True, slots=True)
class _Order:
    """What to move, from where to where."""

    client: SQSClient
    source: _Queue
    target: _Queue
    choice: _Choice
    limit: int | None
    per_second: int | None


@dataclass(slots=True)
class _Result:
    """What a redrive came to. `moved` is SQS's approximation as far as a move task did it."""

    by: str = "batches"
    moved: int = 0
    failed: int = 0
    undeleted: int = 0
    missing_ids: int = 0
    reasons: set[str] = field(default_factory=set)

    @property
    def has_failures(self) -> bool:
        return bool(self.failed or self.undeleted or self.reasons)

    def add(self, counts: MoveCounts) -> None:
        self.moved += counts.moved
        self.failed += counts.failed
        self.undeleted += counts.undeleted
        self.reasons |= counts.reasons


def _move(order: _Order, stop: Callable[[], bool]) -> _Result:
    result = _Result()
    is_finished = False
    if not order.choice.is_selective and order.limit is None:
        is_finished = _move_by_task(order, result, stop)
    if not is_finished and not stop():
        _move_by_batches(order, result, stop)
    result.missing_ids = 0 if stop() or order.limit else len(order.choice.ids - order.choice.found_ids)
    return result


def _move_by_batches(order: _Order, result: _Result, stop: Callable[[], bool]) -> None:
    from cli.progress import progress
    from storage.dead_letters import Hand, Mover

    with Hand(order.client, order.source.url) as hand, progress("redrive", order.source.count) as advance:
        mover = Mover(order.client, hand, order.target.url, per_second=order.per_second)
        try:
            mover.move(wanted=order.choice.wants, stop=stop, limit=order.limit, on_letters=advance)
        finally:
            result.add(mover.counts)


def _move_by_task(order: _Order, result: _Result, stop: Callable[[], bool]) -> bool:
    """Let SQS move everything; returns whether it did, or False where batches must do it, or the rest of it."""
    from botocore.exceptions import ClientError

    try:
        before = _latest_task(order)
        if before.get("Status") in ("RUNNING", "CANCELLING"):
            raise RedriveError("another message move task of this queue is running")
        # Never without a destination: SQS finds none itself for messages that were sent here, not moved.
        rate = {} if order.per_second is None else {"MaxNumberOfMessagesPerSecond": order.per_second}
        handle = order.client.start_message_move_task(
            SourceArn=order.source.arn, DestinationArn=order.target.arn, **rate
        )["TaskHandle"]
    except ClientError as error:
        if error.response["Error"]["Code"] in _NOT_SERVED:
            return False
        raise
    result.by = "task"
    task = _follow(order, handle, before.get("StartedTimestamp"), stop)
    result.moved += task.get("ApproximateNumberOfMessagesMoved", 0)
    reason = task.get("FailureReason", "")
    if task.get("Status") == "FAILED":
        if "CouldNotDetermineMessageSource" in reason:
            return False
        result.reasons.add(reason or "the move task failed")
        result.failed += max(0, task.get("ApproximateNumberOfMessagesToMove", 0) - result.moved)
    elif task.get("Status") == "CANCELLED" and not stop():
        result.reasons.add("somebody cancelled the move task")
    return True


def _follow(order: _Order, handle: str, previous: int | None, stop: Callable[[], bool]) -> dict[str, Any]:
    """Show a move task's progress until it ends; cancel it when asked to stop, or on any failure here."""
    from cli.progress import progress

    task: dict[str, Any] = {"Status": "RUNNING"}
    shown = 0
    is_cancelled = False
    try:
        with progress("redrive", order.source.count) as advance:
            while task.get("Status") in ("RUNNING", "CANCELLING", None):
                if stop() and not is_cancelled:
                    is_cancelled = True
                    _cancel(order, handle)
                time.sleep(_POLL_SECONDS)
                latest = _latest_task(order)
                # The list may be a moment behind the start.
                task = task if latest.get("StartedTimestamp") == previous else latest
                moved = task.get("ApproximateNumberOfMessagesMoved", 0)
                advance(max(0, moved - shown))
                shown = max(shown, moved)
    except BaseException:
        _cancel(order, handle)
        raise
    return task


def _latest_task(order: _Order) -> dict[str, Any]:
    tasks = order.client.list_message_move_tasks(SourceArn=order.source.arn, MaxResults=1).get("Results", [])
    return dict(tasks[0]) if tasks else {}


def _cancel(order: _Order, handle: str) -> None:
    """Cancel a move task. One that has ended meanwhile cannot be; what it moved stays moved."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        order.client.cancel_message_move_task(TaskHandle=handle)
    except (ClientError, BotoCoreError) as error:
        click.echo(f"the move task was not cancelled: {type(error).__name__}", err=True)


def _source_url(client: SQSClient, source: _Queue) -> str:
    """Return the one queue whose dead letters come here: SQS knows, or the letters say. Raises InvalidRequestError."""
    from botocore.exceptions import ClientError

    try:
        urls = set(client.list_dead_letter_source_queues(QueueUrl=source.url)["queueUrls"])
    except ClientError as error:
        if error.response["Error"]["Code"] not in _NOT_SERVED:
            raise
        urls = set()
    if not urls:
        with _interruptible() as stop, closing(_letters(client, source.url, stop)) as found:
            arns = {letter.source_arn for letter in islice(found, 100)} - {None}
            if stop():
                raise click.Abort
        urls = {_url(client, arn) for arn in arns if arn is not None}
    if len(urls) != 1:
        raise InvalidRequestError(
            "--to", f"must say where to: {len(urls)} queues are known to send their failures here"
        )
    return urls.pop()


def _url(client: SQSClient, arn: str) -> str:
    *_, account, name = arn.split(":")
    return client.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]


def _check_pair(source: _Queue, target: _Queue) -> None:
    if source.arn == target.arn:
        raise InvalidRequestError("--to", "is the dead-letter queue itself")
    if source.is_fifo != target.is_fifo:
        raise InvalidRequestError("--to", "one queue is FIFO and the other is not: SQS moves only between like ones")


def _say_what_would_move(order: _Order, *, as_json: bool) -> None:
    with _interruptible() as stop, closing(_letters(order.client, order.source.url, stop)) as found:
        by_code = Counter(letter.code for letter in islice(filter(order.choice.wants, found), order.limit))
        if stop():
            raise click.Abort
    if as_json:
        click.echo(json.dumps({"dry_run": True, "target_url": order.target.url, "codes": by_code}))
    else:
        click.echo(f"would be sent to {order.target.url}: {_by_code(by_code)}")


def _report(order: _Order, result: _Result, *, as_json: bool) -> None:
    left = _Queue.ask(order.client, order.source.url).count
    figures = {
        "moved": result.moved,
        "failed": result.failed,
        "sent_but_still_here": result.undeleted,
        "about_left": left,
        "reasons": sorted(result.reasons),
        "by": result.by,
        "target_url": order.target.url,
    }
    if as_json:
        click.echo(json.dumps(figures))
        return
    why = f" ({', '.join(sorted(result.reasons))})" if result.reasons else ""
    click.echo(f"{result.moved} moved, {result.failed} failed{why}; about {left} left on the queue")
    if result.undeleted:
        click.echo(f"{result.undeleted} more were sent but are still here: the next redrive sends them again")


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Yield what says whether to stop: Ctrl-C or SIGTERM asks for it, between two batches; a second one insists."""
    is_asked = False

    def ask(*_: object) -> None:
        nonlocal is_asked
        if is_asked:
            raise KeyboardInterrupt
        is_asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: is_asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _client() -> SQSClient:
    from botocore.config import Config

    from storage.clients import open_client

    config = Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 4})
    client: SQSClient = open_client("sqs", config)
    return client


def _letters(client: SQSClient, queue_url: str, stop: Callable[[], bool]) -> Generator[Letter]:
    from storage.dead_letters import letters

    return letters(client, queue_url, stop=stop)


def _summary(letter: Letter, *, shown_ids: int | None = _SHOWN_IDS) -> dict[str, Any]:
    failure = letter.failure
    kind, items, ids = _contents(letter.body)
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


def _contents(body: str) -> tuple[str | None, int | None, list[str]]:
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


def _print_table(listed: Iterable[Letter]) -> None:
    """Print a table on a terminal, tab-separated lines elsewhere."""
    heads = ("id", "code", "reason", "receives", "age", "bytes", "items", "ids")
    lines = []
    for letter in listed:
        facts = _summary(letter)
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


def _printable(text: str) -> str:
    """Replace what could steer a terminal or break a line: ids and reasons come from whoever may send."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _age(seconds: int) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _by_code(by_code: Counter[str]) -> str:
    parts = ", ".join(f"{count} {_printable(code)}" for code, count in by_code.most_common())
    return f"{by_code.total()} messages" + (f": {parts}" if parts else "")
