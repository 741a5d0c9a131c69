"""Serves fakeredis over TCP where no redis-server is installed: `python -m local.fake_redis PORT`."""

from __future__ import annotations

import sys


def main(port: int) -> None:
    """Serve until killed."""
    from fakeredis import TcpFakeServer

    TcpFakeServer(("127.0.0.1", port), server_type="redis").serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
