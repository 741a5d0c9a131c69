"""Functions with real child processes, and what they log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from local_fakes import HANDLER_ENV, LogLines, MakeFunction

from local.functions import LocalFunction


@pytest.fixture
def logs() -> LogLines:
    return LogLines()


@pytest.fixture
def make(logs: LogLines) -> Iterator[MakeFunction]:
    made: list[LocalFunction] = []

    def function(handler: str, *, env: dict[str, str] | None = None, **settings: Any) -> LocalFunction:
        handler = f"sample_handlers.{handler}" if "." not in handler else handler
        made.append(LocalFunction("sample", handler=handler, env=HANDLER_ENV | (env or {}), logs=logs, **settings))
        return made[-1]

    yield function
    for each in made:
        each.close()
