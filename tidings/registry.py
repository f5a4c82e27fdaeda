"""How this deployment's events are read: JSON, or with a schema registry also Avro."""

from collections.abc import Callable

from schemas.avro_codec import event_decoder
from schemas.events import Event
from tidings.config import Settings

Decode = Callable[[bytes | None], Event]


def decoder_of(settings: Settings) -> Decode:
    """Return what reads a record of `events`; nothing is contacted yet.

    With TIDINGS_SCHEMA_REGISTRY each record is read by its first byte, so JSON and Avro may stand side by side. What is
    returned raises `schemas.errors.RegistryUnreachable` while the registry gives no answer: that is no fault of the
    record, so the caller waits, or ends and is started again, and reads it once more.

    Raises:
        OperatorError: the registry's URL is none.
    """
    if not settings.schema_registry:
        return event_decoder(None)
    from sinks.registry import Registry  # its client takes 0.5 s to import; most deployments have no registry

    return event_decoder(Registry(settings.schema_registry).resolve)
