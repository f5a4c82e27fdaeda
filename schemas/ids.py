"""Ids that are pure functions of what they name, so that a repeat after a crash carries the same id.

Every part is length-prefixed before hashing: ("ab", "c") and ("a", "bc") differ. BLAKE2b with 128 bits (RFC 7693).
"""

from hashlib import blake2b as _blake2b

import msgspec

_canonical = msgspec.json.Encoder(order="deterministic").encode


def h128(*parts: str) -> str:
    """Hash text parts, in order, to 32 hex digits."""
    spelled = "".join([f"{len(part)}:{part}" for part in parts])
    if spelled.isascii():  # then characters are bytes, and the lengths are right
        return _blake2b(spelled.encode(), digest_size=16).hexdigest()
    raw = [part.encode("utf-8", "surrogatepass") for part in parts]
    return _blake2b(b"".join([b"%d:%b" % (len(part), part) for part in raw]), digest_size=16).hexdigest()


def correlation_text(correlation: object) -> str:
    """Spell a correlation value so that JSON type and value both count: 1, "1" and true are three values, 1.0 is 1."""
    if correlation is None:
        return "null"
    if type(correlation) is str and correlation.isalnum() and correlation.isascii():
        return f'"{correlation}"'
    return _canonical(_plain_number(correlation)).decode()


def _plain_number(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple):
        return [_plain_number(item) for item in value]
    return value


def instance_id(campaign: str, member_id: str, correlation: object, anchor_event_id: str) -> str:
    """Name one journey instance. The campaign's version is not part of it: an edit cannot send again."""
    return h128(campaign, member_id, correlation_text(correlation), anchor_event_id)


def command_id(instance: str, step: str, variant: str = "") -> str:
    """Name one command of an instance: its step in the flow and the variant chosen."""
    return h128(instance, step, variant)


def attribution_id(conversion_event_id: str, touch_command_id: str, model: str) -> str:
    """Name one credit given by an attribution model to a touch for a conversion."""
    return h128(conversion_event_id, touch_command_id, model)


def decision_id(instance: str, outcome: str, reason: str, at: str) -> str:
    """Name one decision; `at` is the place in the log (`partition/offset`) at which it was taken."""
    return h128(instance, outcome, reason, at)


def event_id_at(topic: str, partition: int, offset: int) -> str:
    """Name an event whose producer gave it no id by its place in the log."""
    return f"{topic}/{partition}/{offset}"
