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


def side(*turns: list[float]) -> overhead.Trained:
    return overhead.trained({"step_s": turns, "processor_s": [2 * sum(turn) for turn in turns]})


def test_the_median_of_all_steps_is_not_that_of_the_turns() -> None:
    found = side([1.0, 2.0, 9.0], [1.0, 1.0, 2.0])
    assert found == overhead.Trained(step_s=1.5, by_turn_s=(2.0, 1.0), processor_s=pytest.approx((8 + 8 / 3) / 2))


@pytest.mark.parametrize(("ours", "met"), [(1.0, True), (1.05, True), (1.06, False), (2.0, False)])
def test_training_is_held_against_the_speed_of_fit(ours: float, met: bool) -> None:
    rows = overhead.training_rows("bf16", side([ours] * 3, [ours] * 3), side([1.0] * 3, [1.0] * 3), 16)
    assert [row.met for row in rows if row.target] == [met]
    assert rows[1].value == "16.00 images/s" and rows[2].value == f"{1 / ours:.1%}"


def test_pairs_of_turns_are_told_with_their_range() -> None:
    rows = overhead.training_rows("fp32", side([2.0], [1.0], [1.0]), side([1.0], [1.0], [1.5]), 16)
    assert rows[3].value == "100.0% (50.0% to 150.0%)"
    assert rows[4].value == "2.00 s beside 2.00 s, 100.0%"


@pytest.mark.parametrize(("native", "bf16", "met"), [(True, 0.5, True), (True, 1.5, False), (False, 1.5, None)])
def test_bf16_must_train_faster_only_where_the_cpu_has_it(native: bool, bf16: float, met: bool | None) -> None:
    (row,) = overhead.bf16_rows(side([1.0]), side([bf16]), native)
    assert row.met is met and row.value.startswith(f"{1 / bf16:.2f}, ")


@pytest.mark.parametrize(("ended", "met"), [(1_009_000_000, True), (990_000_000, True), (1_011_000_000, False)])
def test_memory_may_grow_by_less_than_a_hundredth(ended: int, met: bool) -> None:
    series = [5] * 10 + [1_000_000_000] * 300 + [ended] * 190
    told = {
        "resident_bytes": [2_000_000] * 250 + [3_000_000] * 250,
        "used_bytes": series,
        "step_s": [9.0] * 10 + [1.0] * 490,
        "wait_s": [0.0] * 500,
    }
    memory, resident, steady = overhead.long_rows(told)
    assert (resident.value, resident.met) == ("1.0 MB of 2 MB, 50.00%", None)
    assert memory.met is met and memory.figure == "memory grows, steps 10 to 500"
    of_old = overhead.long_rows({**told, "used_bytes": [], "resident_bytes": series})
    assert len(of_old) == 2 and of_old[0].met is met
    assert (steady.value, steady.met) == ("1.00", None)


def test_a_section_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        overhead.main(["--only", "lunch"])
    assert "collecting" in capsys.readouterr().err
