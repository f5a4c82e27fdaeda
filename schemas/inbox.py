"""The inbox of a member: messages and marks, folded in the order of the log; bounded in number and in time."""

from typing import Any

import msgspec

from schemas.references import Reference

FORMAT = 1
MOST = 100  # of one member; beyond it the oldest go
READ, CLICKED, SHOWN = "read", "clicked", "shown"
MARKS = (SHOWN, READ, CLICKED)


class InboxItem(msgspec.Struct, frozen=True, array_like=True, tag="item"):
    """One message, a record of the topic. Fields are only added at the end."""

    format: int
    message: Reference
    provider: str
    at_ms: int
    until_ms: int  # not shown any more after it
    title: str
    text: str
    link: str = ""
    button: str = ""
    image: str = ""


class InboxMark(msgspec.Struct, frozen=True, array_like=True, tag="mark"):
    """What a member did with a message, a record of the topic: one of `MARKS`. Fields are only added at the end."""

    format: int
    command_id: str
    mark: str
    at_ms: int


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """One message as it stands: when each mark was set first, 0: not yet."""

    item: InboxItem
    shown_ms: int = 0
    read_ms: int = 0
    clicked_ms: int = 0

    def page(self) -> dict[str, Any]:
        """Say it to the shop's site."""
        item = self.item
        return {
            "id": item.message.command_id, "campaign": item.message.campaign, "at": item.at_ms, "until": item.until_ms,
            "title": item.title, "text": item.text, "link": item.link, "button": item.button, "image": item.image,
            "read": bool(self.read_ms),
        }  # fmt: skip


_encode = msgspec.msgpack.Encoder().encode
_record = msgspec.msgpack.Decoder(InboxItem | InboxMark).decode
_kept = msgspec.msgpack.Decoder(tuple[Kept, ...]).decode


def encode_inbox_record(record: InboxItem | InboxMark) -> bytes:
    """Spell a record of the topic."""
    return _encode(record)


def read_inbox(value: bytes | None, now_ms: int) -> tuple[Kept, ...]:
    """Return what a member may see, the newest first."""
    return tuple(one for one in reversed(_kept(value)) if one.item.until_ms > now_ms) if value else ()


def fold_inbox(before: bytes | None, value: bytes, at_ms: int) -> bytes | None:
    """Take one record in; a record that cannot be read changes nothing, an empty one drops what is over."""
    kept = _kept(before) if before else ()
    record = _read(value)
    if isinstance(record, InboxItem):
        if all(one.item.message.command_id != record.message.command_id for one in kept):
            kept = (*kept, Kept(record))[-MOST:]
    elif record is not None:
        kept = tuple(_marked(one, record) for one in kept)
    kept = tuple(one for one in kept if one.item.until_ms > at_ms)
    return _encode(kept) if kept else None


def _read(value: bytes) -> InboxItem | InboxMark | None:
    try:
        return _record(value) if value else None
    except msgspec.MsgspecError:
        return None


def _marked(one: Kept, mark: InboxMark) -> Kept:
    if one.item.message.command_id != mark.command_id:
        return one
    name = f"{mark.mark}_ms"
    if mark.mark not in MARKS or getattr(one, name):
        return one
    return msgspec.structs.replace(one, **{name: mark.at_ms})
