"""Commands about members leave with their epoch, on a topic of their own, by the member's key."""

from pathlib import Path
from typing import Any

from agents.topics import MEMBER_COMMANDS
from schemas.member_commands import AccruePoints, decode_member_command
from streams.epoch import Epoch
from tests.agents.counting_engine import CountingEngine
from tests.agents.engine_bench import PARTITIONS, TOPICS, applied, in_thread, produce, read_all, until, worker
from tests.agents.test_engine_worker import running
from tidings.brokers.memory import MemoryBroker

LOG = [("ann", b"{}"), ("bob", b"{}")] * 3  # the third event of a member makes its command


class Generous(CountingEngine):
    """Gives points to whom it writes."""

    def run(self, records: Any) -> Epoch:
        epoch = super().run(records)
        for c in epoch.commands:
            named = ("c", "v", c.instance_id, "gift")
            epoch.member_commands.append(AccruePoints(c.command_id, c.member_id, *named, 5.0, 1, 1, "e"))
        return epoch


async def test_a_worker_sends_commands_about_members(tmp_path: Path) -> None:
    with MemoryBroker({**TOPICS, MEMBER_COMMANDS: PARTITIONS}) as broker:
        async with running(worker(broker.bootstrap, tmp_path, Generous)) as built:
            await in_thread(produce, broker.bootstrap, LOG)
            await until(lambda: applied(built) == len(LOG), "all events applied")
        messages = await in_thread(read_all, broker.bootstrap, MEMBER_COMMANDS)
    assert sorted(message.key() for message in messages) == [b"ann", b"bob"]
    assert {decode_member_command(message.value()).member_id for message in messages} == {"ann", "bob"}
