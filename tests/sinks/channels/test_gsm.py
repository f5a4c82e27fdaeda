"""How a short message is counted and cut, at the bounds that operators bill by."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.channels.gsm import GSM7, PART, SINGLE, UCS2, decode_gsm, encode, foreign, header, plan


@pytest.mark.parametrize(
    ("text", "encoding", "units", "parts"),
    [
        ("", GSM7, 0, 1),
        ("a" * 160, GSM7, 160, 1),
        ("a" * 161, GSM7, 161, 2),
        ("a" * 306, GSM7, 306, 2),
        ("a" * 307, GSM7, 307, 3),
        ("€" * 80, GSM7, 160, 1),  # two septets each
        ("€" * 81, GSM7, 162, 2),
        ("€" * 152, GSM7, 304, 2),  # 76 pairs a part: the 153rd septet stays empty
        ("€" * 153, GSM7, 306, 3),
        ("я" * 70, UCS2, 70, 1),
        ("я" * 71, UCS2, 71, 2),
        ("я" * 134, UCS2, 134, 2),
        ("я" * 135, UCS2, 135, 3),
        ("😀" * 35, UCS2, 70, 1),  # two units each
        ("😀" * 36, UCS2, 72, 2),
        ("😀" * 66, UCS2, 132, 2),  # 33 a part: the 67th unit stays empty
        ("😀" * 67, UCS2, 134, 3),
        ("a" * 159 + "ё", UCS2, 160, 3),  # one letter outside the alphabet makes all of it dear
    ],
)
def test_a_message_has_the_parts_that_operators_count(text: str, encoding: str, units: int, parts: int) -> None:
    found = plan(text)
    assert (found.encoding, found.units, len(found.parts)) == (encoding, units, parts)


@given(st.text(alphabet="aé€[ñ@ \nяё😀𝒳", max_size=700))
def test_no_part_is_too_long_and_none_loses_a_character(text: str) -> None:
    found = plan(text)
    assert "".join(found.parts) == text
    most = SINGLE[found.encoding] if len(found.parts) == 1 else PART[found.encoding]
    width = 2 if found.encoding == UCS2 else 1
    for part in found.parts:
        assert len(encode(part, found.encoding)) // width <= most


def test_the_alphabet_is_that_of_the_standard() -> None:
    # Places from the table of 3GPP TS 23.038 §6.2.1 and its extension.
    places = {"@": 0x00, "$": 0x02, "Δ": 0x10, "_": 0x11, "Æ": 0x1C, "É": 0x1F, "A": 0x41, "¡": 0x40, "à": 0x7F}
    assert {letter: encode(letter, GSM7)[0] for letter in places} == places
    pairs = {"^": 0x14, "{": 0x28, "}": 0x29, "\\": 0x2F, "[": 0x3C, "~": 0x3D, "]": 0x3E, "|": 0x40, "€": 0x65}
    assert {letter: encode(letter, GSM7) for letter in pairs} == {k: bytes([0x1B, v]) for k, v in pairs.items()}


def test_what_is_encoded_can_be_read_back() -> None:
    text = "Grüße @£$ {1} [2] ~ € Ω"
    assert decode_gsm(encode(text, GSM7)) == text
    assert encode("я😀", UCS2) == bytes.fromhex("044f d83d de00")


def test_what_makes_a_text_ucs2_is_named() -> None:
    assert foreign("Hi – “you” – ok") == "–“”" and foreign("Hi {you}") == ""


def test_the_header_says_which_part_it_is() -> None:
    assert header(0x1FF, 3, 2) == bytes([5, 0, 3, 0xFF, 3, 2])
