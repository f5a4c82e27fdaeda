"""The kinds of providers, by name: their settings, which of those are secrets, and how one is opened."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from schemas.errors import OperatorError
from sinks.channels.apns import Apns, ApnsSettings
from sinks.channels.base import Adapter, HttpAdapter, Transport
from sinks.channels.callcentre import Calls, CallsSettings
from sinks.channels.fcm import Fcm, FcmSettings, ServiceAccount
from sinks.channels.form import HEADER_NAMES, NAMES, Form, FormSettings, places
from sinks.channels.http import Http1Client, Http2Client, HttpClient, HttpTransport
from sinks.channels.inbox import Inbox, InboxSettings, KeepingTransport
from sinks.channels.receipts import DELIVERY, ENGAGEMENT, Gatherer, Teller
from sinks.channels.smpp import Smpp, SmppSettings
from sinks.channels.smpp_session import SmscAddress
from sinks.channels.smpp_transport import SmppTransport
from sinks.channels.telegram import Telegram, TelegramSettings
from sinks.channels.tokens import GoogleTokens, apns_tokens, vapid_tokens
from sinks.channels.twilio import Twilio, TwilioSettings
from sinks.channels.webhook import Webhook, WebhookSettings, signing
from sinks.channels.webpush import WebPush, WebPushSettings
from sinks.channels.whatsapp import Whatsapp, WhatsappSettings
from sinks.email import SmtpServer


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every kind has: calls at a time, calls a second at most (0: no bound), seconds for one call."""

    connections: int = 8
    per_second: float = 0.0
    timeout_s: float = 10.0


class ProviderSpec(msgspec.Struct, frozen=True):
    """One provider as its file describes it, secrets filled in. Equal specs are the same provider."""

    name: str
    kind: str
    settings: msgspec.Struct
    bounds: Bounds = Bounds()

    def __repr__(self) -> str:
        return f"ProviderSpec({self.name!r}, {self.kind!r})"  # the settings hold secrets


class SmtpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mail server: `url` as in TIDINGS_SMTP."""

    url: str
    username: str = ""
    password: str = ""


Opened = tuple[Adapter, Transport]


@dataclass(frozen=True, slots=True)
class Kind:
    """How providers of one kind are made. `secrets`: settings that may not be written out in the file."""

    settings: type[msgspec.Struct]
    open: Callable[[ProviderSpec], Opened]
    secrets: frozenset[str] = frozenset()
    meaning: str = ""


def wall_clock_ms() -> int:
    """Return the wall clock in ms since the epoch, UTC."""
    return time.time_ns() // 1_000_000


def _http(spec: ProviderSpec, adapter: HttpAdapter, authorize: Any = None, client: HttpClient | None = None) -> Opened:
    bounds = spec.bounds
    transport = HttpTransport(
        spec.name, adapter.outcome, client or Http1Client(bounds.connections, bounds.timeout_s),
        connections=bounds.connections, per_second=bounds.per_second, authorize=authorize,
    )  # fmt: skip
    return adapter, transport


def _telegram(spec: ProviderSpec) -> Opened:
    return _http(spec, Telegram(_as(spec, TelegramSettings)))


def _twilio(spec: ProviderSpec) -> Opened:
    return _http(spec, Twilio(_as(spec, TwilioSettings)))


def _form(spec: ProviderSpec) -> Opened:
    settings = _as(spec, FormSettings)
    unknown = (places(settings.fields) | places(settings.url)) - NAMES | places(settings.headers) - HEADER_NAMES
    if unknown:
        raise OperatorError(
            f"no such place (got {{{'}, {'.join(sorted(unknown))}}}); fields and url know {', '.join(sorted(NAMES))},"
            f" headers {', '.join(sorted(HEADER_NAMES))}"
        )
    strange = set(settings.told.values()) - DELIVERY - ENGAGEMENT
    if strange:
        raise OperatorError(
            f"told: no such status (got {', '.join(sorted(strange))}); there are"
            f" {', '.join(sorted(DELIVERY | ENGAGEMENT))}; leave out what says less"
        )
    return _http(spec, Form(settings))


def _whatsapp(spec: ProviderSpec) -> Opened:
    settings = _as(spec, WhatsappSettings)
    for name, template in settings.templates.items():
        if template.names and len(template.names) != template.parameters:
            raise OperatorError(
                f"templates.{name}: must have as many names as parameters (got {len(template.names)} and"
                f" {template.parameters}); write all of them, or none"
            )
    return _http(spec, Whatsapp(settings))


def _smpp(spec: ProviderSpec) -> Opened:
    settings, bounds = _as(spec, SmppSettings), spec.bounds
    SmscAddress.parse(settings.url)
    if not 5 <= settings.enquire_s <= 600:
        raise OperatorError(f"enquire_s: from 5 to 600 seconds (got {settings.enquire_s}); set such a number")
    transport = SmppTransport(
        spec.name, settings, window=bounds.connections, per_second=bounds.per_second, timeout_s=bounds.timeout_s
    )
    return Smpp(settings), transport


def _inbox(spec: ProviderSpec) -> Opened:
    settings = _as(spec, InboxSettings)
    if not 1 <= settings.days <= 30:
        raise OperatorError(f"days: from 1 to 30, as long as the topic keeps them (got {settings.days}); set such")
    return Inbox(settings), KeepingTransport(spec.name, "inbox", spec.bounds.connections, spec.bounds.per_second)


def _calls(spec: ProviderSpec) -> Opened:
    settings = _as(spec, CallsSettings)
    if not 1 <= settings.tries <= 100 or not 1 <= settings.again_minutes <= 10_080:
        raise OperatorError("tries: from 1 to 100, again_minutes: from 1 to 10080, a week; set such numbers")
    return Calls(settings), KeepingTransport(spec.name, "calls", spec.bounds.connections, spec.bounds.per_second)


def _webhook(spec: ProviderSpec) -> Opened:
    settings = _as(spec, WebhookSettings)
    return _http(spec, Webhook(settings), signing(settings.secret, wall_clock_ms))


def _fcm(spec: ProviderSpec) -> Opened:
    settings = _as(spec, FcmSettings)
    try:
        account = msgspec.json.decode(settings.service_account, type=ServiceAccount)
    except msgspec.MsgspecError:
        raise OperatorError(
            "service_account: must be the JSON of a service account (got something else); take the file as Google"
            " gives it"
        ) from None
    client = Http1Client(spec.bounds.connections, spec.bounds.timeout_s)
    return _http(spec, Fcm(settings, account.project_id), GoogleTokens(account, client), client)


def _apns(spec: ProviderSpec) -> Opened:
    settings = _as(spec, ApnsSettings)
    client = Http2Client(spec.bounds.connections, spec.bounds.timeout_s, settings.ca)
    return _http(spec, Apns(settings), apns_tokens(settings), client)


def _webpush(spec: ProviderSpec) -> Opened:
    settings = _as(spec, WebPushSettings)
    return _http(spec, WebPush(settings), vapid_tokens(settings))


def _as(spec: ProviderSpec, wanted: type[Any]) -> Any:
    if not isinstance(spec.settings, wanted):
        raise TypeError(f"provider {spec.name}: settings of another kind")
    return spec.settings


def _smtp(spec: ProviderSpec) -> Opened:
    raise OperatorError("kind smtp is opened by the mail's own transport")


KINDS: Mapping[str, Kind] = {
    "smtp": Kind(SmtpSettings, _smtp, frozenset({"password"}), "e-mail by SMTP"),
    "twilio": Kind(TwilioSettings, _twilio, frozenset({"auth_token"}), "SMS by Twilio"),
    "smpp": Kind(SmppSettings, _smpp, frozenset({"password"}), "SMS by SMPP 3.4 or 5.0"),
    "whatsapp": Kind(
        WhatsappSettings, _whatsapp, frozenset({"token", "app_secret", "verify_token"}), "WhatsApp by Meta's Cloud API"
    ),
    "http": Kind(FormSettings, _form, frozenset({"password", "token"}), "any provider that takes fields over HTTP"),
    "telegram": Kind(TelegramSettings, _telegram, frozenset({"token"}), "Telegram Bot API"),
    "fcm": Kind(FcmSettings, _fcm, frozenset({"service_account"}), "push to Android and others by FCM"),
    "apns": Kind(ApnsSettings, _apns, frozenset({"key"}), "push to Apple's devices"),
    "webpush": Kind(WebPushSettings, _webpush, frozenset({"private_key"}), "push to browsers"),
    "inbox": Kind(InboxSettings, _inbox, meaning="messages in an inbox of the shop's site or app"),
    "calls": Kind(CallsSettings, _calls, meaning="calls by people: a queue that operators work on"),
    "webhook": Kind(WebhookSettings, _webhook, frozenset({"secret"}), "a signed call to a system of yours"),
}


def read_spec(name: str, kind: str, raw: Mapping[str, Any]) -> ProviderSpec:
    """Read the settings of one provider, secrets filled in.

    Raises:
        OperatorError: no such kind, or settings that it does not have or that are of another type.
    """
    found = KINDS.get(kind)
    if found is None:
        raise OperatorError(f"kind: there is no kind '{kind}'; kinds are {', '.join(sorted(KINDS))}")
    shared = {key: raw[key] for key in Bounds.__struct_fields__ if key in raw}
    own = {key: value for key, value in raw.items() if key not in shared}
    try:
        bounds = msgspec.convert(shared, Bounds)
        settings = msgspec.convert(own, found.settings)
    except msgspec.ValidationError as error:
        raise OperatorError(f"{error}; see docs/channels.md for what kind '{kind}' has") from None
    if not 1 <= bounds.connections <= 1_000 or bounds.per_second < 0 or not 0 < bounds.timeout_s <= 60:
        raise OperatorError("connections: from 1 to 1000, per_second: 0 or more, timeout_s: up to 60; set such numbers")
    return ProviderSpec(name, kind, settings, bounds)


def check_spec(spec: ProviderSpec) -> None:
    """Find what only making the adapter shows: keys that are none, places that are not known.

    Raises:
        OperatorError: a setting is not what it should be.
    """
    if isinstance(spec.settings, SmtpSettings):
        SmtpServer.parse(spec.settings.url, spec.settings.username, spec.settings.password)
    else:
        KINDS[spec.kind].open(spec)


def teller_of(spec: ProviderSpec) -> Teller | None:
    """Return what reads the receipts of a provider that tells of each message at an address of its own, or None."""
    adapter = None if isinstance(spec.settings, SmtpSettings) else KINDS[spec.kind].open(spec)[0]
    return adapter if isinstance(adapter, Twilio | Form | Webhook) else None


def gatherer_of(spec: ProviderSpec) -> Gatherer | None:
    """Return what reads the receipts of a provider that tells of all messages at one address, or None."""
    return Whatsapp(spec.settings) if isinstance(spec.settings, WhatsappSettings) else None


def open_provider(spec: ProviderSpec) -> Opened:
    """Make adapter and transport of a provider; nothing is connected yet.

    Raises:
        OperatorError: a key or another setting is not what it should be.
    """
    try:
        return KINDS[spec.kind].open(spec)
    except OperatorError as error:
        raise OperatorError(f"provider '{spec.name}': {error}") from None
