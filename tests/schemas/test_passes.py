import pytest

from schemas.passes import INBOX, read_pass, sign_pass
from schemas.tokens import TokenError
from schemas.unsubscribe import Leaving, sign

SECRET = b"s" * 32


def test_a_pass_names_its_holder_until_it_is_over() -> None:
    token = sign_pass(INBOX, SECRET, "m1", 1_000)
    assert read_pass(INBOX, [b"n" * 32, SECRET], token, 999).name == "m1"
    with pytest.raises(TokenError, match="over"):
        read_pass(INBOX, [SECRET], token, 1_000)


@pytest.mark.parametrize(
    "token",
    ["", "x", "a.b", sign_pass(INBOX, b"n" * 32, "m1", 9**9), sign(SECRET, Leaving(1, "m1", "email", "x", "c"))],
)
def test_what_we_did_not_sign_for_this_use_lets_nobody_in(token: str) -> None:
    with pytest.raises(TokenError):
        read_pass(INBOX, [SECRET], token, 1)
