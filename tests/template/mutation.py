"""One change to the template for the worse, which an invariant must notice."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from template_source import Invariant, Template

GONE = object()


# Of a test's name.
_MAX_CHARACTERS = 60


@dataclass(frozen=True)
class Mutation:
    """The path to a value below Resources (or from the top, after a slash), and what is put there.

    scenario: the deployment in which it shows; of interest where SAM translates it first.
    """

    breaks: Invariant
    path: str
    value: Any
    scenario: str = "everything"

    def __str__(self) -> str:
        shown = "gone" if self.value is GONE else json.dumps(self.value)
        return f"{self.breaks.__name__}: {self.path} {shown[:_MAX_CHARACTERS]}"

    def apply(self, template: Template) -> None:
        """Change the template in place. Raises KeyError or IndexError where the path leads nowhere."""
        path = self.path.removeprefix("/") if self.path.startswith("/") else f"Resources/{self.path}"
        *way, last = path.split("/")
        node: Any = template
        for step in way:
            node = node[_place(node, step)]
        if self.value is GONE:
            del node[_place(node, last)]
        else:
            node[_place(node, last)] = self.value


def _place(node: Any, step: str) -> str | int:
    return int(step) if isinstance(node, list) else step
