"""What the engine says, in whichever form it runs: `python -m tests.helpers.said FIRST LAST` prints a digest per seed.

Random campaigns over random logs, run durably in batches of several sizes, members encoded and read back between
epochs: outputs, bytes of members, meta, hints and counters are all in the digest.
"""

import hashlib
import json
import sys

from tidings import compiled

compiled.use(compiled.wanted())

import msgspec  # noqa: E402

from streams.engine import PartitionEngine  # noqa: E402
from streams.replay import read_log, replay  # noqa: E402
from tables.store import MemoryStore  # noqa: E402
from tests.oracle.generate import case  # noqa: E402
from tests.streams.test_engine_equals_oracle import plans_of  # noqa: E402

spell = msgspec.msgpack.Encoder().encode


def digest(seed: int) -> str:
    """Digest everything that is said of one seed's log."""
    campaigns, events = case(seed)
    plans = plans_of(campaigns)
    if plans is None:
        return "refused"
    lines = [json.dumps(event).encode() for event in events]
    found = hashlib.blake2b(digest_size=16)
    store = MemoryStore()
    engine = PartitionEngine(0, store, campaigns=plans, hot_bytes=2_000)
    records = [record for record, _ in read_log(lines)]
    batch = 1 + seed % 17
    for at in range(0, len(records), batch):
        epoch = engine.run(records[at : at + batch])
        store.write(epoch.members, epoch.meta, epoch.hints, epoch.last_offset)
        engine.written(epoch)
        found.update(spell(epoch))
    for epoch in replay(read_log(lines), plans, batch=batch):
        found.update(spell(epoch))
    return found.hexdigest()


def main(first: int, last: int) -> None:
    """Print which form ran, then the digests."""
    print(compiled.spelled())
    for seed in range(first, last):
        print(seed, digest(seed))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
