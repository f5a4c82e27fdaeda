"""One message and one provider of each kind, the same in all tests."""

import base64
import json
from typing import Any

from schemas.commands import SendMessage
from sinks.channels.base import Dispatch
from sinks.channels.kinds import ProviderSpec, read_spec
from sinks.templates import Content
from tests.sinks.channels.vendors import EC_PEM, WEBHOOK_SECRET, Vendors, b64url

ID = "0123456789abcdef0123456789abcdef"
FCM_TOKEN = "fcm:" + "a" * 150
APNS_TOKEN = "ab" * 32
AT_MS = 1_700_000_000_000
CONTENT = Content(
    "Your cart waits: 2 items.", "Your cart", "https://shop.example/cart?c=1", "Open", "https://i.example/1.png"
)


def send(**changes: Any) -> SendMessage:
    values: dict[str, Any] = {
        "command_id": ID,
        "member_id": "m1",
        "campaign": "cart",
        "version": "v1",
        "instance_id": "i1",
        "step": "send",
        "channel": "sms",
        "template": "cart",
        "address": "+4915112345678",
        "decided_at_ms": AT_MS,
        "caused_at_ms": AT_MS,
        "expires_at_ms": AT_MS + 3_600_000,
        "anchor": "e1",
        "data": {"items": 2},
        "member": {"city": "Omsk", "name": "Ann"},
    }
    return SendMessage(**(values | changes))


def dispatch(content: Content = CONTENT, **changes: Any) -> Dispatch:
    return Dispatch(send(**changes), content, "https://shop.example/r/p/tok", AT_MS)


def spec(kind: str, vendors: Vendors | None = None, **changes: Any) -> ProviderSpec:
    url = vendors.url if vendors is not None else "http://127.0.0.1:9"
    account = (
        vendors.service_account()
        if vendors is not None
        else json.dumps({"project_id": "shop-1", "client_email": "a@b", "private_key": "none"})
    )
    settings: dict[str, dict[str, Any]] = {
        "twilio": {"account_sid": "AC1", "auth_token": "twilio-secret", "sender": "Shop", "url": url},
        "telegram": {"token": "123:bot", "url": url},
        "fcm": {"service_account": account, "url": url},
        "apns": {"key": EC_PEM, "key_id": "K1", "team_id": "T1", "topic": "com.example.shop", "url": url},
        "webpush": {
            "private_key": b64url(bytes(31) + b"\x07"),
            "subject": "mailto:ops@shop.example",
            "hosts": ["127.0.0.1"],
            "insecure": True,
        },
        "webhook": {"url": f"{url}/hook", "secret": WEBHOOK_SECRET, "profile": ["city"]},
        "whatsapp": {
            "token": "wa-token",
            "phone_number_id": "10001",
            "app_secret": "wa-secret",
            "verify_token": "wa-verify",
            "templates": {
                "cart": {
                    "name": "cart_v2",
                    "language": "de",
                    "parameters": 1,
                    "image": True,
                    "button_base": "https://shop.example/",
                }
            },
            "url": url,
        },
        "smpp": {"url": "smpp://127.0.0.1:9", "system_id": "shop", "password": "smpp-secret", "sender": "Shop"},
        "http": {
            "url": f"{url}/form",
            "fields": {"to": "{to_digits}", "msg": "{text}", "ref": "{id}", "dlr": "{callback}", "b": ["{button}"]},
            "token": "t0",
            "ok": {"result.code": 0},
            "message_id": "result.id",
            "error": "result.code",
            "refused": {"12": "bounced"},
        },
    }
    return read_spec(kind, kind, settings[kind] | changes)


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()
