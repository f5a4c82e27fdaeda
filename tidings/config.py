"""Settings: the only place that reads the environment.

Each field of `Settings` is one variable `TIDINGS_<FIELD>` and carries its unit, default and reason as metadata, from
which `tidings/settings_table.py` makes the table of the docs. Every fault is reported at once, as `place: what is wrong
(got value); what to do`; the value of a secret is never printed, neither in an error nor in a repr.
"""

import dataclasses
import difflib
import os
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from schemas.errors import OperatorError

PREFIX = "TIDINGS_"
MASK = "***"
BROKER_MUST = "must be memory, local or a list host:port,…"
BROKER_REMEDY = "set memory, local or broker-1:9092,broker-2:9092"
SECURITY_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
# Mechanisms that both clients in use (librdkafka and aiokafka under Faust) do with a name and a password.
SASL_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
LOG_LEVELS = ("debug", "info", "warning", "error")
# A running broker of our own is handed to child processes as `memory://host:port`: its kind matters to them, too.
OWN_BROKER = re.compile(r"^(memory|local)(?:://(?P<address>\S+))?$")
LIBRDKAFKA_UNDERSCORED = ("log_level", "logger", "on_delivery", "on_commit")
# The memory broker makes a group wait for the session timeout (less 1 s) at each change of members, and answers an
# empty fetch only after the whole wait: see tidings/brokers/memory.py.
MEMORY_SESSION_TIMEOUT_MS = 6_000
MEMORY_FETCH_WAIT_MS = 20
# librdkafka (2.10 and later, its issue 5301) forgets all brokers when the last one, going down, names none any more;
# it then asks `bootstrap.servers` again after this time only. Its default is five minutes.
REBOOTSTRAP_MS = 5_000
FETCH_WAIT_MS = 500  # Kafka's default; a real broker answers at once when a record arrives
ADDRESS = re.compile(r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})$")


class _Bad(ValueError):
    """A value that a parser refuses: what it must be, and the remedy."""

    def __init__(self, must: str, remedy: str) -> None:
        super().__init__(must)
        self.must = must
        self.remedy = remedy


def _text(raw: str) -> str:
    return raw


def _path(raw: str) -> Path:
    if not raw:
        raise _Bad("must be a path", "set a directory or leave it unset")
    return Path(raw).expanduser()


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(raw: str) -> int:
        value = int(raw) if re.fullmatch(r"-?[0-9]{1,18}", raw) else None
        if value is None or not low <= value <= high:
            raise _Bad(f"must be a whole number from {low} to {high}", f"set a number such as {max(low, min(8, high))}")
        return value

    return parse


def _choice(*choices: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        for choice in choices:
            if raw.lower() == choice.lower():
                return choice
        near = difflib.get_close_matches(raw.lower(), [c.lower() for c in choices], n=1)
        hint = f"did you mean '{next(c for c in choices if c.lower() == near[0])}'?" if near else f"set {choices[0]}"
        raise _Bad(f"must be one of {', '.join(choices)}", hint)

    return parse


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        bad = _Bad(f"must be a URL with scheme {' or '.join(schemes)}", f"set {schemes[0]}://host:port")
        try:
            parts = urlsplit(raw)
            port = parts.port
        except ValueError:
            raise bad from None
        if parts.scheme not in schemes or not parts.hostname or port == 0:
            raise bad
        return raw.rstrip("/")

    return parse


def _url_or_empty(*schemes: str) -> Callable[[str], str]:
    parse = _url(*schemes)
    return lambda raw: parse(raw) if raw else ""


def _clickhouse(raw: str) -> str:
    return raw if raw == "chdb" else _url("http", "https")(raw)


def _addresses(raw: str) -> str:
    listed = [part.strip() for part in raw.split(",") if part.strip()]
    for part in listed:
        match = ADDRESS.match(part)
        if match is None or not 0 < int(match[2]) < 65536:
            raise _Bad(BROKER_MUST, BROKER_REMEDY)
    return ",".join(listed)


def _broker(raw: str) -> str:
    match = OWN_BROKER.match(raw)
    if match:
        return f"{match[1]}://{_addresses(match['address'])}" if match["address"] else raw
    addresses = _addresses(raw)
    if not addresses:
        raise _Bad(BROKER_MUST, BROKER_REMEDY)
    return addresses


def _mail_address(raw: str) -> str:
    if re.search(r"[\r\n]", raw) or not re.search(r"[^\s<>@]+@[^\s<>@]+>?$", raw):
        raise _Bad("must be a sender such as 'Shop <news@shop.example>'", "set the address that mail is sent from")
    return raw


def setting(default: Any, parse: Callable[[str], Any], *, unit: str, reason: str, secret: bool = False) -> Any:
    """Declare one field: its default, how its text is read, its unit (for the docs) and why it is what it is."""
    metadata = {"parse": parse, "unit": unit, "reason": reason, "secret": secret}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, repr=False)
class Settings:
    """Everything that differs between deployments. Frozen; change with `dataclasses.replace` or `with_broker`."""

    # Broker
    broker: str = setting(
        "memory", _broker, unit="memory | local | host:port,…",
        reason="memory needs nothing installed and keeps nothing; local keeps data, with Java 17; else any Kafka",
    )  # fmt: skip
    partitions: int = setting(
        8, _whole(1, 1024), unit="partitions",
        reason="of events and of all topics keyed like it; as many workers can share the work; fixed once created",
    )  # fmt: skip
    replication: int = setting(
        0, _whole(0, 15), unit="copies; 0 = the broker's default",
        reason="a cluster's operator sets 3 on the broker; a single node can only have 1",
    )  # fmt: skip
    session_timeout_ms: int = setting(
        45_000, _whole(6_000, 1_800_000), unit="ms",
        reason="how long a silent worker keeps its partitions; below the broker's group.max.session.timeout.ms",
    )  # fmt: skip
    recovery_stall_ms: int = setting(
        60_000, _whole(0, 86_400_000), unit="ms; 0 = never",
        reason="an engine whose recovery gets no record for so long ends itself and is started anew",
    )  # fmt: skip
    progress_stall_ms: int = setting(
        120_000, _whole(0, 86_400_000), unit="ms; 0 = never",
        reason="likewise where a partition has records and applies none; above a session and a producer's timeout",
    )  # fmt: skip
    standby_replicas: int = setting(
        0, _whole(0, 9), unit="copies",
        reason="of member records on other engine workers, kept up to date: a takeover reads next to nothing",
    )  # fmt: skip
    engine_memory_mb: int = setting(
        512, _whole(128, 1_048_576), unit="MiB",
        reason="of one engine worker's caches, over all its partitions; the process itself takes some 250 more",
    )  # fmt: skip
    kafka_port: int = setting(
        19_092, _whole(0, 65_535), unit="port; 0 = any free one",
        reason="where broker 'local' listens on 127.0.0.1; a free port is taken if this one is in use",
    )  # fmt: skip
    kafka_heap_mb: int = setting(
        512, _whole(128, 65_536), unit="MB", reason="Java heap of broker 'local'; enough for one machine's load"
    )
    # Security of the connection to the broker, in librdkafka's words
    security_protocol: str = setting(
        "PLAINTEXT", _choice(*SECURITY_PROTOCOLS), unit=" | ".join(SECURITY_PROTOCOLS),
        reason="own brokers listen on loopback only; a cluster over a network wants SASL_SSL",
    )  # fmt: skip
    sasl_mechanism: str = setting(
        "SCRAM-SHA-512", _choice(*SASL_MECHANISMS), unit=" | ".join(SASL_MECHANISMS),
        reason="used when security_protocol starts with SASL; SCRAM never sends the password itself",
    )  # fmt: skip
    sasl_username: str = setting("", _text, unit="name", reason="required by SASL")
    sasl_password: str = setting("", _text, unit="secret", reason="required by SASL", secret=True)
    ssl_ca_location: str = setting("", _text, unit="file", reason="PEM of the authority; empty = the system's")
    ssl_certificate_location: str = setting("", _text, unit="file", reason="PEM of the client's, for mutual TLS")
    ssl_key_location: str = setting("", _text, unit="file", reason="PEM of the client's key, for mutual TLS")
    ssl_key_password: str = setting("", _text, unit="secret", reason="of the client's key", secret=True)
    schema_registry: str = setting(
        "", _url_or_empty("http", "https"), unit="URL; empty = none",
        reason="set: events are Avro in Confluent's wire format; empty: JSON",
    )  # fmt: skip
    # Places on disk
    data_dir: Path = setting(
        Path("data"), _path, unit="directory",
        reason="member records, local Kafka and chDB; one place to back up or delete",
    )  # fmt: skip
    cache_dir: Path = setting(
        Path("~/.cache/tidings").expanduser(), _path, unit="directory",
        reason="jars of broker 'local'; can be deleted at any time",
    )  # fmt: skip
    campaigns_dir: Path = setting(Path("campaigns"), _path, unit="directory", reason="campaigns with their cases")
    templates_dir: Path = setting(
        Path("campaigns/templates"), _path, unit="directory", reason="message templates; they travel with the campaigns"
    )
    # Analytics
    clickhouse: str = setting(
        "chdb",
        _clickhouse,
        unit="chdb | URL",
        reason="chdb runs ClickHouse inside our process; else http(s)://host:port",
    )
    clickhouse_database: str = setting("tidings", _text, unit="name", reason="our tables stand apart from others'")
    clickhouse_user: str = setting("default", _text, unit="name", reason="of a ClickHouse server")
    clickhouse_password: str = setting("", _text, unit="secret", reason="of a ClickHouse server", secret=True)
    sql_port: int = setting(
        8124, _whole(0, 65_535), unit="port; 0 = any free one",
        reason="read-only SQL over HTTP on 127.0.0.1 while chDB is embedded; beside ClickHouse's own 8123",
    )  # fmt: skip
    sql_password: str = setting(
        "", _text, unit="secret; empty = made at start", secret=True,
        reason="other users of this machine must not read members' events",
    )  # fmt: skip
    # E-mail
    smtp: str = setting(
        "smtp://127.0.0.1:1025", _url("smtp", "smtps", "smtp+starttls"), unit="URL",
        reason="smtp plain, smtp+starttls upgraded or refused, smtps TLS from the start; 1025 is Mailpit's port",
    )  # fmt: skip
    smtp_username: str = setting("", _text, unit="name", reason="empty = no login")
    smtp_password: str = setting("", _text, unit="secret", reason="of the login", secret=True)
    mail_from: str = setting(
        "Tidings <news@shop.example>", _mail_address, unit="sender",
        reason="an example domain, so that nothing goes out by mistake",
    )  # fmt: skip
    dkim_key: str = setting(
        "", _text, unit="file; empty = mail is not signed by us",
        reason="PEM of the RSA key that signs mail (DKIM); many mail servers sign themselves, and then it stays empty",
    )  # fmt: skip
    dkim_selector: str = setting(
        "", _text, unit="name", reason="of the key's public half in DNS: <selector>._domainkey.<domain>"
    )
    dkim_domain: str = setting(
        "", _text, unit="domain; empty = that of mail_from", reason="that vouches: the sender's or one above it"
    )
    tracking_base_url: str = setting(
        "", _url_or_empty("https", "http"), unit="URL; empty = links stay as they are, no pixel",
        reason="leads links and a pixel of marketing mail to /c and /o of delivery: a public https address of theirs",
    )  # fmt: skip
    unsubscribe_base_url: str = setting(
        "", _url_or_empty("https", "http"), unit="URL; empty = /u of the delivery worker itself",
        reason="where links lead, without login (RFC 8058): a public https address that passes on to /u of delivery;"
        " it may be empty only while the SMTP server is on this machine",
    )  # fmt: skip
    unsubscribe_secret: str = setting(
        "", _text, unit="secret of 16 characters or more; empty = made at start and kept", secret=True,
        reason="signs the links; the same on all machines that deliver, and for as long as a link shall work",
    )  # fmt: skip
    # Other channels
    providers: str = setting(
        "", _text, unit="file; empty = e-mail alone",
        reason="who carries SMS, push, bots and the rest: docs/channels.md; read again when it changes",
    )  # fmt: skip
    receipts_base_url: str = setting(
        "", _url_or_empty("https", "http"), unit="URL; empty = providers are not asked for receipts",
        reason="where they tell what came of a message: a public https address that passes on to /r of delivery",
    )  # fmt: skip
    otp: str = setting("", _text, unit="file; empty = no one-time codes", reason="their rules: docs/one-time-codes.md")
    # Web endpoints and logs
    web_host: str = setting(
        "127.0.0.1", _text, unit="address", reason="loopback: members' data leaves this machine only if asked to"
    )
    web_port: int = setting(6066, _whole(0, 65_535), unit="port; 0 = any free one", reason="Faust's customary port")
    web_token: str = setting(
        "", _text, unit="secret; empty = made at start", reason="bearer token of the web endpoints", secret=True
    )
    log_level: str = setting(
        "info", _choice(*LOG_LEVELS), unit=" | ".join(LOG_LEVELS), reason="logs are JSON without personal data"
    )
    compiled: str = setting("1", _choice("1", "0"), unit="1 | 0", reason="0: plain Python, though a build is there")

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None, /, **options: str | None) -> "Settings":
        """Read settings from `env`, by default the process's environment.

        Args:
            env: TIDINGS_* by name; other names are ignored.
            options: by field name, as text, from a command line: they win over `env`; None is no option.

        Raises:
            OperatorError: unknown TIDINGS_* names and bad values, all of them, one per line.
        """
        env = dict(os.environ if env is None else env)
        env |= {PREFIX + name.upper(): value for name, value in options.items() if value is not None}
        fields = {PREFIX + f.name.upper(): f for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        faults: list[str] = []
        for name in sorted(n for n in env if n.startswith(PREFIX)):
            known = fields.get(name)
            if known is None:
                near = difflib.get_close_matches(name, fields, n=1)
                faults.append(f"{name}: no such setting; " + (f"did you mean '{near[0]}'?" if near else "unset it"))
                continue
            try:
                values[known.name] = known.metadata["parse"](env[name].strip())
            except _Bad as bad:
                got = MASK if known.metadata["secret"] else repr(env[name])
                faults.append(f"{name}: {bad.must} (got {got}); {bad.remedy}")
        if not faults:
            settings = cls(**values)
            faults.extend(settings._conflicts())
        if faults:
            raise OperatorError("\n".join(faults))
        return settings

    def _conflicts(self) -> Iterator[str]:
        if self.security_protocol.startswith("SASL"):
            for name in ("sasl_username", "sasl_password"):
                if not getattr(self, name):
                    place = PREFIX + name.upper()
                    yield f"{place}: must be set with {self.security_protocol} (got nothing); set it"
        if bool(self.ssl_certificate_location) != bool(self.ssl_key_location):
            yield (
                "TIDINGS_SSL_CERTIFICATE_LOCATION: certificate and key go together (got one of them);"
                " set TIDINGS_SSL_KEY_LOCATION too, or neither"
            )
        if bool(self.dkim_key) != bool(self.dkim_selector):
            yield (
                "TIDINGS_DKIM_KEY: key and selector go together (got one of them);"
                " set TIDINGS_DKIM_SELECTOR too, or neither"
            )
        if self.broker_kind != "cluster" and self.security_protocol != "PLAINTEXT":
            yield (
                f"TIDINGS_SECURITY_PROTOCOL: broker '{self.broker_kind}' is PLAINTEXT on loopback"
                f" (got '{self.security_protocol}'); unset it or set TIDINGS_BROKER to your cluster"
            )
        try:
            secret_in_url = urlsplit(self.clickhouse).password or urlsplit(self.smtp).password
        except ValueError:
            secret_in_url = None
        if secret_in_url:
            yield (
                "TIDINGS_CLICKHOUSE, TIDINGS_SMTP: a URL is shown in logs and must hold no password (got one);"
                " use TIDINGS_CLICKHOUSE_PASSWORD, TIDINGS_SMTP_PASSWORD"
            )

    def __repr__(self) -> str:
        """Show every field; a secret that is set shows as `***`."""
        shown = (
            f"{f.name}={MASK if f.metadata['secret'] and getattr(self, f.name) else getattr(self, f.name)!r}"
            for f in dataclasses.fields(self)
        )
        return f"Settings({', '.join(shown)})"

    @property
    def broker_kind(self) -> str:
        """`memory`, `local` or `cluster`."""
        match = OWN_BROKER.match(self.broker)
        return match[1] if match else "cluster"

    @property
    def bootstrap(self) -> str:
        """Addresses `host:port,…` of a broker that runs.

        Raises:
            OperatorError: the setting says `memory` or `local` and no broker has been opened yet.
        """
        match = OWN_BROKER.match(self.broker)
        if match is None:
            return self.broker
        if match["address"] is None:
            raise OperatorError(
                f"TIDINGS_BROKER: '{self.broker}' is a broker to start, not an address (got '{self.broker}');"
                " run this inside 'up' or 'demo', or set TIDINGS_BROKER to the address that they print",
                exit_code=3,
            )
        return match["address"]

    def with_broker(self, bootstrap: str) -> "Settings":
        """Return a copy that points at a running broker and remembers its kind; children get `environment()`."""
        kind = self.broker_kind
        return dataclasses.replace(self, broker=bootstrap if kind == "cluster" else f"{kind}://{bootstrap}")

    def environment(self) -> dict[str, str]:
        """Return the TIDINGS_* variables that `from_env` reads back to equal settings. With secrets: for children."""
        return {
            PREFIX + f.name.upper(): str(getattr(self, f.name))
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        }

    def confluent(self, extra: Mapping[str, Any] | None = None, /, **more: Any) -> dict[str, Any]:
        """Return librdkafka's configuration: addresses, security, then the caller's.

        Args:
            extra: in librdkafka's own names.
            more: the same with `_` for `.`, such as `linger_ms=5`; callbacks (`…_cb`) and `log_level` keep their names.

        Raises:
            OperatorError: no broker has been opened yet, see `bootstrap`.
        """
        config: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap,
            "security.protocol": self.security_protocol,
            "log.connection.close": False,  # an idle connection that the broker closes is not news
            "metadata.recovery.rebootstrap.trigger.ms": REBOOTSTRAP_MS,
        }
        if self.security_protocol.startswith("SASL"):
            config["sasl.mechanism"] = self.sasl_mechanism
            config["sasl.username"] = self.sasl_username
            config["sasl.password"] = self.sasl_password
        if self.security_protocol.endswith("SSL"):
            for name in ("ssl_ca_location", "ssl_certificate_location", "ssl_key_location", "ssl_key_password"):
                if getattr(self, name):
                    config[name.replace("_", ".")] = getattr(self, name)
        for name, value in more.items():
            config[name if name in LIBRDKAFKA_UNDERSCORED or name.endswith("_cb") else name.replace("_", ".")] = value
        return config | dict(extra or {})

    def confluent_consumer(
        self, group_id: str, extra: Mapping[str, Any] | None = None, /, **more: Any
    ) -> dict[str, Any]:
        """Return `confluent` for a consumer: its group, from the earliest record, committing only when told to."""
        consumer = {
            "group.id": group_id,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",  # as the engine: what a producer took back is no event
            "session.timeout.ms": self.group_session_timeout_ms,
            "fetch.wait.max.ms": self.fetch_wait_ms,
        }
        return consumer | self.confluent(extra, **more)

    @property
    def group_session_timeout_ms(self) -> int:
        """`session_timeout_ms`, or less on the memory broker, which keeps a returning member waiting for it."""
        memory = self.broker_kind == "memory"
        return min(self.session_timeout_ms, MEMORY_SESSION_TIMEOUT_MS) if memory else self.session_timeout_ms

    @property
    def fetch_wait_ms(self) -> int:
        """How long the broker may hold an empty fetch: short on the memory broker, which never answers earlier."""
        return MEMORY_FETCH_WAIT_MS if self.broker_kind == "memory" else FETCH_WAIT_MS

    @property
    def faust_broker_url(self) -> str:
        """The broker as Faust wants it: `kafka://host:port;kafka://host:port`."""
        return ";".join(f"kafka://{address}" for address in self.bootstrap.split(","))

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the TLS context for clients in Python (aiokafka), or None without TLS."""
        if not self.security_protocol.endswith("SSL"):
            return None
        try:
            context = ssl.create_default_context(cafile=self.ssl_ca_location or None)
            if self.ssl_certificate_location:
                context.load_cert_chain(
                    self.ssl_certificate_location, self.ssl_key_location, password=self.ssl_key_password or None
                )
        except OSError as error:
            raise OperatorError(
                f"TIDINGS_SSL_CA_LOCATION, TIDINGS_SSL_CERTIFICATE_LOCATION: not usable ({type(error).__name__}:"
                f" {error.strerror or error}); set readable PEM files"
            ) from None
        return context

    @property
    def faust_credentials(self) -> Any:
        """`faust.Credentials` for `faust.App(broker_credentials=…)`, or None for PLAINTEXT."""
        if self.security_protocol == "PLAINTEXT":
            return None
        from faust.auth import SASLCredentials, SSLCredentials  # Faust takes 0.7 s to import; most commands do without

        context = self.ssl_context()
        if self.security_protocol == "SSL":
            return SSLCredentials(context)
        return SASLCredentials(
            username=self.sasl_username, password=self.sasl_password, mechanism=self.sasl_mechanism, ssl_context=context
        )


def environment_value(name: str) -> str | None:
    """Return an environment variable that a providers' file names; None when it is not set."""
    return os.environ.get(name)
