"""Every topic, declared once: permanent name, key, value, partitions, retention.

The names are on disk in Kafka and never change. This module knows no client: `tidings/brokers/admin.py` creates and
checks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agents.delivery_state import SENT_TOPIC, SENT_TOPIC_CONFIG
from schemas.commands import BULK, TRANSACTIONAL, TRIGGER

APP_ID = "tidings-engine"
TABLE = "members"
EVENTS = "events"
COMMANDS = "commands"
COMMANDS_OF: Mapping[str, str] = {  # by lane
    TRANSACTIONAL: "commands-transactional",
    TRIGGER: COMMANDS,
    BULK: "commands-bulk",
}
SENT_OF: Mapping[str, str] = {  # by lane
    TRANSACTIONAL: "tidings-delivery-sent-transactional",
    TRIGGER: SENT_TOPIC,
    BULK: "tidings-delivery-sent-bulk",
}
SMS_IDS = "tidings-delivery-sms-ids"
INBOX = "tidings-inbox"
CALLS = "tidings-calls"
MEMBER_COMMANDS = "member-commands"
DECISIONS = "decisions"
ATTRIBUTIONS = "attributions"
DEAD_LETTERS = "dead-letters"
OTP_STATE = "tidings-otp-state"
CHANGELOG = "tidings-engine-members-changelog"  # as Faust derives it: {app id}-{table}-changelog

DAY_MS = 86_400_000
SMS_IDS_KEPT_MS = 7 * DAY_MS
INBOX_KEPT_MS = 30 * DAY_MS
CALLS_KEPT_MS = 30 * DAY_MS
# Kafka's own default (1 MiB + 12 bytes of batch header). Events larger than this are refused at the producer.
MESSAGE_BYTES_MAX = 1_048_588
# A dead letter is an original of up to MESSAGE_BYTES_MAX plus headers; a member record may also be larger than an
# event.
LARGE_MESSAGE_BYTES_MAX = 2 * 1_048_588


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What a topic must look like on the broker."""

    name: str
    key: str  # in words, for people
    value: str  # in words, for people
    config: Mapping[str, str] = field(default_factory=dict)  # the broker's names; the rest stays its choice
    partitions: int | None = None  # None: as many as `events`, so that equal keys meet in equal partitions


def _kept(days: int, timestamp: str = "CreateTime", message_bytes_max: int = MESSAGE_BYTES_MAX) -> dict[str, str]:
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(days * DAY_MS),
        "message.timestamp.type": timestamp,
        "max.message.bytes": str(message_bytes_max),
    }


TOPICS: tuple[TopicSpec, ...] = (
    # LogAppendTime: the log is the clock (docs/architecture.md); a producer's clock must not move it.
    TopicSpec(EVENTS, "member_id", "Event, JSON or Avro", _kept(30, "LogAppendTime")),
    # 7 d: a command is obeyed within its own validity of days, or has expired.
    TopicSpec(COMMANDS, "member_id", "SendMessage or CancelMessage, JSON", _kept(7)),
    # 1 d: what is sent there is of use for minutes, and may hold a one-time code (docs/one-time-codes.md).
    TopicSpec(COMMANDS_OF[TRANSACTIONAL], "member_id", "the same, lane transactional", _kept(1)),
    TopicSpec(COMMANDS_OF[BULK], "member_id", "the same, lane bulk", _kept(7)),
    # 30 d: a ledger that was down can catch up; whoever obeys these obeys each id once.
    TopicSpec(MEMBER_COMMANDS, "member_id", "AccruePoints, UpdateTags or UpdateSegments, JSON", _kept(30)),
    # 30 d on what analytics are made of, like the events themselves: a sink that was down can catch up.
    TopicSpec(DECISIONS, "member_id", "Decision, JSON", _kept(30)),
    TopicSpec(ATTRIBUTIONS, "member_id", "Attribution, JSON", _kept(30)),
    TopicSpec(
        DEAD_LETTERS,
        "as it came",
        "original bytes; place and reason in headers",
        _kept(30, "CreateTime", LARGE_MESSAGE_BYTES_MAX),
    ),
    # The delivery role's memory of what left: same partition count as `commands`, read back by command id.
    TopicSpec(SENT_TOPIC, "command_id", "delivery step, msgpack", SENT_TOPIC_CONFIG),
    TopicSpec(SENT_OF[TRANSACTIONAL], "command_id", "the same, lane transactional", SENT_TOPIC_CONFIG),
    TopicSpec(SENT_OF[BULK], "command_id", "the same, lane bulk", SENT_TOPIC_CONFIG),
    # What the ids of SMPP providers stand for, read whole by every delivery worker: a receipt names nothing else.
    TopicSpec(SMS_IDS, "provider and its id", "message that it stands for, msgpack", _kept(7)),
    # 30 d, as the events: it holds texts, so it keeps nothing longer than they do.
    TopicSpec(INBOX, "member_id", "message or mark of an inbox, msgpack", _kept(30)),
    # 30 d: beyond the lifetime of any call.
    TopicSpec(CALLS, "command_id", "call, claim or outcome, msgpack", _kept(30)),
    # One partition, for one writer. 2 d: the longest that a limit looks back is a day.
    TopicSpec(
        OTP_STATE,
        "kind and keyed hash",
        "what is known of one-time codes, msgpack",
        {"cleanup.policy": "compact,delete", "retention.ms": str(2 * DAY_MS), "message.timestamp.type": "CreateTime"},
        partitions=1,
    ),  # fmt: skip
    TopicSpec(
        CHANGELOG,
        "member or meta key",
        "member record, bytes",
        {
            "cleanup.policy": "compact",
            "message.timestamp.type": "CreateTime",
            "max.message.bytes": str(LARGE_MESSAGE_BYTES_MAX),
            # An erased member must reach every standby that was away for up to a day before its tombstone goes.
            "delete.retention.ms": str(DAY_MS),
            # Rolled daily: only closed segments are compacted, and an erased member must not stay for a week.
            "segment.ms": str(DAY_MS),
        },
    ),
)
BY_NAME: Mapping[str, TopicSpec] = {spec.name: spec for spec in TOPICS}


def partitions_of(spec: TopicSpec, events: int) -> int:
    """Return how many partitions a topic has when `events` has `events` of them."""
    return spec.partitions or events
