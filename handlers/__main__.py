"""`python -S -m handlers handlers.queue.handler`: the image's entry point, ahead of all that takes time to import."""

from __future__ import annotations

import gc
import sys

from handlers.bundle import install

BUNDLE = "/opt/start.bundle"


def run() -> int:
    """Start as handlers/start.py says."""
    # What a start creates stays: looking for garbage among it finds nothing, time and again.
    gc.disable()
    install(BUNDLE)
    from handlers.start import main

    return main(sys.argv)


if __name__ == "__main__":
    sys.exit(run())
