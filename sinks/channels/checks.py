"""What can be said of a message before one is sent: the parts its channel needs, and how long an SMS will be."""

from collections.abc import Mapping

from jinja2 import TemplateNotFound, TemplateSyntaxError, nodes

from schemas.findings import WARNING, Finding
from sinks.channels.base import Needs
from sinks.channels.gsm import GSM7, PART, SINGLE, foreign, plain, plan
from sinks.sandbox import Sandbox
from sinks.templates import HTML_PARTS, TemplateFiles, check_template

_RICH = Needs(("txt",), ("link", "image"))
NEEDS: Mapping[str, Needs] = {
    "email": Needs(("subject", "txt"), HTML_PARTS),
    "sms": Needs(("txt",)),
    "viber": _RICH,
    "whatsapp": _RICH,
    "bot": _RICH,
    "push": Needs(("subject", "txt"), ("link", "image")),
    "in_app": Needs(("subject", "txt"), ("link", "image")),
    "call": Needs(("txt",)),
    "pos": Needs(("txt",)),
    "webhook": Needs((), ("txt", "subject", "link", "image")),
}


def check_message(channel: str, name: str, loader: TemplateFiles, data_names: frozenset[str]) -> tuple[Finding, ...]:
    """Find every fault of a message's files for its channel; a channel of the operator's own needs a text."""
    needs = NEEDS.get(channel, _RICH)
    found = check_template(name, loader, data_names, needs.required, needs.optional)
    if channel == "sms" and not any(finding.severity != WARNING for finding in found):
        found += _check_sms(f"{name}.txt.j2", loader)
    return found


def _check_sms(file: str, loader: TemplateFiles) -> tuple[Finding, ...]:
    """Warn of what makes an SMS dear, judged by the text that stands in the file; what is filled in comes on top."""
    try:
        tree = Sandbox(loader).parse(loader.read(file), file)
    except (TemplateSyntaxError, TemplateNotFound):
        return ()  # told by `check_template`
    path = str(loader.path(file))
    everything = plain("".join(one.data for one in tree.find_all(nodes.TemplateData)))
    always = plain("".join(_always(tree))).strip()
    found = []
    strange = foreign(everything)
    if strange and not any(letter.isalpha() for letter in strange):
        shown = " ".join(f"{letter} (U+{ord(letter):04X})" for letter in strange[:8])
        message = f"{shown} makes the whole message UCS-2: {SINGLE['ucs2']} characters instead of {SINGLE[GSM7]}"
        found.append(Finding("sms-encoding", path, 1, 1, message, "write it with letters of the GSM alphabet", WARNING))
    measured = plan(always)
    if len(measured.parts) > 1:
        message = (
            f"without what is filled in it has {measured.units} characters in {measured.encoding}: at least"
            f" {len(measured.parts)} parts of {PART[measured.encoding]}"
        )
        found.append(Finding("sms-parts", path, 1, 1, message, "every part is paid for; shorten it", WARNING))
    return tuple(found)


def _always(tree: nodes.Template) -> list[str]:
    """Collect the text that every message of this template has: what stands in no branch and no loop."""
    return [
        one.data
        for node in tree.body
        if isinstance(node, nodes.Output)
        for one in node.nodes
        if isinstance(one, nodes.TemplateData)
    ]
