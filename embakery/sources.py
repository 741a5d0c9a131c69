"""Claim checks: payloads too large for a message, kept elsewhere and named by it.

A message says only key, digest and size. Where the payloads lie (bucket, prefix, owner, size cap) comes from the
settings, never from a message: a message that could name a bucket would make the function read for its sender whatever
the function may read.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Source:
    """A payload of JSON lines. sha256: of its bytes, 64 hexadecimal digits in lower case. size: in bytes."""

    key: str
    sha256: str
    size: int


class SourceReader(Protocol):
    """The place where payloads lie."""

    def lines(self, source: Source) -> AbstractContextManager[Iterable[bytes]]:
        """Open a payload whose size and digest were checked; gives its lines, without their ends, blank ones left out.

        They may be gone through more than once: the payload is fetched once.

        Raises InvalidRequestError under `source...` for what can never be read: a key outside the prefix, a size over
        the cap, no such object, another size or digest. Raises StoreUnavailableError for what may pass.
        """


class BulkQueue(Protocol):
    """The queue of jobs that are too large for a function."""

    def hand_over(
        self, source: Source, *, message_id: str, input_type: str, destination: str, job_id: str | None
    ) -> None:
        """Hand a payload to the bulk worker. One message's order given twice is one job.

        Raises StoreUnavailableError, ConfigurationError.
        """
