"""One run of `embakery enqueue`: read, check, pack, send, and write down how far it came."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from cli.enqueue_report import Report
from cli.inputs.checking import Checker
from cli.inputs.reading import STDIN, Inputs, keep_stdin, require_stdin_once
from cli.journal import Journal, Run
from cli.packing import MAX_PAYLOAD_BYTES, ClaimCheckMode, Envelope, Groups, Packed, Packer
from cli.progress import progress
from cli.sender import Events, Sender
from cli.signals import Interrupted, Stop
from embakery.errors import ConfigurationError, EmbakeryError, InvalidRequestError
from embakery.texts import TextLimits
from storage.claim_check import ClaimCheck

_CLIENT: dict[str, Any] = {"connect_timeout": 5, "read_timeout": 30}


@dataclass(frozen=True, slots=True)
class ClaimChecks:
    """Whether and where payloads are kept. documents: in one payload, in mode `always`."""

    mode: ClaimCheckMode
    bucket: str | None
    prefix: str
    owner: str | None
    documents: int


@dataclass(frozen=True, slots=True)
class Order:
    """What the command line asks for. queue_url: None only in a dry run. journal: a path, True for the usual one."""

    inputs: Inputs
    queue_url: str | None
    envelope: Envelope
    documents: int
    groups: Groups
    claim_checks: ClaimChecks
    limits: TextLimits
    journal: Path | bool
    again: bool
    strict: bool
    dry_run: bool
    json: bool

    @property
    def fifo(self) -> bool:
        """Whether messages need groups."""
        return self.queue_url is not None and self.queue_url.endswith(".fifo")

    def run(self) -> Run:
        """Say what a journal of this order belongs to."""
        checks = asdict(self.claim_checks)
        options = {f"claim-check {name}": value for name, value in checks.items()}
        return Run(
            target={"queue-url": self.queue_url, **asdict(self.envelope)},
            options=options
            | {"format": self.inputs.format, "documents-per-message": self.documents}
            | {f"{name}-field": value for name, value in asdict(self.inputs.columns).items()}
            | ({"groups": self.groups.name or self.groups.count} if self.fifo else {})
            | {"max-characters": self.limits.max_characters},
            inputs=self.inputs.identities(),
        )


def run(order: Order) -> None:
    """Carry an order out. Raises InvalidRequestError if anything was rejected, Abort if it was interrupted."""
    require_stdin_once(order.inputs.names)
    if order.claim_checks.mode == "always" and order.claim_checks.bucket is None:
        raise ConfigurationError("--claim-check always needs --claim-check-bucket (EMBAKERY_SOURCE_BUCKET)")
    description = order.run()
    path = _journal_path(order, description)
    with nullcontext() if path is None else Journal.open(path, description, again=order.again) as journal:
        if journal is not None and journal.state.done:
            _say_already_sent(journal, order)
            return
        total = order.inputs.total()
        if order.strict:
            order, total = _check_all(order)
        _send(order, journal, total)


def _journal_path(order: Order, description: Run) -> Path | None:
    if order.dry_run or order.journal is False:
        return None
    if isinstance(order.journal, Path):
        return order.journal
    # What comes by a pipe has no identity, so there is nothing to know it again by.
    return None if STDIN in order.inputs.names else description.default_path(os.environ)


def _say_already_sent(journal: Journal, order: Order) -> None:
    report = Report()
    report.counts.resumed = journal.state.documents
    report.say(f"already sent, --again to send once more (journal: {journal.path})")
    report.finish(dry_run=False, done=True, as_json=order.json)


def _check_all(order: Order) -> tuple[Order, int]:
    """Read everything once before anything is sent. Returns the order, to be read again, and its documents."""
    if STDIN in order.inputs.names:
        order = replace(order, inputs=replace(order.inputs, spool=keep_stdin()))
    report = Report()
    documents = sum(message.documents for message in _messages(order, report, _claim_check(order, None)))
    if report.counts.rejected:
        raise InvalidRequestError("", f"{report.counts.rejected} rejected, so nothing was sent")
    return order, documents


def _messages(order: Order, report: Report, claim_check: ClaimCheck | None) -> Iterator[Packed]:
    checks = order.claim_checks
    packer = Packer(
        order.envelope,
        documents=checks.documents if checks.mode == "always" else order.documents,
        groups=order.groups if order.fifo else None,
        claim_check=checks.mode,
        describe=None if claim_check is None else claim_check.describe,
    )
    # In a payload they stand beside documents, and the message around it says the rest.
    plain = order.envelope == Envelope() or checks.mode == "always"
    checker = Checker(order.limits, order.inputs.columns, plain=plain)
    documents = report.documents(checker.check(report.rows(order.inputs.rows())))
    return packer.pack(documents, report.reject)


def _send(order: Order, journal: Journal | None, total: int | None) -> None:
    # A strict run has told everything in its first reading.
    report, stop, done = Report(quiet=order.strict), Stop(), False
    report.counts.resumed = 0 if journal is None else journal.state.documents
    try:
        with progress("enqueue", total) as advance, stop.on_signals():
            advance(report.counts.resumed)

            def sent(message: Packed) -> None:
                report.sent(message)
                advance(message.documents)

            _deliver(order, journal, report, stop, sent)
        done = True
    except Interrupted:
        if not order.dry_run:
            _say_how_to_resume(report, journal)
        raise click.Abort from None
    except (EmbakeryError, BotoCoreError, ClientError):
        if not order.dry_run:
            _say_how_to_resume(report, journal)
        raise
    finally:
        if done or order.json:
            report.finish(dry_run=order.dry_run, done=done, as_json=order.json)
    if report.counts.rejected:
        raise InvalidRequestError("", f"{report.counts.rejected} rejected")


def _deliver(order: Order, journal: Journal | None, report: Report, stop: Stop, sent: Callable[[Packed], None]) -> None:
    if order.dry_run or order.queue_url is None:
        for message in _messages(order, report, _claim_check(order, None)):
            sent(message)
        return
    claim_check = _claim_check(order, _client("s3", None))
    sender = Sender(
        _client("sqs", order.queue_url),
        order.queue_url,
        Events(sent, report.refused),
        put=None if claim_check is None else claim_check.put,
        stop=stop,
        state=None if journal is None else journal.state,
        record=None if journal is None else journal.record,
    )
    sender.send(_messages(order, report, claim_check))


def _say_how_to_resume(report: Report, journal: Journal | None) -> None:
    sent = report.counts.documents + report.counts.resumed
    how = (
        "there is no journal: the same command would send them again"
        if journal is None
        else f"the same command goes on from there (journal: {journal.path})"
    )
    click.echo(f"stopped after {sent} documents; {how}", err=True)


def _claim_check(order: Order, client: Any) -> ClaimCheck | None:
    """Open the place of payloads; without a client it can still name them."""
    checks = order.claim_checks
    if checks.bucket is None or checks.mode == "never":
        return None
    return ClaimCheck(
        client, bucket=checks.bucket, prefix=checks.prefix, owner=checks.owner, max_bytes=MAX_PAYLOAD_BYTES
    )


def _client(service: Any, queue_url: str | None) -> Any:
    """Open a client that tries once: the sender knows better when to try again. The region is the queue's own."""
    import boto3

    region = re.match(r"https://sqs\.([a-z0-9-]+)\.amazonaws\.com", queue_url or "")
    return boto3.client(
        service, region_name=region and region[1], config=Config(**_CLIENT, retries={"total_max_attempts": 1})
    )
