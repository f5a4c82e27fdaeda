"""Digests laid end to end: found where one begins, never across two."""

from tables.digests import DIGEST_BYTES, add, count_of, digest_of, holds, place_of


def test_a_digest_is_found_where_it_begins() -> None:
    digests = b"".join(digest_of(f"e{n}") for n in range(5))
    assert [place_of(digests, digest_of(f"e{n}")) for n in range(5)] == [n * DIGEST_BYTES for n in range(5)]
    assert place_of(digests, digest_of("other")) == -1
    assert place_of(b"", digest_of("e0")) == -1


def test_two_halves_of_neighbours_are_none_and_what_comes_behind_them_is_found() -> None:
    across = b"cdefab"
    digests = b"abcdefabcdef"
    assert not holds(digests, across)
    assert place_of(digests + across, across) == 2 * DIGEST_BYTES


def test_beyond_the_most_the_oldest_goes() -> None:
    digests = b""
    for number in range(6):
        digests = add(digests, digest_of(f"e{number}"), 4)
    assert count_of(digests) == 4
    assert not holds(digests, digest_of("e1"))
    assert holds(digests, digest_of("e2"))
