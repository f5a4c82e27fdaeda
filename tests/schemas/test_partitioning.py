"""Outputs are spelled and placed in their order; too large ones are refused. The hash itself: test_faust_contract."""

from dataclasses import dataclass

from schemas.partitioning import partition_of, place

PARTITIONS = 8


@dataclass
class Output:
    """Anything that is about a member."""

    member_id: str
    text: str


def encode(output: Output) -> bytes:
    return output.text.encode()


def test_outputs_keep_their_order_within_a_partition() -> None:
    outputs = [Output(f"m{number % 20}", str(number)) for number in range(200)]
    placed, refused = place(outputs, encode, PARTITIONS, 100)
    assert refused == []
    expected: dict[int, list[tuple[bytes, bytes, list[tuple[str, bytes]]]]] = {}
    for output in outputs:
        key = output.member_id.encode()
        expected.setdefault(partition_of(key, PARTITIONS), []).append((key, encode(output), []))
    assert placed == expected
    assert len(placed) > 1


def test_an_output_with_its_key_may_be_as_large_as_allowed_and_not_a_byte_more() -> None:
    outputs = [Output("ü1", "1234567"), Output("ü1", "12345678"), Output("ü1", "1")]
    placed, refused = place(outputs, encode, PARTITIONS, 10)
    key = "ü1".encode()
    partition = partition_of(key, PARTITIONS)
    assert placed == {partition: [(key, b"1234567", []), (key, b"1", [])]}
    assert refused == [(1, partition, key, b"12345678")]


def test_nothing_is_placed_of_nothing() -> None:
    assert place([], encode, PARTITIONS, 10) == ({}, [])
