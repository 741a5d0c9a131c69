"""A ministack of a test module's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local.resources import AwsClients
from local.servers import start_ministack


@contextmanager
def emulated_aws(folder: Path) -> Iterator[AwsClients]:
    """Run the emulator on a free port, its files in a folder, and give its clients."""
    server = start_ministack(folder)
    clients = AwsClients.connect(f"http://{server.address}")
    yield clients
    clients.close()
    server.stop()
