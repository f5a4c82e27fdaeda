"""One-time codes: each limit at its bound and one beyond it, and no way to be right without the code."""

import msgspec
import pytest

from streams.otp import (
    DAY_MS,
    KEPT_MS,
    Ask,
    Destination,
    Limit,
    Purpose,
    Rules,
    Step,
    Try,
    destination_of,
    outdated,
    request,
    verify,
)

SECRET = b"k" * 32
NOW = 1_800_000_000_000
HOUR = 3_600_000
WIDE = (Limit(1_000, DAY_MS),)
RULES = Rules(
    purposes={"login": Purpose("sms", "otp"), "till": Purpose("email", "otp")},
    destinations=(Destination("+49", WIDE, 100_000), Destination("+4915", WIDE, 70_000)),
    attempts=3, member=WIDE, address=WIDE, ip=WIDE, range=WIDE, wrong_member=WIDE, wrong_ip=WIDE,
)  # fmt: skip


class Desk:
    """The rules with a memory and a clock."""

    def __init__(self, **changes: object) -> None:
        self.rules = msgspec.structs.replace(RULES, **changes)
        self.known: dict[str, bytes] = {}
        self.now = NOW
        self.asked = 0

    def ask(self, member: str = "m1", to: str = "+4915112345678", ip: str = "", purpose: str = "login") -> Step:
        self.asked += 1
        step = request(
            self.rules, self.known.get, Ask(member, purpose, to, ip), challenge_id=f"id{self.asked}", code="123456",
            provider="sms-main", secret=SECRET, now_ms=self.now,
        )  # fmt: skip
        if step.result == "granted":
            self.known |= step.changes
        else:
            assert not step.changes
        return step

    def give(self, code: str = "123456", ident: str = "", member: str = "m1", ip: str = "") -> str:
        given = Try(ident or f"id{self.asked}", member, code, ip)
        step = verify(self.rules, self.known.get, given, secret=SECRET, now_ms=self.now)
        self.known |= step.changes
        return step.result


def test_a_right_code_is_good_once() -> None:
    desk = Desk()
    assert desk.ask().result == "granted"
    assert [desk.give(), desk.give()] == ["verified", "used"]


@pytest.mark.parametrize("code", ["123 456", "123-456", " 123456 "])
def test_a_code_may_be_typed_with_gaps(code: str) -> None:
    desk = Desk()
    desk.ask()
    assert desk.give(code) == "verified"


@pytest.mark.parametrize("code", ["", "12345", "1234567", "0123456", "１２３４５６", "123456\x00", "x" * 3_000])
def test_anything_else_is_wrong(code: str) -> None:
    desk = Desk()
    desk.ask()
    assert desk.give(code) == "wrong"


def test_after_the_last_attempt_the_right_code_is_of_no_use() -> None:
    desk = Desk()
    desk.ask()
    assert [desk.give("000000") for _ in range(3)] == ["wrong"] * 3
    assert desk.give() == "locked"


def test_a_code_ends_with_its_lifetime() -> None:
    desk = Desk(lifetime_ms=60_000)
    desk.ask()
    desk.now += 59_999
    assert desk.give("000000") == "wrong"
    desk.now += 1
    assert desk.give() == "expired"


def test_a_new_code_replaces_the_one_before_of_the_same_purpose() -> None:
    desk = Desk()
    desk.ask()
    desk.ask()
    desk.ask(purpose="till", to="a@b.example")
    assert [desk.give(ident=ident) for ident in ("id1", "id2", "id3")] == ["replaced", "verified", "verified"]


def test_a_code_is_of_one_member_and_one_challenge() -> None:
    desk = Desk()
    desk.ask()
    desk.ask("m2")
    assert desk.give(ident="id1", member="m2") == "unknown"
    assert desk.give(ident="id9") == "unknown"


def test_what_is_not_known_any_more_lets_nobody_in() -> None:
    desk = Desk()
    desk.ask()
    for gone in "cs":
        kept = {key: raw for key, raw in desk.known.items() if not key.startswith(gone)}
        found = verify(desk.rules, kept.get, Try("id1", "m1", "123456"), secret=SECRET, now_ms=desk.now)
        assert found.result == {"c": "unknown", "s": "replaced"}[gone]
    other = verify(desk.rules, desk.known.get, Try("id1", "m1", "123456"), secret=b"x" * 32, now_ms=desk.now)
    assert other.result == "wrong"


@pytest.mark.parametrize(
    ("kind", "reason", "same", "other"),
    [
        ("member", "member_limit", {"member": "m1"}, {"member": "m2"}),
        ("address", "address_limit", {"to": "+4915112345678"}, {"to": "+4915198765432"}),
        ("ip", "ip_limit", {"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}),
        ("range", "range_limit", {"to": "+4915112340000"}, {"to": "+4915112350000"}),
    ],
)
def test_each_limit_holds_for_its_own_and_slides(kind: str, reason: str, same: dict, other: dict) -> None:
    desk = Desk(**{kind: (Limit(2, HOUR),)})
    assert desk.ask(**same).result == "granted"
    desk.now += 1_000
    assert desk.ask(**same).result == "granted"
    refused = desk.ask(**same)
    assert (refused.result, refused.retry_ms) == (reason, HOUR - 1_000)
    assert desk.ask(**other).result == "granted"
    desk.now += refused.retry_ms - 1
    assert desk.ask(**same).result == reason
    desk.now += 1
    assert desk.ask(**same).result == "granted"
    assert desk.ask(**same).result == reason


def test_limits_of_one_kind_hold_together() -> None:
    desk = Desk(member=(Limit(1, 30_000), Limit(2, HOUR)))
    assert desk.ask().result == "granted"
    assert desk.ask().retry_ms == 30_000
    desk.now += 30_000
    assert desk.ask().result == "granted"
    desk.now += 30_000
    assert desk.ask().retry_ms == HOUR - 60_000


def test_a_range_of_numbers_is_held_back_however_many_members_it_has() -> None:
    desk = Desk(range=(Limit(5, HOUR),))
    asked = [desk.ask(f"m{n}", f"+491511234{n:04d}", f"192.0.2.{n}").result for n in range(6)]
    assert asked == ["granted"] * 5 + ["range_limit"]


def test_a_destination_has_a_limit_of_its_own() -> None:
    destinations = (Destination("+49", (Limit(2, HOUR),)), Destination("+33", (Limit(1, HOUR),)))
    desk = Desk(destinations=destinations)
    numbers = ["+4915112345678", "+4917012345678", "+4916012345678", "+33612345678", "+33712345678"]
    asked = [desk.ask(f"m{n}", number).result for n, number in enumerate(numbers)]
    assert asked == ["granted", "granted", "destination_limit", "granted", "destination_limit"]


def test_a_destination_that_is_not_open_gets_nothing() -> None:
    assert Desk().ask(to="+88212345678").result == "destination_closed"
    assert Desk(destinations=()).ask().result == "destination_closed"
    assert Desk(destinations=()).ask(to="a@b.example", purpose="till").result == "granted"


def test_the_longest_prefix_tells_what_a_code_costs() -> None:
    found = destination_of(RULES, "+4915112345678")
    assert found is not None and found.cost == 70_000


def test_a_provider_gets_no_more_than_its_cap_a_day() -> None:
    desk = Desk(spend={"sms-main": 140_000})
    assert [desk.ask(f"m{n}").result for n in range(3)] == ["granted", "granted", "spend_cap"]
    retry = desk.ask("m4").retry_ms
    desk.now += retry - 1
    assert desk.ask("m4").result == "spend_cap"
    desk.now += 1
    assert desk.now % DAY_MS == 0 and desk.ask("m4").result == "granted"


def test_wrong_codes_are_counted_over_all_challenges_of_a_member() -> None:
    desk = Desk(wrong_member=(Limit(4, HOUR),))
    for _ in range(2):
        desk.ask()
        assert [desk.give("000000"), desk.give("000001")] == ["wrong", "wrong"]
    desk.ask()
    assert desk.give() == "member_limit"
    desk.now += HOUR
    desk.ask()
    assert desk.give() == "verified"


def test_wrong_codes_and_made_up_ids_are_counted_by_ip() -> None:
    desk = Desk(wrong_ip=(Limit(2, HOUR),))
    desk.ask()
    assert desk.give("000000", ip="192.0.2.1") == "wrong"
    assert desk.give(ident="made-up", member="m2", ip="::ffff:192.0.2.1") == "unknown"
    assert desk.give(ip="192.0.2.1") == "ip_limit"
    assert desk.give(ip="192.0.2.2") == "verified"


def test_right_codes_count_against_nobody() -> None:
    desk = Desk(wrong_member=(Limit(1, HOUR),), wrong_ip=(Limit(1, HOUR),))
    for _ in range(3):
        desk.ask()
        assert desk.give(ip="192.0.2.1") == "verified"


def test_one_line_of_ipv6_is_one_ip() -> None:
    desk = Desk(ip=(Limit(1, HOUR),))
    assert desk.ask(ip="2001:db8:1:2::1").result == "granted"
    assert desk.ask(ip="2001:db8:1:2:ffff::9").result == "ip_limit"
    assert desk.ask(ip="2001:db8:1:3::1").result == "granted"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"purpose": "sale"}, "unknown_purpose"),
        ({"member": ""}, "no_member"),
        ({"to": "015112345678"}, "invalid_address"),
        ({"to": "+49151\n12345678"}, "invalid_address"),
        ({"to": "+4915112345\u0666\u0667\u0668"}, "invalid_address"),  # digits of another script
        ({"to": "a b@c", "purpose": "till"}, "invalid_address"),
        ({"ip": "nowhere"}, "invalid_ip"),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(changes: dict, reason: str) -> None:
    desk = Desk()
    assert desk.ask(**changes).result == reason
    assert desk.known == {}


def test_no_record_holds_a_code_an_address_or_an_ip() -> None:
    desk = Desk()
    desk.ask(ip="192.0.2.77")
    desk.give("654321", ip="192.0.2.77")
    kept = b"".join(key.encode() + raw for key, raw in desk.known.items())
    for secret in (b"123456", b"654321", b"15112345678", b"192.0.2.77"):
        assert secret not in kept


def test_a_clock_that_goes_back_opens_nothing() -> None:
    desk = Desk(member=(Limit(1, HOUR),), lifetime_ms=60_000)
    desk.ask()
    desk.now -= 10 * HOUR
    assert desk.ask().result == "member_limit"


def test_records_are_dropped_when_they_say_nothing_any_more() -> None:
    desk = Desk(spend={"sms-main": 1_000_000})
    desk.ask(ip="192.0.2.1")
    assert not any(outdated(key, raw, NOW + DAY_MS) for key, raw in desk.known.items())
    assert all(outdated(key, raw, NOW + KEPT_MS + DAY_MS) for key, raw in desk.known.items())
