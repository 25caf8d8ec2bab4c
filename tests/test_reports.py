"""The report: what is in the records is on the page and in the table, and nothing else is."""

from __future__ import annotations

import base64
import doctest
import hashlib
import importlib
import io
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest
from page_elements import Elements
from report_examples import (
    accuracy,
    full_run,
    header,
    judgement,
    large_run,
    not_run,
    record,
    scaled,
    second_run,
    speed,
)

from conformance.cases import Band
from conformance.cases.metrics import METRICS
from conformance.errors import HarnessFault, UsageError
from conformance.records import Artefact, Footer, Kernel, Launched, Noise, Record, Run
from conformance.reports import write_report
from conformance.reports.charts import MAX_ROWS, Figure, accuracy_charts, limits, speed_charts, speedup_charts
from conformance.reports.details import shell_command
from conformance.reports.drawing import dots
from conformance.reports.entries import DETAILED, ROWS, entries, row_labels
from conformance.reports.frame import COLUMNS, csv_text, tidy
from conformance.reports.page import page
from conformance.reports.scaling import CASES, scaling
from conformance.reports.tables import accuracy_table

ROOT = Path(__file__).parents[1]
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def full_page() -> str:
    return page([full_run()])


def run_of(*records: Record, **changes: Any) -> Run:
    fields: dict[str, Any] = {"directory": "results/run", "header": header(), "footer": None}
    return Run(**{**fields, **changes}, records=records)


def read_back(text: str) -> pd.DataFrame:
    floats = [column for column, kind in COLUMNS.items() if kind == "float64"]
    return pd.read_csv(
        io.StringIO(text),
        keep_default_na=False,
        converters={column: lambda cell: float(cell or "nan") for column in floats},
    )


def description(root: ET.Element) -> str:
    """Return what a chart says of itself beyond its name."""
    return next(element.text or "" for element in root.iter() if element.tag.endswith("desc"))


def all_figures(run: Run) -> Iterator[Figure]:
    listed = entries([run])
    yield from (*accuracy_charts(listed), *speed_charts(listed), *speedup_charts(listed))


@pytest.mark.parametrize("module", ["frame", "entries", "charts", "details", "machine", "flips"])
def test_the_examples_in_the_docstrings_are_true(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"conformance.reports.{module}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = "import sys, conformance.reports; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    assert "conformance.reports" in loaded
    assert not {"pandas", "numpy", "altair", "jinja2", "vl_convert"} & set(loaded)


def test_the_table_read_back_equals_the_records() -> None:
    run = full_run()
    frame = read_back(csv_text(tidy([run])))
    assert list(frame.columns) == list(COLUMNS)
    for expected in run.records:
        rows = frame[frame["case"] == expected.case]
        measured = rows[rows["value"].notna()]
        assert dict(zip(measured["metric"], measured["value"], strict=True)) == expected.metrics
        ends = rows[rows["interval_low"].notna()]
        assert {
            metric: (low, high)
            for metric, low, high in zip(ends["metric"], ends["interval_low"], ends["interval_high"], strict=True)
        } == expected.intervals
        judged = rows[rows["verdict"] != ""]
        assert dict(zip(judged["metric"], judged["verdict"], strict=True)) == {
            j.metric: j.verdict for j in expected.judgements
        }
        assert set(rows["case_verdict"]) == {expected.verdict}
        assert set(rows["batch_size"]) == {expected.batch_size}
        assert set(rows["reason"]) == {expected.reason}


def test_a_case_that_did_not_run_stays_in_the_table() -> None:
    frame = tidy([run_of(not_run("bf16-gaudi", "No HPU here."))])
    assert frame[["case", "metric", "case_verdict", "reason"]].values.tolist() == [
        ["bf16-gaudi", "", "not run", "No HPU here."]
    ]
    assert frame["value"].isna().all()


def test_a_metric_without_a_number_has_a_row_with_its_verdict() -> None:
    frame = tidy([full_run()])
    row = frame[(frame["case"] == "int8-accuracy-digits") & (frame["metric"] == "top1")]
    assert row[["verdict", "band"]].values.tolist() == [["invalid", "at least 0.9700"]]
    assert row["value"].isna().all()


def test_of_two_bands_for_a_metric_the_graver_verdict_counts() -> None:
    judgements = (
        judgement("top1", "inside", "Inside.", 0.75, "at least 0.7000"),
        judgement("top1", "outside", "Outside.", 0.75, "at most 0.7400"),
    )
    frame = tidy([run_of(record("fp32-accuracy", metrics={"top1": 0.75}, judgements=judgements))])
    assert frame[["verdict", "band"]].values.tolist() == [["outside", "at least 0.7000; at most 0.7400"]]


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        ("throughput_images_per_s", "images/s"),
        ("latency_p99_s", "s"),
        ("achieved_flop_per_s", "FLOP/s"),
        ("top1", ""),
        ("images", ""),
    ],
)
def test_the_unit_of_a_metric_is_the_one_in_its_name(metric: str, unit: str) -> None:
    frame = tidy([run_of(record("fp32-accuracy", metrics={metric: 1.5}))])
    assert frame["unit"].tolist() == [unit]


def test_runs_stand_below_one_another_in_the_table() -> None:
    frame = tidy([full_run(), second_run()])
    assert frame["run"].unique().tolist() == ["run-20261121-120301-4f2a", "run-20261122-080000-77aa"]


def test_quotes_commas_and_newlines_survive_the_table() -> None:
    reason = 'a "quoted", reason\nof two lines'
    frame = read_back(csv_text(tidy([run_of(not_run("x", reason))])))
    assert frame["reason"].tolist() == [reason]


def test_both_files_are_written_and_nothing_else(tmp_path: Path) -> None:
    write_report([full_run()], tmp_path / "new" / "report.html", tmp_path / "report.csv")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "new/report.html",
        "report.csv",
    ]
    assert (tmp_path / "report.csv").read_text().startswith("run,started_at,case,suite,model,mode,precision,")


@pytest.mark.parametrize("name", ["html", "csv"])
def test_only_the_file_that_was_asked_for_is_written(tmp_path: Path, name: str) -> None:
    wanted = tmp_path / f"report.{name}"
    write_report([full_run()], wanted if name == "html" else None, wanted if name == "csv" else None)
    assert list(tmp_path.iterdir()) == [wanted]


def test_a_report_that_cannot_be_written_is_a_harness_fault(tmp_path: Path) -> None:
    (tmp_path / "report.csv").mkdir()
    with pytest.raises(HarnessFault, match=r"Cannot write the report '.*report\.csv': Is a directory\. Hint: Free"):
        write_report([full_run()], None, tmp_path / "report.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["report.csv"]


@pytest.mark.parametrize(("name", "package"), [("html", "altair"), ("csv", "pandas")])
def test_a_package_that_is_missing_is_named(tmp_path: Path, name: str, package: str) -> None:
    script = f"""
import sys
sys.modules[{package!r}] = None
from pathlib import Path
from conformance.errors import UsageError
from conformance.reports import write_report
from report_examples import full_run
try:
    write_report([full_run()], **{{"html": None, "csv": None, {name!r}: Path("report")}})
except UsageError as error:
    print(error)
"""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    run = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path, capture_output=True
    )
    expected = (
        f"A report needs the package {package!r}, which is not installed. Hint: pip install 'tf-conformance[reports]'"
    )
    assert run.stdout.decode().strip() == expected


def test_an_empty_run_is_an_error_and_no_empty_page(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Run 'run-20261121-120301-4f2a' holds no record: there is nothing to report"):
        write_report([full_run(), run_of()], tmp_path / "report.html", None)
    with pytest.raises(UsageError, match=r"There is no run to report\. Hint: Give the directory"):
        write_report([], tmp_path / "report.html", None)
    assert not list(tmp_path.iterdir())


def test_every_verdict_is_counted_aloud(full_page: str) -> None:
    sentence = "16 cases: 9 inside, 1 outside, 1 unjudged, 1 unstable, 1 invalid, 3 not run."
    assert sentence in Elements(full_page).text


def test_a_verdict_that_nothing_got_is_counted_as_none() -> None:
    text = Elements(page([run_of(not_run("x", "No HPU."))])).text
    assert "1 case: 0 inside, 0 outside, 0 unjudged, 0 unstable, 0 invalid, 1 not run." in text


def test_the_gravest_verdicts_stand_first() -> None:
    order = [entry.record.verdict for entry in entries([full_run()])]
    assert list(dict.fromkeys(order)) == ["invalid", "outside", "unstable", "not run", "unjudged", "inside"]


def test_the_same_case_of_two_runs_stands_together() -> None:
    listed = [(entry.record.case, entry.run) for entry in entries([full_run(), second_run()])]
    assert listed.index(("int8-accuracy-imagenet", 2)) == listed.index(("int8-accuracy-imagenet", 1)) + 1


def test_a_whole_run_has_no_banner(full_page: str) -> None:
    assert "Before you read on" not in full_page


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"footer": None}, "This run did not end by itself: its footer is missing."),
        (
            {"footer": Footer(ended_at="", counts={"inside": 16}, exit_status=2)},
            "This run ended early: interrupted (exit status 2).",
        ),
        (
            {"footer": Footer(ended_at="", counts={"inside": 16}, exit_status=3)},
            "This run ended early: a fault of the harness, such as a full disk, or pytest's own internal error",
        ),
        (
            {"footer": Footer(ended_at="", counts={"inside": 16}, exit_status=4)},
            "This run ended early: wrong usage (exit status 4).",
        ),
        (
            {"footer": Footer(ended_at="", counts={"inside": 9, "outside": 8}, exit_status=1)},
            "This run counted 17 records in its footer, and its file holds 16.",
        ),
        (
            {"header": header(hardware_differences=("1 socket instead of 8", "no AMX"))},
            "This run was made on a machine that is not 'xeon-8s': 1 socket instead of 8; no AMX.",
        ),
    ],
    ids=["no footer", "interrupted", "fault", "usage", "counts differ", "hardware differs"],
)
def test_what_casts_doubt_on_a_run_is_told_first(changes: dict[str, Any], sentence: str) -> None:
    text = Elements(page([full_run(**changes)])).text
    assert f"Before you read on: {sentence}" in text
    assert text.index(sentence) < text.index("Every case, the gravest verdict first")


def test_every_case_has_its_sentence_its_source_and_its_numbers(full_page: str) -> None:
    text = Elements(full_page).text
    for expected in full_run().records:
        assert expected.case in text
        assert expected.reason in text
        assert all(j.text in text for j in expected.judgements)
        assert all(METRICS[name].show(value) in text for name, value in expected.metrics.items())


def test_what_a_case_was_made_from_is_on_the_page(full_page: str) -> None:
    text = Elements(full_page).text
    assert "pytest suites/inference --hw xeon-8s --stack tf=/opt/tf/bin/python" in text
    assert "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" in text
    assert "logs/int8-accuracy-imagenet.log" in text
    assert "CPUs 0-27; memory of node 0; 1 inter-op and 28 intra-op threads." in text
    assert "steal 8.1 % of the bound cores' time, at most 2.0 % allowed" in text
    assert "brgconv:avx512_core_amx u8:s8 52 98.3 %" in text
    assert "memory 1.5 TiB" in text


def test_published_figures_are_told_from_measured_ones(full_page: str) -> None:
    sentence = (
        "Published, on the machine 2 sockets x 28 cores, AVX512: throughput 239.5 images/s "
        "(recipe 003, sample output). Not a gate."
    )
    assert sentence in Elements(full_page).text
    assert full_page.count('<tr class="published">') == 4


def test_a_published_figure_stands_once_below_the_last_run_of_its_case() -> None:
    assert page([full_run(), second_run()]).count('<tr class="published">') == 4


def test_a_launch_copied_into_a_shell_starts_the_same_process(tmp_path: Path) -> None:
    script = "import os, sys; print(repr((sys.argv[1:], os.environ.get('A'), os.environ.get('B'))))"
    launched = Launched(
        argv=(sys.executable, "-c", script, "two words", "it's $HOME", "*"),
        env={"A": "x y;$(false)", "B": None},
        cpus=(),
        memory_nodes=(),
        inter_op_threads=1,
        intra_op_threads=1,
    )
    said = subprocess.run(
        ["/bin/sh", "-c", shell_command(launched)],
        capture_output=True,
        text=True,
        check=True,
        env={"B": "set"},
    ).stdout
    assert said == repr((["two words", "it's $HOME", "*"], "x y;$(false)", None)) + "\n"


def hostile_run() -> Run:
    text = HOSTILE
    measured = msgspec.structs.replace(
        speed("fp32", "latency", 1, 0.01),
        **dict.fromkeys(("case", "suite", "model", "precision", "dataset", "source", "stack", "profile"), text),
        reason=text,
        notes=(text,),
        hardware_differences=(text,),
        worker=text,
        metrics={"top1": 0.5, "throughput_images_per_s": 5.0, "speedup_over_fp32": 2.0, text: 1.0},
        intervals={"top1": (0.4, 0.6)},
        judgements=(
            judgement("top1", "outside", text, 0.5, text),
            judgement(text, "inside", text, 1.0, None),
        ),
        published=({"metric": "throughput_images_per_s", "value": text, "machine": text, "source": text},),
        noise=Noise(reasons=(text,)),
        kernels=(Kernel(name=text, data_type=text, calls=1, flop_share=1.0),),
        inputs={text: Artefact(path=text, sha256=text)},
        artefacts={text: Artefact(path=text)},
        launched=(
            Launched(
                argv=(text,),
                env={text: text},
                cpus=(),
                memory_nodes=(),
                inter_op_threads=1,
                intra_op_threads=1,
            ),
        ),
    )
    head = header(
        run=text,
        harness=text,
        command=(text,),
        profile=text,
        host={text: text, "model_name": text},
        stacks={text: {text: text, "tensorflow": text}},
        environment={text: text},
        hardware_differences=(text,),
        started_at=text,
    )
    return run_of(measured, header=head, directory=text)


def test_hostile_names_stay_text_wherever_they_stand() -> None:
    html = page([hostile_run(), hostile_run()])
    assert Elements(html).tags("script") == [{"type": "application/json", "id": "rows"}, {}]
    assert HOSTILE not in html
    assert html.count("&lt;script&gt;") > 100
    assert '"><script' not in html


def test_hostile_names_stay_text_in_charts() -> None:
    figures = list(all_figures(hostile_run()))
    assert len(figures) == 4
    for figure in figures:
        root = ET.fromstring(figure.svg)
        assert not [element for element in root.iter() if element.tag.endswith("script")]
        assert HOSTILE in description(root)


@pytest.mark.parametrize("runs", [1, 2])
def test_the_page_needs_nothing_but_itself(runs: int) -> None:
    elements = Elements(page([full_run(), second_run()][:runs]))
    links = [a.get(key) or "" for _, a in elements.found for key in ("src", "href", "xlink:href", "srcset", "data")]
    assert all(link == "" or link == "data:," or link.startswith("#") for link in links)
    assert not {"iframe", "object", "embed", "form"} & {tag for tag, _ in elements.found}
    policy = next(a["content"] for a in elements.tags("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    script = (ROOT / "conformance" / "reports" / "script.js").read_bytes()
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" in policy


def test_every_link_leads_somewhere_and_every_id_is_one_of_a_kind() -> None:
    elements = Elements(page([full_run(), second_run()]))
    ids = [a["id"] for _, a in elements.found if "id" in a]
    assert len(ids) == len(set(ids))
    assert {(a.get("href") or "")[1:] for tag, a in elements.found if tag in ("a", "use")} <= set(ids)


def test_the_page_is_made_for_readers_of_all_kinds(full_page: str) -> None:
    elements = Elements(full_page)
    assert elements.tags("html") == [{"lang": "en"}]
    headings = [int(tag[1]) for tag, _ in elements.found if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))
    assert len(elements.tags("caption")) == len(elements.tags("table"))
    assert all(a.get("scope") in ("row", "col") for a in elements.tags("th"))


def test_a_page_is_under_a_megabyte() -> None:
    assert len(page([full_run(), second_run()]).encode()) < 1_000_000


def test_thousands_of_cases_are_shown_within_seconds_and_what_is_left_out_is_told() -> None:
    started = time.monotonic()
    html = page([large_run(5000)])
    assert time.monotonic() - started < 20
    assert f"These are {DETAILED} of 5,000 cases, the gravest; the CSV has all." in html
    assert f"The gravest {MAX_ROWS} of 5,000 are drawn." in html
    assert html.count("fp32-latency-4999") > 0
    assert html.count('<details class="case">') == DETAILED
    assert f"These are {ROWS} of 5,000 cases." in html
    assert len(html.encode()) < 3_000_000


def test_runs_stand_side_by_side() -> None:
    text = Elements(page([full_run(footer=None), second_run()])).text
    assert "27 cases: 18 inside, 2 outside, 1 unjudged, 2 unstable, 1 invalid, 3 not run." in text
    assert "Run 1 (run-20261121-120301-4f2a) did not end by itself" in text
    assert "9 inside, 1 outside, 0 unjudged, 1 unstable, 0 invalid, 0 not run" in text
    assert "tf, run 1 tf215, run 2" in text


def test_a_run_in_which_nothing_was_measured_has_no_empty_section() -> None:
    elements = Elements(page([run_of(not_run("bf16-gaudi", "No HPU here."))]))
    assert [a["id"] for a in elements.tags("section")] == ["verdicts", "machine", "provenance", "cases"]
    assert not elements.tags("figure")


def test_a_time_that_is_none_is_shown_as_it_is() -> None:
    assert "yesterday" in page([full_run(header=header(started_at="yesterday"))])


def test_a_time_ending_in_z_is_a_time() -> None:
    html = page([full_run(header=header(started_at="2026-11-21T12:03:01Z"))])
    assert "21 Nov 2026, 12:03:01 UTC" in html
    assert "0:38:39" in html


@pytest.mark.parametrize(
    ("metric", "limits_of", "expected"),
    [
        ("top1", {"at_least": 0.757}, (0.757, None)),
        ("top1", {"within": (0.7, 0.8)}, (0.7, 0.8)),
        ("throughput_images_per_s", {"at_least": 1234.5}, (1234.5, None)),
        ("throughput_images_per_s", {"within": (12_000.0, 13_500.0)}, (12_000.0, 13_500.0)),
        ("latency_p99_s", {"at_most": 0.009481}, (None, 0.009481)),
        ("spread", {"at_most": 0.05}, (None, 0.05)),
        ("spread", {"within": (0.01, 0.05)}, (0.01, 0.05)),
        ("achieved_flop_per_s", {"at_least": 336e9}, (336e9, None)),
        ("achieved_flop_per_s", {"at_least": 42.5e12}, (42.5e12, None)),
        ("speedup_over_fp32", {"at_least": 1.5}, (1.5, None)),
    ],
)
def test_a_band_is_drawn_where_its_words_say(metric: str, limits_of: Any, expected: Any) -> None:
    band = str(Band(metric=metric, source="here", **limits_of))
    assert limits(band) == tuple(end if end is None else pytest.approx(end) for end in expected)


@pytest.mark.parametrize("band", [None, "", "as fast as before", "at least", "within 3", "at least 1 or 2"])
def test_a_band_in_other_words_is_not_drawn(band: str | None) -> None:
    assert limits(band) == (None, None)


def test_a_chart_says_in_words_what_it_shows() -> None:
    (figure,) = accuracy_charts(entries([run_of(accuracy("int8", 0.7512, 0.9241, "outside"))]))
    said = "int8: 0.7512, interval 0.7475 to 0.7549, at least 0.7570, outside"
    root = ET.fromstring(figure.svg)
    assert root.get("role") == "img"
    assert root.get("aria-label") == "Top-1 on imagenet"
    assert description(root) == said
    titles = [element.text for element in root.iter() if element.tag.endswith("title")]
    assert said in titles
    assert "0.7512 outside" in [element.text for element in root.iter() if element.tag.endswith("text")]


def said_in(figure: Figure) -> list[str]:
    return ["".join(e.itertext()) for e in ET.fromstring(figure.svg).iter() if e.tag.endswith("text")]


def test_a_repeat_far_from_the_others_is_in_the_chart_and_its_axis_as_wide_as_ever() -> None:
    row = {
        "label": "fp32", "value": 1.0, "low": 0.99, "high": 1.01, "from": 0.98, "to": 1.02,
        "repeats": [1.0, 0.99, 1.01, 1.0, 1.0, 1.6], "text": "1.000 same", "colour": "var(--fp32)", "fill": 0.4,
        "description": "fp32: 1.000",
    }  # fmt: skip
    figure = dots("Ratios", "", "new / base", [row], 1)
    numbers = re.findall(r'translate\(([\d.]+),[\d.]+\)"[^>]*>([\d.]+)</text>', figure.svg)
    places = {float(number): float(place) for place, number in numbers}
    assert max(places) >= 1.4
    assert max(places.values()) - min(places.values()) > 200


@pytest.mark.parametrize("verdict", ["unstable", "invalid"])
def test_no_number_of_a_case_in_doubt_is_drawn_as_one_that_is_merely_unjudged(verdict: Any) -> None:
    doubtful = speed("bf16", "latency", 1, 0.006, verdict=verdict, judgements=())
    throughput, durations = speed_charts(entries([run_of(doubtful)]))
    assert any(text.endswith(f" images/s {verdict}") for text in said_in(throughput))
    assert f"bf16, {verdict}" in said_in(durations)
    assert "throughput, images/s" in said_in(throughput)


def test_labels_that_differ_at_their_ends_are_told_apart() -> None:
    names = [f"resnext101_32x4d-digits-bf16-2-ranks-{launcher}-smoke" for launcher in ("mpirun", "horovodrun")]
    records = [msgspec.structs.replace(speed("bf16", "throughput", 128, 0.2), case=name) for name in names]
    figure = speed_charts(entries([run_of(*records)]))[0]
    assert set(names) <= set(said_in(figure))


def test_the_same_case_on_two_stacks_has_two_rows() -> None:
    case = speed("bf16", "throughput", 128, 0.2)
    other = msgspec.structs.replace(case, case="resized-images")
    listed = entries([run_of(*(msgspec.structs.replace(r, stack=s) for r in (case, other) for s in ("old", "new")))])
    assert len(set(row_labels(listed))) == 4


def test_networks_and_suites_have_charts_of_their_own_where_they_differ() -> None:
    records = (
        accuracy("fp32", 0.7651, 0.9307),
        msgspec.structs.replace(accuracy("bf16", 0.1, 0.2), case="control", suite="training"),
        msgspec.structs.replace(accuracy("bf16", 0.78, 0.94), case="other", model="resnext101_32x4d"),
    )
    assert [figure.title for figure in accuracy_charts(entries([run_of(*records)]))] == [
        "Top-1 of resnet50_v1_5 on imagenet, inference",
        "Top-1 of resnet50_v1_5 on imagenet, training",
        "Top-1 of resnext101_32x4d on imagenet, inference",
    ]


def test_times_far_from_each_other_have_a_log_scale() -> None:
    records = [speed(p, "latency", 1, s) for p, s in (("fp32", 0.5), ("bf16", 0.004))]
    assert "milliseconds a batch, log scale" in said_in(speed_charts(entries([run_of(*records)]))[1])
    assert "milliseconds a batch" in said_in(speed_charts(entries([run_of(records[0])]))[1])


def test_of_more_rows_than_a_chart_holds_the_gravest_are_drawn() -> None:
    timed = speed("bf16", "throughput", 128, 0.2)
    records = [msgspec.structs.replace(timed, case=f"case-{n:02}") for n in range(MAX_ROWS + 5)]
    missed = msgspec.structs.replace(records[-1].judgements[0], verdict="outside")
    last = msgspec.structs.replace(records[-1], verdict="outside", judgements=(missed,))
    figure = speed_charts(entries([run_of(*records[:-1], last)]))[0]
    assert f"The gravest {MAX_ROWS} of {MAX_ROWS + 5} are drawn." in figure.note
    assert last.case in said_in(figure) and records[-2].case not in said_in(figure)


def test_the_verdict_in_a_table_is_on_its_own_metrics() -> None:
    judged = accuracy("bf16", 0.7651, 0.9307)
    other = msgspec.structs.replace(judged.judgements[0], metric="native_share", verdict="outside", text="too little")
    case = msgspec.structs.replace(judged, verdict="outside", judgements=(*judged.judgements, other))
    table = accuracy_table(entries([run_of(case)]), several=False)
    assert table is not None
    assert table.rows[0].cells[-1].text == "inside"
    assert "Of fp32: top-1 as share of fp32's" in table.note and table.note in Elements(page([run_of(case)])).text


def test_a_p_value_that_is_no_zero_is_not_shown_as_one() -> None:
    case = msgspec.structs.replace(accuracy("int8", 0.75, 0.92), metrics={"top1": 0.75, "mcnemar_p": 3e-9})
    table = accuracy_table(entries([run_of(case)]), several=False)
    assert table is not None
    assert "below 0.0001" in [cell.text for cell in table.rows[0].cells]


def test_charts_take_their_width_and_colours_from_the_page() -> None:
    figures = list(all_figures(full_run()))
    assert [figure.title for figure in figures] == [
        "Top-1 on imagenet",
        "Throughput",
        "Time a batch, batch 1",
        "Time a batch, batch 16",
        "Time a batch, batch 128",
        "Speed-up over fp32",
    ]
    for figure in figures:
        root = ET.fromstring(figure.svg)
        assert root.get("viewBox")
        assert not {"width", "height"} & set(root.attrib)
        drawn = {element.get(key) for element in root.iter() for key in ("fill", "stroke")} - {None}
        assert all(re.fullmatch(r"var\(--\w+\)|currentColor|none|transparent", str(colour)) for colour in drawn)


def test_a_hollow_mark_is_one_that_is_not_inside() -> None:
    records = (accuracy("fp32", 0.7651, 0.9307), accuracy("int8", 0.7512, 0.9241, "outside"))
    (figure,) = accuracy_charts(entries([run_of(*records)]))
    marks = [e for e in ET.fromstring(figure.svg).iter() if (e.get("aria-label") or "").startswith(("fp32:", "int8:"))]
    assert [(m.get("stroke"), m.get("fill-opacity", "1")) for m in marks] == [
        ("var(--fp32)", "1"),
        ("var(--int8)", "0"),
    ]


def test_rows_of_a_chart_are_told_apart() -> None:
    assert row_labels(entries([run_of(accuracy("fp32", 0.7, 0.9))])) == ["fp32"]
    two = entries([run_of(accuracy("fp32", 0.7, 0.9)), run_of(accuracy("fp32", 0.7, 0.9))])
    assert row_labels(two) == ["fp32 · run 1", "fp32 · run 2"]
    twins = entries([run_of(record("fp32-accuracy-a"), record("fp32-accuracy-b"))])
    assert row_labels(twins) == ["fp32-accuracy-a", "fp32-accuracy-b"]


def test_a_single_step_is_drawn() -> None:
    timed = speed("fp32", "latency", 1, 0.01)
    series = msgspec.structs.replace(timed.series[0], step_s=(0.01,))
    run = run_of(msgspec.structs.replace(timed, series=(series,)))
    figures = speed_charts(entries([run]))
    assert "longest 10.000 ms, timed steps 1" in figures[-1].svg


def scaling_chart(*records: Record) -> ET.Element:
    section = scaling(entries([run_of(*records)]), False)
    assert section is not None
    return ET.fromstring(section.parts[0].figure.svg)


def texts(root: ET.Element) -> list[str | None]:
    return [element.text for element in root.iter() if element.tag.endswith("text")]


def test_a_prediction_is_told_from_a_measurement_by_looks_and_words() -> None:
    root = scaling_chart(scaled())
    marks = {label: e for e in root.iter() if "rank" in (label := e.get("aria-label") or "") and e.tag.endswith("path")}
    looks = {label: (mark.get("fill"), mark.get("stroke"), mark.get("d")) for label, mark in marks.items()}
    full, hollow = looks["2 ranks: 92.8 %, interval 90.1 % to 95.5 %, measured"], looks["8 ranks: 79.9 %, predicted"]
    assert full[:2] == ("var(--bf16)", "var(--bf16)")
    assert hollow[:2] == (None, "var(--bf16)")
    assert full[2] != hollow[2]
    assert [e.get("stroke-dasharray") for e in root.iter() if e.get("stroke-dasharray")] == ["5,4"]
    assert [text for text in texts(root) if text in ("measured", "predicted")] == ["measured", "predicted"]


def test_without_a_prediction_nothing_is_dashed_hollow_or_said_to_be_predicted() -> None:
    records = (scaled(predicted=False), scaled("fp32", "strong", predicted=False))
    root = scaling_chart(*records)
    assert "predicted" not in ET.tostring(root, encoding="unicode")
    assert not [e for e in root.iter() if e.get("stroke-dasharray")]
    text = Elements(page([run_of(*records)])).text
    assert "predicted 8" not in text and "It assumes" not in text
    assert "Weak scaling, bf16" in text and "Strong scaling, fp32" in text


def test_a_prediction_without_a_measurement_is_drawn_and_nothing_at_all_is_not() -> None:
    told = scaled().scaling
    assert told is not None
    alone, nothing = (msgspec.structs.replace(told, measured=(), predicted=p) for p in (told.predicted, ()))
    root = scaling_chart(scaled(scaling=alone))
    assert root.get("aria-label") == "Weak scaling, bf16"
    assert description(root) == "8 ranks: 79.9 %, predicted"
    assert scaling(entries([run_of(scaled(scaling=nothing, metrics={}))]), False) is None


def test_a_prediction_stands_with_its_model_and_all_that_it_assumes() -> None:
    text = Elements(page([run_of(scaled())])).text
    assert "1 measured 100.0 % 80.0 images/s 400.000 ms" in text
    assert "2 measured 92.8 % 90.1 % to 95.5 % 148.5 images/s" in text
    assert "8 predicted 79.9 % 511.4 images/s 500.626 ms 17.0 GiB more than the host has" in text
    assert (
        "Predicted by the model of a ring of a test, not measured. It assumes: "
        "Nothing is in the way. Memory is cheap." in text
    )


def test_why_nothing_is_predicted_is_told() -> None:
    told = scaled().scaling
    assert told is not None
    text = Elements(page([run_of(scaled(scaling=msgspec.structs.replace(told, predicted=())))])).text
    assert "Not predicted by the model of a ring of a test: Nothing is in the way. Memory is cheap." in text
    assert "Predicted by" not in text


@pytest.mark.parametrize(("fits", "said"), [(True, "17.0 GiB fits"), (None, "17.0 GiB the host's is not known")])
def test_the_memory_of_a_host_is_held_against_what_it_has(fits: bool | None, said: str) -> None:
    example = scaled().scaling
    assert example is not None
    predicted = (msgspec.structs.replace(example.predicted[0], fits=fits),)
    changed = scaled(scaling=msgspec.structs.replace(example, predicted=predicted))
    assert said in Elements(page([run_of(changed)])).text


def test_what_keeps_ranks_from_more_has_a_table_with_or_without_a_chart() -> None:
    text = Elements(page([run_of(scaled(scaling=None))])).text
    assert "Training on several ranks, and what keeps them from more" in text
    assert "148.5 images/s 92.8 % 90.1 % to 95.5 % 12.0 %" in text
    assert "Weak scaling" not in text


def test_a_chart_of_scaling_takes_its_colours_from_the_page() -> None:
    root = scaling_chart(scaled())
    drawn = {element.get(key) for element in root.iter() for key in ("fill", "stroke")} - {None}
    assert all(re.fullmatch(r"var\(--\w+\)|currentColor|none|transparent", str(colour)) for colour in drawn)
    assert not {"width", "height"} & set(root.attrib)


def test_hostile_words_of_a_prediction_stay_text() -> None:
    told = scaled().scaling
    assert told is not None
    html = page([run_of(scaled(scaling=msgspec.structs.replace(told, model=HOSTILE, assumptions=(HOSTILE,))))])
    assert HOSTILE not in html
    assert html.count("&lt;script&gt;") == 2


def test_cases_beyond_those_that_are_drawn_are_told() -> None:
    many = [msgspec.structs.replace(scaled(), case=f"bf16-training-{n}") for n in range(CASES + 1)]
    section = scaling(entries([run_of(*many)]), False)
    assert section is not None and len(section.parts) == CASES
    assert section.note == f"The first {CASES} of {CASES + 1} cases are drawn."
