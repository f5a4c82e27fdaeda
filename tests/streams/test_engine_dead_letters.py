from schemas.events import Record
from streams.engine import PartitionEngine
from tables.store import MemoryStore

BAD = Record(7, 1_000, b"m1", b"{bad")


def test_a_record_that_is_no_event_is_one_dead_letter() -> None:
    (letter,) = PartitionEngine(0, MemoryStore()).run([BAD]).dead_letters
    assert (letter.offset, letter.reason, letter.key, letter.value) == (7, "not-json", b"m1", b"{bad")


def test_a_line_of_a_recorded_log_that_is_no_event_is_one_dead_letter() -> None:
    assert len(PartitionEngine(0, MemoryStore(), campaigns=()).run([BAD], [None]).dead_letters) == 1


def test_a_record_applied_before_is_no_dead_letter_again() -> None:
    engine = PartitionEngine(0, MemoryStore())
    engine.run([BAD])
    assert engine.run([BAD]).dead_letters == []
