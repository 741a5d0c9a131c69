"""AWS clients with an end: by default they wait a minute to connect and a minute to answer, a function must not."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from botocore.session import Session
    from mypy_boto3_sqs import SQSClient

# A store's write is worth a second try, and both end within the ten seconds that the handlers keep for writing.
STORE = Config(connect_timeout=1, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 2})
# A mark is small, and waited for by everything that comes after it.
MARK = Config(connect_timeout=1, read_timeout=1, retries={"mode": "standard", "total_max_attempts": 2})
# A convenience is worth one try.
CONVENIENCE = Config(connect_timeout=1, read_timeout=2, retries={"total_max_attempts": 1})


def open_client(service: Any, config: Config = STORE) -> Any:
    """Open a client of an AWS service, by botocore's name for it.

    Not through boto3, which would add managers of transfers that nothing here starts, and a third to a cold start.
    """
    return _session().create_client(service, config=config)


@functools.cache
def _session() -> Session:
    from botocore.session import get_session  # a tenth of a second: only where it is used

    return get_session()


def queue_url(client: SQSClient, arn: str) -> str:
    """Return a queue's URL. Raises ClientError and BotoCoreError."""
    *_, account, name = arn.split(":")
    return client.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]


def error_code(error: ClientError | BotoCoreError) -> str:
    """Return an error's stable word: AWS's own code, or the kind of a call that got no answer."""
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else type(error).__name__
