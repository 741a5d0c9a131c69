"""The function's own deadline, as the library's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

# Kept back from the function's timeout for writing results and answering.
_RESERVE_MILLISECONDS = 10_000
_RESERVE_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class ContextDeadline:
    """The function's own deadline, less what writing and answering take."""

    context: LambdaContext
    reserve_milliseconds: int

    @classmethod
    def of(cls, context: LambdaContext) -> ContextDeadline:
        """Reserve a fifth of the time there is, ten seconds at most."""
        share = int(context.get_remaining_time_in_millis() * _RESERVE_SHARE)
        return cls(context, min(_RESERVE_MILLISECONDS, share))

    def is_near(self) -> bool:
        """Say whether only the reserve is left."""
        return self.context.get_remaining_time_in_millis() <= self.reserve_milliseconds
