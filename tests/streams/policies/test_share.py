"""A partition's share: what it hands over to outlive the process is what it knows."""

from streams.policies.share import Share

WINDOW_MS = 60_000
NAME = "cart/email/a1b2"


def restored(meta: dict[bytes, bytes | None], applied: int) -> Share:
    """Make the share that a worker finds which takes the partition over."""
    share = Share()
    share.restore(None, {key: value for key, value in meta.items() if value is not None}, applied)
    return share


def test_two_messages_at_one_address_in_one_record_leave_it_known_in_all_later_epochs() -> None:
    """Found by seed 80538: the first of the two was given up as the second took its place, and the row with it."""
    share, meta = Share(), dict[bytes, bytes | None]()
    for place in (0, 1):
        share.apply((27, (0, place), "m1", 1_000, [], NAME), WINDOW_MS)
    for _ in range(3):
        meta |= share.take_changes()
        after = restored(meta, 27)
        assert after.taken_by(NAME, "m2", 2_000, WINDOW_MS)
        assert after.addresses == share.addresses


def test_an_address_taken_again_by_a_later_record_leaves_the_earlier_one_an_epoch_later() -> None:
    share, meta = Share(), dict[bytes, bytes | None]()
    share.apply((27, (0, 0), "m1", 1_000, [], NAME), WINDOW_MS)
    meta |= share.take_changes()
    share.apply((28, (0, 0), "m1", 2_000, [], NAME), WINDOW_MS)
    meta |= share.take_changes()
    assert [key for key, value in meta.items() if value is not None] == [b"\x00address/27", b"\x00address/28"]
    meta |= share.take_changes()
    assert [key for key, value in meta.items() if value is not None] == [b"\x00address/28"]
    assert restored(meta, 28).addresses == share.addresses
