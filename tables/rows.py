"""Member records as msgpack arrays, of format 2 and up: docs and rules in `tables/codec.py`."""

from typing import Any

import msgspec


class Head(msgspec.Struct, array_like=True, gc=False):
    """What a hint is read from."""

    format: int
    fire_at_ms: int | None


class Row(msgspec.Struct, array_like=True):
    """A whole record."""

    format: int
    fire_at_ms: int | None
    applied: int
    base_ms: int
    places: bytes = b""
    recent: bytes = b""
    plans: dict[str, list[Any]] = {}
    history: dict[str, list[Any]] = {}
    profile: dict[str, Any] = {}
    notes: list[Any] = []
    touches: list[Any] = []
    journeys: list[Any] = []
    contacts: list[Any] | None = None
