"""What the views say of control groups and of variants, by numbers counted by hand."""

import itertools
from typing import Any

import pytest

from schemas.codec import encode_attribution, encode_command, encode_decision, encode_event
from schemas.commands import SendMessage
from schemas.events import Event
from schemas.member_commands import AccruePoints, UpdateTags, encode_member_command
from schemas.records import Attribution, Decision
from sinks.clickhouse import Target, Warehouse
from sinks.rows import LogRecord, build

AT = 1_763_000_000_000
HOUR = 3_600_000


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory):
    found = Warehouse(Target(path=tmp_path_factory.mktemp("groups") / "chdb"))
    found.migrate()
    yield found
    found.close()


@pytest.fixture
def warehouse(opened: Warehouse):
    for table in ("events", "receipts", "messages", "member_commands", "decisions", "attributions"):
        opened.client().command(f"TRUNCATE TABLE {table}")
    return opened


tokens = itertools.count()


def fill(warehouse: Warehouse, topic: str, values: list[bytes]) -> None:
    """Insert what a topic holds; the token is a new one each time, so that repeats are stored twice."""
    for table, columns in build(topic, 0, [LogRecord(n, AT, v) for n, v in enumerate(values)]).columns.items():
        warehouse.insert(table, columns, f"{table} {next(tokens)}")


def decided(member: str, outcome: str, reason: str, at: int = AT, **inputs: Any) -> bytes:
    made = Decision(f"{member} {at}", member, "c", "v", f"i {member}", "k", outcome, reason, at, at, "e", inputs=inputs)
    return encode_decision(made)


def arm(which: str, group: str = "control") -> list[dict[str, object]]:
    return [{"group": group, "arm": which, "percent": 50.0, "bucket": 1, "of": 10_000, "window_ms": HOUR}]


def order(member: str, at: int, total: float) -> bytes:
    return encode_event(Event("order.created", at, f"o {member} {at}", member, {"total": total}))


def rows(warehouse: Warehouse, sql: str) -> list[dict[str, Any]]:
    found = warehouse.client().query(sql)
    return [dict(zip(found.column_names, row, strict=True)) for row in found.result_rows]


def test_uplift_counts_orders_of_both_arms_in_the_window_after_the_exposure(warehouse: Warehouse) -> None:
    decisions = [
        decided("t1", "entered", "flow", exposures=arm("treated")),
        decided("t2", "suppressed", "no_consent", exposures=arm("treated")),  # meant to be treated: it counts
        decided("c1", "suppressed", "control", exposures=arm("control")),
        decided("c1", "suppressed", "control", AT + 2 * HOUR, exposures=arm("control")),  # exposed again: not twice
        decided("c2", "suppressed", "control", exposures=arm("control")),
        decided("c3", "suppressed", "control", exposures=arm("control")),
        decided("c4", "suppressed", "control", exposures=arm("control")),
        decided("x1", "eligible", "sent_to_delivery"),
    ]
    orders = [
        order("t1", AT, 10.0), order("t1", AT + HOUR - 1, 5.0),
        order("t2", AT - 1, 99.0), order("t2", AT + HOUR, 99.0),
        order("c1", AT + 5, 7.0), order("c1", AT + 2 * HOUR, 99.0), order("x1", AT, 99.0),
    ]  # fmt: skip
    for _ in range(2):  # stored twice until a merge
        fill(warehouse, "decisions", decisions)
        fill(warehouse, "events", orders)
    (row,) = rows(warehouse, "SELECT * FROM uplift")
    assert (row["campaign"], row["group"]) == ("c", "control")
    assert (row["treated"], row["control"]) == (2, 4)
    assert (row["treated_buyers"], row["control_buyers"]) == (1, 1)
    assert (row["treated_orders"], row["control_orders"]) == (2, 1)
    assert (row["treated_value"], row["control_value"]) == (15.0, 7.0)
    assert (row["treated_rate"], row["control_rate"], row["uplift"]) == (0.5, 0.25, 0.25)
    assert round(float(str(row["uplift_error"])), 4) == 0.4146


def receipt(member: str, at: int, total: float, **data: Any) -> bytes:
    return encode_event(Event("receipt.issued", at, f"r {member} {at}", member, {"total": total, **data}))


def test_a_purchase_of_which_order_and_receipt_tell_counts_once_when_it_was_ordered(warehouse: Warehouse) -> None:
    told = {"order_id": "A-1"}
    exposed = [
        decided(name, "entered", "flow", exposures=arm("treated")) for name in ("both", "before", "till", "other")
    ]
    placed = [
        Event("order.created", AT + 1, "o1", "both", {"total": 10.0, **told}),
        # Fetched in the window, but decided before it.
        Event("order.created", AT - 1, "o2", "before", {"total": 99.0, **told}),
    ]
    orders = [
        *(encode_event(event) for event in placed),
        receipt("both", AT + 2, 12.0, **told),
        receipt("before", AT + 2, 99.0, **told),
        receipt("till", AT + 2, 3.0), receipt("till", AT + 3, 4.0),  # no order: each its own
        receipt("other", AT + 2, 5.0, **told),  # somebody else's order has the same number
    ]  # fmt: skip
    for _ in range(2):
        fill(warehouse, "decisions", exposed)
        fill(warehouse, "events", orders)
    (row,) = rows(warehouse, "SELECT * FROM uplift")
    assert (row["treated_buyers"], row["treated_orders"], row["treated_value"]) == (3, 4, 22.0)


def credit(number: int, type_: str, order_id: str | None, value: float) -> bytes:
    return encode_attribution(
        Attribution(
            f"a{number}", "m", "c", "v", "i", "k", "email", "last_touch", "sent", AT, f"e{number}", type_,
            AT + number, AT + number, value, "EUR", order_id,
        )
    )  # fmt: skip


def test_a_message_earns_a_purchase_once_though_order_and_receipt_tell_of_it(warehouse: Warehouse) -> None:
    credits_ = [
        credit(1, "order.created", "A-1", 10.0),
        credit(2, "receipt.issued", "A-1", 12.0),
        credit(3, "receipt.issued", "R-7", 3.0),
        credit(4, "receipt.issued", None, 4.0),
        credit(5, "order.created", None, 5.0),
    ]
    send = SendMessage("k", "m", "c", "v", "i", "s", "email", "t", "a@b.example", AT, AT, AT, "e", variant="a")
    fill(warehouse, "commands", [encode_command(send)])
    for _ in range(2):
        fill(warehouse, "attributions", credits_)
    (funnel,) = rows(warehouse, "SELECT * FROM campaign_funnel")
    assert (funnel["orders_attributed"], funnel["value_by_currency"]) == (4, {"EUR": 22.0})
    (variant,) = rows(warehouse, "SELECT * FROM variant_results")
    assert (variant["orders_attributed"], variant["value"]) == (4, 22.0)


def test_the_policies_control_group_is_a_group_of_its_own(warehouse: Warehouse) -> None:
    bucket: Any = {"control_group": {"salt": "2026", "percent": 10, "bucket": 1, "of": 10_000}}
    decisions = [
        decided("t1", "eligible", "sent_to_delivery", **bucket),
        decided("t2", "suppressed", "frequency_cap", **bucket),
        decided("c1", "suppressed", "control", **bucket),
        decided("n1", "suppressed", "no_consent"),
    ]
    fill(warehouse, "decisions", decisions)
    fill(warehouse, "events", [order("c1", AT + 24 * HOUR, 3.0)])
    (row,) = rows(warehouse, "SELECT * FROM uplift")
    assert (row["group"], row["treated"], row["control"], row["control_buyers"]) == ("all:2026", 2, 1, 1)


def test_variants_are_told_apart_from_message_to_money(warehouse: Warehouse) -> None:
    sends = [
        SendMessage(f"k{n}", f"m{n}", "c", "v", "i", "s", "email", "t", "a@b.example", AT, AT, AT, "e", variant=variant)
        for n, variant in enumerate(["a", "a", "b", ""])
    ]
    receipts = [
        encode_event(Event(f"delivery.{what}", AT, f"r{n} {what}", f"m{n}", {"command_id": f"k{n}", "campaign": "c"}))
        for n, what in ((0, "sent"), (1, "delivered"), (2, "bounced"))
    ]
    receipts.append(encode_event(Event("engagement.clicked", AT, "r0 c", "m0", {"command_id": "k0", "campaign": "c"})))
    credits_ = [
        encode_attribution(
            Attribution(f"a{n}", "m0", "c", "v", "i", "k0", "email", "last", "sent", AT, f"o{n}", "o.c", AT, AT, 4.0)
        )
        for n in range(2)
    ]  # fmt: skip
    fill(warehouse, "commands", [encode_command(send) for send in sends])
    fill(warehouse, "events", receipts)
    fill(warehouse, "attributions", credits_)
    found = rows(warehouse, "SELECT * FROM variant_results ORDER BY variant")
    counted = ("variant", "messages", "delivered", "opened", "clicked", "converted", "value")
    assert [tuple(row[name] for name in counted) for row in found] == [
        ("a", 2, 2, 1, 1, 1, 8.0),  # who clicked got it and opened it, whoever told
        ("b", 1, 0, 0, 0, 0, 0.0),
    ]


def test_commands_about_members_are_one_row_each(warehouse: Warehouse) -> None:
    commands = [
        encode_member_command(AccruePoints("k1", "m", "c", "v", "i", "s", 5.0, AT, AT, "e", "gift")),
        encode_member_command(UpdateTags("k2", "m", "c", "v", "i", "s", AT, AT, "e", ["vip"])),
    ]
    for _ in range(2):
        fill(warehouse, "member-commands", commands)
    found = rows(warehouse, "SELECT kind, points, added, expires_at FROM member_commands FINAL ORDER BY kind")
    assert [(r["kind"], r["points"], list(r["added"])) for r in found] == [
        ("AccruePoints", 5.0, []), ("UpdateTags", None, ["vip"]),
    ]  # fmt: skip


def test_ways_of_a_split_are_compared_by_the_goal_their_journeys_reach(warehouse: Warehouse) -> None:
    def way(member: str, name: str) -> bytes:
        return decided(member, "assigned", "split", step="group", variant=name)

    told = [
        way("a1", "mail"), way("a2", "mail"), way("a3", "mail"), way("b1", "none"), way("b2", "none"),
        decided("a1", "exited", "goal", AT + 1), decided("a2", "completed", "end", AT + 1),
        decided("b1", "exited", "exit_on", AT + 1), decided("x", "exited", "goal", AT + 1),
    ]  # fmt: skip
    for _ in range(2):
        fill(warehouse, "decisions", told)
    found = rows(warehouse, "SELECT * FROM split_results ORDER BY way")
    counts = [tuple(row.values())[2:] for row in found]
    assert counts == [("mail", 3, 1, 1, 1), ("none", 2, 0, 1, 1)]
