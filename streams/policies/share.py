"""One partition's share of what is limited for all members together: budgets, and addresses shared by members.

A partition knows its own members only. A budget of n is therefore dealt out evenly, n/partitions each, the rest to the
first ones: the sum is never above n, and may stay below it where members are spread unevenly. Two members with one
address are noticed if they lie in the same partition.
"""

from collections.abc import Iterable, Mapping
from datetime import tzinfo
from typing import Any

import msgspec

from schemas.address import address_digest
from schemas.policy import Budget, Policy
from streams.policies.local_time import period_of

ADDRESSES_MAX = 20_000  # remembered per partition, some 3 MiB; beyond, the oldest may get a message twice
META_SHARE = b"\x00share"  # rows of the last epoch that took anything, in the changelog before its members
META_ADDRESSES = b"\x00address/"  # + offset of the record that took them: rows of name, clock, member

Row = tuple[Any, ...]
"""(offset, place in the record's order of judging, member, clock, [(budget scope, period)], address name or None)."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Any]).decode


class Share:
    """The share of one partition.

    `spent`: per budget scope [period number, count]. `addresses`: campaign and digest of an address -> [clock, member,
    offset], oldest first.
    """

    def __init__(self, partition: int = 0) -> None:
        self.partition = partition
        self.partitions = 1
        self.spent: dict[str, list[int]] = {}
        self.addresses: dict[str, list[Any]] = {}
        self._rows: list[Row] = []
        self._names: dict[int, set[str]] = {}
        self._fresh: set[int] = set()
        self._gone: list[int] = []
        self._removable: list[int] = []

    def of(self, count: int) -> int:
        """Give this partition's part of a number."""
        return count // self.partitions + (self.partition < count % self.partitions)

    def judge_budget(
        self, policy: Policy, campaign: str, channel: str, clock_ms: int, zone: tzinfo
    ) -> tuple[bool, list[dict[str, Any]]]:
        """Tell whether every budget has room, and the arithmetic up to the one that has not."""
        sums: list[dict[str, Any]] = []
        for budget in policy.budgets:
            if not counts(budget, campaign, channel):
                continue
            used, mine = self._used(budget, clock_ms, zone), self.of(budget.count)
            sums.append({"budget": spell_budget(budget), "used": used, "share": mine, "partitions": self.partitions})
            if used >= mine:
                return False, sums
        return True, sums

    def spending(
        self, policy: Policy, campaign: str, channel: str, clock_ms: int, zone: tzinfo
    ) -> list[tuple[str, int]]:
        """List what a message takes from budgets: (scope, period number)."""
        return [
            (budget.scope, _period(budget, clock_ms, zone))
            for budget in policy.budgets
            if counts(budget, campaign, channel)
        ]

    def apply(self, row: Row, window_ms: int | None) -> None:
        """Count a message that goes, and remember the row until the epoch is durable."""
        offset, _, member_id, clock_ms, spent, name = row
        for scope, period in spent:
            known = self.spent.get(scope)
            used = known[1] if known is not None and known[0] == period else 0
            self.spent[scope] = [period, used + 1]
        if name is not None and window_ms is not None:
            self._take(name, member_id, clock_ms, window_ms, offset)
        self._rows.append(row)

    def follow(self, policy: Policy | None) -> None:
        """Forget what the policies no longer ask for."""
        known = {budget.scope for budget in policy.budgets} if policy is not None else set()
        for scope in self.spent.keys() - known:
            del self.spent[scope]
        if policy is None or policy.dedupe_address_ms is None:
            for name in list(self.addresses):
                self._forget(name)

    def _used(self, budget: Budget, clock_ms: int, zone: tzinfo) -> int:
        period, used = self.spent.get(budget.scope, (0, 0))
        return used if period == _period(budget, clock_ms, zone) else 0

    def taken_by(self, name: str, member_id: str, clock_ms: int, window_ms: int) -> bool:
        """Tell whether another member got this campaign's message at this address inside the window."""
        known = self.addresses.get(name)
        return known is not None and known[1] != member_id and clock_ms - known[0] < window_ms

    def _take(self, name: str, member_id: str, clock_ms: int, window_ms: int, offset: int) -> None:
        """Remember an address, and forget the oldest ones: those out of the window, and beyond the bound."""
        self._forget(name)
        self.addresses[name] = [clock_ms, member_id, offset]
        self._names.setdefault(offset, set()).add(name)
        self._fresh.add(offset)
        while True:
            oldest = next(iter(self.addresses))
            if clock_ms - self.addresses[oldest][0] < window_ms and len(self.addresses) <= ADDRESSES_MAX:
                return
            self._forget(oldest)

    def _forget(self, name: str) -> None:
        known = self.addresses.pop(name, None)
        if known is None:
            return
        names = self._names[known[2]]
        names.discard(name)
        if not names:
            del self._names[known[2]]
            self._gone.append(known[2])

    def _given_up(self) -> list[int]:
        """Take the offsets that no address is left of. One may be given up and taken again by the same record."""
        gone, self._gone = self._gone, []
        return [offset for offset in gone if offset not in self._names]

    # ------------------------------------------------------------ what must outlive the process

    def packed(self) -> list[Any]:
        """Give the small part, for the epoch's last record: [spent], or [] when there is nothing."""
        return [self.spent] if self.spent else []

    def take_rows(self, ahead: Iterable[Row]) -> dict[bytes, bytes | None]:
        """Hand over what must be in the changelog before any member of the epoch: its rows, and those still ahead.

        A member skips records that it has applied, so what it took from the share would be lost if a crash came after
        its record and before the epoch's last one, which holds the share. The rows say it again (`streams/arbiter.py`).
        """
        rows, self._rows = [*self._rows, *ahead], []
        return {META_SHARE: _pack(rows)} if rows else {}

    def take_changes(self) -> dict[bytes, bytes | None]:
        """Hand over the meta entries changed since the last call: one per record of the log that took addresses.

        A crash may cut an epoch's records anywhere, and then it is computed again from the state before. So an entry
        is never written over, counts only up to the applied offset, and is removed an epoch after it was given up.
        """
        changes: dict[bytes, bytes | None] = {_key(offset): None for offset in self._removable}
        self._removable = self._given_up()
        for offset in sorted(self._fresh):
            rows = [[name, *self.addresses[name][:2]] for name in sorted(self._names.get(offset, ()))]
            if rows:
                changes[_key(offset)] = _pack(rows)
        self._fresh = set()
        return changes

    def restore(self, spent: Mapping[str, list[int]] | None, meta: Mapping[bytes, bytes], applied: int) -> list[Row]:
        """Take back what was handed over up to an offset; returns the rows of records after it."""
        self.spent = {scope: list(row) for scope, row in (spent or {}).items()}
        offsets = sorted(int(key[len(META_ADDRESSES) :]) for key in meta if key.startswith(META_ADDRESSES))
        for offset in offsets:
            for name, clock_ms, member_id in _unpack(meta[_key(offset)]) if offset <= applied else ():
                self._forget(name)
                self.addresses[name] = [clock_ms, member_id, offset]
                self._names.setdefault(offset, set()).add(name)
        self._removable += self._given_up()
        return [tuple(row) for row in _unpack(meta[META_SHARE]) if row[0] > applied] if META_SHARE in meta else []


def counts(budget: Budget, campaign: str, channel: str) -> bool:
    """Tell whether a budget counts a message."""
    return budget.campaign in (None, campaign) and budget.channel in (None, channel)


def spell_budget(budget: Budget) -> str:
    """Write a budget as in the file: `1000 per calendar day, channel sms`."""
    parts = [f"{budget.count} per calendar {budget.period}" if budget.period else f"{budget.count} in all"]
    parts += [f"campaign {budget.campaign}"] if budget.campaign else []
    parts += [f"channel {budget.channel}"] if budget.channel else []
    return ", ".join(parts)


def address_name(campaign: str, channel: str, address: str) -> str:
    """Name what two members must not both get: this campaign's message at this address."""
    return f"{campaign}/{channel}/{address_digest(channel, address)}"


def _period(budget: Budget, clock_ms: int, zone: tzinfo) -> int:
    return period_of(budget.period, clock_ms, zone) if budget.period else 0


def _key(offset: int) -> bytes:
    return META_ADDRESSES + b"%d" % offset
