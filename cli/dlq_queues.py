"""The queues of `embakery dlq`: what they say of themselves, the letters on one, and which queue those come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from botocore.config import Config
from botocore.exceptions import ClientError

from cli.signals import ending_early
from embakery.errors import InvalidRequestError
from storage.clients import error_code, open_client, queue_url
from storage.letters import Letter, letters
from storage.move_task import NOT_SERVED

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue, about how many messages it holds, and when by its own clock it said so."""

    url: str
    arn: str
    count: int
    asked_at: datetime

    @property
    def is_fifo(self) -> bool:
        """Whether it is a FIFO queue."""
        return self.arn.endswith(".fifo")

    @classmethod
    def ask(cls, client: SQSClient, url: str) -> Queue:
        """Ask SQS. Raises ClientError and BotoCoreError."""
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        # The stubs know attribute names only as literals.
        answer: Any = client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn", *names])  # type: ignore[list-item]
        said = answer["Attributes"]
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        asked_at = parsedate_to_datetime(date) if date else datetime.now(UTC)
        return cls(url, said["QueueArn"], sum(int(said.get(name, 0)) for name in names), asked_at)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters. before: none that arrived later, which may be one that was redriven and failed again."""

    codes: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    before: datetime | None = None
    found_ids: set[str] = field(default_factory=set)

    @property
    def is_selective(self) -> bool:
        """Whether some letters may be left out, whenever they came."""
        return bool(self.codes or self.ids)

    def wants(self, letter: Letter) -> bool:
        """Say whether a letter is chosen, and remember which of the ids it has."""
        names = {letter.message_id, letter.original_id} & self.ids
        self.found_ids.update(names)
        # The queue's clock says whole seconds.
        is_late = self.before is not None and int(letter.sent_at.timestamp()) > self.before.timestamp()
        return not is_late and (not self.codes or letter.code in self.codes) and (not self.ids or bool(names))


def open_sqs() -> SQSClient:
    """Open a client that is patient: somebody waits for it."""
    config = Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 4})
    client: SQSClient = open_client("sqs", config)
    return client


@contextmanager
def reading(client: SQSClient, queue_url: str) -> Iterator[Iterator[Letter]]:
    """Read a queue's letters, as many as are taken, then show all of them again. Raises click.Abort after a signal."""
    with ending_early() as stop, closing(letters(client, queue_url, stop=stop)) as found:
        yield found


def find_source(client: SQSClient, dead: Queue) -> str:
    """Return the URL of the one queue whose failures come here: SQS knows, or the letters say.

    Raises InvalidRequestError if there is none, or more than one.
    """
    try:
        urls = set(client.list_dead_letter_source_queues(QueueUrl=dead.url)["queueUrls"])
    except ClientError as error:
        if error_code(error) not in NOT_SERVED:
            raise
        urls = set()
    if not urls:
        with reading(client, dead.url) as found:
            arns = {letter.source_arn for letter in islice(found, 100)} - {None}
        urls = {queue_url(client, arn) for arn in arns if arn is not None}
    if len(urls) != 1:
        raise InvalidRequestError(
            "--to", f"must say where to: {len(urls)} queues are known to send their failures here"
        )
    return urls.pop()


def check_pair(source: Queue, target: Queue) -> None:
    """Raise InvalidRequestError for two queues between which nothing can be moved."""
    if source.arn == target.arn:
        raise InvalidRequestError("--to", "is the dead-letter queue itself")
    if source.is_fifo != target.is_fifo:
        raise InvalidRequestError("--to", "one queue is FIFO and the other is not: SQS moves only between like ones")
