"""The history of a member: occurrences that later steps may have to know of although they were read before."""

import msgspec

from schemas.events import Event
from streams.patterns.expressions import capture
from streams.patterns.match import Moment
from streams.patterns.plan import Series
from tables.member_state import HISTORY_MAX, Member

# 64 KiB: a record of one member must fit the changelog many times over, with its history and instances.
PROFILE_BYTES_MAX = 65_536
_pack = msgspec.msgpack.Encoder().encode

PROFILE_TYPES = frozenset({"member.registered", "member.updated"})
CONSENT_TYPES = {"consent.granted": True, "consent.revoked": False}


class ProfileFull(Exception):
    """A profile event that is not merged, for the profile would be too large."""


FOLDED_TYPES = PROFILE_TYPES | CONSENT_TYPES.keys()


def fold_profile(member: Member, event: Event) -> bool:
    """Merge profile and consent events key by key, in log order (SEMANTICS 45); tell whether the profile changed.

    Raises:
        ProfileFull: it would grow beyond `PROFILE_BYTES_MAX`; it stays as it was.
    """
    granted = CONSENT_TYPES.get(event.type)
    if event.type in PROFILE_TYPES:
        merged = {**member.profile, **event.data}
        if len(_pack(merged)) > PROFILE_BYTES_MAX:
            raise ProfileFull
        member.profile = merged
        return True
    if granted is None or not isinstance(event.data.get("channel"), str):
        return False
    consent = member.profile.get("consent")
    kept = consent if isinstance(consent, dict) else {}
    member.profile = {**member.profile, "consent": {**kept, event.data["channel"]: granted}}
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
