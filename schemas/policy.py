"""Policies as values, read from `policies.yaml` by `streams/policies/load.py`: what protects a member from us."""

from typing import Any

import msgspec

TRANSACTIONAL = "transactional"  # the one category with a meaning of its own: no caps, no quiet hours
PRIORITY = 50  # of a campaign that names none
PRIORITY_MAX = 100


class Cap(msgspec.Struct, frozen=True):
    """At most `count` messages in any `span_ms` (rolling, half-open) or in a calendar period of the member's zone.

    Exactly one of `span_ms` and `period` (day, week, month) is set. `channel`, `category`: None counts all. `reserved`
    of the slots are for messages of at least priority `reserved_for`.
    """

    count: int
    span_ms: int | None = None
    period: str | None = None
    channel: str | None = None
    category: str | None = None
    reserved: int = 0
    reserved_for: int = 0

    @property
    def scope(self) -> str:
        """Name what it counts: caps of one scope share one counter."""
        return f"{self.channel or ''}/{self.category or ''}"


class QuietHours(msgspec.Struct, frozen=True):
    """From one minute of the member's day up to another one, which may be past midnight. `channels` empty: all."""

    from_minute: int
    to_minute: int
    channels: tuple[str, ...] = ()
    cancel: bool = False


class Budget(msgspec.Struct, frozen=True):
    """At most `count` messages of a campaign or channel in a calendar period of the policy's zone, or ever (None)."""

    count: int
    period: str | None = None
    campaign: str | None = None
    channel: str | None = None

    @property
    def scope(self) -> str:
        """Name what it counts."""
        return f"{self.campaign or ''}/{self.channel or ''}/{self.period or ''}"


class ControlGroup(msgspec.Struct, frozen=True):
    """Members who get no marketing message at all, chosen by a hash; another salt chooses others."""

    percent: float
    salt: str


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """One policy file. `version`: hash of its meaning (16 hex digits). `timezone`: of budgets and zoneless members."""

    version: str = ""
    timezone: str = "UTC"
    caps: tuple[Cap, ...] = ()
    quiet_hours: tuple[QuietHours, ...] = ()
    budgets: tuple[Budget, ...] = ()
    control_group: ControlGroup | None = None
    dedupe_address_ms: int | None = None
    transactional_consent: bool = True
    source: dict[str, Any] = {}
