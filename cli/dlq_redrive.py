"""Moving the letters of a dead-letter queue, with its progress: by a move task of SQS, or batch by batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click
from botocore.exceptions import BotoCoreError, ClientError

from cli.dlq_queues import Choice, Queue
from cli.progress import progress
from storage.letters import Hand
from storage.move_task import MoveTask
from storage.redrive import MoveCounts, Mover

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

_POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Order:
    """What to move, from where to where."""

    client: SQSClient
    source: Queue
    target: Queue
    choice: Choice
    limit: int | None
    per_second: int | None


@dataclass(slots=True)
class Result:
    """What a redrive came to. `moved` is SQS's approximation as far as a move task did it."""

    by: str = "batches"
    moved: int = 0
    failed: int = 0
    undeleted: int = 0
    missing_ids: int = 0
    reasons: set[str] = field(default_factory=set)

    @property
    def has_failures(self) -> bool:
        """Whether anything went wrong."""
        return bool(self.failed or self.undeleted or self.reasons)

    def add(self, counts: MoveCounts) -> None:
        """Add what a mover did."""
        self.moved += counts.moved
        self.failed += counts.failed
        self.undeleted += counts.undeleted
        self.reasons |= counts.reasons


def move(order: Order, stop: Callable[[], bool]) -> Result:
    """Carry an order out, or as much of it as was done when asked to stop. Raises RedriveError and AWS's errors."""
    result = Result()
    is_finished = False
    if not order.choice.is_selective and order.limit is None:
        is_finished = _move_by_task(order, result, stop)
    if not is_finished and not stop():
        _move_by_batches(order, result, stop)
    result.missing_ids = 0 if stop() or order.limit else len(order.choice.ids - order.choice.found_ids)
    return result


def _move_by_batches(order: Order, result: Result, stop: Callable[[], bool]) -> None:
    with Hand(order.client, order.source.url) as hand, progress("redrive", order.source.count) as advance:
        mover = Mover(order.client, hand, order.target.url, per_second=order.per_second)
        try:
            mover.move(wanted=order.choice.wants, stop=stop, limit=order.limit, on_letters=advance)
        finally:
            result.add(mover.counts)


def _move_by_task(order: Order, result: Result, stop: Callable[[], bool]) -> bool:
    """Let SQS move everything; returns whether it did, or False where batches must do it, or the rest of it."""
    task = MoveTask.start(
        order.client, source_arn=order.source.arn, target_arn=order.target.arn, per_second=order.per_second
    )
    if task is None:
        return False
    result.by = "task"
    _follow(order, task, stop)
    result.moved += task.moved
    if task.status == "FAILED":
        if "CouldNotDetermineMessageSource" in task.failure_reason:
            return False
        result.reasons.add(task.failure_reason or "the move task failed")
        result.failed += max(0, task.to_move - result.moved)
    elif task.status == "CANCELLED" and not stop():
        result.reasons.add("somebody cancelled the move task")
    return True


def _follow(order: Order, task: MoveTask, stop: Callable[[], bool]) -> None:
    """Show a move task's progress until it ends; cancel it when asked to stop, or on any failure here."""
    shown = 0
    is_cancelled = False
    try:
        with progress("redrive", order.source.count) as advance:
            while task.is_running:
                if stop() and not is_cancelled:
                    is_cancelled = True
                    _cancel(task)
                time.sleep(_POLL_SECONDS)
                task.refresh()
                advance(max(0, task.moved - shown))
                shown = max(shown, task.moved)
    except BaseException:
        _cancel(task)
        raise


def _cancel(task: MoveTask) -> None:
    """Cancel a move task. One that has ended meanwhile cannot be; what it moved stays moved."""
    try:
        task.cancel()
    except (ClientError, BotoCoreError) as error:
        click.echo(f"the move task was not cancelled: {type(error).__name__}", err=True)
