"""How soon is a worker with ten million members ready again?"""

from benchmarks.harness import Row, Scale
from benchmarks.recovery import KAFKA_MEMBERS_MIN, has_java, through_kafka
from schemas.errors import OperatorError

NAME = "recovery_10m"
QUESTION = "How soon is a worker with ten million members ready again, with its store, without, and from a standby?"
METHOD = (
    "The cases `through Kafka` and `standby takeover` of `recovery`, once each, with ten times as many members: 15 "
    "million records, 5 GB of changelog. A compacted changelog would hold two thirds of that. Needs 20 GB of disk."
)
MEMBERS = 10_000_000


def run(scale: Scale) -> list[Row]:
    """Measure.

    Raises:
        OperatorError: no Java.
    """
    if not has_java():
        raise OperatorError("recovery_10m: needs Apache Kafka (got no 'java' on PATH); install Java 17")
    return through_kafka(scale.of(MEMBERS, KAFKA_MEMBERS_MIN), scale)
