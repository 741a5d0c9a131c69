"""Writes the bundle from which the image starts: see handlers/bundle.py.

    python docker/bundle.py --out /opt/start.bundle      (in the image, with its environment)

Both functions are started here, without a network, with a cache and a bucket that are never reached: what that imports
is what is bundled.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

PRETENDED = {
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_REGION": "us-east-1",
    "EMBAKERY_REDIS_URL": "redis://127.0.0.1:1",
    "EMBAKERY_CACHE_SECRET": "none",
    "EMBAKERY_DESTINATIONS": '{"default": "s3://none/none/"}',
    "EMBAKERY_STATE_TABLE": "none",
}


def main() -> None:
    """Start the functions and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    os.environ.update(PRETENDED)
    sys.path.insert(0, os.getcwd())
    from handlers import bundle

    for handler in ("handlers.api", "handlers.queue"):
        importlib.import_module(handler).prepare()
    for name in ("handlers.start", "awslambdaric.__main__"):
        importlib.import_module(name)
    # Some are loaded by Python itself, or before there is a bundle: they are never asked for, and do no harm.
    names = sorted(sys.modules)
    bundle.write(str(arguments.out), names)
    print(f"{len(names)} modules, {arguments.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
