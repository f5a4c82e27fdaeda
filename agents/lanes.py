"""The lanes of delivery: each has topics and a consumer group of its own. The names are on Kafka and never change."""

from collections.abc import Mapping
from dataclasses import dataclass

from agents.topics import COMMANDS_OF, SENT_OF
from schemas.commands import LANES, TRIGGER

GROUP = "tidings-delivery"


@dataclass(frozen=True, slots=True)
class Lane:
    """One lane's names: the topic of its commands, the topic of what was sent, its group."""

    name: str
    commands: str
    sent: str
    group: str


ALL_LANES: Mapping[str, Lane] = {
    name: Lane(name, COMMANDS_OF[name], SENT_OF[name], GROUP if name == TRIGGER else f"{GROUP}-{name}")
    for name in LANES
}
