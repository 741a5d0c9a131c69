"""Lets containers reach what listens on this machine's loopback, without any of it listening to the outside.

On Linux a container's way out is the engine's bridge, an interface of this machine alone: a relay listens there. Docker
Desktop has a name for the host's loopback, and needs none.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import subprocess
import sys
import threading
from collections.abc import Iterator

DESKTOP_HOST = "host.docker.internal"
_CHUNK = 65536


def bridge_address() -> str:
    """Return this machine's address on the engine's default bridge: the gateway, or the network's first address."""
    template = "{{json (index .IPAM.Config 0)}}"
    done = subprocess.run(
        ["docker", "network", "inspect", "bridge", "--format", template], check=True, capture_output=True, text=True
    )
    config = json.loads(done.stdout)
    return config.get("Gateway") or str(next(ipaddress.ip_network(config["Subnet"]).hosts()))


@contextlib.contextmanager
def reachable(ports: list[int]) -> Iterator[str]:
    """Yield the host under which containers reach these loopback ports, by the same numbers."""
    if sys.platform != "linux":
        yield DESKTOP_HOST
        return
    host = bridge_address()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="relay", daemon=True)
    thread.start()
    try:
        for port in ports:
            asyncio.run_coroutine_threadsafe(_listen(host, port), loop).result()
        yield host
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _listen(host: str, port: int) -> None:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer))

    await asyncio.start_server(relay, host, port)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
    with contextlib.suppress(ConnectionError):
        writer.close()
