"""Templates on disk: found only inside their directory, live on edit, checked with every fault and its place."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from schemas.findings import WARNING, errors
from sinks.sandbox import RenderError
from sinks.templates import MAX_SUBJECT, Templates, check_template, one_line

DEMO = Path("campaigns/templates")
VALUES = {"data": {"a": "A"}, "member": {}, "campaign": "c", "message": {}, "unsubscribe_url": "https://u"}


def write(root: Path, subject: str = "S", txt: str = "T", html: str | None = None) -> Templates:
    (root / "x.subject.j2").write_text(subject)
    (root / "x.txt.j2").write_text(txt)
    if html is not None:
        (root / "x.html.j2").write_text(html)
    return Templates(root)


def test_html_is_optional(tmp_path: Path) -> None:
    assert write(tmp_path).render("x", VALUES) == ("S", "T", None)
    assert write(tmp_path, html="<p>").render("x", VALUES).html == "<p>"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", ".x", "a\\b", "x\n", "a//b", "x" * 101])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RenderError):
        write(tmp_path).render(name, VALUES)
    assert check_template(name, Templates(tmp_path).files, frozenset())[0].code in ("template-name", "template-missing")


@pytest.mark.parametrize("target", ["../secret.j2", "/etc/passwd", "link.j2", "linked/secret.j2"])
def test_includes_that_lead_out_are_not_found(tmp_path: Path, target: str) -> None:
    (tmp_path / "secret.j2").write_text("SECRET")
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "link.j2").symlink_to(tmp_path / "secret.j2")
    (inside / "linked").symlink_to(tmp_path)
    with pytest.raises(RenderError):
        write(inside, txt=f"{{% include '{target}' %}}").render("x", VALUES)


def test_an_edit_is_live_and_a_broken_one_is_not_used(tmp_path: Path) -> None:
    templates = write(tmp_path, txt="one")
    assert templates.render("x", VALUES).text == "one"
    stamp = 1_000_000_000
    for text, want in (
        ("two!", "two!"),
        ("{{ broken", "two!"),
        ("", "two!"),
        ("{{ x() }}", "two!"),
        ("three", "three"),
    ):
        (tmp_path / "x.txt.j2").write_text(text)
        stamp += 10
        os.utime(tmp_path / "x.txt.j2", (stamp, stamp))
        assert templates.render("x", VALUES).text == want


def test_what_was_seen_of_files_is_believed_for_as_long_as_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr("sinks.templates.time", SimpleNamespace(monotonic=lambda: now))
    write(tmp_path, txt="one")
    templates = Templates(tmp_path, recheck_s=10)
    assert templates.render("x", VALUES) == ("S", "one", None)
    (tmp_path / "x.txt.j2").write_text("two, and longer")
    (tmp_path / "x.html.j2").write_text("<p>two</p>")
    assert templates.render("x", VALUES) == ("S", "one", None)
    now += 10
    assert templates.render("x", VALUES) == ("S", "two, and longer", "<p>two</p>")
    (tmp_path / "x.html.j2").unlink()
    now += 10
    assert templates.render("x", VALUES)[2] is None


def test_a_subject_is_one_line_without_controls(tmp_path: Path) -> None:
    values = VALUES | {"data": {"a": "1\r\nBcc: other@mail.example\r\n\r\nbody\x00\u2028\x85end"}}
    assert write(tmp_path, subject="{{ data.a }}\n").render("x", values).subject == "1 Bcc: other@mail.example body end"
    assert len(one_line("x" * 10_000)) == MAX_SUBJECT
    with pytest.raises(RenderError):
        write(tmp_path, subject=" \n").render("x", values)


def test_check_finds_every_fault_with_its_place(tmp_path: Path) -> None:
    templates = write(
        tmp_path,
        subject="{{ data.b }}",
        txt="{{ data.a }}\nHi {{ data.c.d }} {{ data['e'] }}\n{{ foo }} {{ message.colour }}\n{{ member.city }}"
        "\n{{ f() }}\n{% include 'nope.j2' %}",
        html="<p>{{ data.a",
    )
    found = {
        (Path(f.path).name, f.line, f.column, f.code) for f in check_template("x", templates.files, frozenset("a"))
    }
    assert found == {
        ("x.subject.j2", 1, 4, "unknown-data-name"),
        ("x.txt.j2", 2, 7, "unknown-data-name"),
        ("x.txt.j2", 2, 27, "unknown-data-name"),
        ("x.txt.j2", 3, 4, "unknown-name"),
        ("x.txt.j2", 3, 14, "unknown-name"),
        ("x.txt.j2", 4, 4, "member-without-default"),
        ("x.txt.j2", 5, 1, "template-forbidden"),
        ("x.txt.j2", 5, 4, "unknown-name"),
        ("x.txt.j2", 6, 1, "template-missing"),
        ("x.html.j2", 1, 1, "template-syntax"),
    }


def test_check_follows_includes_and_layouts(tmp_path: Path) -> None:
    (tmp_path / "part.j2").write_text("\n{{ data.zzz }}")
    found = check_template("x", write(tmp_path, txt="{% include 'part.j2' %}").files, frozenset())
    assert [(Path(f.path).name, f.line) for f in found] == [("part.j2", 2)]


def test_check_names_missing_parts_but_html(tmp_path: Path) -> None:
    found = check_template("x", Templates(tmp_path).files, frozenset())
    assert [(Path(f.path).name, f.code) for f in found] == [
        ("x.subject.j2", "template-missing"),
        ("x.txt.j2", "template-missing"),
    ]


@pytest.mark.parametrize(
    ("txt", "warned"),
    [
        ("{{ member.x }}", True),
        ("{{ member.x|upper }}", True),
        ("{% if member.x %}{% endif %}", True),
        ("{{ member.x|default('') }}", False),
        ("{{ member.x|default('')|upper }}", False),
        ("{% if member.x is defined %}{{ member.x }}{% endif %}", False),
        ("{% if member.x is defined and member.x > 1 %}{{ member.x }}{% endif %}", False),
        ("{% if member.y is defined %}{{ member.x }}{% endif %}", True),
        ("{{ member.x if member.x is defined else 'y' }}", False),
        ("{% if member.x is defined or data.a %}{{ member.x }}{% endif %}", True),
    ],
)
def test_member_attributes_want_a_default(tmp_path: Path, txt: str, warned: bool) -> None:
    found = check_template("x", write(tmp_path, txt=txt).files, frozenset("a"))
    assert [f.severity for f in found] == [WARNING] * (len(found) if warned else 0)
    assert bool(found) == warned


@pytest.mark.parametrize(
    ("name", "data"), [("browse_reminder", "product_id"), ("cart_reminder", "product_id"), ("thank_you", "order_id")]
)
def test_the_demo_messages_are_clean_and_need_one_value(name: str, data: str) -> None:
    templates = Templates(DEMO)
    assert check_template(name, templates.files, frozenset({data})) == ()
    rendered = templates.render(
        name, VALUES | {"data": {data: "X-17"}, "unsubscribe_url": "https://shop.example/u/token"}
    )
    assert "X-17" in rendered.text and rendered.html and "X-17" in rendered.html
    assert "https://shop.example/u/token" in rendered.text and "https://shop.example/u/token" in rendered.html


@pytest.mark.parametrize("name", ["browse_reminder", "cart_reminder", "thank_you"])
def test_the_demo_messages_can_be_said_without_any_value(name: str) -> None:
    """Some shops' orders have no order id, and some products no name."""
    sent = dict.fromkeys(("order_id", "product_id", "name", "quantity", "price", "total", "currency", "url"))
    for data in ({}, sent):
        rendered = Templates(DEMO).render(name, VALUES | {"data": data})
        assert "None" not in "".join(map(str, rendered))
        assert " ." not in rendered.subject + rendered.text


def test_a_file_that_is_too_large_or_not_text_is_refused(tmp_path: Path) -> None:
    templates = write(tmp_path, txt="x" * 200_000)
    (tmp_path / "x.html.j2").write_bytes(b"\xff\xfe")
    found = check_template("x", templates.files, frozenset())
    assert [f.code for f in errors(found)] == ["template-syntax", "template-syntax"]
    with pytest.raises(RenderError):
        templates.render("x", VALUES)
