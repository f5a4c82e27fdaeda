"""A campaign as a value, read from a YAML file by `streams/campaigns.py`. Expressions and patterns stay text here."""

from typing import TYPE_CHECKING, Any

import msgspec

from schemas.policy import PRIORITY

if TYPE_CHECKING:
    from schemas.flow import Flow

DEFAULT_LATENESS_MS = 5_000  # DESIGN §3: allowed lateness unless a campaign asks for more
DEFAULT_ATTRIBUTION_WINDOW_MS = 5 * 86_400_000  # the usual e-mail window of peers (Klaviyo: 5 d)
DEFAULT_LIFETIME_MS = 86_400_000  # a message that could not leave within a day is stale


class Repeat(msgspec.Struct, frozen=True):
    """What a second start does while an instance of the same key lives: `restart`, `keep` or `parallel` with `most`."""

    kind: str
    most: int = 1


class Limit(msgspec.Struct, frozen=True):
    """At most `count` firings in any span of `per_ms` (sliding, half-open)."""

    count: int
    per_ms: int


class Group(msgspec.Struct, frozen=True):
    """Members left out of a campaign, chosen by a hash of `salt` and member. `name`: `control` or `holdout:NAME`."""

    name: str
    salt: str
    percent: float


class Send(msgspec.Struct, frozen=True):
    """The message to send. `data`: name -> expression text, judged at the firing. `lane`: empty for its category's.

    `topic` None: its category is its only topic.
    """

    channel: str
    template: str
    data: dict[str, str] = {}
    category: str = "marketing"
    lifetime_ms: int = DEFAULT_LIFETIME_MS
    lane: str = ""
    topic: str | None = None
    priority: int = PRIORITY


class Campaign(msgspec.Struct, frozen=True, kw_only=True):
    """One campaign file. `version` is the hash of its meaning (16 hex digits): same meaning, same version.

    `on_repeat` None means the default: `restart` when the pattern holds an absence, else `keep`.
    `per`: `member` or `key`, for cooldown, limit and once. `flow`: what follows a match beyond one `send`; never both.
    `on_edit`: what this version does with journeys of the version it replaces: `drain`, `drop` or `migrate`.
    `start_ms`, `end_ms`: it begins something only from one on and before the other; None: no such date.
    `groups`: members it leaves out, to measure what it brings.
    """

    campaign: str
    pattern: str
    version: str = ""
    title: str = ""
    where: str | None = None
    if_still: str | None = None
    on_repeat: Repeat | None = None
    cooldown_ms: int | None = None
    limit: Limit | None = None
    once: bool = False
    per: str = "member"
    lateness_ms: int = DEFAULT_LATENESS_MS
    on_late: str = "ignore"
    send: Send | None = None
    attribution_window_ms: int = DEFAULT_ATTRIBUTION_WINDOW_MS
    timezone: str = "UTC"
    flow: "Flow | None" = None
    on_edit: str = "drain"
    start_ms: int | None = None
    end_ms: int | None = None
    groups: tuple[Group, ...] = ()
    source: dict[str, Any] = {}  # the file's own keys and values, for the log and the web
