"""How often a campaign may fire for one member: once, limit, cooldown (SEMANTICS 60-63), judged at firing."""

from schemas.campaign import Campaign
from tables.member_state import CAP_KEYS_MAX, Key, PlanState


def cap_key(campaign: Campaign, key: Key) -> Key:
    """Return what caps count by: the member as a whole, or the correlation key with `per: key`."""
    return key if campaign.per == "key" else None


def refused_by(campaign: Campaign, state: PlanState, key: Key, clock_ms: int) -> str | None:
    """Name the cap that forbids a firing at `clock_ms`: `once`, `limit` or `cooldown`; None if it may fire."""
    fired = state.fired.get(cap_key(campaign, key))
    if not fired:
        return None
    if campaign.once:
        return "once"
    limit = campaign.limit
    if limit is not None and sum(1 for at in fired if clock_ms - at < limit.per_ms) >= limit.count:
        return "limit"
    if campaign.cooldown_ms is not None and 0 <= clock_ms - fired[-1] < campaign.cooldown_ms:
        return "cooldown"
    return None


def record_firing(campaign: Campaign, state: PlanState, key: Key, clock_ms: int) -> None:
    """Remember a firing, for as long and as many as the caps need."""
    if not (campaign.once or campaign.limit or campaign.cooldown_ms):
        return
    name = cap_key(campaign, key)
    if not state.fired:
        state.fired = {}
    fired = state.fired.pop(name, [])
    fired.append(clock_ms)
    keep = campaign.limit.count if campaign.limit else 1
    state.fired[name] = fired[-keep:]
    span = 0 if campaign.once else max(campaign.limit.per_ms if campaign.limit else 0, campaign.cooldown_ms or 0)
    while len(state.fired) > 1:
        oldest = next(iter(state.fired))
        stale = span and clock_ms - state.fired[oldest][-1] >= span
        if not stale and len(state.fired) <= CAP_KEYS_MAX:
            break
        del state.fired[oldest]
