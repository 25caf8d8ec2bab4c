"""The suites from the outside: what a user gives, what comes back, and what is left when it goes wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from session_examples import (
    MAKE,
    QUICK,
    ROOT,
    ROW,
    SHORT,
    Ended,
    command,
    environment,
    interpreter,
    processes,
    session,
    suites,
)

from conformance.hardware.detect import detect
from conformance.hardware.isa import native_precisions
from conformance.records import Record
from conformance.records.run_file import read_run

needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="no TensorFlow in this interpreter"
)
pytestmark = [pytest.mark.outside]

ACCURACY, LATENCY = "resnet50_v1_5-imagenet-fp32-accuracy", "resnet50_v1_5-fp32-batch1"
BOTH = ("suites/inference", "-m", "fp32 and (imagenet or latency)")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny graphs and data sets, good and bad, made once."""
    place = tmp_path_factory.mktemp("inputs")
    done = subprocess.run([sys.executable, "-c", MAKE, str(place)], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a profile that fits any machine and times for a moment."""
    path = tmp_path_factory.mktemp("profiles") / "quick.toml"
    path.write_text(QUICK)
    return str(path)


@pytest.fixture(scope="session")
def short(inputs: Path, quick: str) -> tuple[str, ...]:
    """Options with which both cases of a graph take a few seconds."""
    return (*SHORT, "--hw", quick, "--in-graph", str(inputs / "tiny.pb"), "--data-location", str(inputs / "good"))


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="session")
def whole(place: Path, short: tuple[str, ...]) -> Ended:
    """One session with all that it can leave, which many tests look at."""
    asked = ("--output-results", "-v", "--report", str(place / "report.html"))
    kept = ("--junit-xml", str(place / "junit.xml"), "--benchmark-json", str(place / "benchmark.json"))
    return session(place, *BOTH, *short, *asked, *kept)


@pytest.fixture(scope="session")
def parallel(tmp_path_factory: pytest.TempPathFactory, short: tuple[str, ...]) -> Ended:
    """The same session on two workers."""
    return session(tmp_path_factory.mktemp("parallel"), *BOTH, *short, "-n", "2")


def records(ended: Ended) -> dict[str, Record]:
    return {record.case: record for record in ended.run.records}


def sentence(ended: Ended, message: str, hint: str) -> None:
    """A session told one sentence and its hint, and no traceback."""
    assert f"{message} Hint: {hint}" in ended.text, ended.text
    assert "Traceback" not in ended.text and "INTERNALERROR" not in ended.text, ended.text


def eventually(condition: Callable[[], bool], limit_s: float = 20.0) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# A session that goes well


@pytest.mark.tensorflow
@needs_tensorflow
def test_a_run_file_holds_header_records_and_a_footer(whole: Ended, quick: str) -> None:
    run = whole.run
    assert run.header.profile == "quick" and run.header.hardware_differences == ()
    assert run.header.command[:3] == ("pytest", "-p", "no:cacheprovider") and quick in run.header.command
    assert "tensorflow" in run.header.stacks["default"]["packages"]
    assert [record.case for record in run.records] == [ACCURACY, LATENCY]
    assert run.footer is not None and run.footer.exit_status == whole.status == 0
    assert sum(run.footer.counts.values()) == 2 and run.footer.counts["outside"] == 0


@pytest.mark.tensorflow
@needs_tensorflow
def test_six_images_are_no_accuracy_of_imagenet(whole: Ended) -> None:
    record = records(whole)[ACCURACY]
    assert record.verdict == "unjudged" and record.metrics["images"] == 6
    judged = {judgement.metric: judgement.verdict for judgement in record.judgements}
    assert judged == {"top1": "unjudged", "top5": "unjudged", "native_share": "inside"}
    low, high = record.intervals["top1"]
    told = f"its band is for all 50,000 images, and 6 were judged (95 % interval {low:.4f} to {high:.4f})"
    assert told in record.reason
    assert record.batch_size == 100


@pytest.mark.tensorflow
@needs_tensorflow
@pytest.mark.skipif("int8" not in native_precisions(detect()), reason="this CPU has no instructions for int8")
def test_a_graph_that_is_not_of_its_precision_is_outside_whatever_its_speed(
    tmp_path: Path, inputs: Path, quick: str
) -> None:
    graph = ("--in-graph", f"int8={inputs / 'tiny.pb'}", "--steps", "5", "--warmup-steps", "2")
    ended = session(tmp_path, "suites/inference", "-v", "-m", "int8 and latency", *graph, "--hw", quick)
    (record,) = ended.run.records
    assert (ended.status, record.verdict) == (1, "outside")
    assert record.reason.startswith("convolution work in the claimed type is 0.0 %; allowed is at least 95.0 %")
    assert " OUTSIDE " in ended.text and ended.run.footer is not None
    assert (ended.run.footer.exit_status, ended.run.footer.counts["outside"]) == (1, 1)


@pytest.mark.tensorflow
@needs_tensorflow
def test_a_speed_without_a_band_is_unjudged_where_the_machine_was_quiet(whole: Ended) -> None:
    record = records(whole)[LATENCY]
    assert record.noise is not None
    assert record.verdict == ("unstable" if record.noise.reasons else "unjudged")
    (series,) = record.series
    assert len(series.step_s) >= 5 and series.warmup_steps >= 2 and sum(series.step_s) >= 0.2
    assert "steps is 5 by option; the row has 50." in record.notes
    assert record.metrics["native_share"] >= 0.95 and record.kernels


@pytest.mark.tensorflow
@needs_tensorflow
def test_junit_xml_carries_the_numbers_as_properties(whole: Ended, place: Path) -> None:
    cases = ElementTree.parse(place / "junit.xml").getroot().iter("testcase")
    told = {
        case.attrib["name"].partition("[")[2].rstrip("]"): {
            one.attrib["name"]: one.attrib["value"] for one in case.iter("property")
        }
        for case in cases
    }
    for name, record in records(whole).items():
        assert told[name]["verdict"] == record.verdict
        assert {metric: float(told[name][metric]) for metric in record.metrics} == record.metrics


@pytest.mark.tensorflow
@needs_tensorflow
def test_pytest_benchmark_holds_the_durations_that_the_subject_measured(whole: Ended, place: Path) -> None:
    (one,) = json.loads((place / "benchmark.json").read_text())["benchmarks"]
    record = records(whole)[LATENCY]
    assert one["stats"]["data"] == pytest.approx(list(record.series[0].step_s), rel=1e-9, abs=1e-12)
    assert one["extra_info"] == record.metrics
    assert "test_latency[resnet50_v1_5-fp32-batch1]" in whole.text.partition("benchmark: 1 tests")[2]


@pytest.mark.tensorflow
@needs_tensorflow
def test_output_results_are_a_line_for_each_image(whole: Ended) -> None:
    artefacts = records(whole)[ACCURACY].artefacts
    directory = Path(whole.run.directory)
    head, *lines = (directory / artefacts["results"].path).read_text().splitlines()
    assert head == "filename,actual,prediction" and len(lines) == 6
    assert [line.split(",")[:2] for line in lines] == [[f"image_{i}.JPEG", str(i + 1)] for i in range(6)]
    assert all(0 <= int(line.split(",")[2]) <= 1000 for line in lines)
    assert (directory / artefacts["correct_bits"].path).stat().st_size == 1


@pytest.mark.tensorflow
@needs_tensorflow
def test_logs_have_the_recipes_name_and_lines(whole: Ended) -> None:
    log = Path(whole.run.directory, records(whole)[LATENCY].artefacts["log"].path)
    assert re.fullmatch(r"benchmark_resnet50_v1_5_inference_fp32_\d{8}_\d{6}_\d{6}\.log", log.name)
    text = log.read_text()
    for line in (r"Iteration \d+: [\d.]+ sec", r"Average time: [\d.]+ sec", "Batch size = 1", r"Latency: [\d.]+ ms"):
        assert re.search(rf"^{line}$", text, re.MULTILINE), line


@pytest.mark.tensorflow
@needs_tensorflow
def test_verbose_shows_the_words_of_verdicts_and_the_launches(whole: Ended) -> None:
    assert re.search(rf"^suites/\S+::test_accuracy\[{ACCURACY}\] UNJUDGED +\[ 50%\]$", whole.text, re.MULTILINE)
    assert f"\n  {ACCURACY}: import TensorFlow\n" in whole.text
    for record in whole.run.records:
        assert shlex.join(record.launched[0].argv) in whole.text
    assert "hardware: quick, " in whole.text and "stack: default, Python " in whole.text


@pytest.mark.tensorflow
@needs_tensorflow
def test_a_report_is_written_when_it_is_asked_for(whole: Ended, place: Path) -> None:
    if "--report needs" in whole.text:
        pytest.skip("the packages of reports are not installed")
    page = (place / "report.html").read_text()
    assert ACCURACY in page and LATENCY in page and whole.run.header.run in page


# Workers, instances, another machine


@pytest.mark.tensorflow
@needs_tensorflow
def test_workers_measure_and_judge_as_one_process_does(whole: Ended, parallel: Ended) -> None:
    assert parallel.status == whole.status
    one, two = records(whole), records(parallel)
    assert set(one) == set(two)
    assert two[LATENCY].metrics["throughput_images_per_s"] > 0 and len(two[LATENCY].series[0].step_s) >= 5
    for name in one:
        assert two[name].worker in ("gw0", "gw1") and one[name].worker is None
        assert two[name].inputs == one[name].inputs
    assert two[ACCURACY].verdict == one[ACCURACY].verdict
    assert two[ACCURACY].metrics["top1"] == one[ACCURACY].metrics["top1"]
    assert parallel.run.header.profile == "quick" and "-n" in parallel.run.header.command


@pytest.mark.tensorflow
@needs_tensorflow
def test_workers_show_the_same_letters_summary_and_footer(parallel: Ended) -> None:
    run = parallel.run
    assert run.footer is not None and run.footer.exit_status == 0
    verdicts = [record.verdict for record in run.records]
    assert {verdict: verdicts.count(verdict) for verdict in run.footer.counts} == run.footer.counts
    (letters,) = re.findall(r"^([.Fu~In]{2}) +\[100%\]$", parallel.text, re.MULTILINE)
    letter = {"outside": "F", "unjudged": "u", "unstable": "~"}
    assert sorted(letters) == sorted(letter[verdict] for verdict in verdicts)
    counted = ", ".join(
        f"{run.footer.counts[v]} {v}" for v in ("inside", "unjudged", "not run", "unstable", "outside", "invalid")
    )
    assert f"\n{counted}.\n" in parallel.text
    assert f"run: {run.directory}" in parallel.text


@pytest.mark.tensorflow
@needs_tensorflow
def test_workers_never_use_the_same_cores_at_once(parallel: Ended) -> None:
    spans = []
    for path in Path(parallel.run.directory, "events").glob("*.jsonl"):
        moments = [json.loads(line)["monotonic_s"] for line in path.read_text().splitlines()]
        spans.append((min(moments), max(moments)))
    assert len(spans) == 2
    assert all(before[1] < after[0] for before, after in pairwise(sorted(spans)))


CORES = len(detect().usable_cpus())
INSTANCES = min(2, CORES)
BIG = """
name = "big"
description = "a machine that this one is not"
[machine]
sockets = 64
cores_per_socket = 28
[drive]
min_timed_s = 0.2
"""


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, short: tuple[str, ...]) -> Ended:
    """The same session on a machine that is not the profile's, in two instances where there are two cores."""
    place = tmp_path_factory.mktemp("elsewhere")
    (place / "big.toml").write_text(BIG)
    asked = ("--hw", str(place / "big.toml"), "--hw-mismatch=run", "--num-instances", str(INSTANCES))
    return session(place, *BOTH, *short, *asked)


@pytest.mark.tensorflow
@needs_tensorflow
def test_on_another_machine_a_speed_is_not_judged(elsewhere: Ended) -> None:
    found = records(elsewhere)
    assert (elsewhere.status, found[ACCURACY].verdict, found[LATENCY].verdict) == (0, "unjudged", "unjudged")
    differences = found[LATENCY].hardware_differences
    assert f"sockets: found {detect().sockets}, required 64" in differences
    assert f"unjudged, the machine differs from profile 'big': {'; '.join(differences)}" in found[LATENCY].reason
    assert found[ACCURACY].hardware_differences == elsewhere.run.header.hardware_differences == differences
    for difference in differences:
        assert f"hardware differs: {difference}" in elsewhere.text


@pytest.mark.tensorflow
@needs_tensorflow
def test_instances_run_side_by_side_on_cores_of_their_own_and_are_summed(elsewhere: Ended) -> None:
    if INSTANCES < 2:
        pytest.skip("two instances need two cores")
    record = records(elsewhere)[LATENCY]
    first, second = record.launched
    assert not set(first.cpus) & set(second.cpus) and len(first.cpus) == len(second.cpus)
    each = [len(series.step_s) / sum(series.step_s) for series in record.series]
    assert len(each) == 2
    assert record.metrics["throughput_images_per_s"] == pytest.approx(sum(each))
    logs = [Path(elsewhere.run.directory, record.artefacts[name].path) for name in ("log", "log1")]
    assert all("Throughput: " in log.read_text() for log in logs)
    told = f"Instances: {', '.join(f'{speed:.1f}' for speed in each)} images/s; timed together for "
    assert any(note.startswith(told) for note in record.notes), record.notes
    assert len(records(elsewhere)[ACCURACY].launched) == 1


# Sessions that need no TensorFlow


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that has nothing at all."""
    path = tmp_path_factory.mktemp("bare") / "bin" / "python"
    path.parent.mkdir()
    path.symlink_to(shutil.which("true") or "/bin/true")
    return str(path)


def test_a_plan_prints_launches_of_any_machine_and_leaves_nothing(tmp_path: Path, bare: str) -> None:
    ended = session(tmp_path, "suites/inference", "-m", "latency", "--plan", "--hw", "xeon-8s", "--stack", bare)
    launches = [line for line in ended.text.splitlines() if "conformance.subject" in line]
    assert ended.status == 0 and len(launches) == 3
    for line in launches:
        words = shlex.split(line)
        assert words[0] == "env" and "OMP_NUM_THREADS=28" in words
        assert words[words.index("numactl") :][:4] == ["numactl", "--cpunodebind=0", "--membind=0", bare]
    assert not ended.runs.exists()


def test_a_plan_is_of_what_is_selected_and_of_what_is_asked(tmp_path: Path, bare: str) -> None:
    path = f"../{ROOT.name}/suites/inference/test_latency.py"
    asked = ("--plan", "--hw", "xeon-2s", "--num-instances", "4", "--socket-id", "1", "--stack", bare)
    ended = session(tmp_path, path, "-m", "int8", *asked)
    launches = [line for line in ended.text.splitlines() if "conformance.subject" in line]
    assert ended.status == 0
    assert [re.findall(r"--physcpubind=(\S+)", line) for line in launches] == [
        ["28-34"], ["35-41"], ["42-48"], ["49-55"]
    ]  # fmt: skip


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A stack that says that it has TensorFlow, for cases that never start it."""
    path = tmp_path_factory.mktemp("claiming") / "bin" / "python"
    path.parent.mkdir()
    answer = json.dumps({"python": [3, 11, 0], "prefix": "/", "packages": {"tensorflow": "2.15.0"}})
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(("asked", "status"), [((), 5), (("--require-all",), 1)])
def test_a_session_that_judged_nothing_does_not_end_well(
    asked: tuple[str, ...], status: int, tmp_path: Path, stack: str
) -> None:
    ended = session(tmp_path, "suites/inference", "-m", "fp32 and imagenet", "--stack", stack, *asked)
    assert ended.status == status
    (record,) = ended.run.records
    assert record.verdict == "not run" and "--data-location was not given" in record.reason
    assert ended.run.footer is not None
    assert ended.run.footer.exit_status == status and ended.run.footer.counts["not run"] == 1
    assert ("--require-all: not run: " in ended.text) == (status == 1)


KNOWN = "auto, gaudi-1, gaudi-64, gaudi-8, gaudi2-1, gaudi2-8, generic-cpu, small-cpu, xeon-2s, xeon-8s"

# What is refused before anything runs: the options, a part of the message, the hint.
REFUSED: dict[str, tuple[tuple[str, ...], str, str]] = {
    "unknown marker": (
        ("-m", "int9"),
        "Unknown marker 'int9' (did you mean 'int8'?); known: ",
        "See `pytest --markers`.",
    ),
    "unknown profile": (
        ("--hw", "xeon-9s"),
        f"Unknown hardware profile 'xeon-9s' (did you mean 'xeon-8s'?); known: {KNOWN}.",
        "See `conformance profiles list`, or give the path of a .toml file.",
    ),
    "missing profile": (("--hw", "{tmp}/no.toml"), "There is no file '{tmp}/no.toml'.", "Check the path."),
    "wrong type in a profile": (
        ("--hw", "{tmp}/typed.toml"),
        "typed.toml, machine.sockets = 'two': Expected `int | null`, got `str`.",
        "Correct {tmp}/typed.toml.",
    ),
    "unknown key in a profile": (
        ("--hw", "{tmp}/key.toml"),
        "key.toml, machine: Unknown key 'socket' (did you mean 'sockets'?); known: ",
        "Correct {tmp}/key.toml.",
    ),
    "another machine": (
        ("--hw", "{tmp}/big.toml"),
        f"This machine is not 'big': sockets: found {detect().sockets}, required 64; "
        f"cores a socket: found {detect().cores_per_socket}, required 999; "
        "CPU flags: avx10_9 not found, required avx10_9.",
        "Use --hw auto for this machine, --hw-mismatch=run to judge accuracy only, "
        "or --plan to see the launches of the profile.",
    ),
    "more cores than there are": (
        ("--num-cores", "9999"),
        f"--num-cores is 9999; allowed: 1 to {CORES}, the cores of this machine that this process may use.",
        "Ask for fewer cores, or widen the affinity or cpuset of this shell (taskset -p $$).",
    ),
    "more instances than cores": (
        ("--num-instances", "9999"),
        f"--num-instances is 9999; allowed: 1 to {CORES}, one core each on this machine.",
        "Ask for fewer instances, or for more cores with --num-cores.",
    ),
    "a socket that is not there": (
        ("--socket-id", "99"),
        "--socket-id is 99, which is no socket of this machine; allowed: ",
        "A socket is no NUMA node; sockets here: ",
    ),
    "missing graph": (
        ("--in-graph", "int8={tmp}/no.pb"),
        "There is no graph '{tmp}/no.pb'.",
        "Give a frozen .pb, the directory of a SavedModel, or a name of `conformance graphs list`.",
    ),
    "graph of an unknown precision": (
        ("--in-graph", "fp16=a.pb", "--in-graph", "b.pb"),
        "Unknown precision 'fp16' (did you mean 'bf16'?); known: bf16, fp32, int8.",
        "Write --in-graph int8=PATH, or --in-graph PATH.",
    ),
    "missing data": (
        ("--data-location", "{tmp}/no"),
        "--data-location '{tmp}/no' is no directory.",
        "Give the directory that holds validation-*-of-* TFRecords.",
    ),
    "results in a file": (
        ("--output-dir", "{tmp}/key.toml"),
        "The directory '{tmp}/key.toml' of --output-dir cannot be written: File exists.",
        "Free space there, or give another with --output-dir.",
    ),
    "results where nothing can be written": (
        ("--output-dir", "/proc/runs"),
        "The directory '/proc/runs' of --output-dir cannot be written: ",
        "Free space there, or give another with --output-dir.",
    ),
    "report below a file": (
        ("--report", "{tmp}/key.toml/report.html"),
        "The directory '{tmp}/key.toml' of --report cannot be written: File exists.",
        "Free space there, or give another with --report.",
    ),
    "report is a directory": (
        ("--report", "{tmp}"), "--report '{tmp}' is a directory.", "Give a file, such as report.html."
    ),
    "unknown stack": (
        ("--stack", "tf999"),
        "There is no stack 'tf999': neither an environment of tox nor a path to an interpreter; environments here: ",
        "Make it with `tox -e tf999 --notest`, or give the path of a Python that has TensorFlow.",
    ),
    "stack that is no Python": (
        ("--stack", "{bare}"),
        "'{bare}' of stack '{bare_name}' is no working Python: exit status 0 and no output.",
        "Run `{bare} --version`, or choose another with --stack.",
    ),
    "benchmark's file with workers": (
        ("-n", "2", "--benchmark-json", "{tmp}/benchmark.json"),
        "--benchmark-json writes nothing with -n 2: pytest-benchmark disables itself under xdist.",
        "Leave out -n, or take the numbers from the run file with `conformance report RUN --csv`.",
    ),
    "plan with workers": (("-n", "2", "--plan"), "--plan runs nothing, and -n 2 starts workers.", "Leave out -n."),
    "plan of more cores than there are": (
        ("--plan", "--hw", "xeon-8s", "--num-cores", "29"),
        "--num-cores is 29; allowed: 1 to 28, the cores of socket 0 that this process may use.",
        "Ask for fewer cores, or widen the affinity or cpuset of this shell (taskset -p $$).",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_user_got_wrong_is_refused_in_a_sentence_before_anything_runs(
    what: str, tmp_path: Path, stack: str, bare: str
) -> None:
    (tmp_path / "typed.toml").write_text('name = "typed"\ndescription = ""\n[machine]\nsockets = "two"\n')
    (tmp_path / "key.toml").write_text('name = "key"\ndescription = ""\n[machine]\nsocket = 2\n')
    big = BIG.replace("28", '999\nflags = ["avx10_9"]')
    (tmp_path / "big.toml").write_text(big)
    names = {"tmp": str(tmp_path), "bare": bare, "bare_name": Path(bare).parents[1].name}
    options, message, hint = REFUSED[what]
    argv = [word.format(**names) for word in options]
    chosen = () if "--stack" in argv else ("--stack", stack)
    ended = session(tmp_path, "suites/inference", *argv, *chosen)
    assert ended.status == 4
    assert "Traceback" not in ended.text and "INTERNALERROR" not in ended.text
    (line,) = [line for line in ended.text.splitlines() if line.startswith("ERROR: ")]
    told, _, hinted = line.removeprefix("ERROR: ").partition(" Hint: ")
    assert told.startswith(message.format(**names)) and hinted.startswith(hint.format(**names))
    assert not ended.has_run


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("--batch-sizes", "1"), "unrecognized arguments: --batch-sizes"),
        (("--batch", "1"), "unrecognized arguments: --batch"),
        (("--batch-size", "0"), "argument --batch-size: '0' is not allowed; give a whole number of 1 or more"),
        (("--steps", "-1"), "argument --steps: '-1' is not allowed; give a whole number of 1 or more"),
        (("--hw-mismatch", "maybe"), "argument --hw-mismatch: invalid choice: 'maybe' (choose from "),
        (("-m", "fp32 and"), "Wrong expression passed to '-m': fp32 and"),
        (("no/such/suite",), "file or directory not found: no/such/suite"),
    ],
)
def test_what_pytest_itself_refuses_ends_with_the_same_status(
    argv: tuple[str, ...], told: str, tmp_path: Path, stack: str
) -> None:
    ended = session(tmp_path, "suites/inference", "--stack", stack, *argv)
    assert ended.status == 4 and told in ended.text and "Traceback" not in ended.text
    assert not ended.has_run


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_a_table_that_is_wrong_is_told_in_a_sentence(workers: tuple[str, ...], tmp_path: Path, stack: str) -> None:
    project = suites(tmp_path, ROW + "stepps = 5\n")
    ended = session(tmp_path, "suites", "--stack", stack, *workers, cwd=project)
    table = project / "suites/mine/test_latency.toml"
    assert ended.status == 4 and not ended.has_run
    told = "test_latency.toml, case[0]: Unknown key 'stepps' (did you mean 'steps'?); known: "
    assert told in ended.text and f" Hint: Correct {table}." in ended.text
    assert "Traceback" not in ended.text and "plugin.py" not in ended.text


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_a_cache_that_cannot_be_written_ends_the_session(workers: tuple[str, ...], tmp_path: Path, stack: str) -> None:
    env = {"TF_CONFORMANCE_CACHE": "/proc/cache"}
    ended = session(tmp_path, "suites/inference", "-m", "fp32 and digits", "--stack", stack, *workers, env=env)
    assert ended.status == 3
    hint = "Free space there, or name another directory in the environment variable TF_CONFORMANCE_CACHE."
    sentence(ended, "The cache '/proc/cache' cannot be written: No such file or directory.", hint)


# Inputs that a subject refuses

GRAPH = "Give a frozen GraphDef (.pb), or a SavedModel directory."
DATA = "Convert the dataset again from its original images."
SHARD = "validation-00000-of-00001"

BAD: dict[str, tuple[str, str, str]] = {
    "truncated": (
        "truncated.pb good",
        "'{in}/truncated.pb' ({size} bytes) is no frozen graph, or is cut short.",
        GRAPH,
    ),
    "text": ("text.pb good", "'{in}/text.pb' (29 bytes) is no frozen graph, or is cut short.", GRAPH),
    "names": (
        "unnamed.pb good",
        "The graph has no tensor 'input_tensor' to feed; its placeholders: images.",
        "Name it with --input-tensor.",
    ),
    "classes": (
        "classes1000.pb good",
        "The graph has 1000 outputs, but labels 1 to 1000 need 1001 (output 0 is the background).",
        "Give a graph that was trained with the background class.",
    ),
    "file": (
        "readfile.pb good",
        "'{in}/readfile.pb' holds operation ReadFile (node 'ReadFile'), which is refused: it touches files.",
        "Give a frozen graph of arithmetic operations only.",
    ),
    "python": (
        "pyfunc.pb good",
        "'{in}/pyfunc.pb' holds operation PyFunc (node 'PyFunc'), which is refused: it runs Python code.",
        "Give a frozen graph of arithmetic operations only.",
    ),
    "corrupt": (
        "tiny.pb corrupt",
        "Shard '{in}/corrupt/" + SHARD + "' is damaged after 1 good records: corrupted record at ",
        "Copy it again from where it came, or convert the dataset again.",
    ),
    "empty": (
        "tiny.pb empty",
        "Shard '" + SHARD + "' in '{in}/empty' is an empty file.",
        "Convert or copy '{in}/empty' again, so that it holds one complete set.",
    ),
    "nojpeg": (
        "tiny.pb nojpeg",
        "Record 1 of '{in}/nojpeg/" + SHARD + "' holds an image that cannot be used (image_1.JPEG): Unknown image file",
        DATA,
    ),
    "nofeature": (
        "tiny.pb nofeature",
        "Record 1 of '{in}/nofeature/" + SHARD + "' has no image/encoded (image_1.JPEG).",
        DATA,
    ),
    "label0": (
        "tiny.pb label0",
        "Record 1 of '{in}/label0/" + SHARD + "' has label 0 (image_1.JPEG); allowed are 1 to 1000.",
        DATA,
    ),
    "label1001": (
        "tiny.pb label1001",
        "Record 1 of '{in}/label1001/" + SHARD + "' has label 1001 (image_1.JPEG); allowed are 1 to 1000.",
        DATA,
    ),
    "nothing": (
        "tiny.pb nothing",
        "There is no file validation-*-of-* in '{in}/nothing', which is empty.",
        "Give the directory that holds the TFRecord files of the dataset.",
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def refusals(
    request: pytest.FixtureRequest, inputs: Path, quick: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Ended]]]:
    """The sessions of all bad inputs that are selected, as many at once as there are cores."""

    def refused(what: str, place: Path) -> Ended:
        graph, data = BAD[what][0].split()
        chosen = ("--in-graph", str(inputs / graph), "--data-location", str(inputs / data), "--hw", quick)
        return session(place, "suites/inference", "-m", "fp32 and imagenet", "--batch-size", "2", *chosen)

    callspecs = (getattr(item, "callspec", None) for item in request.session.items)
    selected = {spec.params.get("what") for spec in callspecs if spec is not None} & set(BAD)
    with ThreadPoolExecutor(min(4, CORES)) as pool:
        yield {what: pool.submit(refused, what, tmp_path_factory.mktemp(what)) for what in BAD if what in selected}
        pool.shutdown(cancel_futures=True)


@pytest.mark.tensorflow
@needs_tensorflow
@pytest.mark.parametrize("what", BAD)
def test_a_bad_input_is_told_in_a_sentence_and_kept_in_a_record(
    what: str, inputs: Path, refusals: dict[str, Future[Ended]]
) -> None:
    _, message, hint = BAD[what]
    ended = refusals[what].result()
    assert ended.status == 4
    assert "Traceback" not in ended.text
    names = {"in": str(inputs), "size": (inputs / "truncated.pb").stat().st_size}
    (line,) = [line for line in ended.text.splitlines() if line.startswith("ERROR: ")]
    told, _, hinted = line.removeprefix("ERROR: ").partition(" Hint: ")
    assert told.startswith(message.format(**names)) and hinted == hint.format(**names)
    (record,) = ended.run.records
    assert (record.verdict, record.reason) == ("not run", f"{told} Hint: {hinted}")
    assert ended.run.footer is not None and ended.run.footer.exit_status == 4


@pytest.mark.tensorflow
@needs_tensorflow
def test_outputs_that_are_no_numbers_make_both_cases_invalid(
    tmp_path: Path, inputs: Path, short: tuple[str, ...]
) -> None:
    ended = session(tmp_path, *BOTH, *short, "--in-graph", str(inputs / "nan.pb"))
    assert ended.status == 1 and "Traceback" not in ended.text
    found = records(ended)
    assert [record.verdict for record in found.values()] == ["invalid", "invalid"]
    assert found[ACCURACY].reason == (
        "The graph's output for images 0 to 5 holds NaN or Inf. "
        "Hint: Look at the graph: such a prediction cannot be right or wrong."
    )
    assert found[LATENCY].reason.startswith("The outputs of the fp32 graph hold NaN or Inf. Hint: ")


# Subjects that fail

LOG = "Read its log, "
GARBAGE = (
    'exec "$real" -c \'import json, sys, time; '
    'open(json.load(open(sys.argv[-1]))["events"], "a").write("no event\\n"); time.sleep(30)\' "$@"'
)
BROKEN: dict[str, tuple[str, str, str]] = {
    "crashes": ("kill -SEGV $$", "The subject was killed by SIGSEGV (signal 11).", LOG),
    "is killed": (
        "kill -KILL $$",
        "The subject was killed by SIGKILL (signal 9), as the kernel does when memory runs out.",
        "Try a smaller batch or a machine with more memory; dmesg names what the kernel killed.",
    ),
    "prints garbage": (GARBAGE, "The event stream is broken: not an event: 'no event'.", "Only the subject writes"),
    "says nothing": ("exit 0", "The subject exited with status 0 without a result.", LOG),
    "fails": (
        "echo out of luck; exit 3",
        "The subject exited with status 3 without a result; its log ends with 'out of luck'.",
        LOG,
    ),
    "has a TensorFlow that does not start": (
        'PYTHONPATH="{tmp}/broken:$PYTHONPATH" exec "$real" "$@"',
        "ImportError: libtensorflow.so: cannot open shared object file",
        LOG,
    ),
}


@pytest.mark.tensorflow
@needs_tensorflow
@pytest.mark.parametrize("how", BROKEN)
def test_a_subject_that_fails_is_one_invalid_record_and_nothing_else_is_lost(how: str, tmp_path: Path) -> None:
    (tmp_path / "broken/tensorflow").mkdir(parents=True)
    (tmp_path / "broken/tensorflow/__init__.py").write_text(
        "raise ImportError('libtensorflow.so: cannot open shared object file')\n"
    )
    body, message, hint = BROKEN[how]
    (tmp_path / "any.pb").write_text("never read")
    python = interpreter(tmp_path, body.replace("{tmp}", str(tmp_path)))
    ended = session(tmp_path, *BOTH, "--stack", python, "--in-graph", f"fp32={tmp_path / 'any.pb'}")
    assert ended.status == 1
    assert "Traceback" not in ended.text
    found = records(ended)
    assert found[ACCURACY].verdict == "not run"
    assert found[LATENCY].verdict == "invalid" and found[LATENCY].reason.startswith(f"{message} Hint: {hint}")
    assert f"invalid: {message} Hint: {hint}" in ended.text
    footer = ended.run.footer
    assert footer is not None and (footer.counts["invalid"], footer.counts["not run"]) == (1, 1)
    assert processes(tmp_path) == []


@pytest.mark.tensorflow
@needs_tensorflow
def test_a_subject_that_hangs_is_ended_by_the_time_limit_of_its_case(tmp_path: Path) -> None:
    project = suites(tmp_path, ROW + "time_limit_s = 1\n")
    (tmp_path / "any.pb").write_text("never read")
    python = interpreter(tmp_path, "exec sleep 60")
    began = time.monotonic()
    ended = session(tmp_path, "suites", "--stack", python, "--in-graph", str(tmp_path / "any.pb"), cwd=project)
    assert ended.status == 1 and time.monotonic() - began < 20
    (record,) = ended.run.records
    assert (record.verdict, record.reason) == (
        "invalid",
        "The subject was not done after 1 s, its time limit; nothing was ever heard of it. "
        "Hint: Raise time_limit_s of the case, or ask for fewer steps.",
    )


@pytest.mark.tensorflow
@needs_tensorflow
def test_a_disk_that_fills_up_loses_no_finished_record(tmp_path: Path) -> None:
    """The subject of the first speed case fills a file system of 256 kB, which only this session sees."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=256k tmpfs {disk}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a tmpfs in a name space of its own")
    (tmp_path / "any.pb").write_text("never read")
    python = interpreter(tmp_path, "cat /dev/zero >fill; exit 1")
    chosen = ("--stack", python, "--in-graph", f"fp32={tmp_path / 'any.pb'}", "--output-dir", str(disk))
    told = shlex.join(command(tmp_path, "suites/inference", "-m", "fp32 and not digits", *chosen))
    script = f"{mount} && {{ {told}; status=$?; cp {disk}/run-*/run.jsonl {tmp_path}; exit $status; }}"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 3, done.stdout + done.stderr
    refused = r"(No space left on device|only \d+ of \d+ bytes were taken)\. Hint: Free space there, or give another"
    assert re.search(refused, done.stdout), done.stdout
    assert "Traceback" not in done.stdout
    first, *rest = read_run(tmp_path / "run.jsonl").records
    assert (first.case, first.verdict) == (ACCURACY, "not run")
    assert all(record.verdict == "invalid" for record in rest)


# Ends from the outside


@pytest.fixture
def running(tmp_path: Path, inputs: Path, quick: str) -> Iterator[Callable[..., Any]]:
    """Starts a session whose second case is at work, and ends whatever is left of it."""
    started: list[subprocess.Popen[str]] = []

    def start(*argv: str) -> subprocess.Popen[str]:
        graph = ("--in-graph", f"fp32={inputs / 'tiny.pb'}", "--hw", quick, "--steps", "10000000")
        process = subprocess.Popen(
            command(tmp_path, *BOTH, *graph, *argv),
            cwd=ROOT,
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        assert eventually(lambda: bool(processes(tmp_path)) and records_of(tmp_path) == 1), process.poll()
        return process

    yield start
    for process in started:
        for pid in processes(tmp_path):
            os.kill(pid, signal.SIGKILL)
        if process.poll() is None:
            process.kill()
        process.communicate()


def records_of(place: Path) -> int:
    return sum(path.read_bytes().count(b'"line":"record"') for path in place.glob("runs/run-*/run.jsonl"))


@pytest.mark.tensorflow
@needs_tensorflow
@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_session_ends_its_subject_and_writes_its_footer(
    number: signal.Signals, workers: tuple[str, ...], tmp_path: Path, running: Callable[..., Any]
) -> None:
    process = running(*workers)
    process.send_signal(number)
    text, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert eventually(lambda: processes(tmp_path) == [], 5)
    run = Ended(2, text, tmp_path / "runs").run
    assert [record.verdict for record in run.records] == ["not run"]
    assert run.footer is not None and run.footer.exit_status == 2
    assert "KeyboardInterrupt" in text


@pytest.mark.tensorflow
@needs_tensorflow
@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_a_killed_session_leaves_no_subject_and_keeps_its_records(
    workers: tuple[str, ...], tmp_path: Path, running: Callable[..., Any]
) -> None:
    process = running(*workers)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert eventually(lambda: processes(tmp_path) == [])
    run = Ended(-9, "", tmp_path / "runs").run
    assert [record.verdict for record in run.records] == ["not run"]
    assert run.footer is None


@pytest.mark.tensorflow
@needs_tensorflow
def test_a_killed_session_leaves_nothing_of_the_pass_that_proves_a_precision(
    tmp_path: Path, running: Callable[..., Any]
) -> None:
    """That pass is a second process of the subject: stopped at its work, so that it cannot end by itself."""
    process = running()
    assert eventually(lambda: len(processes(tmp_path)) == 2)
    second = max(processes(tmp_path))
    assert eventually(lambda: "tensorflow" in Path(f"/proc/{second}/maps").read_text())
    os.kill(second, signal.SIGSTOP)
    process.kill()
    process.wait()
    assert eventually(lambda: processes(tmp_path) == [])
