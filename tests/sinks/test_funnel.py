"""The funnel and the view of cascades: three axes, each by its partial order, whatever the order receipts come in."""

import itertools

import pytest

from schemas.codec import encode_command, encode_decision, encode_event
from schemas.commands import SendMessage
from schemas.events import Event
from schemas.records import Decision
from schemas.unsubscribe import Leaving, choice, revocation
from sinks.clickhouse import Target, Warehouse
from sinks.rows import LogRecord, build

AT = 1_763_000_000_000


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory):
    found = Warehouse(Target(path=tmp_path_factory.mktemp("funnel") / "chdb"))
    found.migrate()
    yield found
    found.close()


@pytest.fixture
def warehouse(opened: Warehouse):
    for table in ("events", "receipts", "messages", "decisions"):
        opened.client().command(f"TRUNCATE TABLE {table}")
    return opened


tokens = itertools.count()


def put(warehouse: Warehouse, topic: str, *values: bytes) -> None:
    """Insert what a topic holds; the token is a new one each time, so that repeats are stored twice."""
    records = [LogRecord(n, AT, value) for n, value in enumerate(values)]
    for table, columns in build(topic, 0, records).columns.items():
        warehouse.insert(table, columns, f"{table} {next(tokens)}")


def receipt(kind: str, command: str = "k", **data) -> bytes:
    data = {"campaign": "c", "command_id": command, **data}
    return encode_event(Event(kind, AT, f"{kind} {command} {sorted(data.items())}", "m", data))


def message(command: str, step: str = "send", instance: str = "i") -> bytes:
    return encode_command(
        SendMessage(
            command_id=command, member_id="m", campaign="c", version="v", instance_id=instance, step=step,
            channel=step.rpartition(".")[2], template="t", address="", anchor="a",
            decided_at_ms=AT, caused_at_ms=AT, expires_at_ms=AT,
        )
    )  # fmt: skip


def decision(name: str, outcome: str, reason: str, command: str) -> bytes:
    return encode_decision(Decision(name, "m", "c", "v", "i", command, outcome, reason, AT, AT, "a"))


def funnel(warehouse: Warehouse) -> dict[str, object]:
    """The campaign's row, without what is zero or empty."""
    found = warehouse.client().query("SELECT * FROM campaign_funnel")
    (row,) = found.result_rows
    return {name: value for name, value in zip(found.column_names, row, strict=True) if value and name != "campaign"}


STORY = ["delivery.sent", "delivery.expired", "delivery.delivered", "engagement.opened", "engagement.clicked"]


@pytest.mark.parametrize("order", [STORY, STORY[::-1], [*STORY[2:], *STORY[:2]]])
def test_receipts_in_any_order_and_told_twice_are_one_message_at_its_furthest(warehouse: Warehouse, order) -> None:
    put(warehouse, "events", *map(receipt, order))
    put(warehouse, "events", *map(receipt, order))
    assert funnel(warehouse) == {"sent": 1, "delivered": 1, "opened": 1, "clicked": 1}


@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [
        (["delivery.delivered"], {"sent": 1, "delivered": 1}),
        (["engagement.clicked"], {"sent": 1, "delivered": 1, "opened": 1, "clicked": 1}),
        (["engagement.opened"], {"sent": 1, "delivered": 1, "opened": 1}),
        (["engagement.complained"], {"sent": 1, "delivered": 1, "complained": 1}),
        (["delivery.sent", "delivery.bounced"], {"sent": 1, "failed": 1}),
        (["delivery.failed"], {"failed": 1}),
        (["delivery.expired", "delivery.delivered"], {"sent": 1, "delivered": 1}),
        (["delivery.delivered", "delivery.expired"], {"sent": 1, "delivered": 1}),
    ],
)
def test_what_is_further_holds_what_comes_before_it(warehouse: Warehouse, kinds, wanted) -> None:
    put(warehouse, "events", *map(receipt, kinds))
    assert funnel(warehouse) == wanted


def test_machines_neither_open_nor_click_but_show_that_the_message_came(warehouse: Warehouse) -> None:
    put(
        warehouse, "events",
        receipt("engagement.opened", machine=True, reason="loader"),
        receipt("engagement.clicked", bot=True, reason="robot"),
        receipt("engagement.clicked", command="other", bot=False),
        receipt("engagement.opened", command="told", machine=False, reason="told_by_provider"),
    )  # fmt: skip
    assert funnel(warehouse) == {
        "sent": 3, "delivered": 3, "opened": 2, "clicked": 1, "opened_by_machines": 1, "clicked_by_machines": 1,
    }  # fmt: skip


def test_steps_that_are_no_messages_count_as_none(warehouse: Warehouse) -> None:
    put(
        warehouse, "decisions",
        decision("d1", "suppressed", "no_points", ""),
        decision("d2", "suppressed", "marks_full", ""),
        decision("d3", "held", "paused", ""),
        decision("d4", "suppressed", "no_consent", ""),
    )  # fmt: skip
    assert funnel(warehouse) == {"decided": 1, "suppressed": 1, "suppressed_by_reason": {"no_consent": 1}}


def test_rows_of_before_are_told_apart_by_their_reason(warehouse: Warehouse) -> None:
    columns = "event_id, type, status, campaign, command_id, reason"
    for reason in ("robot", "told_by_provider", ""):
        row = f"'e{reason}', 'engagement.clicked', 'clicked', 'c', 'k{reason}', '{reason}'"
        warehouse.client().command(f"INSERT INTO receipts ({columns}) VALUES ({row})")
    assert (funnel(warehouse)["clicked"], funnel(warehouse)["clicked_by_machines"]) == (2, 1)


def test_a_message_that_was_held_is_decided_once(warehouse: Warehouse) -> None:
    put(
        warehouse, "decisions",
        decision("1", "held", "quiet_hours", "k1"),
        decision("2", "held", "quiet_hours", "k1"),
        decision("3", "eligible", "sent_to_delivery", "k1"),
        decision("4", "suppressed", "no_consent", "k2"),
        decision("5", "entered", "flow", ""),
        decision("6", "assigned", "cascade", ""),
    )  # fmt: skip
    assert funnel(warehouse) == {
        "decided": 2, "eligible": 1, "held": 1, "suppressed": 1,
        "held_by_reason": {"quiet_hours": 1}, "suppressed_by_reason": {"no_consent": 1},
    }  # fmt: skip


def test_an_unsubscribe_belongs_to_the_campaign_of_its_message_and_counts_once(warehouse: Warehouse) -> None:
    put(warehouse, "commands", message("k1"), message("k2"), message("k3"))
    pressed = [encode_event(revocation(Leaving(1, "m", "email", "marketing", "k1"), AT + n)) for n in range(2)]
    chosen = encode_event(choice(Leaving(1, "m", "email", "marketing", "k2"), "sms", False, AT))
    other = Event("consent.revoked", AT, "x", "m", {"channel": "email", "source": "shop", "proof": "k3"})
    put(warehouse, "events", *pressed, chosen, encode_event(other), receipt("engagement.unsubscribed", command="k1"))
    assert funnel(warehouse) == {"commanded": 3, "unsubscribed": 2, "sent": 1, "delivered": 1}


def test_the_view_of_cascades_counts_double_deliveries(warehouse: Warehouse) -> None:
    legs = ["news.push", "news.sms"]
    put(warehouse, "commands", *(message(f"{i} {step}", step, i) for i in ("i1", "i2", "i3") for step in legs))
    put(warehouse, "commands", message("plain"))
    put(
        warehouse, "events",
        receipt("delivery.delivered", command="i1 news.push"),
        receipt("delivery.delivered", command="i1 news.sms"),
        receipt("delivery.delivered", command="i2 news.sms"),
        receipt("engagement.opened", command="i2 news.sms"),
        receipt("delivery.sent", command="i3 news.sms"),
    )  # fmt: skip
    found = warehouse.client().query("SELECT step, instance_id, sent, delivered FROM cascades ORDER BY instance_id")
    assert found.result_rows == [("news", "i1", 2, 2), ("news", "i2", 2, 1), ("news", "i3", 2, 0)]
