import pytest

from schemas.codec import MAX_BYTES
from tests.e2e.product import Product
from tidings.standing import is_ready

pytestmark = pytest.mark.kafka

GOOD = {"type": "catalog.product.viewed", "member_id": "m1", "data": {"product_id": "p1", "price": 5}}
BAD = {
    "malformed": b"\xff\xfe no JSON at all",
    "truncated": b'{"type":"catalog.product.viewed","member_id":"m1","occurred_at":"2026-03-0',
    "oversized": b'{"type":"web.page.viewed","occurred_at":1,"data":{"url":"' + b"x" * MAX_BYTES + b'"}}',
    "wrong type": b'{"type":"catalog.product.viewed","member_id":"m1","occurred_at":1,"data":{"price":"twelve"}}',
}
TWICE = "campaign: twice\npattern: 2+ catalog.product.viewed within 1h\n"


def test_four_bad_records_are_four_dead_letters_and_the_good_ones_beside_them_are_processed(fresh):
    with Product(fresh) as product:
        product.publish("twice", TWICE)
        for number, value in enumerate(BAD.values()):
            product.send({**GOOD, "event_id": f"v{number}"}, value)
        log = product.drain()
        assert dict(log.dead_letters) == {"not-json": 2, "too-large": 1, "wrong-type": 1}
        assert log.types["catalog.product.viewed"] == 4
        assert len(log.decisions) == 2, "views 1 and 2, then 3 and 4"
        rows = product.sql("SELECT reason, uniqExact(log_partition, log_offset) AS n FROM undecodable GROUP BY reason")
        assert sum(row["n"] for row in rows) == 4
        assert all(is_ready(child.url()) and child.starts == 1 for child in product.children.all)
