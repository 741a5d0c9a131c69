"""The function's own deadline, as the library's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

# Kept back from the function's timeout for writing results and answering.
_MOST_RESERVE_SECONDS = 10.0
_LEAST_RESERVE_SECONDS = 0.4
_RESERVE_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class ContextDeadline:
    """The function's own deadline, less what writing and answering take."""

    context: LambdaContext
    reserve_seconds: float

    @classmethod
    def of(cls, context: LambdaContext) -> ContextDeadline:
        """Reserve a fifth of the time there is, .4 seconds at least and ten at most."""
        share = context.get_remaining_time_in_millis() / 1000 * _RESERVE_SHARE
        return cls(context, min(_MOST_RESERVE_SECONDS, max(_LEAST_RESERVE_SECONDS, share)))

    def seconds_left(self) -> float:
        """Return the seconds in which new work may still be done."""
        return self.context.get_remaining_time_in_millis() / 1000 - self.reserve_seconds

    def seconds_to_end(self) -> float:
        """Return the seconds until the function is killed."""
        return self.context.get_remaining_time_in_millis() / 1000
