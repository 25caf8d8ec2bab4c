"""What the page says of repeats, comparisons, versions, dates, learning and logs, and the tables of them."""

from __future__ import annotations

import csv
import doctest
import importlib
import json
import statistics
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest
from page_elements import Elements
from report_examples import (
    accuracy,
    change,
    comparison,
    dated_runs,
    footer,
    full_run,
    gaudi_run,
    header,
    large_run,
    record,
    second_run,
    side_by_side,
    speed,
    trained,
    written,
)

from conformance.cli import main
from conformance.records import Artefact, Record, Run
from conformance.reports import comparisons_path, write_report
from conformance.reports.changes import COLUMNS as CHANGE_COLUMNS
from conformance.reports.charts import duration_table
from conformance.reports.comparisons import comparisons
from conformance.reports.entries import DETAILED, ROWS, entries, latest, main_metric
from conformance.reports.frame import COLUMNS, tidy
from conformance.reports.history import history
from conformance.reports.learning import LINES, POINTS, WARMUP_STEPS, learning
from conformance.reports.logs import LINES as LOG_LINES
from conformance.reports.logs import PAGE_CHARACTERS, log_tails
from conformance.reports.machine import facts, run_table
from conformance.reports.page import page
from conformance.reports.published import published_table
from conformance.reports.tables import Table
from conformance.reports.verdicts import verdicts
from conformance.reports.versions import version_matrix

ROOT = Path(__file__).parents[1]
HOSTILE = "</script><script>alert(1)</script>"


def run_of(*records: Record, **changes: Any) -> Run:
    fields: dict[str, Any] = {"directory": "results/run", "header": header(), "footer": None}
    return Run(**{**fields, **changes}, records=records)


def words(table: Table | None) -> list[list[str]]:
    assert table is not None
    return [[f"{cell.text} {cell.small}".strip() for cell in row.cells] for row in table.rows]


@pytest.mark.parametrize("module", ["", ".changes", ".learning"])
def test_the_examples_in_the_docstrings_are_true(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"conformance.reports{module}"))
    assert result.attempted > 0
    assert result.failed == 0


# Repeats


def test_repeats_of_a_case_on_a_stack_are_one_case_with_its_median_and_its_gravest_verdict() -> None:
    run = side_by_side(repeats=5)
    listed = entries([run])
    assert [(e.record.case, e.record.stack, len(e.repeats)) for e in listed] == [
        ("fp32-latency-b1", "base", 5),
        ("fp32-latency-b1", "new", 5),
        ("bf16-throughput-b128", "base", 5),
        ("bf16-throughput-b128", "new", 5),
    ]
    new = listed[1]
    values = sorted(r.metrics["latency_p50_s"] for r in run.records if r.case == "fp32-latency-b1" and r.stack == "new")
    assert new.record.metrics["latency_p50_s"] == values[2]
    assert new.record.verdict == "unstable"
    assert new.about.endswith("5 repeats: 4 inside, 1 unstable")
    assert len(new.record.series) == 5
    assert {"log", "log_repeat2", "log_repeat5"} <= set(new.record.artefacts)


def test_the_interval_of_one_repeat_is_not_shown_for_the_median_of_many() -> None:
    several = [msgspec.structs.replace(accuracy("fp32", top1, 0.9), repeat=n) for n, top1 in enumerate((0.75, 0.76), 1)]
    (entry,) = entries([run_of(*several)])
    assert "top1" not in entry.record.intervals
    same = [msgspec.structs.replace(accuracy("fp32", 0.75, 0.9), repeat=n) for n in (1, 2)]
    assert entries([run_of(*same)])[0].record.intervals == same[0].intervals


def test_two_records_of_one_repeat_are_not_taken_for_two_repeats() -> None:
    assert [len(e.repeats) for e in entries([run_of(record("fp32-accuracy-a"), record("fp32-accuracy-a"))])] == [1, 1]


def test_every_repeat_is_on_the_page() -> None:
    run = side_by_side(repeats=6)
    elements = Elements(page([run]))
    text = elements.text
    assert "4 cases, measured 24 times in all:" in text
    assert "Each repeat" in text
    assert "Metrics are medians of 6 repeats (5 inside, 1 unstable)" in text
    assert all(f"{1000 * r.metrics['latency_p50_s']:.3f} ms" in text for r in run.records)
    assert "median of 6 repeats from" in page([run])


def test_what_a_chart_of_durations_draws_stands_in_a_table() -> None:
    table = duration_table(entries([full_run()]), False)
    row = next(row for row in words(table) if row[0] == "fp32-latency-b1")
    step_s = next(r for r in full_run().records if r.case == "fp32-latency-b1").series[0].step_s
    assert row[1:3] == ["1", "200"]
    assert (row[3], row[8]) == (f"{1000 * min(step_s):.3f} ms", f"{1000 * max(step_s):.3f} ms")
    assert row[5] == f"{1000 * statistics.median(step_s):.3f} ms"
    assert "quantiles of all timed steps" in page([full_run()])
    assert duration_table(entries([gaudi_run()]), False) is None


def test_of_many_runs_of_a_case_the_last_two_are_drawn_and_all_stand_in_the_table() -> None:
    runs = dated_runs(5)
    assert sorted(entry.run for entry in latest(entries(runs))) == [4, 5]
    html = page(runs)
    assert "The last two runs of each case are drawn; History has all." in html
    assert "fp32 · run 4: " in html and "fp32 · run 3: " not in html
    assert "History has all" not in page(runs[:2])


# The verdict table beyond its first rows


def test_every_case_is_in_the_table_or_in_the_data_behind_it() -> None:
    run = large_run(ROWS + 30)
    section = verdicts(entries([run]), False)
    data = json.loads(section.data)
    rest = [[data["words"][word] for word in cells] for cells in data["rest"]]
    cases = [row.cells[0].text for row in section.table.rows] + [cells[0] for cells in rest]
    assert sorted(cases) == sorted(r.case for r in run.records)
    assert len(section.table.rows) == ROWS and section.total == ROWS + 30 == len(data["facets"])
    assert all(any(r.judgements[0].text in cells for r in run.records) for cells in rest)
    assert {tuple(data["words"][word] for word in cells)[0] for cells in data["small"]} == {"tf", "tf215"}
    assert [data["words"][word] for word in data["facets"][0]] == [
        "outside", "fp32", "latency", "inference", "tf", "xeon-8s",
    ]  # fmt: skip


def test_there_is_a_select_for_what_differs_only() -> None:
    facets = {facet.name: facet.words for facet in verdicts(entries([full_run(), second_run()]), True).facets}
    assert list(facets) == ["verdict", "precision", "mode", "stack"]
    assert facets["stack"] == ("tf", "tf215")
    assert [f.name for f in verdicts(entries([side_by_side(2)]), False).facets] == [
        "verdict", "precision", "mode", "stack",
    ]  # fmt: skip


def test_hostile_words_cannot_end_the_data_of_the_page() -> None:
    many = [msgspec.structs.replace(r, case=f"{HOSTILE}{r.case}") for r in large_run(ROWS + 5).records]
    html = page([run_of(*many)])
    assert html.count("</script>") == html.count("<script") == 2
    start = html.index('id="rows">') + len('id="rows">')
    data = json.loads(html[start : html.index("</script>", start)])
    assert any(word.startswith(HOSTILE) for word in data["words"])


# Comparisons


def test_every_comparison_is_told_the_gravest_first() -> None:
    section = comparisons([side_by_side()])
    assert section is not None
    assert section.sentence == (
        "6 comparisons: 1 invalid, 1 regressed, 1 inconclusive, 1 no baseline, 1 improved, 1 same."
    )
    assert [row[3] for row in words(section.overview)] == [
        "invalid", "regressed", "inconclusive", "no baseline", "improved", "same",
    ]  # fmt: skip
    regressed = words(section.overview)[1]
    assert regressed[0] == "fp32-latency-b1" and regressed[1:3] == ["base", "new"]
    assert regressed[4].startswith("The median step is regressed.")
    assert regressed[5] == "taking turns; order drawn with seed 17; profile xeon-8s"


def test_a_change_has_its_medians_its_ratio_with_its_interval_and_its_repeats() -> None:
    section = comparisons([side_by_side()])
    assert section is not None
    assert words(section.changes)[0] == [
        "fp32-latency-b1 base \N{RIGHTWARDS ARROW} new",
        "median time a batch",
        "9.500 ms",
        "10.260 ms",
        "1.080 1.048 to 1.102",
        "0.031",
        "6 pairs",
        "3.0 %",
        "5.0 %",
        "regressed",
    ]


def test_a_chart_of_changes_says_verdicts_in_words_and_draws_every_pair() -> None:
    section = comparisons([side_by_side()])
    assert section is not None
    assert [figure.title for figure in section.figures] == [
        "Median time a batch, new over base",
        "Throughput, new over base",
    ]
    root = ET.fromstring(section.figures[0].svg)
    said = next(e.text or "" for e in root.iter() if e.tag.endswith("desc"))
    assert "fp32-latency-b1, base to new: 1.080, interval 1.048 to 1.102, 6 pairs, regressed" in said
    texts = [e.text for e in root.iter() if e.tag.endswith("text")]
    assert {"1.080 regressed", "1.004 same", "0.900 improved", "1.040 inconclusive"} <= set(texts)


def test_layers_that_changed_stand_with_their_share_of_a_step() -> None:
    section = comparisons([side_by_side()])
    assert section is not None
    assert words(section.kernels)[0][1:] == [
        "convolution 12: 56x56x64 to 56x56x256",
        "brgconv:avx512_core_amx bf16 3.1 % of a step",
        "gemm:ref f32 17.4 % of a step",
    ]
    assert words(section.kernels)[1][3] == "\N{EN DASH}"
    assert len(words(section.differences)) == 2


def test_a_change_without_numbers_has_a_verdict_and_no_chart() -> None:
    lost = msgspec.structs.replace(
        change("latency_p50_s", "invalid", 1.0, 1.0), ratio=None, interval=None, new=None, p=None, new_values=()
    )
    run = run_of(record("fp32-latency-b1"), comparisons=(comparison("fp32-latency-b1", "invalid", lost),))
    section = comparisons([run])
    assert section is not None and section.figures == ()
    assert words(section.changes)[0][3:6] == ["\N{EN DASH}"] * 3
    assert "What changed" in Elements(page([run])).text


def test_a_run_that_compared_nothing_has_no_such_section() -> None:
    assert comparisons([full_run()]) is None
    assert 'id="comparisons"' not in page([full_run()])


def test_hostile_words_of_a_comparison_stay_text() -> None:
    kernel = side_by_side().comparisons[0].kernels[0]
    hostile = msgspec.structs.replace(
        comparison("fp32-latency-b1", "regressed", change("latency_p50_s", "regressed", 1.0, 1.1, text=HOSTILE)),
        **dict.fromkeys(("case", "model", "base", "new", "reason", "profile"), HOSTILE),
        differences=(HOSTILE,),
        kernels=(msgspec.structs.replace(kernel, layer=HOSTILE, base=HOSTILE, new=HOSTILE),),
    )
    html = page([run_of(record("fp32-latency-b1"), comparisons=(hostile,))])
    assert HOSTILE not in html
    assert html.count("<script") == 2


# Versions and machines


def test_versions_and_machines_stand_side_by_side_with_what_changed() -> None:
    table = version_matrix(runs := [full_run(), second_run()], entries(runs))
    assert table is not None
    assert table.columns == ("Case", "Metric", "Batch", "TensorFlow 2.15.1", "TensorFlow 2.21.0")
    row = next(row for row in words(table) if row[0] == "fp32-throughput-b128")
    assert row[2] == "128"
    assert row[3].endswith("inside") and "%" not in row[3]
    assert row[4].endswith("-4.8 % worse \N{MIDDLE DOT} inside")


def test_a_lower_time_is_better_and_a_lower_speed_is_worse() -> None:
    def place(version: str, seconds: float) -> Run:
        head = header(run=f"run-{version}", stacks={"tf": {"packages": {"tensorflow": version}}})
        return run_of(speed("fp32", "latency", 1, seconds), header=head)

    table = version_matrix(runs := [place("2.15.1", 0.010), place("2.21.0", 0.008)], entries(runs))
    assert " better" in words(table)[0][4]


def test_synapse_and_profiles_have_columns_of_their_own() -> None:
    cpu = run_of(record("bf16-training-1-hpu", mode="training", stack="tf", metrics={"training_images_per_s": 20.0}))
    table = version_matrix(runs := [cpu, gaudi_run()], entries(runs))
    assert table is not None
    assert table.columns[3:] == (
        "TensorFlow 2.9.1, SynapseAI 1.6.1.92 · gaudi-1 · Example host (test data), 1 x Gaudi (test data)",
        "TensorFlow 2.21.0 · xeon-8s · Example Xeon 8380H (test data)",
    )


def test_one_place_or_no_case_in_two_makes_no_matrix() -> None:
    assert version_matrix([full_run()], entries([full_run()])) is None
    runs = [run_of(accuracy("fp32", 0.76, 0.93)), gaudi_run()]
    assert version_matrix(runs, entries(runs)) is None


@pytest.mark.parametrize(
    ("mode", "metrics", "expected"),
    [
        ("latency", {"throughput_images_per_s": 9.0, "latency_p50_s": 0.1}, "latency_p50_s"),
        ("training", {"final_loss": 0.1, "training_images_per_s": 9.0}, "training_images_per_s"),
        ("training", {"final_loss": 0.1}, "final_loss"),
        ("accuracy", {"images": 9.0}, None),
        ("another", {"top1": 0.5}, None),
    ],
)
def test_a_case_is_about_one_metric(mode: str, metrics: dict[str, float], expected: str | None) -> None:
    assert main_metric(record("fp32-x", mode=mode, metrics=metrics)) == expected


# History


def test_each_case_has_its_course_over_the_dates_and_where_the_version_changed() -> None:
    section = history(runs := dated_runs(5)[::-1], entries(runs), {})
    assert section is not None and len(section.figures) == 1
    root = ET.fromstring(section.figures[0].svg)
    marks = [e.get("aria-label") or "" for e in root.iter() if "run " in (e.get("aria-label") or "")]
    assert [mark[:11] for mark in marks] == [f"{day:02} Nov 2026" for day in range(1, 6)]
    assert "9.724 ms" in marks[0] and "TensorFlow 2.20.0, run 5, inside" in marks[0]
    texts = [e.text for e in root.iter() if e.tag.endswith("text")]
    assert texts.count("TensorFlow 2.20.0") == texts.count("TensorFlow 2.21.0") == 1
    assert [row[2][:11] for row in words(section.table)] == [f"{day:02} Nov 2026" for day in range(1, 6)]


def test_runs_of_another_machine_are_no_history() -> None:
    one, two = dated_runs(2)
    elsewhere = msgspec.structs.replace(two, header=msgspec.structs.replace(two.header, host={"model_name": "Other"}))
    assert history([one, elsewhere], entries([one, elsewhere]), {}) is None
    assert history([one], entries([one]), {}) is None


def test_the_first_run_of_another_level_is_marked_in_its_course_and_told(tmp_path: Path) -> None:
    places = map(str, written(tmp_path, dated_runs(8)))
    assert main(["report", *places, "--html", str(tmp_path / "report.html")]) == 0
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    text = Elements(html).text
    assert "Diamond: the first run of another level." in text
    assert text.count("median time a batch from 9.7") == 3, "in words, on the mark and in the table"
    assert "05 Nov 2026, 08:00:00 UTC 5 TensorFlow 2.21.0" in text
    assert "Diamond" not in page(dated_runs(8))


# Learning curves


def test_a_curve_is_drawn_for_each_training_with_its_numbers_beside_it(tmp_path: Path) -> None:
    run = run_of(trained(tmp_path, "fp32"), trained(tmp_path, "bf16", steps=40), directory=str(tmp_path))
    section = learning([run], entries([run]))
    assert section is not None and section.notes == ()
    figure, top1 = section.figures
    assert figure.title == "Loss of resnet50_v1_5 on digits"
    root = ET.fromstring(figure.svg)
    labels = [e.get("aria-label") or "" for e in root.iter()]
    assert sum(label.startswith("fp32, seed 2, step ") for label in labels) == POINTS
    assert sum(label.startswith("bf16, step ") for label in labels) == 40
    dashes = {e.get("stroke-dasharray") for e in root.iter()} - {None}
    assert len(dashes) == 2, "precisions differ by more than their colour"
    rows = words(section.tables[0])
    assert [row[1:3] for row in rows] == [["first", "300"], ["seed 2", "300"], ["first", "40"], ["seed 2", "40"]]
    with (tmp_path / "artefacts" / "fp32-training-digits_steps.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert rows[0][3] == f"{losses[0]:.4f}" and rows[0][7:] == [f"{losses[-1]:.4f}", f"{min(losses):.4f}"]
    assert top1.title == "Top-1 of resnet50_v1_5 on digits"
    labels = [e.get("aria-label") or "" for e in ET.fromstring(top1.svg).iter()]
    assert sum(", epoch " in label and ": top-1 " in label for label in labels) == 4 * 5
    assert "bf16, seed 2, epoch 4: top-1 0.9395" in labels
    assert words(section.tables[1])[1][1:] == ["seed 2", "5", "0.5020", "0.8708", "0.9395", "4"]


def test_losses_keep_their_steps_where_others_are_not_finite(tmp_path: Path) -> None:
    run = run_of(trained(tmp_path, "fp32"), trained(tmp_path, "bf16"), directory=str(tmp_path))
    for precision, losses in (("fp32", (9, "nan", "inf", 6, 5)), ("bf16", (9, 8, "nan", "nan"))):
        lines = [f"{step},{loss},0.1,0.05,0\n" for step, loss in enumerate(losses, start=20)]
        path = tmp_path / "artefacts" / f"{precision}-training-digits_steps.csv"
        path.write_text("step,loss,rate,step_s,wait_s\n" + "".join(lines))
    section = learning([run], entries([run]))
    assert section is not None
    assert section.notes == (
        "fp32-training-digits: the loss is not finite at 2 of 5 steps, the first step 21.",
        "bf16-training-digits: the loss is not finite from step 22 on.",
    )
    labels = [e.get("aria-label") or "" for e in ET.fromstring(section.figures[0].svg).iter()]
    assert [label for label in labels if label.startswith("fp32, step")] == [
        "fp32, step 20: loss 9.0000", "fp32, step 23: loss 6.0000", "fp32, step 24: loss 5.0000",
    ]  # fmt: skip


def test_one_evaluation_is_no_course(tmp_path: Path) -> None:
    run = run_of(trained(tmp_path, "fp32", seeds=1), directory=str(tmp_path))
    path = tmp_path / "artefacts" / "fp32-training-digits_evaluations.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    section = learning([run], entries([run]))
    assert section is not None and len(section.figures) == len(section.tables) == 1 and section.notes == ()


def test_the_speed_of_a_training_and_the_times_of_its_steps_are_drawn(tmp_path: Path) -> None:
    run = run_of(trained(tmp_path, "fp32"), directory=str(tmp_path))
    section = learning([run], entries([run]))
    assert section is not None
    steps, waits = [], []
    for name in ("steps", "steps_seed2"):
        with (tmp_path / "artefacts" / f"fp32-training-digits_{name}.csv").open() as file:
            for row in list(csv.DictReader(file))[WARMUP_STEPS:]:
                steps.append(float(row["step_s"]))
                waits.append(float(row["wait_s"]))
    (timed,) = section.timed
    assert [step for series in timed.record.series for step in series.step_s] == [
        step + wait for step, wait in zip(steps, waits, strict=True)
    ]
    text = Elements(page([run])).text
    assert "Training speed Images a second Bar: measured." in text and "412.0 images/s" in text
    assert "Box: middle half, with the median." in text
    assert "quantiles of all timed steps" in text


# What stands at the top


def test_a_regression_is_at_the_top_in_numbers_and_among_the_gravest_cases() -> None:
    quiet = [record(f"fp32-accuracy-{n:02}") for n in range(DETAILED + 5)]
    worse = comparison("fp32-accuracy-64", "regressed", new="tf")
    run = run_of(*quiet, comparisons=(worse,), footer=footer(tuple(quiet)))
    first = entries([run])[0]
    assert (first.record.case, first.record.verdict, first.anchor) == ("fp32-accuracy-64", "inside", "case-1")
    assert first.about == first.changed == "regressed beside base"
    html = page([run])
    top = html[html.index("<header>") : html.index("</header>")]
    assert '<li class="regressed"><span class="verdict verdict-regressed">' in top
    assert '<li class="improved empty">' in top
    assert "Exit status" in top and "1: a case is outside, regressed, invalid or failed" in top
    assert "regressed beside base" in html[html.index('id="cases"') :]
    assert 'class="regressed' not in page([full_run()])


@pytest.mark.parametrize(("verdict", "place"), [("invalid", 0), ("inconclusive", 1), ("same", 2), ("improved", 2)])
def test_a_case_is_as_grave_as_its_comparison(verdict: Any, place: int) -> None:
    noisy, quiet, other = record("fp32-a", verdict="outside"), record("fp32-b-x"), record("fp32-c", verdict="not run")
    run = run_of(noisy, other, quiet, comparisons=(comparison("fp32-b-x", verdict, new="tf"),))
    assert [entry.record.case for entry in entries([run])].index("fp32-b-x") == place


def test_the_top_of_several_runs_says_when_where_and_with_what() -> None:
    told = {fact.term: fact.value for fact in facts([*dated_runs(4)[::-1], gaudi_run()])}
    assert told == {
        "Runs": "5",
        "First started": "01 Nov 2026, 08:00:00 UTC",
        "Last started": "21 Nov 2026, 12:03:01 UTC",
        "2 machines": "Example Xeon 8380H (test data); Example host (test data), 1 x Gaudi (test data)",
        "3 stacks": "tf (TensorFlow 2.21.0); tf (TensorFlow 2.20.0); synapse161 (TensorFlow 2.9.1, SynapseAI 1.6.1.92)",
        "Profile": "xeon-8s; gaudi-1",
    }


def test_runs_count_cases_as_the_top_does() -> None:
    runs = [side_by_side(repeats=6), full_run()]
    rows = words(run_table(runs, entries(runs)))
    assert rows[0][4].startswith("3 inside, 0 outside, 0 unjudged, 1 unstable,")
    assert rows[1][4].endswith("3 not run exit status 1")


def test_kernels_are_those_of_the_latest_run_of_a_case() -> None:
    html = page(dated_runs(5))
    section = html[html.index('<section id="precision">') : html.index('<section id="noise">')]
    assert section.count("brgconv:avx512_core") == 1
    assert ">5</td>" in section


def test_each_part_of_the_speed_has_a_head_that_the_navigation_leads_to() -> None:
    html = page([full_run()])
    for anchor, title in (
        ("throughput-and-latency", "Throughput and latency"),
        ("speed-up-over-fp32", "Speed-up over fp32"),
        ("share-of-the-ceiling", "Share of the ceiling"),
    ):
        assert f'<h3 id="{anchor}">{title}</h3>' in html
        assert f'href="#{anchor}">{title}</a>' in html


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no file"),
        ("step,loss\n1,abc\n", "holds no steps with their losses"),
        ("a,b\n1,2\n", "holds no steps with their losses"),
        ("step,loss\n0,nan\n1,inf\n", "holds no step with a finite loss"),
        ("", "holds no step with a finite loss"),
    ],
)
def test_a_curve_that_cannot_be_read_is_told(tmp_path: Path, text: str | None, said: str) -> None:
    run = run_of(trained(tmp_path, "fp32"), trained(tmp_path, "bf16"), directory=str(tmp_path))
    damaged = tmp_path / "artefacts" / "bf16-training-digits_steps.csv"
    damaged.unlink() if text is None else damaged.write_text(text)
    section = learning([run], entries([run]))
    assert section is not None
    assert len(section.notes) == 1 and section.notes[0].startswith("No curve of bf16-training-digits: ")
    assert said in section.notes[0]


def test_trainings_beyond_those_that_are_drawn_are_told(tmp_path: Path) -> None:
    run = run_of(trained(tmp_path, "fp32", seeds=LINES + 1, steps=5), directory=str(tmp_path))
    section = learning([run], entries([run]))
    assert section is not None
    assert f"The first {LINES} of {LINES + 1} trainings are drawn." in section.figures[0].note
    assert len(words(section.tables[0])) == LINES + 1


def test_a_file_outside_of_the_run_is_not_read(tmp_path: Path) -> None:
    run = run_of(trained(tmp_path / "run", "fp32"), directory=str(tmp_path / "run"))
    outside = tmp_path / "secret.log"
    outside.write_text("secret")
    hostile = msgspec.structs.replace(
        run.records[0],
        artefacts={"log": Artefact(path="../secret.log"), "steps": Artefact(path=str(tmp_path / "steps.csv"))},
    )
    assert "secret" not in "".join(Elements(page([run_of(hostile, directory=str(tmp_path / "run"))])).words).replace(
        "../secret.log", ""
    )


# Logs


def test_the_end_of_a_log_is_folded_into_its_case(tmp_path: Path) -> None:
    run = run_of(trained(tmp_path, "fp32"), directory=str(tmp_path))
    (tail,) = log_tails([run], entries([run]))["case-1"]
    assert tail.title == f"The last {LOG_LINES} of 99 lines of logs/fp32-training-digits.log"
    assert tail.text.splitlines()[0] == "line 60 of fp32-training-digits"
    assert tail.text.splitlines()[-1] == "line 99 of fp32-training-digits"
    assert '<details class="log"><summary>The last 40 of 99 lines' in page([run])


def test_logs_take_no_more_room_than_a_page_has_for_them(tmp_path: Path) -> None:
    records = []
    for n in range(30):
        (tmp_path / f"{n}.log").write_text("\n".join([f"{n} " + "x" * 1000] * 100))
        records.append(record(f"fp32-accuracy-{n}", artefacts={"log": Artefact(path=f"{n}.log")}))
    run = run_of(*records, directory=str(tmp_path))
    found = log_tails([run], entries([run]))
    taken = sum(len(tail.text) for tails in found.values() for tail in tails)
    assert 0 < len(found) < 30
    assert taken <= PAGE_CHARACTERS


# Published figures


def test_published_figures_stand_apart_whether_their_case_ran_or_not() -> None:
    table = published_table(entries([gaudi_run()]))
    assert [row[1:4] for row in words(table)] == [
        ["training", "650.0 images/s", "Gaudi, 1 HPU"],
        ["training, all ranks", "4,656.0 images/s", "Gaudi, 8 HPUs"],
        ["top-1", "0.7900", "Gaudi, 8 HPUs"],
    ]
    html = page([gaudi_run()])
    assert '<section id="published" class="elsewhere">' in html
    assert "Not measured here, and not by this harness" in html


def test_a_published_figure_of_two_runs_stands_once() -> None:
    rows = words(published_table(entries([full_run(), second_run()])))
    assert len(rows) == 4
    assert published_table(entries([side_by_side()])) is None


# Provenance


def test_stacks_say_their_packages_with_their_digests_once_for_runs_that_are_alike() -> None:
    text = Elements(page([side_by_side()])).text
    assert "tensorflow 2.15.1 SHA-256 9f86d081884c7d65 2.21.0" in text
    heads = Elements(page(dated_runs(4))).text
    assert "tf, runs 1-2 tf, runs 3-4" in heads


def test_what_a_subject_loaded_stands_with_its_case() -> None:
    assert "Loaded: tensorflow 2.9.1." in Elements(page([gaudi_run()])).text


# Tables in files


def test_the_measurements_read_back_have_repeats_stacks_and_machines(tmp_path: Path) -> None:
    run = side_by_side(repeats=3)
    write_report([run], None, tmp_path / "report.csv")
    frame = pd.read_csv(tmp_path / "report.csv", keep_default_na=False, float_precision="round_trip")
    assert list(frame.columns) == list(COLUMNS)
    for expected in run.records:
        chosen = (frame["case"] == expected.case) & (frame["stack"] == expected.stack)
        rows = frame[chosen & (frame["repeat"] == expected.repeat)]
        assert {m: float(v) for m, v in zip(rows["metric"], rows["value"], strict=True)} == expected.metrics
        assert set(rows["stack_digest"]) == {expected.stack_digest}
        assert set(rows["tensorflow"]) == {run.header.stacks[expected.stack]["packages"]["tensorflow"]}
        assert set(rows["machine"]) == {"Example Xeon 8380H (test data)"}


def test_the_comparisons_read_back_equal_the_records(tmp_path: Path) -> None:
    run = side_by_side()
    written = write_report([run], None, tmp_path / "report.csv")
    assert written == (tmp_path / "report.csv", tmp_path / "report-comparisons.csv")
    numbers = ("base_value", "new_value", "ratio", "interval_low", "interval_high", "p")
    exact = {column: lambda cell: float(cell or "nan") for column in numbers}  # pandas' own reading may be off by a bit
    frame = pd.read_csv(comparisons_path(tmp_path / "report.csv"), converters=exact)
    assert list(frame.columns) == list(CHANGE_COLUMNS)
    for expected in run.comparisons:
        rows = frame[frame["case"] == expected.case]
        assert set(rows["case_verdict"]) == {expected.verdict}
        assert len(rows) == max(1, len(expected.changes))
        for found in expected.changes:
            row = rows[rows["metric"] == found.metric].iloc[0]
            assert (row["base_value"], row["new_value"], row["ratio"], row["p"]) == (
                found.base, found.new, found.ratio, found.p,
            )  # fmt: skip
            assert (row["interval_low"], row["interval_high"]) == found.interval
            assert (row["base_repeats"], row["new_repeats"]) == (len(found.base_values), len(found.new_values))
            assert (row["verdict"], row["text"]) == (found.verdict, found.text)


def test_a_run_that_compared_nothing_gets_no_table_of_comparisons(tmp_path: Path) -> None:
    assert write_report([full_run()], None, tmp_path / "report.csv") == (tmp_path / "report.csv",)
    assert [path.name for path in tmp_path.iterdir()] == ["report.csv"]


def test_comparisons_of_an_earlier_report_do_not_stay_beside_a_new_one(tmp_path: Path) -> None:
    write_report([side_by_side()], None, tmp_path / "report.csv")
    write_report([full_run()], None, tmp_path / "report.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["report.csv"]
    foreign = tmp_path / "report-comparisons.csv"
    foreign.write_text("mine,yours\n1,2\n")
    write_report([full_run()], None, tmp_path / "report.csv")
    assert foreign.read_text() == "mine,yours\n1,2\n"


def test_bytes_have_a_unit() -> None:
    trained = record("fp32-training", metrics={"resident_growth_bytes": 1e6})
    assert list(tidy([run_of(trained)])["unit"]) == ["B"]


def test_every_column_of_the_tables_is_documented() -> None:
    told = (ROOT / "docs" / "csv.md").read_text(encoding="utf-8")
    first, second = told.split("## Comparisons")
    for columns, text in ((COLUMNS, first), (CHANGE_COLUMNS, second)):
        listed = [line.split("|")[1].strip().strip("`") for line in text.splitlines() if line.startswith("| `")]
        assert listed == list(columns)


def test_markdown_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    assert write_report([full_run()], None, None, tmp_path / "summary.md") == (tmp_path / "summary.md",)
    assert "int8-accuracy-imagenet" in (tmp_path / "summary.md").read_text()


def test_a_page_with_everything_and_thousands_of_cases_is_under_three_megabytes(tmp_path: Path) -> None:
    everything = [run_of(trained(tmp_path, "fp32"), *large_run(5000).records, directory=str(tmp_path)), side_by_side()]
    html = page([*everything, gaudi_run(), full_run(), second_run(), *dated_runs()])
    assert len(html.encode()) < 3_000_000
    assert footer(everything[0].records).counts["outside"] == 100
    assert len(tidy([everything[0]])) > 5000 * 10
