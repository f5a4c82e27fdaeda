"""The registry client against a small real HTTP server that speaks the documented endpoints."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from schemas.avro_codec import decode_event_avro, encode_event_avro, schema_text
from schemas.errors import DecodeError, OperatorError, RegistryUnreachable
from schemas.events import Event
from sinks.registry import SUBJECTS, Registry

EVENT = Event("order.created", 1_795_255_200_123, "e-1", "m-1", {"total": 10})


class FakeRegistry(ThreadingHTTPServer):
    """Schemas by id, ids by subject; `failing` makes every answer that status; `asked` counts requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.schemas: list[dict[str, Any]] = []
        self.failing = 0
        self.asked = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeRegistry

    def do_GET(self) -> None:
        number = int(self.path.split("?")[0].removeprefix("/schemas/ids/"))
        if number > len(self.server.schemas):
            self._answer(404, {"error_code": 40403, "message": "Schema not found"})
        else:
            self._answer(200, self.server.schemas[number - 1])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "/versions" not in self.path:
            self._answer(404, {"error_code": 40403, "message": "Schema not found"})
            return
        if body not in self.server.schemas:
            self.server.schemas.append(body)
        self._answer(200, {"id": self.server.schemas.index(body) + 1})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self.server.asked += 1
        if self.server.failing:
            status, body = self.server.failing, {"error_code": self.server.failing * 100 + 1, "message": "no"}
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    running = FakeRegistry()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def client(server: FakeRegistry) -> Registry:
    return Registry(server.url, timeout_s=2, max_retries=0)


def test_what_one_process_registers_another_reads(server: FakeRegistry) -> None:
    value = encode_event_avro(EVENT, client(server).register("event"))
    assert decode_event_avro(value, client(server).resolve) == EVENT


def test_an_id_is_asked_for_once(server: FakeRegistry) -> None:
    registry = client(server)
    value = encode_event_avro(EVENT, registry.register("event"))
    asked = server.asked
    reader = client(server)
    for _ in range(3):
        registry.register("event")
        decode_event_avro(value, reader.resolve)
    assert server.asked == asked + 1


@pytest.mark.parametrize("name", sorted(SUBJECTS))
def test_every_contract_can_be_registered(server: FakeRegistry, name: str) -> None:
    assert client(server).register(name) == 1
    assert json.loads(server.schemas[0]["schema"]) == json.loads(schema_text(name))


def test_an_id_the_registry_does_not_have_is_a_dead_letter(server: FakeRegistry) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_event_avro(encode_event_avro(EVENT, 99), client(server).resolve)
    assert caught.value.reason == "unknown-schema"


def test_a_schema_of_another_kind_is_a_dead_letter(server: FakeRegistry) -> None:
    server.schemas.append({"schema": '{"type":"object"}', "schemaType": "JSON"})
    with pytest.raises(DecodeError) as caught:
        client(server).resolve(1)
    assert caught.value.reason == "unknown-schema"


def test_a_registry_in_trouble_is_no_dead_letter_and_is_asked_again(server: FakeRegistry) -> None:
    registry = client(server)
    value = encode_event_avro(EVENT, registry.register("event"))
    reader = client(server)
    server.failing = 503
    with pytest.raises(RegistryUnreachable, match="HTTP 503"):
        decode_event_avro(value, reader.resolve)
    server.failing = 0
    assert decode_event_avro(value, reader.resolve) == EVENT


def test_a_registry_that_does_not_run_says_what_to_do() -> None:
    with pytest.raises(RegistryUnreachable, match="start it, or unset TIDINGS_SCHEMA_REGISTRY"):
        Registry("http://127.0.0.1:9", timeout_s=1, max_retries=0).resolve(1)


def test_an_incompatible_contract_is_the_operators_to_settle(server: FakeRegistry) -> None:
    server.failing = 409
    with pytest.raises(OperatorError, match="events-value"):
        client(server).register("event")


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(OperatorError, match="TIDINGS_SCHEMA_REGISTRY"):
        Registry("registry:8081")
