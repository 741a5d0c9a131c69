"""`embakery dlq`: what is on a dead-letter queue and why, and sending it on its way again.

Texts are never shown unless `--with-body` asks for one. Reading hides messages for as long as the command runs; at its
end, after Ctrl-C too, they are visible again.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

import click

from cli.dlq_report import count_line, print_facts, print_result, print_table, summary
from cli.signals import ending_early
from embakery.errors import NotFoundError

if TYPE_CHECKING:
    from cli.dlq_redrive import Order

_queue_option = click.option(
    "--queue-url", required=True, envvar="EMBAKERY_DLQ_URL", show_envvar=True, help="The dead-letter queue."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_codes_option = click.option("--code", "codes", multiple=True, help="Only those with this code; may be repeated.")


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
    from cli.dlq_queues import Choice, Queue, open_sqs, reading

    client = open_sqs()
    about = Queue.ask(client, queue_url).count
    chosen = Choice(frozenset(codes))
    with reading(client, queue_url) as found:
        listed = list(islice(filter(chosen.wants, found), limit))
    by_code = Counter(letter.code for letter in listed)
    if as_json:
        rows = [summary(letter) for letter in listed]
        click.echo(json.dumps({"queue_url": queue_url, "about": about, "codes": by_code, "letters": rows}))
        return
    if listed:
        print_table(listed)
    click.echo(f"{count_line(by_code)}; about {about} on the queue", err=not sys.stdout.isatty())


@dlq.command()
@click.argument("message_id", metavar="ID")
@_queue_option
@click.option("--with-body", is_flag=True, help="Print the message itself: it holds texts.")
@_json_option
def show(message_id: str, queue_url: str, with_body: bool, as_json: bool) -> None:
    """Show everything about one message, by its id here or where it failed; its body only if asked to."""
    from cli.dlq_queues import Choice, open_sqs, reading

    chosen = Choice(ids=frozenset({message_id}))
    with reading(open_sqs(), queue_url) as found:
        letter = next(filter(chosen.wants, found), None)
    if letter is None:
        raise NotFoundError("ID", "no visible message of this queue has it")
    facts = summary(letter, shown_ids=None) | {
        "group_id": letter.group_id,
        # Their names: values are the sender's own, and may quote a text.
        "attributes": {name: value["DataType"] for name, value in sorted(letter.attributes.items())},
    }
    if with_body:
        facts["body"] = letter.body
    if as_json:
        click.echo(json.dumps(facts))
    else:
        print_facts(facts)


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
    from cli.dlq_queues import Choice, Queue, check_pair, find_source, open_sqs
    from cli.dlq_redrive import Order, move
    from storage.redrive import RedriveError

    client = open_sqs()
    source = Queue.ask(client, queue_url)
    target = Queue.ask(client, target_url or find_source(client, source))
    check_pair(source, target)
    chosen = Choice(frozenset(codes), frozenset(ids), before=source.asked_at)
    order = Order(client, source, target, chosen, limit, max_per_second)
    if dry_run:
        _say_what_would_move(order, as_json=as_json)
        return
    if not yes:
        what = "The chosen" if chosen.is_selective or limit else "All"
        click.confirm(f"{what} of about {source.count} messages to {target.url}?", abort=True, err=True)
    with ending_early() as stop:
        result = move(order, stop)
        about_left = Queue.ask(client, queue_url).count
        print_result(result, target_url=target.url, about_left=about_left, as_json=as_json)
    if result.has_failures or result.missing_ids:
        what = f"{result.failed} not moved, {result.undeleted} sent but still here, {result.missing_ids} ids not found"
        raise RedriveError("; ".join([what, *sorted(result.reasons)]))


def _say_what_would_move(order: Order, *, as_json: bool) -> None:
    from cli.dlq_queues import reading

    with reading(order.client, order.source.url) as found:
        by_code = Counter(letter.code for letter in islice(filter(order.choice.wants, found), order.limit))
    if as_json:
        click.echo(json.dumps({"dry_run": True, "target_url": order.target.url, "codes": by_code}))
    else:
        click.echo(f"would be sent to {order.target.url}: {count_line(by_code)}")
