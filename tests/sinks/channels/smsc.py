"""A small SMSC that speaks real PDUs by the library's own codec, says what a test wants, and can break off."""

import asyncio
import contextlib
import itertools
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import smpp34

HEADER = struct.Struct(">4I")
RESPONSE, BIND, SUBMIT, DELIVER, UNBIND, ENQUIRE = 0x80000000, 0x09, 0x04, 0x05, 0x06, 0x15
DELIVERED = 2

Answer = Callable[[smpp34.SubmitSm], tuple[int, str] | None]


@dataclass(eq=False)
class Esme:
    """One session of a client."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    bound: bool = False
    sequence: int = 0
    waiting: dict[int, asyncio.Future[int]] = field(default_factory=dict)

    def write(self, command: int, status: int, sequence: int, body: bytes = b"") -> None:
        self.writer.write(HEADER.pack(16 + len(body), command, status, sequence) + body)


class Smsc:
    """`answer`: status and message id of a submit; None: no answer at all."""

    def __init__(self, password: str = "smpp-secret", context: ssl.SSLContext | None = None) -> None:
        self.answer: Answer = lambda pdu: (0, f"ID{next(self.numbers)}")
        self.numbers = itertools.count(1)
        self.taken: list[smpp34.SubmitSm] = []
        self.binds: list[tuple[str, str, str, int]] = []
        self.sessions: list[Esme] = []
        self.enquired = 0
        self.left = 0
        self.mute = False
        self.turns_away = False
        self.host = "localhost" if context else "127.0.0.1"
        self._password = password
        self._context = context
        self._port = 0

    @property
    def url(self) -> str:
        return f"smpp{'s' if self._context else ''}://{self.host}:{self._port}"

    async def start(self) -> "Smsc":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, ssl=self._context)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        self._server.close()
        self.drop()
        await self._server.wait_closed()

    def drop(self) -> None:
        """Break off all sessions."""
        for one in self.sessions:
            one.writer.close()
        self.sessions.clear()

    async def deliver(self, text: str = "", state: int | None = None, ident: str = "", esm_class: int = 4) -> int:
        """Tell a receipt over the first session; returns the status of the answer."""
        tlvs = [smpp34.Tlv(0x1E, ident.encode() + b"\0")] if ident else []
        tlvs += [smpp34.Tlv(0x427, bytes([state]))] if state is not None else []
        pdu = smpp34.DeliverSm("4915112345678", "Shop", text.encode(), esm_class=esm_class, tlvs=tlvs)
        return await self.push(pdu.encode()[16:])

    async def push(self, body: bytes, command: int = DELIVER) -> int:
        one = self.sessions[0]
        one.sequence += 1
        answer = one.waiting[one.sequence] = asyncio.get_running_loop().create_future()
        one.write(command, 0, one.sequence, body)
        return await asyncio.wait_for(answer, 30)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        one = Esme(reader, writer)
        self.sessions.append(one)
        with contextlib.suppress(OSError, EOFError):
            while True:
                head = await reader.readexactly(16)
                length, command, status, sequence = HEADER.unpack(head)
                body = await reader.readexactly(length - 16)
                if not self.mute and not self._take(one, head, command, status, sequence, body):
                    break
        if one in self.sessions:
            self.sessions.remove(one)
        writer.close()

    def _take(self, one: Esme, head: bytes, command: int, status: int, sequence: int, body: bytes) -> bool:
        if command == BIND:
            system_id, password, system_type, rest = body.split(b"\0", 3)
            self.binds.append((system_id.decode(), password.decode(), system_type.decode(), rest[0]))
            one.bound = password.decode() == self._password
            one.write(BIND | RESPONSE, 0 if one.bound else 0x0E, sequence, b"SMSC\0")
            return not self.turns_away
        if command & RESPONSE:
            one.waiting.pop(sequence).set_result(status)
        elif command == SUBMIT and one.bound:
            pdu = smpp34.decode(head + body)
            assert isinstance(pdu, smpp34.SubmitSm)
            said = self.answer(pdu)
            if said is not None:
                if said[0] == 0:
                    self.taken.append(pdu)
                one.write(SUBMIT | RESPONSE, said[0], sequence, said[1].encode() + b"\0" if said[0] == 0 else b"")
        elif command in (ENQUIRE, UNBIND):
            self.enquired += command == ENQUIRE
            self.left += command == UNBIND
            one.write(command | RESPONSE, 0, sequence)
            return command == ENQUIRE
        return True


def receipt_text(ident: str, stat: str, err: str = "000") -> str:
    """Spell a receipt as SMPP 3.4 appendix B does."""
    return (
        f"id:{ident} sub:001 dlvrd:001 submit date:2311142213 done date:2311142214 stat:{stat} err:{err} text:Your cart"
    )
