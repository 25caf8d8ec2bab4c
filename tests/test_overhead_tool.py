"""The figures of ``benchmarks.overhead``, from clocks to seconds and targets; what it measures is not measured here."""

from typing import Any

import pytest

from benchmarks import overhead
from benchmarks.overhead import Mark

CASE = "resnet50_v1_5-fp32-batch1"


def phase(at_s: float, name: str) -> dict[str, Any]:
    return {"event": "phase", "name": name, "monotonic_s": at_s}


NOTED = [
    {"what": "begun", "name": f"suites/inference/test_latency.py::test_latency[{CASE}]", "monotonic_s": 10.0},
    {"what": "spawned", "name": CASE, "monotonic_s": 10.25},
    {"what": "spawned", "name": "freeze_seeded", "monotonic_s": 10.125},
    {"what": "ended", "name": f"suites/inference/test_latency.py::test_latency[{CASE}]", "monotonic_s": 40.0},
]
EVENTS = [
    phase(10.5, "import TensorFlow"),
    {"event": "started", "monotonic_s": 13.5},
    phase(13.75, "load the graph"),
    {"event": "alive", "monotonic_s": 14.0},
    phase(16.75, "build the ceiling"),
    phase(17.0, "prove the precision"),
    phase(17.5, "warm up"),
    phase(20.0, "measure the ceiling"),
    phase(20.25, "time steps"),
    {"event": "progress", "done": 1, "monotonic_s": 21.0},
    phase(39.0, "measure the ceiling"),
    {"event": "result", "monotonic_s": 39.25},
]
PARTS = {
    overhead.BEFORE: 0.25,
    overhead.START: 0.25,
    overhead.IMPORT: 3.0,
    overhead.OTHER: 0.25,
    overhead.LOAD: 3.0,
    overhead.CEILING: 0.75,
    overhead.PROOF: 0.5,
    overhead.STEPS: 21.25,
    overhead.AFTER: 0.75,
}


def test_the_parts_of_a_case_are_told_by_its_phases() -> None:
    assert overhead.parts(overhead.marks(NOTED, EVENTS, CASE)) == PARTS


def test_the_parts_of_a_case_add_up_to_all_of_it() -> None:
    assert sum(overhead.parts(overhead.marks(NOTED, EVENTS, CASE)).values()) == 30.0


def test_import_load_and_steps_are_no_overhead() -> None:
    assert overhead.overhead_s(PARTS) == 30.0 - 3.0 - 3.0 - 21.25


def test_a_phase_that_nobody_foresaw_is_overhead() -> None:
    events = [*EVENTS[:3], phase(15.75, "look out of the window"), *EVENTS[4:]]
    assert overhead.parts(overhead.marks(NOTED, events, CASE))[overhead.OTHER] == 0.25 + 1.0


def test_marks_are_ordered_by_time_and_not_by_who_noted_them() -> None:
    assert overhead.parts([Mark(3.0, "the end"), Mark(2.0, "b"), Mark(0.5, "a")]) == {"a": 1.5, "b": 1.0}


@pytest.mark.parametrize(("rates", "together"), [((60.0,), 60.0), ((60.0, 30.0), 20.0), ((50.0, 50.0), 25.0)])
def test_kinds_of_work_that_share_cores_add_their_times(rates: tuple[float, ...], together: float) -> None:
    assert overhead.shared_rate(*rates) == pytest.approx(together)


@pytest.mark.parametrize(("judging", "met"), [(20.0, True), (19.1, True), (18.9, False), (5.0, False)])
def test_an_accuracy_run_is_held_against_what_the_cores_allow(judging: float, met: bool) -> None:
    fed = {"dummy": [60.0], "decoding": [30.0], "judging": [judging], "compute_share": [0.9]}
    assert overhead.feeding_rows(fed, 110_000.0, 384, 2)[-1].met is met


def test_preparing_data_is_held_against_decoding_alone() -> None:
    prepared = {"decoding": [900.0, 1000.0, 2000.0], "writing": [700.0], "verifying": [805.0], "mean_bytes": 90_000.0}
    rows = overhead.preparing_rows(prepared, 1536, 2)
    assert [row.value for row in rows] == [
        "1000.0 images/s, 1536 of 88 KiB",
        "700.0 images/s, 70.0%",
        "805.0 images/s, 80.5%",
    ]


@pytest.mark.parametrize(("met", "word"), [(True, "met"), (False, "missed")])
def test_a_line_ends_with_its_target_and_whether_it_was_met(met: bool, word: str) -> None:
    (_, line, _) = overhead.lines("Title", [overhead.Row("figure", "0.31 s", "< 0.5 s", met)])
    assert line.split() == ["figure", "0.31", "s", "<", "0.5", "s", word]


def test_a_figure_without_a_target_is_neither_met_nor_missed() -> None:
    (_, line, _) = overhead.lines("Title", [overhead.Row("figure", "0.31 s")])
    assert line.split() == ["figure", "0.31", "s"]
