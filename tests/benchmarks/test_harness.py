"""How benchmarks measure and judge: what they must not get wrong however noisy the machine is."""

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from benchmarks import calibration, harness
from benchmarks.__main__ import QUESTIONS, answer_question, gate, main, result_path
from benchmarks.harness import (
    FORMAT,
    ROOT,
    Answer,
    Result,
    Row,
    Scale,
    Work,
    changes,
    describe_run,
    interleaved,
    quantile,
    read_result,
    timed,
    write_result,
)
from benchmarks.plots import draw
from benchmarks.replay_speed import LATENESS_MS, PATTERN, WITHIN_MS, expected, plan_of, run_once
from benchmarks.tables import BEGIN, END, PAGES, cells, markdown, write_pages
from benchmarks.workload import START_MS, w
from schemas.codec import encode_event
from schemas.errors import OperatorError
from schemas.events import Event


def result(figures: dict[str, float], scale: float = 1.0, **more: Any) -> Result:
    rows = [Row(case=name, unit="event", items=10, gated=figure) for name, figure in figures.items()]
    answer = Answer(name="replay_speed", question="?", method="!", seconds=1, step_us=0.2, rows=rows)
    return msgspec.structs.replace(describe_run(scale), answers=[answer], **more)


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the machine's step as given, where calibration is not the matter."""
    monkeypatch.setattr(calibration, "step_us", lambda: 0.3)


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch, step: None) -> Scale:
    """The smallest scale, and one counted run: whether a question can be asked, not what its answer is."""
    monkeypatch.setattr(harness, "RUNS_MIN", 1)
    return Scale(0.001, runs=1)


def spin(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


# ---------------------------------------------------------------- measuring


def test_calibration_loop_does_the_work_that_results_are_compared_with() -> None:
    assert calibration.loop() == calibration.CHECKSUM
    assert calibration.step_us() > 0


def test_a_changed_calibration_loop_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "loop", lambda: 1)
    with pytest.raises(RuntimeError, match="change it back"):
        calibration.step_us()


def test_cases_are_run_in_turns_and_the_first_round_is_not_counted(step: None) -> None:
    order: list[str] = []

    def case(name: str) -> Work:
        order.append(name)
        return Work(10)

    rows = interleaved({"a": lambda: case("a"), "b": lambda: case("b")}, Scale(), "event")
    assert order == ["a", "b"] * 4
    assert [(row.case, row.runs, row.items) for row in rows] == [("a", 3, 10), ("b", 3, 10)]


def test_twice_the_work_is_about_twice_the_cost_and_the_ratio_has_its_spread() -> None:
    def case(seconds: float) -> Work:
        spin(seconds)
        return Work(1_000)

    one, two = interleaved({"one": lambda: case(0.02), "two": lambda: case(0.04)}, Scale(), "event")
    assert one.ratio is None
    assert two.ratio is not None and two.ratio_low is not None and two.ratio_high is not None
    assert two.ratio_low <= two.ratio <= two.ratio_high
    assert one.cpu_us is not None and two.cpu_us is not None
    assert 1.6 < two.cpu_us / one.cpu_us < 2.4
    assert two.gated == two.steps


def test_waiting_counts_as_wall_time_and_not_as_cpu_time() -> None:
    def case() -> Work:
        time.sleep(0.05)
        return Work(1)

    sample = timed(case)
    assert sample.wall_us >= 50_000
    assert sample.cpu_us < 25_000


def test_what_another_process_used_is_taken_from_the_case() -> None:
    sample = timed(lambda: Work(10, wall_s=1.0, cpu_s=0.5, peak_mb=7.0))
    assert (sample.wall_us, sample.cpu_us, sample.peak_mb) == (100_000, 50_000, 7.0)


def test_peak_memory_is_that_of_the_case_alone() -> None:
    large = timed(lambda: Work(len(bytearray(200 << 20))))
    small = timed(lambda: Work(1))
    if Path("/proc/self/clear_refs").exists():
        assert large.peak_mb - small.peak_mb > 150


@pytest.mark.parametrize(("factor", "runs"), [(0, 3), (101, 3), (1, 2)])
def test_a_scale_that_gives_no_figures_is_refused(factor: float, runs: int) -> None:
    with pytest.raises(OperatorError, match="got"):
        Scale(factor, runs)


def test_progress_rises_from_zero_to_below_one(step: None) -> None:
    shares: list[float] = []
    interleaved({"a": lambda: Work(1)}, Scale(progress=lambda share, note: shares.append(share)), "event")
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] < 1


def test_quantiles_are_values_that_occurred() -> None:
    assert [quantile([1, 2, 3, 4], share) for share in (0, 0.5, 0.99, 1)] == [1, 3, 4, 4]


# ---------------------------------------------------------------- results and the gate


def test_a_result_reads_back_as_written(tmp_path: Path) -> None:
    written = result({"firings": 40.0})
    write_result(written, tmp_path / "r.json")
    assert read_result(tmp_path / "r.json") == written
    assert written.machine["cores"] >= 1
    assert written.versions["msgspec"]


def test_another_format_or_no_file_is_refused(tmp_path: Path) -> None:
    write_result(result({}, format=FORMAT + 1), tmp_path / "r.json")
    for name in ("r.json", "none.json"):
        with pytest.raises(OperatorError):
            read_result(tmp_path / name)


def test_the_gate_lets_pass_up_to_1_3_times_and_fails_beyond(capsys: pytest.CaptureFixture[str]) -> None:
    before = result({"a": 100.0, "b": 100.0})
    assert gate(result({"a": 130.0, "b": 50.0}), before)
    assert not gate(result({"a": 130.1, "b": 100.0}), before)
    assert "WORSE   1.30 x  replay_speed: a (100.0 -> 130.1)" in capsys.readouterr().out


def test_cases_that_only_one_result_has_are_not_compared() -> None:
    assert [change.case for change in changes(result({"a": 1.0, "new": 9.0}), result({"a": 1.0, "old": 1.0}))] == ["a"]


def test_results_of_other_scales_or_other_questions_are_refused() -> None:
    with pytest.raises(OperatorError, match="scales differ"):
        changes(result({"a": 1.0}), result({"a": 1.0}, scale=0.5))
    with pytest.raises(OperatorError, match="no figure in common"):
        changes(result({"a": 1.0}), result({"b": 1.0}))


def test_results_of_other_questions_or_scales_have_other_names() -> None:
    found = result({"a": 1.0}, commit="1234567890", started_at="2026-03-02T00:00:00+00:00")
    assert result_path(found, ()).name == "2026-03-02-1234567.json"
    assert result_path(found, ("latency",)).name == "2026-03-02-1234567-latency.json"
    found.scale = 0.5
    assert result_path(found, ()).name == "2026-03-02-1234567-scale-0.5.json"


def test_a_compiled_core_is_not_compared_with_a_plain_one() -> None:
    plain, compiled = result({"a": 1.0}), result({"a": 1.0})
    plain.machine["core"], compiled.machine["core"] = "pure Python", "compiled"
    with pytest.raises(OperatorError, match="make compiled"):
        changes(compiled, plain)
    del plain.machine["core"]  # a result of an older build says nothing
    assert changes(compiled, plain)


# ---------------------------------------------------------------- tables


def test_a_row_shows_what_it_has_and_leaves_the_rest_empty() -> None:
    row = Row(case="x", unit="member", items=1_000, more={"p50": 12})
    assert cells(row) == ("x", "1,000 members", "", "", "", "", "", "", "p50 12")


def test_figures_are_put_between_the_marks_and_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN} -->\nstale figures\n{END}\nafter\n")
    found = result({"a": 1.0})
    write_pages(found, "r.json", (page,))
    write_pages(found, "r.json", (page,))
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith(f"{END}\nafter\n")
    assert "stale figures" not in text
    assert text.count(markdown(found, "r.json")) == 1
    page.write_text("none")
    with pytest.raises(OperatorError, match="no place"):
        write_pages(found, "r.json", (page,))


def test_a_question_with_a_place_of_its_own_is_written_there_and_the_others_stay(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    mark = "<!-- figures of soak: "
    page.write_text(f"{mark}begin -->\nold\n{mark}end -->\n{BEGIN} -->\nof others\n{END}\n")
    found = result({"engine": 1.0})
    found.answers[0].name = "soak"
    write_pages(found, "soak.json", (page,))
    text = page.read_text()
    assert "### soak" in text and "\nold\n" not in text and f"{BEGIN} -->\nof others\n{END}" in text


def test_curves_are_drawn_alike_from_equal_figures(tmp_path: Path) -> None:
    found = result({"engine": 1.0, "sink": 2.0})
    found.answers[0].name = "soak"
    for row in found.answers[0].rows:
        row.series = [(0.0, 10.0), (60.0, 20.0)]
    (path,) = draw(found, tmp_path)
    first = path.read_bytes()
    assert b"<svg" in first and path.name == "soak.svg"
    assert draw(found, tmp_path) == [path] and path.read_bytes() == first
    assert draw(result({"1": 1.0}), tmp_path) == []


def test_a_curve_goes_through_the_cases_that_are_numbers_and_stands_beside_the_table(tmp_path: Path) -> None:
    found = result({"1": 1.0, "1,000": 2.0, "1,000, equality only": 9.0, "1, compiled": 0.5})
    found.answers[0].name = "campaigns_curve"
    assert draw(found, tmp_path) == []  # no costs, no curve
    for row in found.answers[0].rows:
        row.cpu_us = row.gated
    (path,) = draw(found, tmp_path)
    assert b"compiled" in path.read_bytes() and b"equality" not in path.read_bytes()
    assert "](plots/campaigns_curve.svg)" in markdown(found, "r.json")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_figures_of_a_page_are_those_of_the_result_it_names(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    name = text.partition(f"{BEGIN} (")[2].partition(")")[0]
    copy = tmp_path / page.name
    copy.write_text(text, encoding="utf-8")
    names = [name, *re.findall(r"<!-- figures of \w+: begin \((.+?)\)", text)]
    for one in names:
        write_pages(read_result(ROOT / "benchmarks" / "results" / one), one, (copy,))
    assert copy.read_text(encoding="utf-8") == text, f"run: python -m benchmarks --pages benchmarks/results/{name}"


# ---------------------------------------------------------------- the questions


def test_firings_of_replay_are_those_of_the_definition() -> None:
    events = list(w(9, 4_000, 60))  # busy members: the bound of live instances bites
    due, dropped = expected(events)
    fired = run_once([encode_event(event) for event in events], [plan_of("c", PATTERN)], decisions=False)
    assert dropped > 0
    assert {(firing.member_id, firing.anchor) for firing in fired} == due
    assert len(fired) == len(due)


def view(at_ms: int, event_id: str, product: str = "p1") -> Event:
    return Event("catalog.product.viewed", START_MS + at_ms, event_id, "m1", {"product_id": product})


def order(at_ms: int, product: str = "p1") -> Event:
    return Event("order.created", START_MS + at_ms, f"o{at_ms}", "m1", {"items": [{"product_id": product}]})


END_MS = WITHIN_MS + LATENESS_MS


@pytest.mark.parametrize(
    ("log", "due"),
    [
        ([view(0, "v"), view(END_MS, "w", "p2")], {"v"}),
        ([view(0, "v"), view(END_MS - 1, "w", "p2")], set()),
        ([view(0, "v"), order(WITHIN_MS - 1), view(END_MS, "w", "p2")], set()),
        ([view(0, "v"), order(WITHIN_MS), view(END_MS, "w", "p2")], {"v"}),
        ([view(0, "v"), order(5, "p2"), view(END_MS, "w", "p2")], {"v"}),
        ([view(0, "v"), view(5, "w"), view(END_MS + 5, "x", "p2")], {"w"}),
        ([view(0, "v"), view(WITHIN_MS, "w"), view(END_MS, "x", "p2")], {"v"}),
    ],
)
def test_the_definition_of_the_benchmark_is_that_of_the_language(log: list[Event], due: set[str]) -> None:
    assert expected(log)[0] == {("m1", event_id) for event_id in due}


@pytest.mark.parametrize("name", [n for n in QUESTIONS if n != "worker_rate"])
def test_every_question_can_be_asked_at_a_small_scale(name: str, once: Scale) -> None:
    answer = answer_question(name, once)
    assert answer.name == name
    assert answer.question.endswith("?")
    assert all(row.items for row in answer.rows)


@pytest.mark.slow
def test_the_worker_can_be_asked_at_a_small_scale(once: Scale) -> None:
    answer = answer_question("worker_rate", once)
    assert [row.case for row in answer.rows] == ["backlog", "live, 1,000/s", "live, 5,000/s"]


def test_make_bench_measures_prints_writes_and_compares(tmp_path: Path) -> None:
    saved = tmp_path / "r.json"
    words = [sys.executable, "-m", "benchmarks", "--scale", "0.001", "--only", "member_bytes", "--save", str(saved)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "encoded" in done.stdout
    assert read_result(saved).answers[0].name == "member_bytes"
    again = subprocess.run([*words, "--compare", str(saved)], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert "ok      1.00 x  member_bytes: encoded" in again.stdout


def test_help_names_the_exit_codes() -> None:
    shown = CliRunner().invoke(main, ["--help"])
    assert shown.exit_code == 0
    assert "Exit codes: 0" in shown.output
