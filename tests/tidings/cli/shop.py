"""A shop's campaigns as texts."""

THANKS = "campaign: thanks\ntitle: Thank you\npattern: order.created[total >= 100]\n"
CASES = (
    "- name: a large order\n  events:\n    - {at: 10:00, type: order.created, total: 100}\n  expect: [{fires: 10:00}]\n"
)
