import re
import tomllib
from pathlib import Path

import pytest

from agents.metrics import Histogram
from agents.records import Counters
from tidings import VERSION
from tidings.web.prometheus import (
    DELIVERY_HELP,
    DeliveryRecorder,
    counter,
    gauge,
    histogram,
    process_families,
    render,
    sink_families,
)

# The text format 0.0.4, as its specification writes it.
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
LINE = re.compile(
    rf"# HELP {NAME} .+|# TYPE {NAME} (?:counter|gauge|histogram)"
    rf"|{NAME}(?:\{{{LABEL}(?:,{LABEL})*\}})? (?:[-+]?[0-9.]+(?:e[-+]?[0-9]+)?|\+Inf)"
)


def checked(text: str) -> str:
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        assert LINE.fullmatch(line), line
    return text


def test_a_family_is_help_type_and_samples() -> None:
    text = checked(
        render([counter("x_total", "Things.", 3), gauge("y", "Level.", [({"p": "0"}, 1.5), ({"p": "1"}, 2)])])
    )
    assert text == (
        "# HELP x_total Things.\n# TYPE x_total counter\nx_total 3\n"
        '# HELP y Level.\n# TYPE y gauge\ny{p="0"} 1.5\ny{p="1"} 2\n'
    )


def test_what_a_label_or_help_may_not_hold_is_escaped() -> None:
    text = checked(render([gauge("x", "two\nlines \\", [({"reason": 'a"b\\c\nd'}, 1)])]))
    assert text == '# HELP x two\\nlines \\\\\n# TYPE x gauge\nx{reason="a\\"b\\\\c\\nd"} 1\n'


def test_a_histogram_leaves_in_seconds_with_cumulative_buckets() -> None:
    filled = Histogram((10, 75, 1_000))
    for value in (10, 11, 75, 999, 5_000):
        filled.add(value)
    text = checked(render([histogram("t_seconds", "Time.", filled)]))
    assert text.splitlines()[2:] == [
        't_seconds_bucket{le="0.01"} 1',
        't_seconds_bucket{le="0.075"} 3',
        't_seconds_bucket{le="1.0"} 4',
        't_seconds_bucket{le="+Inf"} 5',
        "t_seconds_sum 6.095",
        "t_seconds_count 5",
    ]


def test_every_role_tells_its_build_and_whether_it_is_ready() -> None:
    text = checked(render(process_families("sink", False)))
    assert re.search(
        r'tidings_build_info\{version="[^"]+",python="3\.[^"]+",faust="[^"]+",role="sink",core="[^"]+"\} 1', text
    )
    assert "\ntidings_ready 0\n" in text
    resident = re.search(r"^process_resident_memory_bytes (\d+)$", text, re.MULTILINE)
    assert resident is not None
    assert int(resident[1]) > 1 << 20


def test_what_delivery_counts_is_told_under_documented_names() -> None:
    recorder = DeliveryRecorder()
    recorder.count("delivery_outcomes", status="sent", reason="")
    recorder.count("delivery_outcomes", 2, reason="hard", status="bounced")
    recorder.gauge("delivery_under_way", 7, lane="trigger")
    recorder.observe("delivery_delay_ms", 120)
    text = checked(render(recorder.families()))
    assert 'tidings_delivery_outcomes_total{reason="",status="sent"} 1\n' in text
    assert 'tidings_delivery_outcomes_total{reason="hard",status="bounced"} 2\n' in text
    assert 'tidings_delivery_under_way{lane="trigger"} 7\n' in text
    assert 'tidings_delivery_delay_seconds_bucket{le="0.25"} 1\n' in text
    assert "tidings_delivery_delay_seconds_sum 0.12\n" in text
    assert all(words in text for words in DELIVERY_HELP.values())


def test_counters_of_delivery_are_there_before_anything_happens() -> None:
    text = checked(render(DeliveryRecorder().families()))
    assert "tidings_delivery_uncertain_total 0\n" in text
    assert "# TYPE tidings_delivery_provider_up gauge\n" in text


def test_a_sink_tells_rows_by_table_and_its_outage() -> None:
    counters = Counters(records=9, inserts=2, outage=True, rows={"events": 8, "undecodable": 1})
    text = checked(render(sink_families(counters)))
    assert 'tidings_sink_rows_total{table="events"} 8\n' in text
    assert "tidings_sink_outage 1\n" in text
    assert sink_families(None) == []


def test_prometheus_own_parser_reads_it() -> None:
    parser = pytest.importorskip(
        "prometheus_client.parser", reason="only where Prometheus' client happens to be installed"
    )
    filled = Histogram((10,))
    filled.add(3)
    families = [counter("x_total", "a\\b", [({"r": 'q"\\\n'}, 2)]), histogram("h_seconds", "H.", filled)]
    found = {family.name: family for family in parser.text_string_to_metric_families(render(families))}
    assert found["x"].samples[0].labels == {"r": 'q"\\\n'}
    assert [s.value for s in found["h_seconds"].samples] == [1, 1, 0.003, 1]


def test_the_version_told_is_the_projects() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION
