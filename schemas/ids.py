"""Ids that are pure functions of what they name, so that a repeat after a crash carries the same id.

Every part is length-prefixed before hashing: ("ab", "c") and ("a", "bc") differ. BLAKE2b with 128 bits (RFC 7693).
"""

from hashlib import blake2b as _blake2b
from typing import Final

import msgspec

_canonical: Final = msgspec.json.Encoder(order="deterministic").encode
_EMPTY: Final = _blake2b(digest_size=16)  # copied for each id: cheaper than making one
_LENGTH: Final = tuple(f"{n}:" for n in range(1_024))  # the usual lengths, spelled: a third of an id's cost otherwise


def h128(*parts: str) -> str:
    """Hash text parts, in order, to 32 hex digits."""
    spelled = "".join([f"{len(part)}:{part}" for part in parts])
    if spelled.isascii():  # then characters are bytes, and the lengths are right
        return _hashed(spelled)
    raw = [part.encode("utf-8", "surrogatepass") for part in parts]
    return _blake2b(b"".join([b"%d:%b" % (len(part), part) for part in raw]), digest_size=16).hexdigest()


def _hashed(spelled: str) -> str:
    state = _EMPTY.copy()
    state.update(spelled.encode())
    return state.hexdigest()


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
    key, anchor = correlation_text(correlation), anchor_event_id
    try:  # what h128 does, without its loop: every firing needs two ids
        spelled = (
            f"{_LENGTH[len(campaign)]}{campaign}{_LENGTH[len(member_id)]}{member_id}"
            f"{_LENGTH[len(key)]}{key}{_LENGTH[len(anchor)]}{anchor}"
        )
    except IndexError:
        return h128(campaign, member_id, key, anchor)
    return _hashed(spelled) if spelled.isascii() else h128(campaign, member_id, key, anchor)


def command_id(instance: str, step: str, variant: str = "") -> str:
    """Name one command of an instance: its step in the flow and the variant chosen."""
    try:  # as above
        spelled = f"{_LENGTH[len(instance)]}{instance}{_LENGTH[len(step)]}{step}{_LENGTH[len(variant)]}{variant}"
    except IndexError:
        return h128(instance, step, variant)
    return _hashed(spelled) if spelled.isascii() else h128(instance, step, variant)


def attribution_id(conversion_event_id: str, touch_command_id: str, model: str) -> str:
    """Name one credit given by an attribution model to a touch for a conversion."""
    return h128(conversion_event_id, touch_command_id, model)


def decision_id(instance: str, outcome: str, reason: str, at: str) -> str:
    """Name one decision; `at` is the place in the log (`partition/offset`) at which it was taken."""
    try:  # as above
        spelled = (
            f"{_LENGTH[len(instance)]}{instance}{_LENGTH[len(outcome)]}{outcome}"
            f"{_LENGTH[len(reason)]}{reason}{_LENGTH[len(at)]}{at}"
        )
    except IndexError:
        return h128(instance, outcome, reason, at)
    return _hashed(spelled) if spelled.isascii() else h128(instance, outcome, reason, at)


def event_id_at(topic: str, partition: int, offset: int) -> str:
    """Name an event whose producer gave it no id by its place in the log."""
    return f"{topic}/{partition}/{offset}"
