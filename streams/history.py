"""The history of a member: occurrences that later steps may have to know of although they were read before."""

from typing import Final

import msgspec

from schemas.events import Event
from streams.patterns.expressions import capture
from streams.patterns.match import Moment
from streams.patterns.plan import Series
from streams.policies.contact import TOPICS
from streams.policies.receipts import COMPLAINED, RECEIPT_TYPES, learn
from tables.member_state import HISTORY_MAX, Member

# 64 KiB: a record of one member must fit the changelog many times over, with its history and instances.
PROFILE_BYTES_MAX: Final = 65_536
TOPICS_MAX: Final = 64  # topics with a word of their own per channel
_pack: Final = msgspec.msgpack.Encoder().encode

PROFILE_TYPES: Final = frozenset({"member.registered", "member.updated"})
CONSENT_TYPES: Final = {
    "consent.granted": True,
    "consent.revoked": False,
    "engagement.unsubscribed": False,
    "engagement.complained": False,
}


class ProfileFull(Exception):
    """A profile event that is not merged, for the profile would be too large."""


FOLDED_TYPES: Final = PROFILE_TYPES | frozenset(CONSENT_TYPES) | RECEIPT_TYPES


def fold_profile(member: Member, event: Event, e: int) -> bool:
    """Merge a profile or consent event key by key, in log order (SEMANTICS 45); tell whether the profile changed.

    A receipt teaches the arbiter first (streams/policies/receipts.py); a complaint also takes consent back.

    Raises:
        ProfileFull: it would grow beyond `PROFILE_BYTES_MAX`; it stays as it was.
    """
    if event.type in RECEIPT_TYPES:
        learn(member, event, e)
    granted = CONSENT_TYPES.get(event.type)
    if granted is not None:
        return _fold_consent(member, event, granted)
    if event.type not in PROFILE_TYPES:
        return False
    merged = {**member.profile, **event.data}
    if len(_pack(merged)) > PROFILE_BYTES_MAX:
        raise ProfileFull
    member.profile = merged
    return True


def _fold_consent(member: Member, event: Event, granted: bool) -> bool:
    """Set a channel, or a topic of it (streams/policies/reach.py). A channel that is revoked forgets its topics."""
    channel, topic = event.data.get("channel"), event.data.get("topic")
    if not isinstance(channel, str) or channel == TOPICS:
        return False
    consent = member.profile.get("consent")
    kept = dict(consent) if isinstance(consent, dict) else {}
    topics = kept.get(TOPICS)
    topics = dict(topics) if isinstance(topics, dict) else {}
    if isinstance(topic, str) and topic and event.type != COMPLAINED:
        said = topics.get(channel)
        said = dict(said) if isinstance(said, dict) else {}
        if topic not in said and len(said) >= TOPICS_MAX:
            raise ProfileFull
        topics[channel] = {**said, topic: granted}
        kept[TOPICS] = topics
    else:
        kept[channel] = granted
        if not granted and channel in topics:
            del topics[channel]
            kept[TOPICS] = topics
    member.profile = {**member.profile, "consent": kept}
    return True


def remember(member: Member, series: Series, moment: Moment) -> bool:
    """Add an occurrence to a history if it satisfies the series; tell whether the bound pushed an entry out.

    Entries too old to matter leave as new ones come.
    """
    if series.local is not None and not series.local(moment.data, {}, member.profile, moment.clock):
        return False
    keys = None
    if series.keys_of is not None:
        keys = [key for key, _ in series.keys_of(moment.data)]
        if not keys:
            return False
    data = capture(moment.data, series.data) if series.data else None
    profile = {name: member.profile[name] for name in series.profile if name in member.profile}
    anchors = series.first_local is None or series.first_local(
        moment.data, {series.first_alias: moment.data}, member.profile, moment.clock
    )
    if not member.history:
        member.history = {}
    entries = member.history.setdefault(series.sid, [])
    entries.append([moment.e, moment.offset, keys, data or None, profile or None, anchors])
    edge = moment.clock - series.keep_ms
    if entries[0][0] < edge:
        entries[:] = [entry for entry in entries if entry[0] >= edge]
    if len(entries) > HISTORY_MAX:
        del entries[0]
        return True
    return False
