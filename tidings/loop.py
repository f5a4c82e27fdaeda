"""Which event loop a process runs on."""

import asyncio
from collections.abc import Callable


def quick_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes uvloop's loop; None where it is not installed.

    It needs a sixth less CPU for a mail, and somewhat less for a small epoch (docs/performance.md). None is what
    `asyncio.Runner` takes for the standard loop.
    """
    try:
        import uvloop
    except ImportError:  # Windows has none
        return None
    return uvloop.new_event_loop
