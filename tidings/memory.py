"""Memory that was freed goes back to the system.

glibc keeps what a burst has freed, for the next one: after a backlog a worker that used 90 MiB of its heap held 350.
"""

import asyncio
import ctypes
from collections.abc import Callable

EVERY_S = 20.0


def _find_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library than glibc: it has ways of its own
        return None
    return found


_trim = _find_trim()


def give_back() -> None:
    """Hand free pages of the heap back. Takes milliseconds, without the interpreter's lock."""
    if _trim is not None:
        _trim(0)


async def give_back_forever() -> None:
    """Do so every now and then, in a thread."""
    while _trim is not None:
        await asyncio.sleep(EVERY_S)
        await asyncio.to_thread(give_back)
