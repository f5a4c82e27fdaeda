"""The providers' file: who carries which channel. Read at the start, and again whenever it changes.

    providers:
      sms-main: {kind: twilio, account_sid: AC…, auth_token: {env: TWILIO_AUTH_TOKEN}, sender: Shop}
    channels:
      sms: [sms-main, sms-spare]
    lanes:
      transactional:
        sms: [sms-otp, sms-main]

A secret is named by its environment variable and never written out. Every fault is reported at once.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog
import yaml

from schemas.commands import CHANNELS, LANES
from schemas.errors import OperatorError
from sinks.channels.config import ProvidersConfig
from sinks.channels.kinds import KINDS, ProviderSpec, check_spec, read_spec
from tidings.config import PREFIX, environment_value

ONLY = {"inbox": "in_app", "calls": "call"}  # kinds that serve one channel
FILE_BYTES_MAX = 262_144

log = structlog.get_logger("tidings.providers")

Env = Callable[[str], str | None]


class ProvidersFile:
    """One file, read again when it changes. A file that is not right changes nothing.

    Args:
        path: of the file; None: no providers but e-mail by the settings.
        env: gives the value of an environment variable.
    """

    def __init__(self, path: Path | None, env: Env = environment_value) -> None:
        self._path = path
        self._env = env
        self._stamp = self._look()
        self._config = ProvidersConfig() if path is None else read_providers(_text(path), str(path), env)

    def current(self) -> ProvidersConfig:
        """Return what holds now; the same object until the file has changed for the better."""
        stamp = self._look()
        if self._path is not None and stamp != self._stamp:
            self._stamp = stamp
            try:
                self._config = read_providers(_text(self._path), str(self._path), self._env)
                log.info("providers.changed", file=str(self._path))
            except OperatorError as error:
                log.error("providers.not-changed", file=str(self._path), error=str(error))
        return self._config

    def _look(self) -> tuple[int, int] | None:
        try:
            stat = self._path.stat() if self._path is not None else None
        except OSError:
            return None
        return None if stat is None else (stat.st_mtime_ns, stat.st_size)


def read_providers(text: str, path: str, env: Env = environment_value) -> ProvidersConfig:
    """Read a providers' file.

    Raises:
        OperatorError: every fault in it, one per line.
    """
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        raise OperatorError(f"{place}: not YAML ({getattr(error, 'problem', 'cannot be read')}); mend it") from None
    if not isinstance(raw, dict) or not set(raw) <= {"providers", "channels", "lanes"}:
        raise OperatorError(f"{path}: must have providers, channels, and maybe lanes; see docs/channels.md")
    faults: list[str] = []
    specs: dict[str, ProviderSpec] = {}
    for name, settings in _mapping(raw, "providers", path, faults).items():
        try:
            specs[str(name)] = _spec(str(name), settings, env)
        except OperatorError as error:
            faults += [f"{path}: providers.{name}: {line}" for line in str(error).splitlines()]
    shared = dict(_routes(_mapping(raw, "channels", path, faults), f"{path}: channels", specs, faults))
    lanes: dict[str, dict[str, tuple[ProviderSpec, ...]]] = {lane: dict(shared) for lane in LANES}
    for lane, routes in _mapping(raw, "lanes", path, faults).items():
        if lane not in LANES or not isinstance(routes, dict):
            faults.append(
                f"{path}: lanes: no such lane (got '{lane}'); lanes are {', '.join(LANES)}, each with channels"
            )
            continue
        lanes[lane].update(_routes(routes, f"{path}: lanes.{lane}", specs, faults))
    if faults:
        raise OperatorError("\n".join(faults))
    return ProvidersConfig(lanes)


def _spec(name: str, raw: Any, env: Env) -> ProviderSpec:
    if not isinstance(raw, dict) or not isinstance(raw.get("kind"), str):
        raise OperatorError(f"must have a kind; kinds are {', '.join(sorted(KINDS))}")
    kind = raw["kind"]
    secrets = KINDS[kind].secrets if kind in KINDS else frozenset()
    settings: dict[str, Any] = {}
    faults: list[str] = []
    for key, value in raw.items():
        if key == "kind":
            continue
        if isinstance(value, dict) and set(value) == {"env"}:
            variable = str(value["env"])
            found = None if variable.startswith(PREFIX) else env(variable)
            if not found:
                remedy = f"set it; names with {PREFIX} are settings and cannot be used"
                faults.append(f"{key}: environment variable {variable} is not set (got nothing); {remedy}")
            settings[str(key)] = found or ""
        elif key in secrets and value:
            faults.append(f"{key}: a secret must not be in the file (got one); write {{env: NAME}} and set NAME")
        else:
            settings[str(key)] = value
    if faults:
        raise OperatorError("\n".join(faults))
    spec = read_spec(name, kind, settings)
    check_spec(spec)
    return spec


def _routes(
    raw: Mapping[Any, Any], place: str, specs: Mapping[str, ProviderSpec], faults: list[str]
) -> Iterator[tuple[str, tuple[ProviderSpec, ...]]]:
    for channel, names in raw.items():
        listed = [names] if isinstance(names, str) else names
        if channel not in CHANNELS:
            faults.append(f"{place}: no such channel (got '{channel}'); channels are {', '.join(CHANNELS)}")
        elif not isinstance(listed, list) or not listed:
            faults.append(f"{place}.{channel}: must be a list of providers; name those above")
        elif missing := [str(name) for name in listed if name not in specs]:
            # Those with faults of their own are named above.
            known = ", ".join(sorted(specs)) or "none"
            faults.append(f"{place}.{channel}: no such provider (got {', '.join(missing)}); there are: {known}")
        elif wrong := [str(name) for name in listed if (specs[name].kind == "smtp") != (channel == "email")]:
            faults.append(f"{place}.{channel}: kind smtp is for email alone (got {', '.join(wrong)}); move it")
        elif wrong := [str(name) for name in listed if ONLY.get(specs[name].kind, channel) != channel]:
            only = ", ".join(f"{kind} for {of}" for kind, of in ONLY.items())
            faults.append(f"{place}.{channel}: not for this channel (got {', '.join(wrong)}); {only} alone")
        else:
            yield str(channel), tuple(specs[name] for name in listed)


def _mapping(raw: Mapping[str, Any], key: str, path: str, faults: list[str]) -> Mapping[Any, Any]:
    value = raw.get(key) or {}
    if isinstance(value, dict):
        return value
    faults.append(f"{path}: {key}: must be a mapping; see docs/channels.md")
    return {}


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise OperatorError(
            f"{path}: cannot be read ({error.strerror or error}); check TIDINGS_PROVIDERS and the file's rights"
        ) from None
    if len(raw) > FILE_BYTES_MAX:
        raise OperatorError(f"{path}: too large (got {len(raw)} bytes); a providers' file has a few KB")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise OperatorError(f"{path}: not UTF-8; save it as UTF-8") from None
