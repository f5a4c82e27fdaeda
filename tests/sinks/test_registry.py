"""The registry client against a small real HTTP server that speaks the documented endpoints."""

import json
from collections.abc import Iterator

import pytest

from schemas.avro_codec import decode_event_avro, encode_event_avro, schema_text
from schemas.errors import DecodeError, OperatorError, RegistryUnreachable
from schemas.events import Event
from sinks.registry import SUBJECTS, Registry
from tests.sinks.registry_http import FakeRegistry, registry_server

EVENT = Event("order.created", 1_795_255_200_123, "e-1", "m-1", {"total": 10})


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with registry_server() as running:
        yield running


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
