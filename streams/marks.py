"""YAML read as a tree of texts that know their places in the file. Builds no objects and follows no aliases.

Nothing here recurses and everything is bounded by the size of the text, so that a hostile file costs no more than a
clumsy one. Positions count lines and columns from 1.
"""

import bisect
import re
from typing import Any

import msgspec
import yaml

from streams.patterns.nodes import Pos

MAX_BYTES = 64 * 1024  # the longest campaign we know has 2 KiB
MAX_DEPTH = 24  # a branch inside a branch of a flow takes four more; six deep is more than anybody follows

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,14})(\.[0-9]{1,9})?")
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None, "~": None, "": None}


class MarksError(Exception):
    """The text is no YAML of the kind we read."""

    def __init__(self, code: str, message: str, pos: Pos, hint: str = "") -> None:
        """Keep the parts; `code` is a permanent kebab-case word."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.pos = pos
        self.hint = hint


class File:
    """The text of a file and where its lines begin."""

    def __init__(self, text: str) -> None:
        """Index the lines."""
        self.text = text
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def place(self, index: int) -> Pos:
        """Turn an index into the text into line and column."""
        line = bisect.bisect_right(self._starts, index) - 1
        return Pos(line + 1, index - self._starts[line] + 1)


class Scalar:
    """A text. `plain`: written without quotes and not as a block."""

    def __init__(self, file: File, text: str, style: str | None, start: int, end: int) -> None:
        """Remember the value and the region of the file that spells it."""
        self.text = text
        self.plain = style is None or style == ""
        self._file = file
        self._style = style or ""
        self._start = start
        self._end = end

    @property
    def pos(self) -> Pos:
        """Where the value begins, its quote or block sign included."""
        return self._file.place(self._start)

    def renamed(self, text: str) -> "Scalar":
        """Make another text that stands at the same place, for what is short for something longer."""
        return Scalar(self._file, text, None, self._start, self._end)

    def place(self, pos: Pos) -> Pos:
        """Find where a place inside the value lies in the file; exact unless a numeric escape comes before it."""
        offset = 0
        for _ in range(pos.line - 1):
            offset = self.text.find("\n", offset) + 1
        return self._file.place(self._index(offset + pos.column - 1))

    def _index(self, offset: int) -> int:
        """Walk value and spelling side by side: blanks may fold, quotes may double, backslashes may escape."""
        raw, at, end = self._file.text, self._start, self._end
        if self._style in ("|", ">"):
            at = raw.find("\n", at, end) + 1 or end
        elif self._style:
            at += 1
        last = at - 1
        for char in self.text[: offset + 1]:
            if char.isspace():
                continue
            while at < end and raw[at] != char and raw[at] in " \t\r\n\\'\"":
                at += 1
            if at < end and raw[at] == char:
                last = at
                at += 1
        here = self.text[offset : offset + 1]
        return last if here and not here.isspace() else last + 1

    def plain_value(self) -> Any:
        """The value as JSON data: true, false, null and short numbers when written plainly, else text."""
        if self.plain:
            if self.text in _WORDS:
                return _WORDS[self.text]
            match = _NUMBER.fullmatch(self.text)
            if match:
                return float(self.text) if match.group(1) else int(self.text)
        return self.text


class Mapping(msgspec.Struct):
    """Keys and values in the order written; a key may come twice."""

    pos: Pos
    entries: list[tuple[Scalar, "Value"]] = []

    def plain_value(self) -> dict[str, Any]:
        """The same as JSON data; the last of equal keys wins."""
        return {key.text: value.plain_value() for key, value in self.entries}


class Sequence(msgspec.Struct):
    """A list."""

    pos: Pos
    items: list["Value"] = []

    def plain_value(self) -> list[Any]:
        """The same as JSON data."""
        return [item.plain_value() for item in self.items]


Value = Scalar | Mapping | Sequence


def read(text: str) -> Value | None:
    """Read one document; None when it is empty.

    Raises:
        MarksError: no YAML, too large, too deep, or with aliases, tags, several documents or keys that are no text.
    """
    file = File(text)
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise MarksError(
            "not-text", "the file holds half a character", file.place(error.start), "save it as UTF-8"
        ) from None
    if size > MAX_BYTES:
        raise MarksError(
            "too-large",
            f"the file is too large (got {size} bytes, at most {MAX_BYTES})",
            Pos(1, 1),
            "one campaign per file",
        )
    try:
        return _Builder(file).build()
    except yaml.YAMLError as error:
        raise _syntax(error, file) from None


def _syntax(error: yaml.YAMLError, file: File) -> MarksError:
    mark: Any = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    index = min(mark.index if mark is not None else getattr(error, "position", 0) or 0, len(file.text))
    pos = file.place(index)
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read")
    line = file.text.splitlines()[pos.line - 1] if pos.line <= len(file.text.splitlines()) else ""
    hint = "quote a text that holds ': ' or ' #', or begins with a sign"
    if "\t" in line[: len(line) - len(line.lstrip())] or line[pos.column - 1 : pos.column] == "\t":
        hint = "indent with spaces, not tabs"
    return MarksError("yaml-syntax", f"this is no YAML: {problem}", pos, hint)


class _Builder:
    """Builds the tree from parser events, with a stack of its own."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.stack: list[Mapping | Sequence] = []
        self.keys: list[Scalar | None] = []
        self.root: Value | None = None
        self.documents = 0

    def build(self) -> Value | None:
        events: Any = yaml.parse(self.file.text, Loader=_LOADER)
        for event in events:
            pos = self.file.place(event.start_mark.index)
            if isinstance(event, yaml.AliasEvent):
                raise MarksError("yaml-alias", "aliases are not followed", pos, "write the value out")
            if isinstance(event, yaml.DocumentStartEvent):
                self.documents += 1
                if self.documents > 1:
                    raise MarksError("yaml-documents", "the file holds several documents", pos, "one campaign per file")
            elif isinstance(event, yaml.NodeEvent):
                self._node(event, pos)
            elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                self.stack.pop()
                self.keys.pop()
        return self.root

    def _node(self, event: Any, pos: Pos) -> None:
        if event.anchor is not None:
            raise MarksError("yaml-alias", f"anchors are not used (got &{event.anchor[:40]})", pos, "remove it")
        if event.tag is not None and event.tag != "!":
            raise MarksError("yaml-tag", f"tags are not used (got {event.tag[:40]})", pos, "remove it")
        start, end = event.start_mark.index, event.end_mark.index
        if isinstance(event, yaml.ScalarEvent):
            self._add(Scalar(self.file, event.value, event.style, start, end), pos)
            return
        if len(self.stack) >= MAX_DEPTH:
            raise MarksError("yaml-depth", f"nested too deeply (at most {MAX_DEPTH} levels)", pos, "write it flatter")
        node: Mapping | Sequence = Mapping(pos) if isinstance(event, yaml.MappingStartEvent) else Sequence(pos)
        self._add(node, pos)
        self.stack.append(node)
        self.keys.append(None)

    def _add(self, value: Value, pos: Pos) -> None:
        if not self.stack:
            self.root = value
            return
        parent = self.stack[-1]
        if isinstance(parent, Sequence):
            parent.items.append(value)
            return
        key = self.keys[-1]
        if key is not None:
            parent.entries.append((key, value))
            self.keys[-1] = None
        elif isinstance(value, Scalar):
            self.keys[-1] = value
        else:
            raise MarksError("yaml-key", "a key must be a text", pos, "did you mean to quote it?")
