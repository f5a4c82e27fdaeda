"""Who may ask: one bearer token for all workers of a deployment.

A token comes from TIDINGS_WEB_TOKEN. Without one, a worker that listens on loopback makes one and keeps it in the data
directory, readable by its user only, where the command line finds it. Elsewhere there is no such file to share, and
everything but /health and /ready is refused.
"""

import hmac
import ipaddress
import os
import secrets
from pathlib import Path

from schemas.errors import OperatorError
from tidings.config import Settings

TOKEN_FILE = "web-token"  # noqa: S105 - the name of a file
SECRET_BYTES = 24
OTHERS = 0o077


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address; False for any other name than localhost."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def token_of(settings: Settings) -> str:
    """Return the token that a worker asks for; empty when there is none and every question must be refused.

    Raises:
        OperatorError: the kept token cannot be read or written, or others can read it.
    """
    if settings.web_token or not is_loopback(settings.web_host):
        return settings.web_token
    return kept_secret(settings.data_dir / TOKEN_FILE)


def token_for_asking(settings: Settings) -> str:
    """Return the token that the command line sends: the setting's, else the one a worker of this machine keeps.

    Raises:
        OperatorError: there is neither.
    """
    if settings.web_token:
        return settings.web_token
    path = settings.data_dir / TOKEN_FILE
    try:
        return _read(path)
    except FileNotFoundError:
        raise OperatorError(
            f"{path}: no worker has kept a token here (got no such file); start one, or set TIDINGS_WEB_TOKEN to the "
            "workers' token, or TIDINGS_DATA_DIR to their data directory",
            exit_code=3,
        ) from None


def matches(token: str, header: str | None) -> bool:
    """Tell whether an Authorization header carries the token; takes equally long whatever the difference."""
    scheme, _, given = (header or "").partition(" ")
    same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token.encode())
    return bool(token) and scheme.lower() == "bearer" and same


def kept_secret(path: Path) -> str:
    """Read a secret from a file that only its owner can read; make both when there is none.

    Processes that start at the same time agree on one: a link is made whole or not at all, and the first one stays.

    Raises:
        OperatorError: it cannot be read or written, is empty, or others can read it.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(SECRET_BYTES))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    except OSError as error:
        raise OperatorError(
            f"{path}: cannot be written ({error.strerror or error}); check TIDINGS_DATA_DIR and its rights"
        ) from None
    return _read(path)


def _read(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if mode & OTHERS:
            raise OperatorError(
                f"{path}: others can read this secret (got mode {mode & 0o777:o}); delete it and restart the workers, "
                "a new one is made"
            )
        kept = path.read_text("ascii").strip()
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path}: cannot be read ({type(error).__name__}); check its owner and rights") from None
    if not kept:
        raise OperatorError(f"{path}: holds no secret (got an empty file); delete it and restart the workers")
    return kept
