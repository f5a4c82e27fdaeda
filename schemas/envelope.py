"""The envelope of an event as JSON spells it, for decoders."""

from typing import Annotated, Any

import msgspec

from schemas.reading import MAX_ID

_Id = Annotated[str, msgspec.Meta(max_length=MAX_ID)]
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Time = str | int | float | None


class Wire(msgspec.Struct, gc=False, omit_defaults=True):
    """The envelope as JSON spells it; fields it does not name are ignored (newer producers)."""

    type: _Id
    event_id: _Id | int | None = None
    member_id: _Id | int | None = None
    occurred_at: _Time = None
    data: dict[str, Any] | None = None
    schema_version: _Int64 = 1
    anonymous_id: _Id | int | None = None
    sent_at: _Time = None
    received_at: _Time = None
    source: str | None = None
    source_seq: _Int64 | None = None
    correlation_key: str | int | None = None
    causation_id: str | None = None
    trace_id: str | None = None
    tenant: str | None = None
    context: dict[str, Any] | None = None


class Times(msgspec.Struct, gc=False):
    """When a line of a recorded log says that it was appended."""

    appended_at: str | int | float | None = None
