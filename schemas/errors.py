"""The exceptions of the product.

TidingsError
├── DecodeError          bytes are not what they should be      -> dead letter
├── StateError           stored bytes are torn, or of a newer format
├── RegistryUnreachable  no schema now: the record waits, it is no dead letter
├── CampaignError        campaigns that must not be loaded, with all findings
└── OperatorError        a command or a setting cannot be carried out: place, what, remedy
"""

from schemas.findings import Finding


class TidingsError(Exception):
    """Root of all errors raised on purpose."""


class DecodeError(TidingsError):
    """Bytes that cannot be read. `reason` is a permanent kebab-case word for metrics and the dead-letter topic."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class StateError(TidingsError):
    """Stored state that this build cannot read."""


class RegistryUnreachable(TidingsError):
    """The schema registry gave no answer, or none that can be used; asking again may help."""


class CampaignError(TidingsError):
    """Campaigns with findings of severity error."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        super().__init__("\n".join(str(f) for f in findings))
        self.findings = findings


class OperatorError(TidingsError):
    """`place: what is wrong (got value); what to do`, shown without a traceback; ends the command with `exit_code`."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code
