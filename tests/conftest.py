"""Which tests can run here. Fixtures live beside the tests that use them."""

import os
import shutil

import pytest

KAFKA_TOOLS = {"java": "Java 17", "mvn": "Maven"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests for a few processes; skip what needs Kafka where its tools are absent.

    With TIDINGS_REQUIRE_KAFKA=1 such a test is not skipped: it may fail.
    """
    for item in items:  # at most two Kafkas at a time; else the tests of a file stay together (--dist loadgroup)
        group = item.nodeid.partition("::")[0]
        if item.get_closest_marker("kafka"):  # in one group they would be the longest by far; these are about half
            group = "kafka agents" if group.startswith("tests/agents/") else "kafka"
        item.add_marker(pytest.mark.xdist_group(group))
    # Taken out: it is no setting, and child processes refuse TIDINGS_* names that are none.
    if os.environ.pop("TIDINGS_REQUIRE_KAFKA", "") == "1":
        return
    absent = [name for tool, name in KAFKA_TOOLS.items() if shutil.which(tool) is None]
    if not absent:
        return
    reason = f"needs a local Kafka, {' and '.join(absent)} not found; install them or set TIDINGS_REQUIRE_KAFKA=1"
    for item in items:
        if item.get_closest_marker("kafka"):
            item.add_marker(pytest.mark.skip(reason=reason))
