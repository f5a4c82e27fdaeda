"""Where an epoch's results go: outputs by member key, the changelog by partition."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import structlog
from aiokafka.codec import zstd_encode
from aiokafka.errors import MessageSizeTooLargeError

from agents.batching import BatchWriter, Entry, Sent
from agents.letters import OUTPUT_BYTES_MAX, OVERHEAD_BYTES, fitting, hash_of, letter_of_output
from agents.topics import ATTRIBUTIONS, COMMANDS_OF, DEAD_LETTERS, DECISIONS, LARGE_MESSAGE_BYTES_MAX, MEMBER_COMMANDS
from schemas.codec import dead_letter_headers, encode_attribution, encode_command, encode_decision
from schemas.commands import CancelMessage, SendMessage, lane_of
from schemas.errors import StateError
from schemas.member_commands import MemberCommand, encode_member_command
from schemas.partitioning import partition_of, place
from schemas.records import Attribution, DeadLetter, Decision
from streams.epoch import Epoch

MEMBER_BYTES_MAX = LARGE_MESSAGE_BYTES_MAX - OVERHEAD_BYTES
_Output = TypeVar("_Output", SendMessage | CancelMessage, MemberCommand, Decision, Attribution)

log = structlog.get_logger(__name__)


async def _nothing() -> None:
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
        """Hand all outputs of an epoch to the producer; they leave at once. Their acks are still to be awaited.

        An output that its topic cannot take is moved to the epoch's dead letters.
        """
        places: defaultdict[tuple[str, int], list[Entry]] = defaultdict(list)
        if epoch.commands:
            await self._place_commands(places, epoch)
        if epoch.member_commands:
            await self._place(places, MEMBER_COMMANDS, epoch, epoch.member_commands, encode_member_command)
        if epoch.decisions:
            await self._place(places, DECISIONS, epoch, epoch.decisions, encode_decision)
        if epoch.attributions:
            await self._place(places, ATTRIBUTIONS, epoch, epoch.attributions, encode_attribution)
        if epoch.dead_letters:
            count = await self._partition_count(DEAD_LETTERS)
            for letter in epoch.dead_letters:
                key = letter.key
                partition = partition_of(key, count) if key is not None else letter.partition % count
                places[DEAD_LETTERS, partition].append(dead_letter_entry(fitting(letter)))
        sent: list[Sent] = []
        for (topic, partition), entries in places.items():
            sent += await self._writer.send(topic, partition, entries)
        return sent

    async def send_changelog(self, epoch: Epoch, before_each: Callable[[], Awaitable[None]] = _nothing) -> int | None:
        """Write the epoch's members, then its meta, to the changelog and wait for the acks.

        Meta last, and only when all members are acked: a crash in between leaves members ahead of meta, and members
        know themselves what they applied. Meta ahead of members would lose what they had applied. `before_each` is
        awaited before each record batch.

        Returns:
            The changelog's last offset; None when there was nothing to write or the broker could not tell.

        Raises:
            StateError: the broker refuses a member record as too large.
        """
        entries: list[Entry] = [(key, value, []) for key, value in epoch.meta_first.items()]
        entries += [(key, value, []) for key, value in epoch.members.items()]
        entries += [(key, value, []) for key, value in epoch.meta.items()]
        if not entries:
            return None
        self._warn_of_large(entries)
        offset = None
        try:
            for sent in await self._writer.send(self._changelog, epoch.partition, entries, before_each):
                offset = await sent.last_offset()
        except MessageSizeTooLargeError:
            raise self._refused(entries) from None
        return offset

    async def rewrite(
        self, partition: int, changes: Mapping[bytes, bytes | None], before_each: Callable[[], Awaitable[None]]
    ) -> int | None:
        """Write records to the changelog again and wait for the acks; returns its last offset."""
        entries: list[Entry] = [(key, value, []) for key, value in changes.items()]
        offset = None
        for sent in await self._writer.send(self._changelog, partition, entries, before_each):
            offset = await sent.last_offset()
        return offset

    async def send_event(self, topic: str, partition: int, value: bytes) -> list[Sent]:
        """Append one record without a key to a given partition."""
        return await self._writer.send(topic, partition, [(None, value, [])])

    async def _place(
        self,
        places: defaultdict[tuple[str, int], list[Entry]],
        topic: str,
        epoch: Epoch,
        outputs: list[_Output],
        encode: Callable[[_Output], bytes],
    ) -> None:
        count = await self._partition_count(topic)
        placed, refused = place(outputs, encode, count, OUTPUT_BYTES_MAX)
        for partition, entries in placed.items():
            places[topic, partition] += entries
        for _, partition, key, value in refused:
            letter = letter_of_output(topic, partition, key, value, epoch.clock_ms)
            log.error("output too large", topic=topic, partition=partition, error=letter.message)
            epoch.dead_letters.append(letter)
        if refused:
            gone = {number for number, _, _, _ in refused}
            outputs[:] = [output for number, output in enumerate(outputs) if number not in gone]

    async def _place_commands(self, places: defaultdict[tuple[str, int], list[Entry]], epoch: Epoch) -> None:
        """Place each command on the topic of its lane; a command and its cancellation share one, and so an order."""
        lanes: dict[str, list[SendMessage | CancelMessage]] = {}
        for command in epoch.commands:
            lanes.setdefault(COMMANDS_OF[lane_of(command)], []).append(command)
        for topic, commands in lanes.items():
            await self._place(places, topic, epoch, commands, encode_command)
        if sum(map(len, lanes.values())) < len(epoch.commands):
            kept = {id(command) for commands in lanes.values() for command in commands}
            epoch.commands[:] = [command for command in epoch.commands if id(command) in kept]

    def _warn_of_large(self, entries: list[Entry]) -> None:
        """Name what the changelog as we declare it may refuse; the broker decides, for its operator may allow more."""
        for key, value, _ in entries:
            if value is not None and len(value) > MEMBER_BYTES_MAX:
                size = len(zstd_encode(value))
                if size > MEMBER_BYTES_MAX:
                    log.error(
                        "member record too large", record=hash_of(key or b""), size=len(value), compressed=size,
                        limit=MEMBER_BYTES_MAX,
                    )  # fmt: skip

    def _refused(self, entries: list[Entry]) -> StateError:
        key, value, _ = max(entries, key=lambda entry: len(entry[1] or b""))
        return StateError(
            f"member {hash_of(key or b'')}: the record is too large for topic {self._changelog} (got"
            f" {len(value or b'')} bytes before compression, declared are {LARGE_MESSAGE_BYTES_MAX}); raise the topic's"
            " max.message.bytes and start the worker again: nothing is lost, it goes on where it stopped"
        )

    async def _partition_count(self, topic: str) -> int:
        count = self._counts.get(topic)
        if count is None:
            count = self._counts[topic] = await self._writer.partition_count(topic)
        return count


def dead_letter_entry(letter: DeadLetter) -> Entry:
    """Spell a dead letter: the original key and bytes untouched, what happened to them in headers."""
    return letter.key, letter.value, dead_letter_headers(letter)
