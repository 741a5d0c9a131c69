"""`python -m embakery`, and the `embakery` command.

The wheel is the library alone; the commands live in the repository's `cli` folder. The library must not import them, so
they are looked up by name, and their absence is explained.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec


def main() -> int:
    """Run the command line, where it is installed."""
    if find_spec("cli.main") is None:
        print(
            "embakery: only the library is installed here; the commands are in the repository: "
            "pip install -e '.[bake,local]' in a clone of it",
            file=sys.stderr,
        )
        return 2
    return int(import_module("cli.main").main())


if __name__ == "__main__":
    sys.exit(main())
