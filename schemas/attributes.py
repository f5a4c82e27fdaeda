"""The attributes that event types use: one name, one kind, one meaning wherever it appears.

Kinds, as JSON values (null and absence are always allowed):

    text     a string; numbers and booleans are let through, for shops whose ids are numbers, and stay what they are
    number   an int or a float; numeric text is refused
    flag     true or false
    list     a list of anything
    items    a list of objects, each with the attributes of `ITEM`
    object   an object with names of its own
    any      anything
"""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

TEXT, NUMBER, FLAG, LIST, ITEMS, OBJECT, ANY = "text", "number", "flag", "list", "items", "object", "any"


class Attribute(msgspec.Struct, frozen=True):
    """One attribute of `data`. `items` describes the attributes of each element, for kind `items` only."""

    name: str
    kind: str
    meaning: str
    items: Mapping[str, "Attribute"] = MappingProxyType({})


# name  kind  meaning
_TABLE = """
account_id text Points account, where a member has several.
active_from text From when a lot of points may be spent.
actor text Who did it by hand.
address_digest text Names the address without spelling it (schemas/address.py).
affiliation text Shop or partner the order came through.
amount number Points or money that moved.
answer any What was answered: text, a number, or a list of choices.
attempt number Which attempt it was, from 1.
attribution_window_ms number How long after the touch a conversion counts, in milliseconds.
axis text Which status moved: general, delivery or payment.
balance number Balance after the entry.
basis text Legal basis of the consent.
body text Text that was written.
bot flag A machine clicked, not a person.
brand text Maker or label.
build text Build of the app.
call_id text The call.
campaign text Campaign id.
card_no text Number of the loyalty card.
cart_id text The cart.
category text Category of the product or list.
category_id text The shop's id of the category.
changed list Names of the profile fields that changed.
channel text email, sms, push, web, store, …
checkout_id text The checkout.
code text Promo code, referral code or a provider's status code.
command_id text The command it answers; idempotency key.
consent object Channel to true or false.
coupon text Coupon on the order or line.
currency text ISO 4217 code.
days number Whole days until then, 0 on the day itself.
discount number Money taken off.
drop_pct number By how many per cent the price fell, 0 to 100.
duration_ms number How long it took, in milliseconds.
email text E-mail address.
entry_id text Entry of the points ledger.
expires_at text When it lapses.
f number Frequency score, 1 to 5.
from text State before.
from_background flag The app was running already.
hold_id text Hold on points.
image_url text Picture.
instance text Journey instance.
instance_id text Journey instance.
invitee text Member who was invited.
inviter text Member who invited.
kind text Which kind: of identifier, bounce or achievement.
label text Name of the RFM group.
late flag The receipt came after a final status.
link_id text Which link of the message.
list_id text The list.
list_kind text wishlist, favourites or notify.
lot_id text Lot of points: one accrual.
m number Monetary score, 1 to 5.
machine flag Opened by a mail proxy, not a person.
merged_from text Member id that ended in this one.
message_id text The message, where no command of ours sent it.
method text How it was done.
name text Name shown to people.
new number Value after the change.
old number Value before the change.
order_id text The order.
origin object Where a lot came from: {kind, id}.
outcome text How it ended.
partitions number Partitions of the topic when policies were published.
path text Path of the page.
payment_id text The payment.
payment_method text card, cash, …
platform text ios, android, web, …
poll_id text The poll.
pos_id text The till.
points_earned number Points given for the receipt.
points_spent number Points paid with.
position number Place in a list, from 1.
previous text Value before the change.
price number Price of one piece.
product_id text The shop's id of the product.
proof text What proves the consent.
provider text Who carried the message.
provider_message_id text The provider's id of the message.
purpose text What the code was for.
quantity number How many pieces.
query text What was searched for.
question_id text The question.
r number Recency score, 1 to 5.
rating number Stars or points given.
reason text Why, in one word.
receipt_id text The receipt.
referrer text Where the visitor came from.
remaining number What is left of the lot.
results number How many were found.
revenue number Money without shipping and tax.
review_id text The review.
section text Section of the site or app.
segment_id text The segment.
session_id text The visit.
shipping number Cost of delivery.
shipping_method text How it is delivered.
sku text Stock keeping unit.
source text Where it came from.
status text Status reached.
step text Step of the checkout or campaign.
store_id text The store.
subtotal number Money before discount, shipping and tax.
tax number Tax.
template text Template of the message.
text text Text that was written.
title text Title of the page.
to text State after.
topic text Consent topic.
total number Money paid in all.
until text Until when.
url text Address of the page.
value number Money.
variant text Colour, size, … or a test's variant.
version text Version of the campaign, policies, poll, segment or app.
yaml text Text of the campaign or policy file.
"""

_ITEM = (
    "product_id sku category category_id name brand variant price currency quantity discount coupon position url "
    "image_url"
)


def _rows() -> dict[str, Attribute]:
    found = {}
    for line in _TABLE.strip().splitlines():
        name, kind, meaning = line.split(" ", 2)
        found[name] = Attribute(name, kind, meaning)
    return found


ATTRIBUTES: dict[str, Attribute] = _rows()
ITEM: Mapping[str, Attribute] = MappingProxyType({name: ATTRIBUTES[name] for name in _ITEM.split()})
ATTRIBUTES["items"] = Attribute("items", ITEMS, "Lines of the order, cart or receipt.", ITEM)
ATTRIBUTES["products"] = Attribute("products", ITEMS, "Products shown in the list.", ITEM)

# What the codec lets through without a second look. A list of items is looked into, so `list` is not here for `items`.
JSON_TYPES: Mapping[str, frozenset[type]] = MappingProxyType(
    {
        TEXT: frozenset({str, int, float, bool, type(None)}),
        NUMBER: frozenset({int, float, type(None)}),
        FLAG: frozenset({bool, type(None)}),
        LIST: frozenset({list, type(None)}),
        ITEMS: frozenset({type(None)}),
        OBJECT: frozenset({dict, type(None)}),
    }
)
