"""One bound SMPP session: requests and answers by sequence number, `enquire_link`, receipts handed up.

The library `smpp34` spells the PDUs; it has a client too, which answers a receipt before we have it on the log, takes
no authority of our own for TLS, and is therefore not used.
"""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import smpp34
import structlog

from schemas.errors import OperatorError
from sinks.channels.smpp import SmppSettings

HEADER = struct.Struct(">4I")  # length, command, status, sequence
PDU_BYTES_MAX = 65_536
RESPONSE = 0x80000000
NACK, TRANSCEIVER, SUBMIT, DELIVER, UNBIND, ENQUIRE, ALERT = RESPONSE, 0x09, 0x04, 0x05, 0x06, 0x15, 0x102
OK, UNKNOWN_COMMAND, TRY_AGAIN, NEVER = 0x00, 0x03, 0x64, 0x65
VERSIONS = {"3.4": 0x34, "5.0": 0x50}
PORTS = {"smpp": 2775, "smpps": 3550}
RECEIPTS_MAX = 1_000  # at work at a time; beyond it the provider is asked to come again
UNBIND_S = 1.0

log = structlog.get_logger("sinks.channels")

OnReceipt = Callable[[smpp34.DeliverSm], Awaitable[bool]]


class SessionLost(Exception):
    """The session ended; what had been written has no answer."""


@dataclass(frozen=True, slots=True)
class SmscAddress:
    """Where a provider listens."""

    host: str
    port: int
    tls: bool

    @classmethod
    def parse(cls, url: str) -> "SmscAddress":
        """Read `smpp://host:port` or `smpps://host:port`.

        Raises:
            OperatorError: it is none.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in PORTS or not parts.hostname or parts.path.strip("/") or parts.username:
            raise OperatorError(f"url: must be smpp://host:port or smpps://host:port (got '{url[:80]}'); write such")
        return cls(parts.hostname, port or PORTS[parts.scheme], parts.scheme == "smpps")


class BindRefused(Exception):
    """The provider does not let us in; `status`: its command_status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"bind_refused_0x{status:02x}")
        self.status = status


class Session:
    """A bound session. `ended` is set once it is over, for whatever reason.

    Args:
        on_receipt: takes a `deliver_sm`; True: it is safe with us, False: come again.
        timeout_s: for each answer.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_receipt: OnReceipt, timeout_s: float
    ) -> None:
        self.ended = asyncio.Event()
        self.heard_at = asyncio.get_running_loop().time()
        self._reader = reader
        self._writer = writer
        self._on_receipt = on_receipt
        self._timeout_s = timeout_s
        self._sequence = 0
        self._waiting: dict[int, asyncio.Future[tuple[int, bytes]]] = {}
        self._receipts: set[asyncio.Task[None]] = set()
        self._reading = asyncio.create_task(self._read_forever())

    @classmethod
    async def bind(cls, settings: SmppSettings, on_receipt: OnReceipt, timeout_s: float) -> "Session":
        """Connect and bind as a transceiver.

        Raises:
            BindRefused: the provider says no.
            OSError, TimeoutError, SessionLost: no connection, or no answer.
        """
        address = SmscAddress.parse(settings.url)
        context = ssl.create_default_context(cadata=settings.ca or None) if address.tls else None
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
        session = cls(reader, writer, on_receipt, timeout_s)
        texts = (settings.system_id, settings.password, settings.system_type)
        body = b"".join(text.encode("latin-1", "replace") + b"\0" for text in texts)
        try:
            status, _ = await session.request(TRANSCEIVER, body + bytes([VERSIONS[settings.version], 0, 0, 0]))
            if status != OK:
                raise BindRefused(status)
        except BaseException:
            session.drop()
            raise
        return session

    async def request(self, command: int, body: bytes = b"") -> tuple[int, bytes]:
        """Send one request and wait for status and body of its answer.

        Raises:
            SessionLost: the session ended meanwhile.
            TimeoutError: no answer.
        """
        if self.ended.is_set():
            raise SessionLost
        self._sequence = self._sequence % 0x7FFFFFFF + 1
        sequence = self._sequence
        answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._waiting[sequence] = answer
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._write(command, OK, sequence, body)
                return await answer
        except TimeoutError:  # an OSError too, but the session may be well
            raise
        except OSError:
            self.drop()
            raise SessionLost from None
        finally:
            self._waiting.pop(sequence, None)

    async def submit(self, pdu: bytes) -> tuple[int, str]:
        """Hand over one `submit_sm`; returns status and message id. Raises as `request`."""
        status, body = await self.request(SUBMIT, pdu[HEADER.size :])
        return status, body.split(b"\0", 1)[0].decode("latin-1")

    async def unbind(self) -> None:
        """Take leave, after the receipts at work."""
        if self._receipts:
            await asyncio.wait(self._receipts, timeout=UNBIND_S)
        with contextlib.suppress(SessionLost, TimeoutError):
            async with asyncio.timeout(UNBIND_S):
                await self.request(UNBIND)
        self.drop()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(UNBIND_S):
                await self._writer.wait_closed()
        await asyncio.gather(self._reading, *self._receipts, return_exceptions=True)

    def drop(self) -> None:
        """End the session without a word."""
        self.ended.set()
        self._reading.cancel()
        for task in self._receipts:
            task.cancel()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(SessionLost())
        self._writer.close()

    async def _write(self, command: int, status: int, sequence: int, body: bytes = b"") -> None:
        self._writer.write(HEADER.pack(HEADER.size + len(body), command, status, sequence) + body)
        await self._writer.drain()

    async def _read_forever(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(HEADER.size)
                length, command, status, sequence = HEADER.unpack(head)
                if not HEADER.size <= length <= PDU_BYTES_MAX:
                    log.warning("smpp.no-pdu", length=length)
                    return
                body = await self._reader.readexactly(length - HEADER.size)
                self.heard_at = asyncio.get_running_loop().time()
                await self._take(command, status, sequence, body)
                if command == UNBIND:
                    return
        except (OSError, EOFError):
            pass
        finally:
            self.drop()

    async def _take(self, command: int, status: int, sequence: int, body: bytes) -> None:
        if command & RESPONSE:
            answer = self._waiting.get(sequence)
            if answer is not None and not answer.done():
                answer.set_result((status or UNKNOWN_COMMAND if command == NACK else status, body))
        elif command in (ENQUIRE, UNBIND):
            await self._write(command | RESPONSE, OK, sequence)
        elif command == DELIVER:
            if len(self._receipts) >= RECEIPTS_MAX:
                await self._write(DELIVER | RESPONSE, TRY_AGAIN, sequence, b"\0")
                return
            task = asyncio.create_task(self._deliver(sequence, body))
            self._receipts.add(task)
            task.add_done_callback(self._receipts.discard)
        elif command != ALERT:
            await self._write(NACK, UNKNOWN_COMMAND, sequence)

    async def _deliver(self, sequence: int, body: bytes) -> None:
        try:
            pdu = smpp34.decode(HEADER.pack(HEADER.size + len(body), DELIVER, OK, sequence) + body)
        except smpp34.SmppError:
            pdu = None
        if isinstance(pdu, smpp34.DeliverSm):
            try:
                status = OK if await self._on_receipt(pdu) else TRY_AGAIN
            except Exception as error:  # whatever it is: without an answer it would stay in the provider's window
                log.error("smpp.receipt-failed", error=type(error).__name__)
                status = TRY_AGAIN
        else:
            log.warning("smpp.receipt-unreadable", size=len(body))
            status = NEVER
        with contextlib.suppress(OSError):
            await self._write(DELIVER | RESPONSE, status, sequence, b"\0")
