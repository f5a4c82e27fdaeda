"""Which provider a message goes to: the first of its channel that takes the address and is not down.

Every lane has providers of its own, with connections of their own. A change of the configuration takes effect with the
next attempt of each message; a provider that is no longer named ends what it has under way and is closed.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from agents.send_page import Message
from schemas.commands import SendMessage
from sinks.channels.base import Adapter, Dispatch, Link, Transport
from sinks.channels.config import EMAIL, ProvidersConfig
from sinks.channels.kinds import ProviderSpec, SmtpSettings, open_provider
from sinks.email import EmailTransport, SmtpServer

log = structlog.get_logger("agents.send")

DEFAULT_MAIL = "smtp"  # the provider of e-mail that the settings name
CLOSE_POLL_S = 0.05

Prepare = Callable[[SendMessage, int], Any]
Attach = Callable[[Transport], None]


@dataclass(eq=False, slots=True)
class Provider:
    """One provider in one lane.

    `prepare`: makes the request of a command at a time (ms); raises RenderError, AddressError, ContentError,
    ValueError. `retired`: the configuration no longer names it.
    """

    name: str
    transport: Transport
    accepts: Callable[[str], bool]
    prepare: Prepare
    users: int = 0
    retired: bool = False

    @contextlib.asynccontextmanager
    async def link(self) -> AsyncIterator[Link]:
        """Take a place; raises `ProviderDown` while there is none to be had."""
        self.users += 1
        try:
            async with self.transport.link() as link:
                yield link
        finally:
            self.users -= 1


class Providers:
    """The providers of one lane, by channel.

    Args:
        lane: whose they are.
        message: renders.
        server: takes e-mail where the configuration names no other.
        connections: to that server.
        attach: gives a transport what it needs of ours, once it is in use.
    """

    def __init__(self, lane: str, message: Message, server: SmtpServer, connections: int, attach: Attach) -> None:
        self._lane = lane
        self._message = message
        self._attach = attach
        self._mail = _mail_provider(DEFAULT_MAIL, server, connections, message)
        self._known: dict[str, tuple[ProviderSpec, Provider]] = {}
        self._routes: Mapping[str, tuple[Provider, ...]] = {EMAIL: (self._mail,)}
        self._applied: ProvidersConfig | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def apply(self, config: ProvidersConfig) -> None:
        """Take a configuration, keeping providers that stay as they are.

        Raises:
            OperatorError: a provider cannot be made; nothing has changed.
        """
        if config is self._applied:
            return
        channels = config.channels(self._lane)
        known: dict[str, tuple[ProviderSpec, Provider]] = {}
        for spec in (spec for specs in channels.values() for spec in specs):
            if spec.name not in known:  # one may carry several channels
                before = self._known.get(spec.name)
                known[spec.name] = before if before is not None and before[0] == spec else (spec, self._open(spec))
        routes = {channel: tuple(known[spec.name][1] for spec in specs) for channel, specs in channels.items()}
        fresh = [one for _, one in known.values() if one not in [kept for _, kept in self._known.values()]]
        gone = [one for _, one in self._known.values() if one not in [kept for _, kept in known.values()]]
        self._known, self._routes, self._applied = known, {EMAIL: (self._mail,)} | routes, config
        for provider in fresh:  # only now: a fault above leaves nothing that runs
            self._attach(provider.transport)
        for provider in gone:
            provider.retired = True
            provider.transport.retire()
            self._close_later(provider)

    def has(self, channel: str) -> bool:
        """Tell whether anybody carries a channel."""
        return channel in self._routes

    def pick(self, channel: str, address: str, preferred: str = "") -> Provider | None:
        """Choose who is asked next: the preferred one if it is up, else the first that is, else the first to be back.

        None: nobody takes this address.
        """
        able = [one for one in self._routes.get(channel, ()) if one.accepts(address)]
        ready = [one for one in able if one.transport.wait_s() <= 0]
        for provider in ready:
            if provider.name == preferred:
                return provider
        return ready[0] if ready else min(able, key=lambda one: one.transport.wait_s(), default=None)

    def name_of(self, channel: str, address: str) -> str:
        """Name who would be asked now; empty when nobody takes this address."""
        found = self.pick(channel, address)
        return "" if found is None else found.name

    @property
    def count(self) -> int:
        """How many there are."""
        return max(1, len({one.name for route in self._routes.values() for one in route}))

    def other(self, channel: str, address: str, than: Provider) -> bool:
        """Tell whether another provider could be asked at once."""
        able = (one for one in self._routes.get(channel, ()) if one is not than and one.accepts(address))
        return any(one.transport.wait_s() <= 0 for one in able)

    def up(self) -> dict[str, bool]:
        """Tell of each provider whether it may be asked now."""
        everyone = {one.name: one for route in self._routes.values() for one in route}
        return {name: one.transport.wait_s() <= 0 for name, one in everyone.items()}

    async def close(self) -> None:
        """Close all connections; nothing is under way any more."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        everyone = {id(one): one for route in self._routes.values() for one in (*route, self._mail)}
        for provider in everyone.values():
            await provider.transport.close()

    def _open(self, spec: ProviderSpec) -> Provider:
        if isinstance(spec.settings, SmtpSettings):
            settings = spec.settings
            helo = self._message.sender.domain
            server = SmtpServer.parse(settings.url, settings.username, settings.password, helo=helo)
            return _mail_provider(spec.name, server, spec.bounds.connections, self._message)
        adapter, transport = open_provider(spec)
        return Provider(spec.name, transport, adapter.accepts, _preparing(spec.name, adapter, self._message))

    def _close_later(self, provider: Provider) -> None:
        async def close() -> None:
            while provider.users:
                await asyncio.sleep(CLOSE_POLL_S)
            await provider.transport.close()
            log.info("provider.closed", provider=provider.name, lane=self._lane)

        task = asyncio.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _mail_provider(name: str, server: SmtpServer, connections: int, message: Message) -> Provider:
    # Whatever the address: what is none is told when the mail is built.
    return Provider(name, EmailTransport(server, connections), lambda _: True, message.mail)


def _preparing(name: str, adapter: Adapter, message: Message) -> Prepare:
    def prepare(command: SendMessage, at_ms: int) -> Any:
        content = message.content(command, adapter.needs)
        return adapter.request(Dispatch(command, content, message.callback(command, name), at_ms))

    return prepare
