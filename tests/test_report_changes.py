"""What the page says of cases over runs, versions and comparisons: which numbers it puts beside which."""

from __future__ import annotations

import doctest
import importlib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import msgspec
import pytest
from report_examples import change, comparison, dated_runs, header, record, side_by_side, speed, written

from conformance.commands.report import level_shifts
from conformance.records import Record, Run
from conformance.records.accepted import ACCEPTED_FILE, accept
from conformance.records.run_file import read_run
from conformance.reports.comparisons import CHANGES, comparisons
from conformance.reports.entries import entries
from conformance.reports.history import Section, history
from conformance.reports.page import page
from conformance.reports.tables import Table
from conformance.reports.versions import version_matrix


def words(table: Table | None) -> list[list[str]]:
    assert table is not None
    return [[f"{cell.text} {cell.small}".strip() for cell in row.cells] for row in table.rows]


def texts(svg: str) -> list[str]:
    return [each.text or "" for each in ET.fromstring(svg).iter() if each.tag.endswith("text")]


def on(day: int, *records: Record, host: dict[str, Any] | None = None, **stacks: dict[str, Any]) -> Run:
    """Return the run of a day, on a machine and on stacks that say this of themselves."""
    started = f"2026-11-{day:02}T08:00:00+00:00"
    told = stacks or {"tf": {"packages": {"tensorflow": "2.21.0"}}}
    head = header(run=f"run-{day:02}", started_at=started, stacks=told, **({"host": host} if host else {}))
    dated = tuple(msgspec.structs.replace(each, started_at=started) for each in records)
    return Run(directory=f"results/run-{day:02}", header=head, records=dated, footer=None)


def latency(batch_size: int = 1, seconds: float = 0.01, **changes: Any) -> Record:
    return msgspec.structs.replace(speed("fp32", "latency", batch_size, seconds, **changes), case="fp32-latency")


def packages(**versions: str) -> dict[str, Any]:
    return {"packages": {name.replace("_", "-"): version for name, version in versions.items()}}


def course(*runs: Run) -> Section:
    section = history(runs, entries(runs), level_shifts(runs))
    assert section is not None
    return section


def test_the_sense_of_a_ratio_is_in_its_docstring() -> None:
    result = doctest.testmod(importlib.import_module("conformance.reports.comparisons"))
    assert (result.attempted, result.failed) == (1, 0)


# History


def test_batch_sizes_have_histories_of_their_own() -> None:
    section = course(on(1, latency(8)), on(2, latency(8)), on(3, latency(4)), on(4, latency(4)))
    assert [figure.title for figure in section.figures] == [
        "fp32-latency: median time a batch, batch 8",
        "fp32-latency: median time a batch, batch 4",
    ]
    assert [row[1] for row in words(section.table)] == ["8", "8", "4", "4"]
    apart = [on(1, latency(8)), on(2, latency(4))]
    assert history(apart, entries(apart), {}) is None


def test_the_only_stack_of_a_run_may_be_another_in_the_next() -> None:
    section = course(
        on(1, latency(stack="tf215"), tf215=packages(tensorflow="2.15.1")),
        on(2, latency(stack="tf221"), tf221=packages(tensorflow="2.21.0")),
    )
    (figure,) = section.figures
    assert {"TensorFlow 2.15.1", "TensorFlow 2.21.0"} <= set(texts(figure.svg))


def test_stacks_of_one_run_have_histories_of_their_own() -> None:
    stacks = {"one": packages(tensorflow="2.15.1"), "two": packages(tensorflow="2.21.0")}
    section = course(*(on(day, latency(stack="one"), latency(stack="two"), **stacks) for day in (1, 2)))
    assert [figure.title for figure in section.figures] == [
        "fp32-latency: median time a batch, batch 1, one",
        "fp32-latency: median time a batch, batch 1, two",
    ]


def test_machines_of_one_model_are_told_apart_and_a_driver_makes_no_other_machine() -> None:
    def run(day: int, sockets: int, driver: str) -> Run:
        host = {"model_name": "Example", "sockets": sockets, "accelerators_driver": driver}
        return on(day, latency(), host=host)

    section = course(run(1, 1, "1.0"), run(2, 1, "1.1"), run(3, 2, "1.0"), run(4, 2, "1.0"))
    assert [figure.title for figure in section.figures] == [
        "fp32-latency: median time a batch, batch 1, runs 1-2",
        "fp32-latency: median time a batch, batch 1, runs 3-4",
    ]


def test_what_changed_since_the_run_before_is_told_and_nothing_else() -> None:
    habana = "habana_tensorflow"
    section = course(
        on(1, latency(stack_digest="a"), tf=packages(tensorflow="2.9.1")),
        on(9, latency(stack_digest="b"), tf=packages(tensorflow="2.9.1", **{habana: "1.6.1"})),
        on(17, latency(stack_digest="c"), tf=packages(tensorflow="2.9.1", **{habana: "1.6.2"})),
        on(24, latency(stack_digest="d"), tf=packages(tensorflow="2.9.1", numpy="1.24.0", **{habana: "1.6.2"})),
        on(30, latency(stack_digest="d"), tf=packages(tensorflow="2.9.1", numpy="1.24.0", **{habana: "1.6.2"})),
    )
    told = [text for text in texts(section.figures[0].svg) if text[:1].isalpha() and "Nov" not in text]
    assert [text for text in told if text.split()[0] in ("TensorFlow", "SynapseAI", "other")] == [
        "TensorFlow 2.9.1", "other packages", "SynapseAI 1.6.1", "SynapseAI 1.6.2",
    ]  # fmt: skip
    assert "no room" not in section.figures[0].note
    assert [row[4] for row in words(section.table)][2:4] == [
        "TensorFlow 2.9.1, SynapseAI 1.6.2",
        "TensorFlow 2.9.1, SynapseAI 1.6.2 other packages",
    ]


def test_words_above_a_course_do_not_print_over_each_other() -> None:
    versions = [packages(tensorflow=f"2.{n}.0", habana_tensorflow=f"1.{n}.0") for n in range(9, 19)]
    section = course(*(on(day, latency(), tf=of) for day, of in enumerate(versions, start=1)))
    root = ET.fromstring(section.figures[0].svg)
    found: dict[float, list[tuple[float, float]]] = {}
    for each in root.iter():
        if each.tag.endswith("text") and (each.text or "").startswith("TensorFlow"):
            x, y = map(float, each.attrib["transform"].removeprefix("translate(").removesuffix(")").split(","))
            wide = 6.2 * len(each.text or "")
            span = (x - wide, x) if each.attrib["text-anchor"] == "end" else (x, x + wide)
            assert span[0] >= 0 and span[1] <= 480
            found.setdefault(y, []).append(span)
    assert 3 <= sum(map(len, found.values())) < 10
    assert "Some find no room: the table has all." in section.figures[0].note
    for spans in found.values():
        assert all(a[1] <= b[0] for a, b in zip(sorted(spans), sorted(spans)[1:], strict=False))


def test_noise_does_not_fill_the_height_of_a_course() -> None:
    runs = [on(day, latency(metrics={"latency_p50_s": 0.01 + day * 1e-7})) for day in range(1, 6)]
    root = ET.fromstring(course(*runs).figures[0].svg)
    marks = [e.attrib["transform"] for e in root.iter() if ", run " in (e.get("aria-label") or "")]
    heights = [float(mark.removeprefix("translate(").removesuffix(")").split(",")[1]) for mark in marks]
    assert len(heights) == 5 and 0 < max(heights) - min(heights) < 2


def test_repeats_are_drawn_in_a_course() -> None:
    several = [on(day, *(latency(seconds=0.01 + n * 1e-4, repeat=n) for n in (1, 2, 3))) for day in (1, 2)]
    (figure,) = course(*several).figures
    assert "Dashes: each repeat, of which the median is shown." in figure.note
    assert "(median of 3 repeats)" in figure.svg
    alone = course(*(on(day, latency()) for day in (1, 2))).figures[0]
    assert "repeat" not in alone.note
    assert figure.svg.count("<path") - alone.svg.count("<path") == 6


@pytest.fixture
def kept(tmp_path: Path) -> list[Run]:
    """Return eight runs in their directories, the newer four slower."""
    return [read_run(directory) for directory in written(tmp_path, dated_runs(8))]


def test_a_level_is_told_with_what_differs_and_whether_it_was_accepted(kept: list[Run]) -> None:
    ((place, told),) = level_shifts(kept).items()
    assert place == ("run-20261105-080000-0000", "fp32-latency-b1", "tf", 1)
    assert told.startswith("median time a batch from 9.7") and told.endswith(
        " ms: regressed. Differs: TensorFlow 2.20.0 -> 2.21.0"
    )
    accept(kept[4], "fp32-latency-b1", None, "It has to be.", "2026-11-30T00:00:00+00:00")
    (told,) = level_shifts(kept).values()
    assert ": regressed, accepted: It has to be. Differs: TensorFlow" in told
    assert "accepted: It has to be." in page(kept, level_shifts(kept))
    assert (Path(kept[0].directory).parent / ACCEPTED_FILE).exists()


def test_batches_of_one_run_have_levels_of_their_own() -> None:
    def both(day: int, slower: float) -> Run:
        noise = 1 + 0.002 * (day % 2)
        return on(day, *(latency(n, metrics={"latency_p50_s": n * slower * noise / 100}) for n in (1, 4)))

    shifts = level_shifts([both(day, 1.0 if day < 5 else 1.2) for day in range(1, 10)])
    assert {place[3]: told.split(":")[0] for place, told in shifts.items()} == {
        1: "median time a batch from 10.010 ms to 12.024 ms",
        4: "median time a batch from 40.040 ms to 48.096 ms",
    }


# Versions


def test_no_batch_size_is_called_better_than_another() -> None:
    runs = [
        on(1, latency(8, 0.08), latency(4, 0.05), tf=packages(tensorflow="2.15.1")),
        on(2, latency(4, 0.04), tf=packages(tensorflow="2.21.0")),
    ]
    ((_, _, batch, old, new),) = words(version_matrix(runs, entries(runs)))
    assert batch == "4" and old.startswith("51.0") and new.startswith("40.") and " better" in new
    apart = [runs[0], on(2, latency(2))]
    assert version_matrix(apart, entries(apart)) is None


def test_versions_are_in_the_order_of_their_numbers() -> None:
    runs = [on(day, latency(), tf=packages(tensorflow=v)) for day, v in enumerate(("2.21.0", "2.9.1", "2.15.1"), 1)]
    table = version_matrix(runs, entries(runs))
    assert table is not None
    assert table.columns[3:] == ("TensorFlow 2.9.1", "TensorFlow 2.15.1", "TensorFlow 2.21.0")
    assert "the change against the leftmost value in the row" in table.caption


# Comparisons


def two_runs() -> list[Run]:
    first = side_by_side()
    again = msgspec.structs.replace(first.header, run="run-20261124-090000-a1b2")
    other = tuple(msgspec.structs.replace(c, differences=("CPUs 0-3 -> 4-7",)) for c in first.comparisons)
    return [first, msgspec.structs.replace(first, header=again, comparisons=other)]


def test_equal_comparisons_of_two_runs_are_told_apart_by_the_run() -> None:
    section = comparisons(two_runs())
    assert section is not None
    assert "fp32-latency-b1 \N{MIDDLE DOT} run 2, base to new: 1.080" in section.figures[0].svg
    assert "fp32-latency-b1 \N{MIDDLE DOT} run 1, base to new: 1.080" in section.figures[0].svg
    assert words(section.overview)[0][0] == "bf16-latency-b1 run 1"
    assert words(section.changes)[2][0].endswith("base \N{RIGHTWARDS ARROW} new \N{MIDDLE DOT} run 2")
    alone = comparisons(two_runs()[:1])
    assert alone is not None and words(alone.overview)[0][0] == "bf16-latency-b1"


def test_one_comparison_twice_in_a_run_has_two_rows() -> None:
    one = comparison("fp32-latency-b1", "same", change("latency_p50_s", "same", 0.01, 1.0))
    section = comparisons([msgspec.structs.replace(side_by_side(), comparisons=(one, one))])
    assert section is not None
    assert "fp32-latency-b1 (2), base to new" in section.figures[0].svg


def test_what_differs_is_told_once_for_two_sides_of_a_run() -> None:
    section = comparisons(two_runs())
    assert section is not None
    assert words(section.differences) == [
        ["base \N{RIGHTWARDS ARROW} new run 1", "TensorFlow 2.15.1 in base, 2.21.0 in new"],
        ["oneDNN 3.2.0 in base, 3.7.1 in new"],
        ["base \N{RIGHTWARDS ARROW} new run 2", "CPUs 0-3 -> 4-7"],
    ]


def test_what_differs_in_some_cases_only_names_them() -> None:
    one, two = (comparison(f"fp32-latency-b{n}", "same", differences=("Python 3.10 -> 3.11",)) for n in (1, 2))
    two = msgspec.structs.replace(two, differences=(*two.differences, "batch size 1 -> 2"))
    section = comparisons([msgspec.structs.replace(side_by_side(), comparisons=(one, two))])
    assert section is not None
    assert [row[-1] for row in words(section.differences)] == [
        "Python 3.10 -> 3.11", "batch size 1 -> 2 in fp32-latency-b2",
    ]  # fmt: skip


def test_a_chart_of_changes_says_which_side_is_worse_and_what_its_marks_mean() -> None:
    section = comparisons([side_by_side()])
    assert section is not None
    time, throughput = section.figures
    assert "new / base, right is slower (worse)" in texts(time.svg)
    assert "new / base, right is faster (better)" in texts(throughput.svg)
    assert "Full: regressed or improved, pale: same, hollow: neither." in time.note


def test_what_counts_as_no_change_is_as_wide_on_both_sides_in_logarithms(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr("conformance.reports.comparisons.dots", lambda *given: drawn.extend(given[3]))
    loose = change("latency_p50_s", "same", 0.01, 1.0, allowed=0.25)
    comparisons([msgspec.structs.replace(side_by_side(), comparisons=(comparison("fp32-x", "same", loose),))])
    assert [(row["from"], row["to"]) for row in drawn] == [(0.8, 1.25)]


def test_changes_that_are_left_out_are_told() -> None:
    many = [change("latency_p50_s", "same", 0.01, 1.0)] * (CHANGES + 1)
    run = msgspec.structs.replace(side_by_side(), comparisons=(comparison("fp32-latency-b1", "same", *many),))
    section = comparisons([run])
    assert section is not None and section.changes is not None
    assert len(section.changes.rows) == CHANGES
    assert section.changes.caption.endswith(f"The first {CHANGES} of {CHANGES + 1}; the CSV has all")
    fewer = comparisons([side_by_side()])
    assert fewer is not None and fewer.changes is not None and "CSV" not in fewer.changes.caption


def test_a_case_that_changed_links_to_what_the_page_says_of_it() -> None:
    run = side_by_side()
    listed = entries([run])
    anchor = next(e.anchor for e in listed if (e.record.case, e.record.stack) == ("fp32-latency-b1", "new"))
    section = comparisons([run], listed)
    assert section is not None and section.changes is not None
    links = {row.cells[0].text: row.cells[0].href for row in section.overview.rows}
    assert links["fp32-latency-b1"] == section.changes.rows[0].cells[0].href == f"#{anchor}"
    assert links["int8-latency-b1"] == "", "the run has no record of it"
    assert f'<a href="#{anchor}">fp32-latency-b1</a>' in page([run]).split('id="comparisons"')[1]


def test_a_case_without_the_stack_of_its_comparison_links_to_its_first() -> None:
    one = comparison("fp32-latency-b1", "same")
    run = msgspec.structs.replace(side_by_side(), records=(record(one.case, stack="tf"),), comparisons=(one,))
    section = comparisons([run], entries([run]))
    assert section is not None and section.overview.rows[0].cells[0].href == "#case-1"
