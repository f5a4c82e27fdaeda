"""A server of APNs' documented kind: HTTP/2, a JWT of the team, JSON reasons. Plain TCP, prior knowledge."""

import asyncio
import json
import re
import time
from typing import Any

import h2.config
import h2.connection
import h2.events
from joserfc import jwt
from joserfc.jwk import ECKey

from tests.sinks.channels.vendors import EC_PEM

NEEDED = {"apns-topic", "apns-push-type", "apns-id", "apns-expiration", "apns-priority", "authorization"}


class ApnsServer:
    """`taken`: (device, headers, payload). `connections`: how many were opened."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, dict[str, str], Any]] = []
        self.tokens: set[str] = set()
        self.connections = 0
        self.fault: tuple[int, str] | None = None

    async def start(self) -> "ApnsServer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def stop(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.initiate_connection()
        heads: dict[int, dict[str, str]] = {}
        bodies: dict[int, bytes] = {}
        try:
            writer.write(connection.data_to_send())
            while raw := await reader.read(65_536):
                for event in connection.receive_data(raw):
                    if isinstance(event, h2.events.RequestReceived):
                        heads[event.stream_id] = dict(event.headers)  # type: ignore[arg-type]
                        bodies[event.stream_id] = b""
                    elif isinstance(event, h2.events.DataReceived):
                        bodies[event.stream_id] += event.data
                        connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, h2.events.StreamEnded):
                        status, more, body = self._answer(heads[event.stream_id], bodies[event.stream_id])
                        connection.send_headers(event.stream_id, [(":status", str(status)), *more.items()])
                        connection.send_data(event.stream_id, body, end_stream=True)
                writer.write(connection.data_to_send())
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    def _answer(self, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self.fault is not None:
            return self.fault[0], {}, json.dumps({"reason": self.fault[1]}).encode()
        match = re.fullmatch(r"/3/device/([0-9a-fA-F]{64,})", headers[":path"])
        if headers[":method"] != "POST" or match is None:
            return 404, {}, b'{"reason": "BadPath"}'
        missing = NEEDED - set(headers)
        if missing:
            return 400, {}, json.dumps({"reason": f"Missing {missing}"}).encode()
        token = jwt.decode(headers["authorization"].removeprefix("bearer "), ECKey.import_key(EC_PEM))
        if token.header.get("kid") != "K1" or token.claims["iss"] != "T1" or token.claims["iat"] > time.time() + 60:
            return 403, {}, b'{"reason": "InvalidProviderToken"}'
        if headers["apns-topic"] != "com.example.shop":
            return 400, {}, b'{"reason": "BadTopic"}'
        if match[1].startswith("dead"):
            return 410, {}, b'{"reason": "Unregistered", "timestamp": 1}'
        self.tokens.add(headers["authorization"])
        self.taken.append((match[1], headers, json.loads(body)))
        return 200, {"apns-id": headers["apns-id"]}, b""
