"""The history of a member: occurrences that later steps may have to know of although they were read before."""

from schemas.events import Event
from streams.patterns.expressions import ITEMS
from streams.patterns.match import Moment
from streams.patterns.plan import Series
from tables.member_state import HISTORY_MAX, Member

PROFILE_TYPES = frozenset({"member.registered", "member.updated"})
CONSENT_TYPES = {"consent.granted": True, "consent.revoked": False}


FOLDED_TYPES = PROFILE_TYPES | CONSENT_TYPES.keys()


def fold_profile(member: Member, event: Event) -> bool:
    """Merge profile and consent events key by key, in log order (SEMANTICS 45); tell whether the profile changed."""
    granted = CONSENT_TYPES.get(event.type)
    if event.type in PROFILE_TYPES:
        member.profile = {**member.profile, **event.data}
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
    data = {name: moment.data[name] for name in series.data if name in moment.data}
    if len(data) < len(series.data) and ITEMS in moment.data:
        data[ITEMS] = moment.data[ITEMS]
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
