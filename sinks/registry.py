"""The schema registry: which Avro schema stands behind an id, and which id stands behind our schemas.

Schemas never change under an id, so an id once answered is never asked again. A registry that is out of reach raises
`RegistryUnreachable`: the caller waits and asks again, for a record whose schema we could not fetch is no dead letter.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from schemas.avro_codec import parse_schema, schema_text
from schemas.errors import DecodeError, OperatorError, RegistryUnreachable

__all__ = ["SUBJECTS", "Registry", "RegistryUnreachable"]

AVRO = "AVRO"
NOT_FOUND = 404
TIMEOUT_S = 5.0  # an epoch waits for the answer, once per schema id and process
MAX_RETRIES = 3

# Permanent names. Topics with one kind of record follow the registry's default (<topic>-value); others name the kind.
SUBJECTS: Mapping[str, str] = MappingProxyType(
    {
        "event": "events-value",
        "send_message": "commands-tidings.SendMessage",
        "cancel_message": "commands-tidings.CancelMessage",
        "decision": "decisions-value",
        "attribution": "attributions-value",
        "receipt": "events-tidings.Receipt",
        "accrue_points": "member-commands-tidings.AccruePoints",
        "update_tags": "member-commands-tidings.UpdateTags",
        "update_segments": "member-commands-tidings.UpdateSegments",
    }
)


class Registry:
    """One schema registry, by URL."""

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S, max_retries: int = MAX_RETRIES) -> None:
        """Prepare the client; nothing is contacted yet.

        Raises:
            OperatorError: the URL is none.
        """
        self.url = url
        self._parsed: dict[int, Any] = {}
        self._ids: dict[str, int] = {}
        try:
            self._client = SchemaRegistryClient({"url": url, "timeout": timeout_s, "max.retries": max_retries})
        except (ValueError, TypeError) as error:
            raise OperatorError(f"TIDINGS_SCHEMA_REGISTRY: {error}; set http(s)://host:port") from None

    def resolve(self, schema_id: int) -> Any:
        """Give the parsed schema behind an id, for `schemas.avro_codec`.

        Raises:
            DecodeError: `unknown-schema`: the registry has no such id, or what it has is no Avro schema.
            RegistryUnreachable: no usable answer.
        """
        found = self._parsed.get(schema_id)
        if found is None:
            found = self._parsed[schema_id] = parse_schema(self._fetch(schema_id))
        return found

    def _fetch(self, schema_id: int) -> str:
        try:
            schema = self._client.get_schema(schema_id)
        except SchemaRegistryError as error:
            if error.http_status_code == NOT_FOUND:
                raise DecodeError("unknown-schema", f"event: the registry has no schema {schema_id}") from None
            raise self._unreachable(error) from None
        except Exception as error:  # the HTTP client's errors have no common root that it promises
            raise self._unreachable(error) from None
        if (schema.schema_type or AVRO) != AVRO or not schema.schema_str:
            raise DecodeError("unknown-schema", f"event: schema {schema_id} is no Avro (got {schema.schema_type})")
        return str(schema.schema_str)

    def register(self, name: str) -> int:
        """Register one of our contracts and give its id; asked once per process.

        Args:
            name: as in `SUBJECTS`.

        Raises:
            OperatorError: the registry refuses it, as incompatible with what the subject has.
            RegistryUnreachable: no usable answer.
        """
        if name not in self._ids:
            subject = SUBJECTS[name]
            try:
                self._ids[name] = self._client.register_schema(subject, Schema(schema_text(name), AVRO))
            except SchemaRegistryError as error:
                if 400 <= error.http_status_code < 500:
                    raise OperatorError(
                        f"{self.url}: refused schemas/avro/{name}.avsc for subject {subject} (got "
                        f"{error.http_status_code}); keep the change compatible, or let the registry's owner decide",
                        exit_code=1,
                    ) from None
                raise self._unreachable(error) from None
            except Exception as error:  # as in _fetch
                raise self._unreachable(error) from None
        return self._ids[name]

    def _unreachable(self, error: Exception) -> RegistryUnreachable:
        cause = type(error).__name__
        if isinstance(error, SchemaRegistryError):
            cause = f"HTTP {error.http_status_code}"
        return RegistryUnreachable(
            f"{self.url}: the schema registry gives no answer (got {cause}); start it, or unset TIDINGS_SCHEMA_REGISTRY"
        )
