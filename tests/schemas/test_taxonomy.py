import pytest

from schemas.attributes import ATTRIBUTES
from schemas.taxonomy import (
    EVENT_TYPES,
    attribute_paths,
    is_known,
    known_attribute,
    split_event_path,
    suggest_attribute,
    suggest_type,
)

DESIGN_EXAMPLES = (
    "catalog.product.viewed", "order.created", "cart.item.added", "cart.cleared", "member.registered",
    "web.session.started", "app.opened", "catalog.search.performed", "catalog.product.price_changed",
    "profile.completed", "email.verified", "app.installed", "payment.failed", "payment.succeeded", "review.posted",
)  # fmt: skip


@pytest.mark.parametrize("name", DESIGN_EXAMPLES)
def test_every_event_of_the_design_examples_is_known(name: str) -> None:
    assert is_known(name)


def test_every_type_says_what_it_means_and_uses_declared_attributes() -> None:
    for found in EVENT_TYPES.values():
        assert found.meaning.endswith(".")
        assert set(found.attributes) <= set(ATTRIBUTES)


def test_every_declared_attribute_is_used() -> None:
    used = {name for found in EVENT_TYPES.values() for name in found.attributes}
    items = {name for attribute in ATTRIBUTES.values() for name in attribute.items}
    assert set(ATTRIBUTES) == used | items


def test_custom_events_are_known_but_not_the_bare_prefix() -> None:
    assert is_known("custom.quiz_won")
    assert not is_known("custom.")
    assert not is_known("invoice.paid")


@pytest.mark.parametrize(
    ("event_type", "path", "known"),
    [
        ("order.created", "total", True),
        ("order.created", "items.price", True),
        ("order.created", "price", True),  # any item's
        ("order.created", "items.colour", False),
        ("order.created", "totall", False),
        ("order.created", "total.cents", False),
        ("catalog.product.price_changed", "drop_pct", True),
        ("member.updated", "city", True),
        ("member.registered", "consent.email", True),
        ("custom.quiz_won", "anything", True),
        ("invoice.paid", "anything", True),  # the type itself is what is reported
        ("points.accrued", "origin.kind", True),
    ],
)
def test_attributes_are_known_as_paths(event_type: str, path: str, known: bool) -> None:
    assert known_attribute(event_type, path) is known


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("catalog.product.viewed.product_id", ("catalog.product.viewed", "product_id")),
        ("order.created.total", ("order.created", "total")),
        ("order.created.items.price", ("order.created", "items.price")),
        ("order.created", ("order.created", "")),
        ("custom.quiz_won.score", ("custom.quiz_won", "score")),
        ("custom.quiz_won", ("custom.quiz_won", "")),
        ("shop.invoice.paid.total", ("shop.invoice.paid", "total")),
        ("shop.invoice.paid", ("shop.invoice.paid", "")),
    ],
)
def test_a_path_splits_at_the_longest_known_type(text: str, parts: tuple[str, str]) -> None:
    assert split_event_path(text) == parts


def test_typing_errors_get_a_suggestion_and_nonsense_gets_none() -> None:
    assert suggest_type("order.creatd") == "order.created"
    assert suggest_type("Product Viewed") == "catalog.product.viewed"
    assert suggest_type("zzzzzz") is None
    assert suggest_attribute("order.created", "items.prise") == "items.price"
    assert suggest_attribute("order.created", "zzzzzz") is None
    assert attribute_paths("invoice.paid") == ()
