"""Where an epoch's results go: outputs by member key, the changelog by partition."""

from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache

from aiokafka.partitioner import murmur2

from agents.batching import BatchWriter, Entry, Sent
from agents.topics import ATTRIBUTIONS, COMMANDS, DEAD_LETTERS, DECISIONS
from schemas.codec import encode_attribution, encode_command, encode_decision
from schemas.records import DeadLetter
from streams.epoch import Epoch

_POSITIVE = 0x7FFF_FFFF


@lru_cache(maxsize=65_536)  # murmur2 in Python costs ~10 µs; the same members come again within an hour
def partition_of(key: bytes, partitions: int) -> int:
    """Place a key as Java's and librdkafka's `murmur2` partitioners do."""
    return int(murmur2(key) & _POSITIVE) % partitions


def _nothing() -> None:
    """Check nothing."""


class Outbox:
    """Turns an epoch into record batches of the output topics and of the changelog.

    Args:
        writer: sends batches.
        changelog: name of the changelog topic.
    """

    def __init__(self, writer: BatchWriter, changelog: str) -> None:
        self._writer = writer
        self._changelog = changelog
        self._counts: dict[str, int] = {}

    async def send(self, epoch: Epoch) -> list[Sent]:
        """Hand all outputs of an epoch to the producer; they leave at once. Their acks are still to be awaited."""
        places: defaultdict[tuple[str, int], list[Entry]] = defaultdict(list)
        if epoch.commands:
            await self._place(places, COMMANDS, [(c.member_id, encode_command(c)) for c in epoch.commands])
        if epoch.decisions:
            await self._place(places, DECISIONS, [(d.member_id, encode_decision(d)) for d in epoch.decisions])
        if epoch.attributions:
            await self._place(places, ATTRIBUTIONS, [(a.member_id, encode_attribution(a)) for a in epoch.attributions])
        if epoch.dead_letters:
            count = await self._partition_count(DEAD_LETTERS)
            for letter in epoch.dead_letters:
                place = partition_of(letter.key, count) if letter.key is not None else letter.partition % count
                places[DEAD_LETTERS, place].append(dead_letter_entry(letter))
        sent: list[Sent] = []
        for (topic, partition), entries in places.items():
            sent += await self._writer.send(topic, partition, entries)
        return sent

    async def send_changelog(self, epoch: Epoch, before_each: Callable[[], None] = _nothing) -> int | None:
        """Write the epoch's members, then its meta, to the changelog and wait for the acks.

        Meta last, and only when all members are acked: a crash in between leaves members ahead of meta, and members
        know themselves what they applied. Meta ahead of members would lose what they had applied. `before_each` is
        called before each record batch.

        Returns:
            The changelog's last offset; None when there was nothing to write or the broker could not tell.
        """
        entries: list[Entry] = [(key, value, []) for key, value in epoch.members.items()]
        entries += [(key, value, []) for key, value in epoch.meta.items()]
        if not entries:
            return None
        offset = None
        for sent in await self._writer.send(self._changelog, epoch.partition, entries, before_each):
            offset = await sent.last_offset()
        return offset

    async def send_event(self, topic: str, partition: int, value: bytes) -> list[Sent]:
        """Append one record without a key to a given partition."""
        return await self._writer.send(topic, partition, [(None, value, [])])

    async def _place(
        self,
        places: defaultdict[tuple[str, int], list[Entry]],
        topic: str,
        outputs: list[tuple[str, bytes]],
    ) -> None:
        count = await self._partition_count(topic)
        for member_id, value in outputs:
            key = member_id.encode()
            places[topic, partition_of(key, count)].append((key, value, []))

    async def _partition_count(self, topic: str) -> int:
        count = self._counts.get(topic)
        if count is None:
            count = self._counts[topic] = await self._writer.partition_count(topic)
        return count


def dead_letter_entry(letter: DeadLetter) -> Entry:
    """Spell a dead letter: the original key and bytes untouched, what happened to them in headers."""
    headers = [
        ("topic", letter.topic),
        ("partition", str(letter.partition)),
        ("offset", str(letter.offset)),
        ("reason", letter.reason),
        ("message", letter.message),
        ("failed_at_ms", str(letter.failed_at_ms)),
    ]
    return letter.key, letter.value, [(name, text.encode()) for name, text in headers]
