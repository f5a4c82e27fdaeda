"""How the command line asks a worker: finds its address and token, turns its answers into values or errors."""

import http.client
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from schemas.errors import OperatorError
from tidings.config import Settings
from tidings.web.auth import token_for_asking

SECONDS = 15
URL_FILE = "web-url"  # in the directory of each worker while it runs


def engine_urls(settings: Settings) -> list[str]:
    """List where an engine worker may listen: those of this data directory, then what the settings say.

    The file of a worker that was killed is left behind, so the first of these need not answer.
    """
    host = f"[{settings.web_host}]" if ":" in settings.web_host else settings.web_host
    kept = [_text(file) for file in sorted(settings.data_dir.glob(f"engine-*/{URL_FILE}"))]
    return list(dict.fromkeys([*filter(None, kept), f"http://{host}:{settings.web_port}"]))


def ask(settings: Settings, path: str, url: str | None = None) -> Any:
    """GET `path` (quoted already, with its leading slash) and return the JSON answer; None for 404.

    Args:
        settings: where the token is, and where a worker listens.
        path: such as `/campaigns`.
        url: of a worker; None finds one.

    Raises:
        OperatorError: no answer (exit code 3), no or the wrong token, or the worker's own error.
    """
    token = token_for_asking(settings)
    base, status, body = _first_answer([url] if url else engine_urls(settings), path, token)
    if status == 200:
        return orjson.loads(body)
    if status == 404:
        return None
    if status == 401:
        raise OperatorError(f"{base}: the token is wrong (got 401); set TIDINGS_WEB_TOKEN as on the worker")
    try:
        error = orjson.loads(body)["error"]
        said = f"{error['place']}: {error['message']}; {error['remedy']}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        said = f"{base}: no worker of ours answers there (got status {status}); check --url"
    raise OperatorError(said, exit_code=3 if status == 503 else 2)


def ask_member(settings: Settings, member_id: str, url: str | None = None) -> dict[str, Any] | None:
    """Ask for one member; None when no worker knows it. Raises what `ask` raises."""
    found: dict[str, Any] | None = ask(settings, f"/members/{quote(member_id, safe='')}", url)
    return found


def _first_answer(places: Sequence[str], path: str, token: str) -> tuple[str, int, bytes]:
    for place in places[:-1]:
        try:
            return place, *_get(place, path, token)
        except OperatorError as error:
            if error.exit_code != 3:
                raise
    return places[-1], *_get(places[-1], path, token)


def _get(base: str, path: str, token: str) -> tuple[int, bytes]:
    base = base.rstrip("/")
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise OperatorError(f"--url: must be a worker's address (got {base!r}); give http://host:port")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=SECONDS)
    try:
        connection.request("GET", parts.path + path, headers={"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise OperatorError(
            f"{base}: nothing answers (got {type(error).__name__}); start 'up' or a worker with role engine, or give "
            "--url with the address that a worker printed",
            exit_code=3,
        ) from None
    finally:
        connection.close()


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except OSError:  # its worker has just ended
        return ""
