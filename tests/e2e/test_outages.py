import time

import pytest

from tests.e2e.product import Product
from tests.sinks.clickhouse_http import ClickHouseOverHttp

pytestmark = [pytest.mark.kafka, pytest.mark.faults]

SMTP_DOWN_S = CLICKHOUSE_DOWN_S = 4  # seconds; a minute gives the same, CI's time is short
MEMBERS = 30
THANKS = """\
campaign: thanks
pattern: order.created as o
send:
  channel: email
  template: thank_you
  data:
    order_id: o.order_id
    total: o.total
    currency: o.currency
"""


def register(product: Product) -> None:
    for number in range(MEMBERS):
        name = f"m{number}"
        data = {"email": f"{name}@shop.example", "first_name": "Ada", "consent": {"email": True}}
        product.send(
            {"type": "member.registered", "event_id": f"r{number}", "member_id": name, "data": data}, member=name
        )


def order(product: Product, number: int) -> None:
    name = f"m{number}"
    data = {"order_id": f"o{number}", "total": 20, "currency": "EUR"}
    product.send({"type": "order.created", "event_id": f"o{number}", "member_id": name, "data": data}, member=name)


def orders_while_down(product: Product, down_s: float) -> None:
    """A third of the members orders before the end of the outage, a third while it lasts, a third at its end."""
    for number in range(MEMBERS):
        if number == MEMBERS // 3 or number == 2 * MEMBERS // 3:
            time.sleep(down_s / 2)
        order(product, number)


@pytest.mark.parametrize("down_s", [SMTP_DOWN_S])
def test_mail_of_an_smtp_outage_leaves_after_it_once(fresh, down_s):
    with Product(fresh) as product:
        product.publish("thanks", THANKS)
        register(product)
        product.smtp.stop()
        orders_while_down(product, down_s)
        assert product.smtp.received == 0
        product.smtp.start()
        log = product.drain(120)
        assert product.smtp.received == len(log.commands) == MEMBERS and not product.smtp.repeated
        assert log.types["delivery.sent"] == MEMBERS and not log.types["delivery.failed"]


@pytest.mark.parametrize("down_s", [CLICKHOUSE_DOWN_S])
def test_rows_of_a_clickhouse_outage_arrive_after_it_once(fresh, tmp_path, down_s):
    clickhouse = ClickHouseOverHttp(tmp_path / "server")
    clickhouse.start()
    try:
        with Product(fresh, clickhouse=clickhouse.url) as product:
            product.publish("thanks", THANKS)
            register(product)
            clickhouse.stop()
            orders_while_down(product, down_s)
            clickhouse.start()
            log = product.drain(120)
            assert product.smtp.received == MEMBERS, "sending does not wait for analytics"
            for table, ident, wanted in (
                ("messages", "command_id", set(log.commands)),
                ("decisions", "decision_id", set(log.decisions)),
                ("events", "event_id", {f"{kind}{n}" for kind in "ro" for n in range(MEMBERS)}),
            ):
                rows = clickhouse.rows(
                    f"SELECT {ident} FROM tidings.{table} WHERE member_id != ''"
                    + (" AND type NOT LIKE 'delivery.%'" if table == "events" else "")
                )
                assert sorted(row[0] for row in rows) == sorted(wanted), table
    finally:
        clickhouse.close()
