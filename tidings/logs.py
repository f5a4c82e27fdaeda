"""Logs: one JSON object a line on stderr, without personal data, for our own events and for every library's.

    logs.set_up("info")                    once, at the start of a process
    log = logs.get("tidings.worker")
    log.info("partition assigned", topic="events", partition=3)

Three things keep members out: values under the keys in `PERSONAL` become `***`; `member_id` becomes a short hash, equal
for equal members, so that lines can still be put together; whatever looks like an e-mail address or a phone number in
any text, also in another library's message or a traceback, becomes `***`.

Faust's worker would replace all this: start it with `faust.Worker(app, override_logging=False,
redirect_stdouts=False)`.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import IO, Any

import structlog

from schemas.ids import h128

MASK = "***"
PERSONAL = frozenset(
    (
        *("address", "email", "first_name", "full_name", "identifier", "last_name", "mail", "phone", "recipient", "to"),
        *("body", "data", "key", "member", "payload", "profile", "subject", "value"),
        *("authorization", "password", "token"),
    )
)
# SMTP errors quote recipients. `<id@host>` of a Message-ID looks the same and goes too.
EMAIL = re.compile(r"[^\s<>\"'(),:;=\[\]{}]+@[^\s<>\"'(),:;=\[\]{}]*[A-Za-z0-9]")
PHONE = re.compile(r"\+\d[\d ()-]{7,}\d")
DEPTH_MAX = 6
# They narrate each poll, or each rebalance over several lines; their warnings and errors come through.
QUIET = (
    *("aiokafka", "aiohttp.access", "asyncio", "chdb", "clickhouse_connect", "faust", "mode", "urllib3"),
    *("agents.batching", "agents.member_table"),  # subclasses of Faust's services: these log their starts and stops
)

Event = MutableMapping[str, Any]


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger called `name`, such as `tidings.agents.member`."""
    return structlog.stdlib.get_logger(name)


def scrub(text: str) -> str:
    """Return `text` with e-mail addresses and phone numbers masked."""
    if "@" in text:
        text = EMAIL.sub(MASK, text)
    return PHONE.sub(MASK, text) if "+" in text else text


def without_personal_data(logger: Any, method: str, event: Event) -> Event:
    """Mask personal data in one log event: a structlog processor."""
    return {name: _masked(name, value, 0) for name, value in event.items()}


def _masked(name: str, value: Any, depth: int) -> Any:
    lower = name.lower()
    if lower == "member_id":
        return None if value is None else f"#{h128(str(value))[:12]}"
    if lower in PERSONAL:
        return value if value is None else MASK
    if isinstance(value, str):
        return scrub(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth >= DEPTH_MAX:
        return MASK
    if isinstance(value, dict):
        return {str(key): _masked(str(key), item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked("", item, depth + 1) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):  # bytes are payload here, never text for people
        return f"{len(value)} bytes"
    return scrub(str(value))


def set_up(level: str = "info", stream: IO[str] | None = None) -> None:
    """Route structlog and the standard library's logging to one JSON stream. Can be called again.

    Args:
        level: debug, info, warning or error; of our own loggers. Libraries stay at warning unless it is debug.
        stream: by default stderr.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                without_personal_data,  # after tracebacks became text, which may quote an address
                structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
            ],
        )
    )
    number = getattr(logging, level.upper())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in QUIET:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET if number <= logging.DEBUG else max(number, logging.WARNING))
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # a second set_up, in tests and after a fork, must reach loggers that exist
    )
