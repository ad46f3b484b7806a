"""Ports for tests: free, and given to nobody else, since all that ask the system for any port get one from 32768 on."""

from __future__ import annotations

import os
import socket
from itertools import count

_numbers = count(20_000 + 1_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw9").removeprefix("gw")))


def free_port() -> int:
    """A port of this machine at which nobody listens, each time another one; each worker has a thousand."""
    for port in _numbers:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
