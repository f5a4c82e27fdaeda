"""A disk that takes no more: a clear error, and nothing half written."""

import subprocess
import sys
from pathlib import Path

from tables.rocks import RocksResources, RocksStore

SMALL = RocksResources(8 << 20, 8 << 20)
# The kernel refuses to let any file of this process grow beyond the limit, as a full disk does.
WRITER = """
import random, resource, signal, sys
from pathlib import Path
from schemas.errors import StateError
from tables.rocks import RocksResources, RocksStore

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = RocksStore(Path(sys.argv[1]), RocksResources(8 << 20, 8 << 20), lambda record: None)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
chance = random.Random(1)
try:
    for number in range(1_000):
        value = chance.randbytes(1_000)
        store.write({b"%d" % n: value for n in range(10)}, {b"\\0meta": b"%d" % number}, [], number)
        print(number, flush=True)
except StateError as error:
    print(error, file=sys.stderr)
    sys.stdout.flush()
    import os
    os._exit(7)
"""


def test_full_disk_is_told_and_leaves_the_last_whole_write(tmp_path: Path) -> None:
    path = tmp_path / "members-0.db"
    ended = subprocess.run(
        [sys.executable, "-c", WRITER, str(path)], cwd=Path(__file__).parents[2], text=True, capture_output=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 7, ended.stderr
    assert f"{path}: cannot be written" in ended.stderr
    assert "free space" in ended.stderr
    last = int(ended.stdout.split()[-1])
    store = RocksStore(path, SMALL, lambda record: None)
    try:
        members, meta, _ = store.dump()
        assert store.changelog_offset() == last
        assert meta == {b"\x00meta": b"%d" % last}
        assert len(set(members.values())) == 1
    finally:
        store.close()
