"""What can be wrong with AWS: how often, by service, and what each service's own error looks like."""

from __future__ import annotations

import enum
import json
import random
from dataclasses import dataclass


class Service(enum.Enum):
    """Whom a request is for."""

    S3 = "s3"
    DYNAMODB = "dynamodb"
    SQS = "sqs"
    OTHER = "other"


class Trouble(enum.Enum):
    """What happens to a request."""

    THROTTLED = "throttled"  # refused with the service's own error: SlowDown, ProvisionedThroughputExceeded, ...
    INTERNAL_ERROR = "internal_error"  # HTTP 500, and nothing was done
    RESET_BEFORE = "reset_before"  # connection reset, and nothing was done
    RESET_AFTER = "reset_after"  # connection reset, but it was done: the answer is lost
    SLOW = "slow"  # done, and answered late


@dataclass(frozen=True, slots=True)
class Rates:
    """The share of requests, 0 to 1, that meet each trouble; each request meets one at most."""

    throttled: float = 0.0
    internal_error: float = 0.0
    reset_before: float = 0.0
    reset_after: float = 0.0
    slow: float = 0.0
    slow_seconds: float = 0.5

    def __post_init__(self) -> None:
        """Check them. Raises ValueError."""
        shares = [getattr(self, trouble.value) for trouble in Trouble]
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError("shares are at least 0 and together at most 1")

    def draw(self, source: random.Random) -> Trouble | None:
        """Decide for one request; takes one number from the source."""
        number = source.random()
        for trouble in Trouble:
            number -= getattr(self, trouble.value)
            if number < 0:
                return trouble
        return None


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer."""

    status: str
    code: str


_REFUSALS = {
    (Service.S3, Trouble.THROTTLED): (Refusal("503 Slow Down", "SlowDown"),),
    (Service.S3, Trouble.INTERNAL_ERROR): (Refusal("500 Internal Server Error", "InternalError"),),
    (Service.DYNAMODB, Trouble.THROTTLED): (
        # A table's limit and an account's.
        Refusal("400 Bad Request", "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"),
        Refusal("400 Bad Request", "com.amazon.coral.availability#ThrottlingException"),
    ),
    (Service.DYNAMODB, Trouble.INTERNAL_ERROR): (
        Refusal("500 Internal Server Error", "com.amazonaws.dynamodb.v20120810#InternalServerError"),
    ),
    (Service.SQS, Trouble.THROTTLED): (Refusal("400 Bad Request", "com.amazonaws.sqs#RequestThrottled"),),
    (Service.SQS, Trouble.INTERNAL_ERROR): (
        Refusal("500 Internal Server Error", "com.amazon.coral.service#InternalFailure"),
    ),
}
_PLAIN = Refusal("500 Internal Server Error", "InternalFailure")


def refuse(service: Service, trouble: Trouble, *, number: int, head_only: bool, close: bool) -> bytes:
    """Return the answer that the service gives; of several errors, in turn by `number`, from 1. A HEAD has no body."""
    choice = _REFUSALS.get((service, trouble), (_PLAIN,))
    refusal = choice[(number - 1) % len(choice)]
    if service is Service.S3:
        text = f"<Error><Code>{refusal.code}</Code><Message>injected</Message><RequestId>fault</RequestId></Error>"
        body, kind = f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode(), "application/xml"
    else:
        body, kind = json.dumps({"__type": refusal.code, "message": "injected"}).encode(), "application/x-amz-json-1.0"
    head = [f"HTTP/1.1 {refusal.status}", f"Content-Type: {kind}", "x-amzn-RequestId: fault"]
    head += [f"Content-Length: {0 if head_only else len(body)}", f"Connection: {'close' if close else 'keep-alive'}"]
    return "\r\n".join([*head, "", ""]).encode() + (b"" if head_only else body)
