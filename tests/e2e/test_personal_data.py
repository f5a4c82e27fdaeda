"""No log of a whole run holds what belongs to a member, whatever goes wrong in it."""

from pathlib import Path

import pytest

from tests.e2e.product import Product, until

pytestmark = pytest.mark.kafka

NAME, CITY, BORN = "Zenobia Quillfeather", "Llanfairpwll", "1987-06-05"
EMAIL, PHONE, PUSH = "zenobia.quill+x@mail.example", "+447700900123", "push-6f1d2c99aa"
WHO = "member-zenobia-0815"
REFUSED, DROPPED = "refused.quill@mail.example", "dropped.quill@mail.example"
PERSONAL = (NAME, "Zenobia", "Quillfeather", CITY, BORN, EMAIL, "quill", PHONE, "447700900123", PUSH, WHO, "0815")
VIEW = "catalog.product.viewed"
CAMPAIGNS = {
    "good": f"campaign: good\npattern: {VIEW}\n"
    "send: {channel: email, template: hello, data: {who: member.full_name}}\n",
    "broken": f"campaign: broken\npattern: {VIEW}\nsend: {{channel: email, template: bad}}\n",
    "gone": f"campaign: gone\npattern: {VIEW}\nsend: {{channel: email, template: nothere}}\n",
    "wrong": f"campaign: wrong\npattern: {VIEW}[full_name = '{NAME}' and\n",
}
TEMPLATES = {
    "hello.subject.j2": "Hi {{ member.full_name }}",
    "hello.txt.j2": "{{ data.who }} {{ member.email }} {{ unsubscribe_url }}",
    "bad.subject.j2": "x",
    "bad.txt.j2": "{{ member.email + 1 }} {{ member.full_name|round }}",
}


def registered(member: str, email: str) -> dict[str, object]:
    data = {"full_name": NAME, "email": email, "phone": PHONE, "city": CITY, "birth_date": BORN, "push_token": PUSH}
    return {"type": "member.registered", "member_id": member, "data": {**data, "consent": {"email": True}}}


def poison(member: str) -> list[bytes]:
    whole = f'{{"type":"{VIEW}","member_id":"{member}","occurred_at":1,"data":{{"full_name":"{NAME}","email":"{EMAIL}"'
    return [
        whole.encode(),  # cut off
        (whole + ',"price":"' + NAME + '"}}').encode(),  # wrong type
        (whole + '},"member_id":["' + EMAIL + '"]}').encode(),
        f"{EMAIL};{NAME};{PHONE}".encode(),
        NAME.encode("utf-16"),
        f'{{"type":"member.updated","member_id":"{member}","occurred_at":"{NAME}"}}'.encode(),
        (whole + ',"notes":"' + NAME * 20_000 + '"}}').encode(),  # too large
    ]


def test_no_log_holds_what_belongs_to_a_member(fresh, tmp_path: Path) -> None:
    templates = tmp_path / "templates"
    templates.mkdir()
    for name, text in TEMPLATES.items():
        (templates / name).write_text(text)
    with Product(fresh, templates_dir=templates) as product:
        product.smtp.rcpt_replies[REFUSED] = f"550 5.1.1 <{REFUSED}>: {NAME} is not known here"
        product.smtp.rule = lambda to, _id: f"554 5.7.1 no mail for {NAME} <{to}>" if to == DROPPED else None
        for name, text in CAMPAIGNS.items():
            product.publish(name, text)
        for number, email in enumerate((EMAIL, REFUSED, DROPPED)):
            member = f"{WHO}-{number}"
            product.send(registered(member, email), {"type": VIEW, "member_id": member, "data": {"product_id": "p"}},
                         member=member)  # fmt: skip
            product.send(*poison(member), member=member)
        log = product.drain()
        assert sum(log.dead_letters.values()) >= 20
        until(lambda: product.smtp.received >= 1, "a mail", 20)
        logs = "".join(path.read_text() for path in sorted((fresh.data_dir / "logs").rglob("*")) if path.is_file())
    for word in ("template-error", "campaign"):
        assert word in logs, "the run went wrong in other ways than it should"
    assert [found for found in PERSONAL if found.lower() in logs.lower()] == []
