"""Every type of event we know, with its attributes: what producers may write and campaigns may name.

The taxonomy never limits what travels: an unknown type or attribute passes through (newer producers), `is_known` and
`known_attribute` report it. Only a known attribute of the wrong JSON type is refused, by the codec.
"""

import difflib
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from schemas.attributes import ANY, ATTRIBUTES, JSON_TYPES, OBJECT, Attribute
from schemas.events import CONTROL_TYPES, TICK

CUSTOM = "custom."


class EventType(msgspec.Struct, frozen=True):
    """One type of event. `open`: its `data` is free, so any attribute counts as known."""

    name: str
    meaning: str
    attributes: Mapping[str, Attribute]
    open: bool = False


# Attributes that come together; `@name` below.
_GROUPS = {
    "@product": "product_id sku category category_id name brand variant price currency quantity url image_url "
    "session_id",
    "@order": "order_id items total subtotal discount coupon currency channel",
    "@flow": "command_id campaign version instance_id channel template step variant",
    "@delivery": "@flow status attempt provider provider_message_id code reason attribution_window_ms message_id "
    "address_digest",
    "@engagement": "@flow provider provider_message_id message_id attribution_window_ms address_digest",
    "@points": "account_id currency entry_id lot_id amount remaining balance reason origin order_id receipt_id",
}

# type | attributes (`*`: open) | meaning
_TABLE = """
web.session.started | session_id source referrer url | A visit to the site began.
web.session.ended | session_id duration_ms | A visit to the site ended.
web.page.viewed | url path section title name referrer session_id | A page was looked at.
app.installed | version build platform | The app was installed.
app.opened | version build platform from_background url session_id | The app was opened.
app.screen.viewed | name section session_id | A screen of the app was looked at.
catalog.list.viewed | list_id category category_id products session_id | A list of products was looked at.
catalog.product.viewed | @product position | A product was looked at.
catalog.search.performed | query results session_id | The catalogue was searched.
catalog.product.price_changed | product_id sku category old new drop_pct currency | A price changed.
catalog.product.stock_changed | product_id sku category old new | A product's stock changed, told to this member.
cart.item.added | cart_id @product coupon | A product was put into the cart.
cart.item.removed | cart_id @product coupon | A product was taken out of the cart.
cart.item.viewed | cart_id items value total currency session_id | The cart was looked at.
cart.cleared | cart_id items reason session_id | The cart was emptied of its items.
list.item.added | list_kind list_id @product | A product was put on a list of the member's.
list.item.removed | list_kind list_id @product | A product was taken off a list of the member's.
checkout.started | checkout_id @order value session_id | The checkout began.
checkout.step_completed | checkout_id step payment_method shipping_method value order_id | A step was done.
order.created | @order checkout_id shipping tax revenue affiliation payment_method session_id | An order was placed.
order.updated | @order checkout_id shipping tax revenue affiliation payment_method status | An order changed.
order.status_changed | order_id axis from to | An order moved on one of its three axes.
order.cancelled | @order reason | An order was cancelled.
order.refunded | @order reason | Money for an order went back.
receipt.issued | receipt_id store_id pos_id points_spent points_earned @order | A sale was made at a till.
receipt.returned | receipt_id store_id pos_id points_spent points_earned @order reason | Goods came back at a till.
payment.failed | payment_id order_id amount currency payment_method reason code attempt | A payment failed.
payment.succeeded | payment_id order_id amount currency payment_method | A payment went through.
review.posted | review_id product_id order_id rating body text category | A review was written.
promo.code_issued | code reason expires_at campaign | A promo code was given to the member.
promo.entered | code order_id cart_id | A promo code was typed in.
promo.applied | code order_id cart_id discount | A promo code was taken.
promo.denied | code order_id cart_id reason | A promo code was turned down.
promo.redeemed | code order_id discount | A promo code was used up by an order.
member.registration_started | channel source * | Someone began to register.
member.registered | channel source consent email * | A member registered; data becomes the profile.
member.updated | changed consent email * | A member's data changed; data is merged into the profile.
member.merged | merged_from | Two members became one.
member.erased | reason | A member asked to be forgotten.
member.identifier_verified | kind method | An identifier was confirmed.
profile.completed | method source | The profile was filled in.
email.verified | method | The e-mail address was confirmed.
card.linked | card_no category | A card was linked to the member.
card.activated | card_no category | A card was activated.
card.blocked | card_no category reason | A card was blocked.
card.unblocked | card_no category reason | A card was unblocked.
card.category_changed | card_no category previous | A card changed category.
consent.granted | channel topic basis proof source | The member agreed to a channel or topic.
consent.revoked | channel topic basis proof source reason | The member withdrew from a channel or topic.
segment.entered | segment_id version | The member came into a segment.
segment.left | segment_id version | The member left a segment.
rfm.changed | r f m label previous segment_id | The member's RFM scores changed.
points.accrued | @points active_from expires_at | Points were given, pending or active.
points.activated | @points active_from expires_at | Pending points became spendable.
points.held | @points hold_id expires_at | Points were set aside for a purchase.
points.captured | @points hold_id | Held points were spent.
points.released | @points hold_id | Held points were given back.
points.redeemed | @points | Points were spent.
points.expiry_forecast | account_id currency amount days expires_at | If unspent, points lapse: amount up to expires_at.
points.expired | @points expires_at | Points lapsed.
points.reversed | @points expires_at | Points were taken back or restored after a return.
points.reinstated | @points expires_at | Lapsed points were given again.
points.adjusted | @points actor | Points were changed by hand.
points.transferred | @points from to | Points went to another member.
points.merged | @points merged_from | Points came over from a merged member.
tier.changed | from to reason | The member's tier changed.
achievement.earned | code kind name | An achievement was earned.
referral.invited | code inviter invitee | A friend was invited.
referral.joined | code inviter invitee | An invited friend joined.
referral.converted | code inviter invitee order_id | An invited friend bought.
poll.opened | poll_id version | A poll was opened.
poll.answered | poll_id version question_id answer | A question was answered.
poll.completed | poll_id version | A poll was finished.
message.eligible | @flow | A member entered the step that sends.
message.held | @flow until reason | A message waits: quiet hours, rate or cascade.
message.suppressed | @flow reason | A message was not sent, and why.
delivery.requested | @delivery | A send command was recorded.
delivery.accepted | @delivery | The provider took the message; no outcome yet.
delivery.sent | @delivery | The message went to the network.
delivery.deferred | @delivery | A temporary failure; it is tried again.
delivery.delivered | @delivery late | The message reached the mailbox or handset.
delivery.undelivered | @delivery | The network could not deliver.
delivery.bounced | @delivery kind | The mailbox refused: hard, soft or block.
delivery.rejected | @delivery | The provider refused the message.
delivery.expired | @delivery | The message was too old to be of use.
delivery.failed | @delivery | We could not hand the message over.
delivery.cancelled | @delivery | The message was called back before it left.
delivery.unknown | @delivery | No receipt came in time.
engagement.opened | @engagement machine reason | The message was opened.
engagement.clicked | @engagement link_id url bot reason | A link of the message was clicked.
engagement.read | @engagement | The message was read.
engagement.replied | @engagement text | The member replied.
engagement.answered | @engagement question_id answer | The member answered a question in the message.
engagement.converted | @engagement order_id value currency | The member did what the message was for.
engagement.unsubscribed | @engagement topic | The member unsubscribed by the message.
engagement.complained | @engagement | The member called the message spam.
journey.entered | campaign version instance step reason | A journey instance began.
journey.advanced | campaign version instance step reason | A journey instance went a step further.
journey.waited | campaign version instance step reason until | A journey instance waits.
journey.exited | campaign version instance step reason | A journey instance ended early.
journey.completed | campaign version instance step reason | A journey instance came to its end.
decision.made | campaign version instance step reason outcome | A decision was taken.
otp.requested | purpose channel attempt | A one-time code was asked for.
otp.verified | purpose channel attempt | A one-time code was right.
otp.failed | purpose channel attempt reason | A one-time code was wrong or late.
call.assigned | call_id campaign actor | A call was given to an operator.
call.answered | call_id actor | The member took the call.
call.outcome | call_id actor outcome reason | How the call ended.
chat.received | message_id channel text | A chat message came in.
pos.balance_requested | store_id pos_id card_no | A till asked for the balance.
tick | | The partition's clock moves; nothing else.
campaign.published | campaign version yaml path | A campaign is live from this record on.
campaign.withdrawn | campaign | A campaign ends at this record.
campaign.suspended | campaign version | A campaign that raised too often stops on this partition.
campaign.paused | campaign | A campaign begins nothing and sends nothing from this record on.
campaign.resumed | campaign | A paused or draining campaign goes on as before.
campaign.drained | campaign | A campaign begins nothing from this record on; what runs goes on to its end.
campaign.stopped | campaign | A campaign begins nothing from this record on, and what runs ends.
policy.published | version yaml path partitions | Policies hold from this record on, instead of those before.
policy.withdrawn | | No policies hold from this record on.
"""


def _spelled(words: str) -> list[str]:
    names: list[str] = []
    for word in words.split():
        names += _spelled(_GROUPS[word]) if word in _GROUPS else [word]
    return names


def _rows() -> dict[str, EventType]:
    found = {}
    for line in _TABLE.strip().splitlines():
        name, words, meaning = (part.strip() for part in line.split("|"))
        names = _spelled(words)
        attributes = {word: ATTRIBUTES[word] for word in names if word != "*"}
        found[name] = EventType(name, meaning, MappingProxyType(attributes), open="*" in names)
    return found


EVENT_TYPES: Mapping[str, EventType] = MappingProxyType(_rows())

# type -> attribute -> JSON types it may have; what is absent here is not checked. Where data is free (a profile), only
# `consent` is: the fold reads it. Kind `items` has null alone: a list has to be looked into.
CHECKED: dict[str, dict[str, frozenset[type]]] = {
    name: {
        word: JSON_TYPES[a.kind]
        for word, a in found.attributes.items()
        if a.kind != ANY and (not found.open or word == "consent")
    }
    for name, found in EVENT_TYPES.items()
}
CHECKED_ITEM: Mapping[str, frozenset[type]] = MappingProxyType(
    {name: JSON_TYPES[a.kind] for name, a in ATTRIBUTES["items"].items.items()}
)


def is_known(event_type: str) -> bool:
    """Tell whether the taxonomy has this type; `custom.<name>` always counts."""
    return event_type in EVENT_TYPES or (event_type.startswith(CUSTOM) and len(event_type) > len(CUSTOM))


def known_attribute(event_type: str, path: str) -> bool:
    """Tell whether events of this type carry this attribute: `total`, `items.price`, or `price` for that of any item.

    A type the taxonomy does not have, `custom.*` and types with free data know every attribute.
    """
    found = EVENT_TYPES.get(event_type)
    if found is None or found.open:
        return True
    head, _, rest = path.partition(".")
    attribute = found.attributes.get(head)
    if attribute is None:
        lines = found.attributes.get("items")
        return lines is not None and path in lines.items
    if not rest:
        return True
    return attribute.kind in (OBJECT, ANY) or rest in attribute.items


def attribute_paths(event_type: str) -> tuple[str, ...]:
    """List the attributes of a known type as paths, those of items included; empty for an unknown type."""
    found = EVENT_TYPES.get(event_type)
    if found is None:
        return ()
    paths = list(found.attributes)
    for attribute in found.attributes.values():
        paths += [f"{attribute.name}.{inner}" for inner in attribute.items]
    return tuple(paths)


def suggest_type(name: str) -> str | None:
    """Name the known type that looks most like this one, or None when none comes near."""
    close = difflib.get_close_matches(name.lower().replace(" ", "_"), EVENT_TYPES, n=1, cutoff=0.6)
    return close[0] if close else None


def suggest_attribute(event_type: str, path: str) -> str | None:
    """Name the attribute of a known type that looks most like this path, or None when none comes near."""
    close = difflib.get_close_matches(path.lower(), attribute_paths(event_type), n=1, cutoff=0.6)
    return close[0] if close else None


def split_event_path(text: str) -> tuple[str, str]:
    """Split `catalog.product.viewed.product_id` into type and attribute path; the path is "" when there is none.

    The type is the longest known one that the text begins with; `custom.<name>`; else the first three words.
    """
    words = text.split(".")
    for size in range(len(words), 0, -1):
        name = ".".join(words[:size])
        if name in EVENT_TYPES:
            return name, ".".join(words[size:])
    size = 2 if words[0] == CUSTOM[:-1] else 3
    return ".".join(words[:size]), ".".join(words[size:])


def is_internal(event_type: str) -> bool:
    """Tell whether the type moves the log itself and is no fact about a member: ticks and control records."""
    return event_type == TICK or event_type in CONTROL_TYPES
