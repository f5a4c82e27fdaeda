"""WhatsApp: templates and texts, Meta's codes, receipts of many messages in one signed call."""

import hmac
import json
from typing import Any

import pytest

from schemas.errors import OperatorError
from sinks.channels.base import AddressError, ContentError, HttpReply
from sinks.channels.kinds import check_spec
from sinks.channels.receipts import HookCall, Told, Unsigned
from sinks.channels.whatsapp import Whatsapp, WhatsappSettings, WhatsappTemplate
from sinks.templates import Content
from tests.sinks.channels.samples import dispatch, spec


def adapter(**template: Any) -> Whatsapp:
    templates = {"cart": WhatsappTemplate("cart_v2", "de", **template)} if template else {}
    return Whatsapp(WhatsappSettings("wa-token", "10001", "wa-secret", "wa-verify", templates))


def said(made: Whatsapp, content: Content) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(made.request(dispatch(content)).body)
    return found


def test_the_lines_of_a_text_are_the_parameters_of_its_template() -> None:
    found = said(adapter(parameters=2), Content("Ann\n\n  2   items \n"))
    assert found["type"] == "template" and found["to"] == "4915112345678"
    (body,) = found["template"]["components"]
    assert [one["text"] for one in body["parameters"]] == ["Ann", "2 items"]
    named = said(adapter(parameters=2, names=("who", "what")), Content("Ann\n2 items"))
    assert [one["parameter_name"] for one in named["template"]["components"][0]["parameters"]] == ["who", "what"]


def test_a_template_without_parameters_needs_no_components() -> None:
    assert said(adapter(parameters=0, names=()), Content("whatever\nit says"))["template"]["components"] == []


def test_header_image_and_button_are_ours() -> None:
    content = Content("Ann", link="https://shop.example/cart?c=1", image="https://i.example/1.png")
    found = said(adapter(parameters=1, image=True, button_base="https://shop.example/"), content)
    header, _, button = found["template"]["components"]
    assert header["parameters"][0]["image"] == {"link": "https://i.example/1.png"}
    assert (button["sub_type"], button["index"], button["parameters"][0]["text"]) == ("url", "0", "cart?c=1")


@pytest.mark.parametrize(
    ("template", "content", "reason"),
    [
        ({"parameters": 2}, Content("Ann"), "template_parameters"),
        ({"parameters": 0, "image": True}, Content("Ann"), "template_image"),
        (
            {"parameters": 0, "button_base": "https://a.example/"},
            Content("A", link="https://b.example/x"),
            "template_link",
        ),
        ({}, Content("x" * 4_097), "text_too_long"),
        ({}, Content("x" * 1_025, image="https://i.example/1.png"), "text_too_long"),
    ],
)
def test_what_meta_would_refuse_does_not_leave(template: dict[str, Any], content: Content, reason: str) -> None:
    with pytest.raises(ContentError, match=reason):
        adapter(**template).request(dispatch(content))


def test_what_is_no_template_goes_as_a_text_with_its_link_or_as_an_image() -> None:
    assert said(adapter(), Content("Hi", link="https://s.example/"))["text"] == {
        "body": "Hi\nhttps://s.example/", "preview_url": True,
    }  # fmt: skip
    assert said(adapter(), Content("Hi", image="https://i.example/1.png"))["image"]["caption"] == "Hi"
    with pytest.raises(AddressError):
        adapter().request(dispatch(address="ann"))


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [(131026, "bounced", "recipient_refused"), (131047, "rejected", "window_closed"),
     (190, "deferred", "credentials_refused"), (130429, "deferred", "throttled"),
     (132001, "failed", "template_refused"), (131050, "rejected", "unsubscribed"),
     (131000, "deferred", "provider_error"), (999, "rejected", "request_refused")],
)  # fmt: skip
def test_metas_codes_are_about_the_member_the_message_the_template_or_us(code: int, status: str, reason: str) -> None:
    body = json.dumps({"error": {"code": code, "message": "to +4915112345678"}}).encode()
    outcome = adapter().outcome(HttpReply(400, {}, body))
    assert (outcome.status, outcome.reason) == (status, reason) and "4915112345678" not in outcome.detail


def test_an_answer_without_a_message_is_read_by_its_status() -> None:
    assert adapter().outcome(HttpReply(200, {}, b'{"messages":[{"id":"wamid.1"}]}')).provider_message_id == "wamid.1"
    assert adapter().outcome(HttpReply(502, {}, b"<html>")).status == "deferred"


def call(body: Any, secret: str = "wa-secret", query: dict[str, str] | None = None) -> HookCall:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    signed = "sha256=" + hmac.digest(secret.encode(), raw, "sha256").hex()
    return HookCall("https://shop.example/r/wa", {"x-hub-signature-256": signed}, raw, query)


def status(word: str, token: str = "tok", **more: Any) -> dict[str, Any]:
    return {"id": "wamid.1", "status": word, "timestamp": "1700000000", "recipient_id": "49",
            "biz_opaque_callback_data": token} | more  # fmt: skip


def hook(*statuses: dict[str, Any]) -> dict[str, Any]:
    value = {"messaging_product": "whatsapp", "metadata": {"phone_number_id": "10001"}, "statuses": list(statuses)}
    return {
        "object": "whatsapp_business_account",
        "entry": [{"id": "1", "changes": [{"field": "messages", "value": value}]}],
    }


def test_a_call_tells_of_many_messages() -> None:
    failed = status("failed", "two", errors=[{"code": 131026, "title": "Message undeliverable"}])
    given = hook(status("sent"), status("delivered"), status("read"), failed)
    assert list(adapter().gathered(call(given))) == [
        ("tok", Told("", "wamid.1")),
        ("tok", Told("delivered", "wamid.1")),
        ("tok", Told("read", "wamid.1")),
        ("two", Told("undelivered", "wamid.1", "131026", "Message undeliverable")),
    ]


def test_a_receipt_that_is_not_understood_takes_no_other_along() -> None:
    odd = [{"id": 7}, "word", status("failed", errors=None), status("failed", errors=[]), status("delivered")]
    body = hook(*odd)  # type: ignore[arg-type]
    body["entry"][0]["changes"] += [{"field": "x", "value": "text"}, {"field": "y", "value": {"statuses": None}}]
    assert list(adapter().gathered(call(body))) == [
        ("tok", Told("undelivered", "wamid.1")),
        ("tok", Told("undelivered", "wamid.1")),
        ("tok", Told("delivered", "wamid.1")),
    ]


def test_what_a_member_writes_and_what_is_no_json_tells_nothing() -> None:
    inbound = {"entry": [{"changes": [{"value": {"messages": [{"from": "49", "text": {"body": "hi"}}]}}]}]}
    assert list(adapter().gathered(call(inbound))) == [] == list(adapter().gathered(call(b"no")))


def test_a_call_that_meta_did_not_sign_is_refused() -> None:
    for given in (call(hook(), "other"), HookCall("u", {}, b"{}")):
        with pytest.raises(Unsigned):
            list(adapter().gathered(given))


def test_the_question_whether_the_address_is_ours_is_answered_to_who_knows_the_word() -> None:
    query = {"hub.mode": "subscribe", "hub.verify_token": "wa-verify", "hub.challenge": "1158201444"}
    assert adapter().challenge(call(b"", query=query)) == "1158201444"
    with pytest.raises(Unsigned):
        adapter().challenge(call(b"", query=query | {"hub.verify_token": "guess"}))


def test_names_that_do_not_fit_their_parameters_are_refused_at_the_start() -> None:
    wrong = {"cart": {"name": "c", "language": "de", "parameters": 2, "names": ["one"]}}
    with pytest.raises(OperatorError, match="as many names as parameters"):
        check_spec(spec("whatsapp", templates=wrong))
