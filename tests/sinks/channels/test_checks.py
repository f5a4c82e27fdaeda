"""What `check` says of the files of a message that is no e-mail."""

from pathlib import Path

import pytest

from schemas.commands import CHANNELS
from schemas.findings import ERROR, WARNING
from sinks.channels.checks import NEEDS, check_message
from sinks.sandbox import RenderError
from sinks.templates import Content, TemplateFiles, Templates


def check(tmp_path: Path, text: str, channel: str = "sms", **parts: str) -> list[tuple[str, str]]:
    for part, source in {"txt": text, **parts}.items():
        (tmp_path / f"a.{part}.j2").write_text(source)
    found = check_message(channel, "a", TemplateFiles(tmp_path), frozenset({"name"}))
    return [(finding.code, finding.severity) for finding in found]


def test_every_channel_of_the_language_has_its_parts() -> None:
    assert set(NEEDS) == set(CHANNELS)


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("Hi {{ data.name }}", []),
        ("a" * 160, []),
        ("a" * 161, ["sms-parts"]),
        ("я" * 70, []),  # a language of its own letters is no slip
        ("я" * 71, ["sms-parts"]),
        ("Your order – ready", ["sms-encoding"]),
        ("a" * 100 + "{% if data.name %}" + "b" * 100 + "{% else %}" + "c" * 100 + "{% endif %}", []),
        ("“" + "a" * 100, ["sms-encoding", "sms-parts"]),
        ("1\u00a0000", []),  # sent as a plain space
    ],
)
def test_what_makes_an_sms_dear_is_a_warning(tmp_path: Path, text: str, codes: list[str]) -> None:
    assert check(tmp_path, text) == [(code, WARNING) for code in codes]


def test_faults_of_a_template_are_those_of_any_other(tmp_path: Path) -> None:
    assert check(tmp_path, "{{ data.other }}") == [("unknown-data-name", ERROR)]
    assert check(tmp_path, "{{ x.__class__ }}")[0][1] == ERROR


def test_a_part_that_the_channel_needs_must_be_there(tmp_path: Path) -> None:
    assert check(tmp_path, "Hi", "push") == [("template-missing", ERROR)]
    assert check(tmp_path, "Hi", "push", subject="News", link="{{ data.no }}") == [("unknown-data-name", ERROR)]
    assert check_message("webhook", "none", TemplateFiles(tmp_path), frozenset()) == ()


def test_the_parts_of_a_message_are_rendered_each_for_its_use(tmp_path: Path) -> None:
    for part, text in {
        "txt": " Hi {{ data.name }}\n",
        "subject": "A\nB",
        "link": "https://shop.example/{{ data.name|urlencode }}\nOpen it\n",
        "image": "",
    }.items():
        (tmp_path / f"a.{part}.j2").write_text(text)
    (tmp_path / "a.image.j2").unlink()
    made = Templates(tmp_path).content("a", {"data": {"name": "K&T"}}, ("txt",), ("subject", "link", "image"))
    assert made == Content("Hi K&T", "A B", "https://shop.example/K%26T", "Open it", "")


@pytest.mark.parametrize(
    "link", ["no url", "javascript:alert(1)", "data:text/html,x", "https://a b", "x" * 3_000, "//host/x"]
)
def test_a_link_that_is_none_fails_the_message(tmp_path: Path, link: str) -> None:
    (tmp_path / "a.txt.j2").write_text("Hi")
    (tmp_path / "a.link.j2").write_text(link)
    with pytest.raises(RenderError, match="not a URL"):
        Templates(tmp_path).content("a", {}, ("txt",), ("link",))


def test_a_text_that_comes_out_empty_fails_the_message(tmp_path: Path) -> None:
    (tmp_path / "a.txt.j2").write_text("{% if data.name %}x{% endif %}")
    with pytest.raises(RenderError, match="comes out empty"):
        Templates(tmp_path).content("a", {"data": {"name": ""}}, ("txt",))
