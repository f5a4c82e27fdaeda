"""Requests byte for byte, and what each answer of a provider means."""

import json
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl

import http_ece
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from schemas.errors import OperatorError
from sinks.channels.base import AddressError, ContentError, HttpAdapter, HttpReply, HttpRequest
from sinks.channels.fcm import Fcm
from sinks.channels.kinds import open_provider
from sinks.channels.webpush import WebPush, unpadded
from sinks.templates import Content
from tests.sinks.channels.samples import APNS_TOKEN, CONTENT, FCM_TOKEN, dispatch, spec

REQUESTS = Path(__file__).parent / "requests"
ADDRESSES = {
    "twilio": "+4915112345678",
    "http": "+4915112345678",
    "whatsapp": "+4915112345678",
    "telegram": "42",
    "apns": APNS_TOKEN,
    "webhook": "m1",
}


def adapter(kind: str, **changes: Any) -> HttpAdapter:
    if kind == "fcm":
        return Fcm(spec("fcm", **changes).settings, "shop-1")  # type: ignore[arg-type]
    return cast(HttpAdapter, open_provider(spec(kind, **changes))[0])


def spelled(request: HttpRequest) -> str:
    lines = [f"{request.method} {request.url}", *(f"{k}: {v}" for k, v in sorted(request.headers.items())), ""]
    return "\n".join([*lines, request.body.decode()]) + "\n"


@pytest.mark.parametrize("kind", ["twilio", "http", "telegram", "fcm", "apns", "webhook", "whatsapp"])
def test_a_request_is_the_recorded_one_byte_for_byte(kind: str) -> None:
    address = ADDRESSES.get(kind, FCM_TOKEN)
    made = adapter(kind).request(dispatch(address=address))
    assert made == adapter(kind).request(dispatch(address=address))
    assert spelled(made) == (REQUESTS / f"{kind}.http").read_text()


def reply(status: int, body: Any = None, **headers: str) -> HttpReply:
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpReply(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


def fcm_error(code: int, status: str, fcm: str, message: str = "m") -> HttpReply:
    details = [{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": fcm}]
    return reply(code, {"error": {"code": code, "message": message, "status": status, "details": details}})


TELEGRAM_GONE = {"ok": False, "error_code": 403, "description": "Forbidden: bot was blocked by the user"}
TELEGRAM_SLOW = {"ok": False, "error_code": 429, "description": "Too Many Requests", "parameters": {"retry_after": 7}}


@pytest.mark.parametrize(
    ("kind", "answer", "status", "reason"),
    [
        ("twilio", reply(201, {"sid": "SM1", "status": "queued"}), "sent", "accepted"),
        ("twilio", reply(400, {"code": 21211, "message": "+4915112345678 no"}), "bounced", "recipient_refused"),
        ("twilio", reply(400, {"code": 21610, "message": "stop"}), "rejected", "unsubscribed"),
        ("twilio", reply(401, {"code": 20003, "message": "no"}), "deferred", "credentials_refused"),
        ("twilio", reply(429, {"code": 20429, "message": "slow"}), "deferred", "throttled"),
        ("twilio", reply(400, {"code": 21000, "message": "what"}), "rejected", "request_refused"),
        ("twilio", reply(503, b"<html>"), "deferred", "provider_error"),
        ("twilio", reply(504, b""), "unknown", "reply_lost"),
        ("telegram", reply(200, {"ok": True, "result": {"message_id": 5}}), "sent", "accepted"),
        ("telegram", reply(403, TELEGRAM_GONE), "bounced", "recipient_refused"),
        ("telegram", reply(429, TELEGRAM_SLOW), "deferred", "throttled"),
        ("telegram", reply(404, {"ok": False, "error_code": 404}), "deferred", "credentials_refused"),
        ("telegram", reply(400, {"ok": False, "error_code": 400, "description": "x"}), "rejected", "request_refused"),
        ("telegram", reply(502, b"bad gateway"), "deferred", "provider_error"),
        ("fcm", reply(200, {"name": "projects/p/messages/7"}), "sent", "accepted"),
        ("fcm", fcm_error(404, "NOT_FOUND", "UNREGISTERED"), "bounced", "recipient_refused"),
        ("fcm", fcm_error(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"), "bounced", "sender_mismatch"),
        ("fcm", fcm_error(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"), "deferred", "credentials_refused"),
        ("fcm", fcm_error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), "deferred", "throttled"),
        ("fcm", fcm_error(503, "UNAVAILABLE", "UNAVAILABLE"), "deferred", "provider_error"),
        ("fcm", fcm_error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"), "rejected", "request_refused"),
        ("apns", reply(200, None, apns_id="U"), "sent", "accepted"),
        ("apns", reply(410, {"reason": "Unregistered"}), "bounced", "recipient_refused"),
        ("apns", reply(400, {"reason": "BadDeviceToken"}), "bounced", "recipient_refused"),
        ("apns", reply(403, {"reason": "ExpiredProviderToken"}), "deferred", "credentials_refused"),
        ("apns", reply(429, {"reason": "TooManyRequests"}), "deferred", "throttled"),
        ("apns", reply(413, {"reason": "PayloadTooLarge"}), "rejected", "request_refused"),
        ("apns", reply(503, {"reason": "ServiceUnavailable"}), "deferred", "provider_error"),
        ("webpush", reply(201, None, location="https://p/m/9"), "sent", "accepted"),
        ("webpush", reply(410), "bounced", "recipient_refused"),
        ("webpush", reply(413), "rejected", "text_too_long"),
        ("webpush", reply(429, None, retry_after="3"), "deferred", "throttled"),
        ("webhook", reply(204), "sent", "accepted"),
        ("webhook", reply(409), "sent", "known_already"),
        ("webhook", reply(410), "rejected", "request_refused"),
        ("webhook", reply(302), "failed", "redirected"),
        ("webhook", reply(500), "deferred", "provider_error"),
        ("http", reply(200, {"result": {"code": 0, "id": "x"}}), "sent", "accepted"),
        ("http", reply(200, {"result": {"code": 12}}), "bounced", "recipient_refused"),
        ("http", reply(200, {"result": {"code": 3}}), "rejected", "request_refused"),
        ("http", reply(200, b"OK"), "rejected", "request_refused"),
    ],
)  # fmt: skip
def test_an_answer_means_what_the_vendor_says(kind: str, answer: HttpReply, status: str, reason: str) -> None:
    outcome = adapter(kind).outcome(answer)
    assert (outcome.status, outcome.reason) == (status, reason)
    # What says nothing about this message alone must count against the provider, and only that.
    about_provider = reason in ("credentials_refused", "provider_error", "reply_lost", "throttled")
    assert outcome.healthy is not about_provider or (kind, reason) == ("apns", "throttled")
    assert "49151" not in outcome.detail


def test_the_providers_own_id_and_its_wish_to_wait_are_kept() -> None:
    assert adapter("twilio").outcome(reply(201, {"sid": "SM1"})).provider_message_id == "SM1"
    assert adapter("fcm").outcome(reply(200, {"name": "projects/p/messages/7"})).provider_message_id == "7"
    assert adapter("apns").outcome(reply(200, None, apns_id="U")).provider_message_id == "U"
    assert adapter("telegram").outcome(reply(429, TELEGRAM_SLOW)).retry_after_ms == 7_000
    for told, waits_ms in (("3", 3_000), ("9" * 5_000, 86_400_000), ("Wed, 21 Oct", 0)):
        assert adapter("webpush").outcome(reply(429, None, retry_after=told)).retry_after_ms == waits_ms


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("twilio", "12345"),
        ("twilio", "+49 151 1"),
        ("twilio", "+4915112345678\r\n"),
        ("telegram", "ann"),
        ("fcm", "short"),
        ("fcm", APNS_TOKEN),
        ("apns", "zz" * 32),
        ("apns", "../" * 30),
        ("webpush", "{}"),
        ("webpush", '{"endpoint": "https://evil.example/x", "keys": {"p256dh": "a", "auth": "b"}}'),
        ("http", "ann@mail.example"),
    ],
)
def test_an_address_of_another_kind_is_refused_before_anything_leaves(kind: str, address: str) -> None:
    with pytest.raises(AddressError) as caught:
        adapter(kind).request(dispatch(address=address))
    assert address not in str(caught.value)


def test_a_subscription_leads_to_known_push_services_alone() -> None:
    point = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
    keys = {"p256dh": point, "auth": "BTBZMqHH6r4Tts7J_aSIgg"}
    own = adapter("webpush", hosts=["push.example"], insecure=False)
    for endpoint, good in {
        "https://push.example/x": True,
        "https://eu.push.example/x": True,
        "http://push.example/x": False,
        "https://push.example.evil.example/x": False,
        "https://evilpush.example/x": False,
        "https://169.254.169.254/latest": False,
        "https://push.example:99999/x": False,
    }.items():
        address = json.dumps({"endpoint": endpoint, "keys": keys})
        if good:
            assert own.request(dispatch(address=address)).url == endpoint
        else:
            with pytest.raises(AddressError):
                own.request(dispatch(address=address))


@pytest.mark.parametrize(
    ("kind", "address", "text", "fits"),
    [
        ("telegram", "42", "a" * 1_024, True),
        ("telegram", "42", "a" * 1_025, False),  # with an image the text is a caption
        ("twilio", "+4915112345678", "a" * 918, True),
        ("twilio", "+4915112345678", "a" * 919, False),  # more than six parts
        ("fcm", FCM_TOKEN, "a" * 5_000, False),
        ("apns", APNS_TOKEN, "я" * 3_000, False),
    ],
)
def test_what_the_channel_cannot_carry_is_refused_before_anything_leaves(
    kind: str, address: str, text: str, fits: bool
) -> None:
    content = Content(text, CONTENT.title, CONTENT.link, CONTENT.button, CONTENT.image)
    if fits:
        adapter(kind).request(dispatch(content, address=address))
    else:
        with pytest.raises(ContentError):
            adapter(kind).request(dispatch(content, address=address))


def test_web_push_is_the_same_for_the_same_message_and_shares_no_key_between_two() -> None:
    point = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
    address = json.dumps(
        {"endpoint": "http://127.0.0.1/x", "keys": {"p256dh": point, "auth": "BTBZMqHH6r4Tts7J_aSIgg"}}
    )
    own = adapter("webpush")
    one, again = own.request(dispatch(address=address)), own.request(dispatch(address=address))
    other = own.request(dispatch(Content("x", "y"), address=address))
    assert one == again and one.body[:86] != other.body[:86]  # salt and key stand at the head


def test_the_encryption_is_that_of_the_rfc() -> None:
    # RFC 8291, appendix A.
    own = ec.derive_private_key(
        int.from_bytes(unpadded("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"), "big"), ec.SECP256R1()
    )
    key = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
    sealed = http_ece.encrypt(
        b"When I grow up, I want to be a watermelon",
        salt=unpadded("DGv6ra1nlYgDCS1FRnbzlw"),
        private_key=own,
        dh=unpadded(key),
        auth_secret=unpadded("BTBZMqHH6r4Tts7J_aSIgg"),
        version="aes128gcm",
    )
    assert sealed == unpadded(
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3j"
        "l7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )


def test_fields_of_a_plain_provider_are_filled_and_empty_ones_left_out() -> None:
    own = adapter("http", format="form", fields={"to": "{to}", "text": "{text}!", "img": "{image}", "fix": 1})
    made = own.request(dispatch(Content("Hi & bye"), address="+4915112345678"))
    assert dict(parse_qsl(made.body.decode())) == {"to": "+4915112345678", "text": "Hi & bye!", "fix": "1"}
    query = adapter("http", format="query", method="GET", fields={"to": "{to}"}).request(dispatch())
    assert query.url.endswith("/form?to=%2B4915112345678") and query.body == b""


def test_a_place_that_is_not_known_is_refused_at_the_start() -> None:
    with pytest.raises(OperatorError, match="no such place .got .txt..; fields and url know"):
        open_provider(spec("http", fields={"a": "{txt}"}))
    with pytest.raises(OperatorError, match="headers campaign, category, id"):
        open_provider(spec("http", headers={"X": "{text}"}))


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("webhook", {"secret": "short"}, "whsec_ and 24 bytes"),
        ("webpush", {"private_key": "x"}, "32 bytes in base64url"),
        ("webpush", {"subject": "ops"}, "mailto"),
        ("apns", {"key": "x"}, "no EC key"),
        ("fcm", {"service_account": "{}"}, "JSON of a service account"),
        ("fcm", {}, "no RSA key"),
    ],
)
def test_a_key_that_is_none_is_refused_at_the_start(kind: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(OperatorError, match=words) as caught:
        open_provider(spec(kind, **changes))
    assert kind in str(caught.value)


def test_web_push_needs_no_network_to_be_made() -> None:
    assert isinstance(adapter("webpush"), WebPush)
