"""Findings: what is wrong with a file somebody wrote, all at once, each with its place and remedy."""

import msgspec

ERROR = "error"
WARNING = "warning"


class Finding(msgspec.Struct, frozen=True):
    """One thing wrong in a file: `place: what is wrong (got value); what to do`.

    `line` and `column` count from 1; 0 means the whole file. `code` is a permanent kebab-case word: `unknown-event`.
    """

    code: str
    path: str
    line: int
    column: int
    message: str
    hint: str = ""
    severity: str = ERROR

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}:{self.column}" if self.line else self.path
        text = f"{place}: {self.message}"
        return f"{text}; {self.hint}" if self.hint else text


def errors(findings: "tuple[Finding, ...] | list[Finding]") -> tuple[Finding, ...]:
    """Keep the findings that forbid loading."""
    return tuple(f for f in findings if f.severity == ERROR)
