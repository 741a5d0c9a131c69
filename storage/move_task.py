"""A message move task: SQS itself sends all the messages of a dead-letter queue on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from storage.clients import error_code
from storage.redrive import RedriveError

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

# How services that lack part of SQS, emulators mostly, say so.
NOT_SERVED = frozenset(
    {"InvalidAction", "UnknownOperation", "UnknownOperationException", "UnsupportedOperation", "NotImplemented"}
    | {"AWS.SimpleQueueService.UnsupportedOperation"}
)


class MoveTask:
    """A task that was started, as far as the last `refresh` knows it. Its numbers are SQS's approximations."""

    def __init__(self, client: SQSClient, *, source_arn: str, handle: str, previous: int | None) -> None:
        """previous: when the source's task before this one was started, None if there was none."""
        self._client = client
        self._source_arn = source_arn
        self._handle = handle
        self._previous = previous
        self._facts: dict[str, Any] = {"Status": "RUNNING"}

    @classmethod
    def start(
        cls, client: SQSClient, *, source_arn: str, target_arn: str, per_second: int | None = None
    ) -> MoveTask | None:
        """Start one; None where there are no such tasks. Raises RedriveError while another runs, and ClientError."""
        try:
            before = _latest(client, source_arn)
            if before.get("Status") in ("RUNNING", "CANCELLING"):
                raise RedriveError("another message move task of this queue is running")
            # Never without a destination: SQS finds none itself for messages that were sent here, not moved.
            rate = {} if per_second is None else {"MaxNumberOfMessagesPerSecond": per_second}
            started = client.start_message_move_task(SourceArn=source_arn, DestinationArn=target_arn, **rate)
        except ClientError as error:
            if error_code(error) in NOT_SERVED:
                return None
            raise
        return cls(client, source_arn=source_arn, handle=started["TaskHandle"], previous=before.get("StartedTimestamp"))

    def refresh(self) -> None:
        """Ask SQS how far it is. Raises ClientError and BotoCoreError."""
        latest = _latest(self._client, self._source_arn)
        # The list may be a moment behind the start.
        if latest.get("StartedTimestamp") != self._previous:
            self._facts = latest

    def cancel(self) -> None:
        """Stop it; what it moved stays moved. Raises ClientError, for one that has ended too, and BotoCoreError."""
        self._client.cancel_message_move_task(TaskHandle=self._handle)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.status in ("RUNNING", "CANCELLING", None)

    @property
    def status(self) -> str | None:
        """SQS's word for it."""
        return self._facts.get("Status")

    @property
    def moved(self) -> int:
        """Messages that it moved."""
        return int(self._facts.get("ApproximateNumberOfMessagesMoved", 0))

    @property
    def to_move(self) -> int:
        """Messages that it found when it was started."""
        return int(self._facts.get("ApproximateNumberOfMessagesToMove", 0))

    @property
    def failure_reason(self) -> str:
        """SQS's words for why it failed, empty if there are none."""
        return str(self._facts.get("FailureReason", ""))


def _latest(client: SQSClient, source_arn: str) -> dict[str, Any]:
    tasks = client.list_message_move_tasks(SourceArn=source_arn, MaxResults=1).get("Results", [])
    return dict(tasks[0]) if tasks else {}
