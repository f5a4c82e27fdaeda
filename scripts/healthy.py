"""Health check of a container: `python scripts/healthy.py web|broker`; exit code 0 is healthy.

`web`: the worker's own /health answers. `broker`: this container holds a connection to a broker of TIDINGS_BROKER, for
roles that serve no web. Reads the kernel's table of connections: no load on the broker, no second client.
"""

import os
import sys
import urllib.request
from pathlib import Path

ESTABLISHED = "01"  # the kernel's tcp_states.h
TIMEOUT_S = 4


def web() -> bool:
    """Ask /health, as the operator would."""
    host, port = os.environ.get("TIDINGS_WEB_HOST", "127.0.0.1"), os.environ.get("TIDINGS_WEB_PORT", "6066")
    request = urllib.request.Request(  # noqa: S310 - our own address, scheme fixed
        f"http://{host}:{port}/health", headers={"Authorization": f"Bearer {os.environ.get('TIDINGS_WEB_TOKEN', '')}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False


def connected(brokers: str, tables: list[str]) -> bool:
    """Tell whether one of the kernel's tables `/proc/net/tcp*` holds a connection to a port of `brokers`."""
    ports = {f"{int(address.rpartition(':')[2]):04X}" for address in brokers.split(",")}
    for table in tables:
        for line in table.splitlines()[1:]:
            remote, state = line.split()[2:4]
            if state == ESTABLISHED and remote.rpartition(":")[2] in ports:
                return True
    return False


def broker() -> bool:
    """Look for a connection to the broker."""
    tables = [
        path.read_text(encoding="ascii") for path in map(Path, ("/proc/net/tcp", "/proc/net/tcp6")) if path.exists()
    ]
    return connected(os.environ.get("TIDINGS_BROKER", ""), tables)


if __name__ == "__main__":
    sys.exit(0 if {"web": web, "broker": broker}[sys.argv[1]]() else 1)
