"""Where a running product stands: ends of the log, how far each role has come, what its endpoints count."""

import http.client
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from confluent_kafka import Consumer, KafkaException, TopicPartition

from agents.lanes import ALL_LANES
from agents.records import GROUP as SINK_GROUP
from agents.records import TOPICS as SINK_TOPICS
from agents.topics import EVENTS
from tidings.config import Settings

SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
ASK_S = 5.0

Sample = tuple[dict[str, str], float]


class Metrics:
    """What `/metrics` of one worker says."""

    def __init__(self, text: str) -> None:
        self._samples: dict[str, list[Sample]] = {}
        for name, labels, value in SAMPLE.findall(text):
            self._samples.setdefault(name, []).append((dict(LABEL.findall(labels)), float(value)))

    def samples(self, name: str) -> Sequence[Sample]:
        """List (labels, value) of one family; empty if there is none."""
        return self._samples.get(name, ())

    def total(self, name: str) -> float:
        """Add up a family; 0 if there is none."""
        return sum(value for _, value in self.samples(name))

    def by(self, name: str, label: str) -> dict[str, float]:
        """Map one label's values to theirs."""
        return {labels.get(label, ""): value for labels, value in self.samples(name)}


def get(url: str, path: str, token: str = "") -> tuple[int, str]:
    """GET from a worker; (0, reason) when nothing answers."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ASK_S)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, type(error).__name__
    finally:
        connection.close()


def is_ready(url: str | None) -> bool:
    """Tell whether a worker says that it can do its work."""
    return url is not None and get(url, "/ready")[0] == 200


def metrics_of(url: str | None, token: str) -> Metrics | None:
    """Ask one worker; None when it does not answer."""
    status, text = get(url, "/metrics", token) if url is not None else (0, "")
    return Metrics(text) if status == 200 else None


@dataclass(frozen=True, slots=True)
class Standing:
    """One look. `ends`: by (topic, partition), the offset of the next record; lags in records; `timers` pending."""

    ends: Mapping[tuple[str, int], int] = field(default_factory=dict)
    engine_lag: int = 0
    delivery_lag: int = 0
    sink_lag: int = 0
    timers: int = 0

    @property
    def done(self) -> bool:
        """Nothing is under way, and nothing will come by itself."""
        return not (self.engine_lag or self.delivery_lag or self.sink_lag or self.timers)

    def records(self, topic: str) -> int:
        """Count the records that a topic has seen."""
        return sum(end for (name, _), end in self.ends.items() if name == topic)


class Lookout:
    """Looks at a running product from outside: a context manager with consumers that join no group."""

    def __init__(self, settings: Settings) -> None:
        self._groups = {
            group: Consumer(settings.confluent_consumer(group, {"log_level": 0}))
            for group in (*(lane.group for lane in ALL_LANES.values()), SINK_GROUP)
        }
        metadata = self._groups[SINK_GROUP].list_topics(timeout=ASK_S)
        self._places = [(name, p) for name in SINK_TOPICS for p in sorted(metadata.topics[name].partitions)]

    def __enter__(self) -> "Lookout":
        return self

    def __exit__(self, *exc: object) -> None:
        for consumer in self._groups.values():
            consumer.close()

    def look(self, engine: Metrics | None) -> Standing | None:
        """See where things stand; None while the broker or the engine does not answer.

        Ends are read last, so that a lag of 0 means: all of this had been done at one moment.
        """
        if engine is None:
            return None
        try:
            done = {group: self._committed(group) for group in self._groups}
            ends = self._ends()
        except KafkaException:
            return None
        applied = {int(p): int(value) + 1 for p, value in engine.by("tidings_applied_offset", "partition").items()}
        return Standing(
            ends,
            sum(ends[EVENTS, p] - applied.get(p, 0) for topic, p in self._places if topic == EVENTS),
            sum(
                ends[place] - done[lane.group][place]
                for lane in ALL_LANES.values()
                for place in self._places
                if place[0] == lane.commands
            ),
            sum(ends[place] - done[SINK_GROUP][place] for place in self._places),
            len(engine.samples("tidings_next_timer_timestamp_seconds")),
        )

    def _committed(self, group: str) -> dict[tuple[str, int], int]:
        read = {lane.commands for lane in ALL_LANES.values() if lane.group == group}
        wanted = [TopicPartition(*place) for place in self._places if group == SINK_GROUP or place[0] in read]
        found = self._groups[group].committed(wanted, timeout=ASK_S)
        return {(place.topic, place.partition): max(0, place.offset) for place in found}

    def _ends(self) -> dict[tuple[str, int], int]:
        consumer = self._groups[SINK_GROUP]
        return {
            place: consumer.get_watermark_offsets(TopicPartition(*place), timeout=ASK_S, cached=False)[1]
            for place in self._places
        }


def wait_until(check: Callable[[], bool], timeout_s: float, pause_s: float = 0.1) -> bool:
    """Ask again and again; tells whether it came true in time."""
    until = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > until:
            return False
        time.sleep(pause_s)
    return True
