"""What one run of the engine over a batch of records says: everything the caller must make durable, in order.

The caller's protocol (DESIGN §5): outputs, acks, changelog (members then meta), acks, one store write, ack, commit.
"""

import msgspec

from schemas.commands import Command
from schemas.member_commands import MemberCommand
from schemas.records import Attribution, DeadLetter, Decision, Firing
from tables.store import Hint


class Epoch(msgspec.Struct, gc=False):
    """The outcome of one batch of one partition.

    `members` and `meta` map store keys to new bytes (None deletes) and go to the changelog under the same keys,
    `members` first, `meta` last; `meta_first`, a part of `meta`, goes there before the members as well. Meta keys start
    with a zero byte; member keys never do. `next_fire_ms`: the clock value at which the earliest pending timer fires,
    None when there is none.
    """

    partition: int
    first_offset: int
    last_offset: int
    record_count: int
    clock_ms: int
    next_fire_ms: int | None
    commands: list[Command]
    decisions: list[Decision]
    attributions: list[Attribution]
    dead_letters: list[DeadLetter]
    firings: list[Firing]
    members: dict[bytes, bytes | None]
    meta: dict[bytes, bytes | None]
    hints: list[Hint]
    counters: dict[str, int]
    meta_first: dict[bytes, bytes | None] = {}
    member_commands: list[MemberCommand] = []
