"""HTTP to one provider: bounded, paced, with a circuit. HTTP/1.1 by aiohttp, HTTP/2 by httpx2."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol

import aiohttp
import httpx2

from sinks.channels.base import REPLY_BYTES_MAX, HttpReply, HttpRequest
from sinks.channels.bounded import Bounded
from sinks.outcome import Outcome

CONNECT_S = 5.0
_LOST = (aiohttp.ClientError, httpx2.HTTPError, TimeoutError, OSError)

Authorize = Callable[[HttpRequest], Awaitable[Mapping[str, str]]]


class NotBegun(Exception):
    """The request has certainly not left: the name is unknown, nobody listens, TLS failed."""


class AuthorizationFailed(Exception):
    """What authorizes our calls cannot be had now: a token endpoint refuses us or is away."""


class HttpClient(Protocol):
    """Connections to one provider."""

    async def exchange(self, request: HttpRequest, extra: Mapping[str, str]) -> HttpReply:
        """Send a request with more headers and read the answer; raises `NotBegun`, or what `_LOST` names."""

    async def close(self) -> None:
        """Close all connections."""


class Http1Client:
    """HTTP/1.1 with kept connections."""

    def __init__(self, connections: int, timeout_s: float) -> None:
        self._connections = connections
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def exchange(self, request: HttpRequest, extra: Mapping[str, str]) -> HttpReply:
        """See `HttpClient`."""
        headers = {**request.headers, **extra}
        try:
            async with self._open().request(
                request.method, request.url, data=request.body, headers=headers, allow_redirects=False
            ) as answer:
                body = b""
                while len(body) < REPLY_BYTES_MAX and (more := await answer.content.read(REPLY_BYTES_MAX - len(body))):
                    body += more
                return HttpReply(answer.status, {name.lower(): value for name, value in answer.headers.items()}, body)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotBegun(type(error).__name__) from None

    async def close(self) -> None:
        """See `HttpClient`."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:  # here, not above: it wants a running loop
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=CONNECT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "tidings"},
            )
        return self._session


class Http2Client:
    """HTTP/2 alone: all calls share a connection. `ca`: PEM of the server's authority; empty: the system's."""

    def __init__(self, connections: int, timeout_s: float, ca: str = "") -> None:
        self._client = httpx2.AsyncClient(
            http1=False,
            http2=True,
            verify=ssl.create_default_context(cadata=ca) if ca else True,
            timeout=httpx2.Timeout(timeout_s, connect=CONNECT_S),
            limits=httpx2.Limits(max_connections=connections),
            trust_env=False,
            headers={"user-agent": "tidings"},
        )

    async def exchange(self, request: HttpRequest, extra: Mapping[str, str]) -> HttpReply:
        """See `HttpClient`."""
        headers = {**request.headers, **extra}
        try:
            answer = await self._client.request(request.method, request.url, content=request.body, headers=headers)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise NotBegun(type(error).__name__) from None
        found = {name.lower(): value for name, value in answer.headers.items()}
        return HttpReply(answer.status_code, found, answer.content[:REPLY_BYTES_MAX])

    async def close(self) -> None:
        """See `HttpClient`."""
        await self._client.aclose()


class HttpTransport(Bounded):
    """Carries requests to one provider.

    Args:
        name: of the provider, for logs.
        read: reads an answer; the adapter's `outcome`.
        client: the connections; closed with the transport.
        connections: calls at a time.
        per_second: calls a second at most; 0: no bound.
        authorize: gives the headers that change with time; awaited for each call, so it should remember.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[HttpReply], Outcome],
        client: HttpClient,
        *,
        connections: int = 8,
        per_second: float = 0.0,
        authorize: Authorize | None = None,
    ) -> None:
        super().__init__(name, connections, per_second)
        self._read = read
        self._client = client
        self._authorize = authorize

    @contextlib.asynccontextmanager
    async def link(self) -> AsyncIterator["HttpLink"]:
        """See `Transport`."""
        async with self.place():
            yield HttpLink(self)

    async def close(self) -> None:
        """See `Transport`."""
        await self._client.close()

    async def call(self, request: HttpRequest) -> Outcome:
        """Make one call.

        Raises:
            ProviderDown: the request has certainly not left.
        """
        self.circuit.begin()
        try:
            extra = await self._authorize(request) if self._authorize is not None else {}
        except (AuthorizationFailed, NotBegun, *_LOST) as error:
            raise self.down(str(error) if isinstance(error, AuthorizationFailed) else "no_authorization") from None
        try:
            reply = await self._client.exchange(request, extra)
        except NotBegun as error:
            raise self.down(str(error)) from None
        except _LOST as error:
            self.bad(type(error).__name__)
            return Outcome("unknown", 0, "reply_lost", healthy=False)
        except BaseException:
            self.circuit.gone()
            raise
        return self.judge(self._read(reply))


class HttpLink:
    """One call's place."""

    def __init__(self, transport: HttpTransport) -> None:
        self._transport = transport

    async def send(self, request: HttpRequest) -> Outcome:
        """See `Link`."""
        return await self._transport.call(request)

    def drop(self) -> None:
        """See `Link`: cancelling the call closes its connection."""
