"""Create, describe and check topics against their declaration in `agents/topics.py`. Idempotent."""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it re-exports without saying so
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewTopic,
    ResourceType,
)

from agents.topics import TOPICS, TopicSpec, partitions_of
from schemas.errors import OperatorError
from tidings.brokers.refusal import Asking
from tidings.brokers.waiting import Waiting
from tidings.config import Settings

TIMEOUT_S = 15.0
# What a broker that is starting, or far away, looks like; anything else is an answer.
UNANSWERED = (KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN)  # noqa: SLF001 its public codes
CREATE = "run: python -m tidings topics create"
ALTER = "run: python -m tidings topics create --alter"


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as the broker has it."""

    name: str
    partitions: int  # 0: it does not exist
    replication: int
    config: dict[str, str] = field(default_factory=dict)  # empty on the memory broker, which has none


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as declared, and what to do about it."""

    topic: str
    setting: str
    declared: str
    actual: str
    remedy: str


def create_topics(
    settings: Settings, specs: Sequence[TopicSpec] = TOPICS, *, alter: bool = False, timeout_s: float = TIMEOUT_S
) -> dict[str, str]:
    """Create the topics that do not exist and wait until each has its leaders.

    Args:
        settings: of a running broker, see `Settings.with_broker`.
        specs: which.
        alter: also set the declared configuration on topics that exist with another one.
        timeout_s: for the whole.

    Returns:
        By name: `created`, `altered` or `exists`.

    Raises:
        OperatorError: no answer, or the broker refuses.
    """
    admin = Asking(settings)
    before = describe(settings, specs, timeout_s=timeout_s)
    outcome = {spec.name: "exists" for spec in specs}
    missing = [spec for spec, state in zip(specs, before, strict=True) if not state.partitions]
    if settings.broker_kind == "memory" or not (missing or alter):
        return outcome  # `describe` has asked the memory broker for each topic, and so made it
    wanted = [
        NewTopic(
            spec.name,
            num_partitions=partitions_of(spec, settings.partitions),
            replication_factor=settings.replication or -1,
            config=dict(spec.config),
        )
        for spec in missing
    ]
    futures = admin.create_topics(wanted, operation_timeout=timeout_s, request_timeout=timeout_s) if wanted else {}
    for name, future in futures.items():
        outcome[name] = "created" if _created(settings, name, future) else "exists"
    if alter:
        for spec, state in zip(specs, before, strict=True):
            if state.partitions and _alter(admin, settings, spec, state, timeout_s):
                outcome[spec.name] = "altered"
    _await_leaders(admin, settings, [spec.name for spec in missing], timeout_s)
    _await_configuration(settings, [spec for spec in specs if outcome[spec.name] == "altered"], timeout_s)
    return outcome


def describe(
    settings: Settings,
    specs: Sequence[TopicSpec] = TOPICS,
    *,
    timeout_s: float = TIMEOUT_S,
    configuration: bool = True,
) -> list[TopicState]:
    """Return each declared topic as it is, in the order of `specs`; one that does not exist has 0 partitions.

    On the memory broker a topic that does not exist is made by the question, with 4 partitions. Without
    `configuration` less is asked: a worker's user may not be allowed to read it.

    Raises:
        OperatorError: no answer.
    """
    admin = Asking(settings)
    memory = settings.broker_kind == "memory"
    states: list[TopicState] = []
    everything = {} if memory else _metadata(admin, settings, None, timeout_s)
    for spec in specs:
        topic = (_metadata(admin, settings, spec.name, timeout_s) if memory else everything).get(spec.name)
        partitions = dict(topic.partitions) if topic is not None and topic.error is None else {}
        replicas = min((len(p.replicas) for p in partitions.values()), default=0)
        states.append(TopicState(spec.name, len(partitions), replicas))
    existing = [state.name for state in states if state.partitions]
    if memory or not existing or not configuration:
        return states
    configs = _configs(admin, settings, existing, timeout_s)
    return [TopicState(s.name, s.partitions, s.replication, configs.get(s.name, {})) for s in states]


def check(settings: Settings, specs: Sequence[TopicSpec] = TOPICS, *, timeout_s: float = TIMEOUT_S) -> list[Difference]:
    """Compare the broker with the declaration; empty if all is as declared.

    The memory broker has no configuration to compare; its partitions are.
    """
    found: list[Difference] = []
    for spec, state in zip(specs, describe(settings, specs, timeout_s=timeout_s), strict=True):
        partitions = partitions_of(spec, settings.partitions)
        if not state.partitions:
            found.append(Difference(spec.name, "topic", "exists", "missing", CREATE))
            continue
        if state.partitions != partitions:
            # Adding partitions is possible in Kafka and wrong here: members would move away from their state.
            remedy = f"set TIDINGS_PARTITIONS={state.partitions}; a topic with history keeps its number"
            found.append(Difference(spec.name, "partitions", str(partitions), str(state.partitions), remedy))
        if settings.replication and state.replication != settings.replication:
            remedy = "reassign with kafka-reassign-partitions, or correct TIDINGS_REPLICATION"
            actual = str(state.replication)
            found.append(Difference(spec.name, "replication", str(settings.replication), actual, remedy))
        found += [
            Difference(spec.name, name, value, state.config.get(name, "unknown"), ALTER)
            for name, value in spec.config.items()
            if state.config and state.config.get(name) != value
        ]
    return found


def group_offsets(settings: Settings, group_id: str, *, timeout_s: float = TIMEOUT_S) -> dict[tuple[str, int], int]:
    """Return what a consumer group has committed, by topic and partition. Not on the memory broker."""
    admin = Asking(settings)
    request = [ConsumerGroupTopicPartitions(group_id)]
    try:
        answer = admin.list_consumer_group_offsets(request, request_timeout=timeout_s)[group_id].result()
    except KafkaException as error:
        raise _unreachable(settings, error) from None
    return {(p.topic, p.partition): p.offset for p in answer.topic_partitions or [] if p.offset >= 0}


def _metadata(admin: Asking, settings: Settings, topic: str | None, timeout_s: float) -> dict[str, Any]:
    until = time.monotonic() + timeout_s
    with Waiting(f"broker {settings.bootstrap}: waiting for an answer") as waiting:
        while True:
            left = max(0.1, min(1.0, until - time.monotonic()))  # short tries, so that the wait can be shown
            try:
                metadata = admin.list_topics(topic, timeout=left) if topic else admin.list_topics(timeout=left)
            except KafkaException as error:
                refusal = admin.refusal()
                if refusal is not None:
                    raise refusal from None
                if time.monotonic() >= until or error.args[0].code() not in UNANSWERED:
                    raise _unreachable(settings, error) from None
                waiting.tick()
            else:
                return dict(metadata.topics)


def _configs(
    admin: AdminClient, settings: Settings, names: Sequence[str], timeout_s: float
) -> dict[str, dict[str, str]]:
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    found: dict[str, dict[str, str]] = {}
    try:
        for resource, future in admin.describe_configs(resources, request_timeout=timeout_s).items():
            found[resource.name] = {name: str(entry.value) for name, entry in future.result().items()}
    except KafkaException as error:
        raise _unreachable(settings, error) from None
    return found


def _created(settings: Settings, name: str, future: "Future[Any]") -> bool:
    try:
        future.result()
    except KafkaException as error:
        reason: KafkaError = error.args[0]
        if reason.code() == KafkaError.TOPIC_ALREADY_EXISTS:  # another process was faster
            return False
        raise OperatorError(
            f"topic '{name}': the broker refused to create it (got {reason.name()}: {reason.str()});"
            " check the rights of this user, and TIDINGS_REPLICATION against the number of brokers",
            exit_code=3,
        ) from None
    return True


def _alter(admin: AdminClient, settings: Settings, spec: TopicSpec, state: TopicState, timeout_s: float) -> bool:
    other = {name: value for name, value in spec.config.items() if state.config.get(name) != value}
    if not other:
        return False
    entries = [
        ConfigEntry(name, value, source=ConfigSource.DYNAMIC_TOPIC_CONFIG, incremental_operation=AlterConfigOpType.SET)
        for name, value in other.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, spec.name, incremental_configs=entries)
    try:
        for future in admin.incremental_alter_configs([resource], request_timeout=timeout_s).values():
            future.result()
    except KafkaException as error:
        raise OperatorError(
            f"topic '{spec.name}': the broker refused to change {', '.join(other)} (got {error.args[0].name()});"
            " check the rights of this user",
            exit_code=3,
        ) from None
    return True


def _await_configuration(settings: Settings, specs: Sequence[TopicSpec], timeout_s: float) -> None:
    """Wait until a change can be seen: it is answered before that."""
    until = time.monotonic() + timeout_s
    while specs:
        states = describe(settings, specs, timeout_s=timeout_s)
        pairs = zip(specs, states, strict=True)
        specs = [s for s, state in pairs if any(state.config.get(k) != v for k, v in s.config.items())]
        if specs and time.monotonic() > until:
            raise OperatorError(
                f"topics {', '.join(s.name for s in specs)}: altered, but still described as before after"
                f" {timeout_s:.0f} s; run 'topics check' again later",
                exit_code=3,
            )
        if specs:
            time.sleep(0.05)


def _await_leaders(admin: Asking, settings: Settings, names: Sequence[str], timeout_s: float) -> None:
    """Wait until each partition can be written: creation is answered before that."""
    until = time.monotonic() + timeout_s
    while names:
        topics = _metadata(admin, settings, None, timeout_s)
        names = [
            name
            for name in names
            if name not in topics
            or not topics[name].partitions
            or any(p.leader < 0 or p.error is not None for p in topics[name].partitions.values())
        ]
        if names and time.monotonic() > until:
            raise OperatorError(
                f"topics {', '.join(names)}: created, but without leaders (got none for {timeout_s:.0f} s);"
                " check that the cluster's brokers are up",
                exit_code=3,
            )
        if names:
            time.sleep(0.05)


def _unreachable(settings: Settings, error: KafkaException) -> OperatorError:
    reason = error.args[0]
    return OperatorError(
        f"TIDINGS_BROKER: no useful answer from {settings.bootstrap} (got {reason.name()}: {reason.str()});"
        " start the broker, or correct its address and TIDINGS_SECURITY_PROTOCOL",
        exit_code=3,
    )
