"""The endpoints of what channels that end with us keep."""

from collections.abc import Sequence

from aiohttp import web

from agents.desks import Desks
from agents.send_one import Metrics
from tidings.web.calls import CallPages
from tidings.web.inbox import InboxPages


def install_desks(app: web.Application, desks: Desks, secrets: Sequence[bytes], metrics: Metrics) -> None:
    """Add them. Call before the application starts. `secrets`: that sign passes, the newest first."""
    InboxPages(desks.inbox, secrets, metrics).install(app)
    CallPages(desks.calls, secrets, metrics).install(app)
