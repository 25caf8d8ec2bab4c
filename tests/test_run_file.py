"""Run files: nothing finished is lost, nothing unfinished is read, and every damage is told."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import pytest
from report_examples import footer, full_run, header, record

from conformance.errors import HarnessFault, UsageError
from conformance.records import RUN_FILE, Series
from conformance.records.run_file import RunWriter, finite, read_run, run_name

ROOT = Path(__file__).parents[1]


def child(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
    )


def write_example(output_dir: Path) -> Path:
    run = full_run()
    writer = RunWriter.create(output_dir, run.header)
    for line in run.records:
        writer.append(line)
    writer.finish(footer(run.records))
    return writer.directory


def test_a_run_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    directory = write_example(tmp_path)
    expected = full_run(directory=str(directory))
    assert read_run(directory) == expected
    assert read_run(directory / RUN_FILE) == expected


def test_a_run_name_tells_when_it_started_and_is_fresh() -> None:
    started = datetime(2026, 11, 21, 12, 3, 1, tzinfo=timezone.utc)
    names = {run_name(started) for _ in range(20)}
    assert len(names) > 1
    assert all(re.fullmatch(r"run-20261121-120301-[0-9a-f]{4}", name) for name in names)


def test_a_run_directory_is_never_used_twice(tmp_path: Path) -> None:
    RunWriter.create(tmp_path, header()).close()
    with pytest.raises(HarnessFault, match=r"Cannot make the run directory '.*4f2a': File exists\."):
        RunWriter.create(tmp_path, header())


def test_a_run_that_is_killed_loses_nothing_finished(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from conformance.records.run_file import RunWriter
from report_examples import header, record
writer = RunWriter.create(Path(sys.argv[1]), header())
number = 0
while True:
    writer.append(record(f"fp32-accuracy-{number}"))
    print(number, flush=True)
    number += 1
"""
    process = child(script, tmp_path)
    assert process.stdout is not None
    for _ in range(30):
        finished = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    finished = max([finished, *map(int, process.stdout.read().split())])
    assert process.wait() == -signal.SIGKILL
    run = read_run(tmp_path / header().run)
    assert run.footer is None
    assert len(run.records) >= finished + 1
    assert [r.case for r in run.records] == [f"fp32-accuracy-{n}" for n in range(len(run.records))]


def test_two_workers_append_to_one_file(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from conformance.records.run_file import RunWriter
from report_examples import record
writer = RunWriter.join(Path(sys.argv[1]))
for number in range(60):
    case = f"fp32-accuracy-{sys.argv[2]}-{number}"
    writer.append(record(case, notes=("long " * 2000,), worker=sys.argv[2]))
"""
    writer = RunWriter.create(tmp_path, header())
    workers = [child(script, writer.directory, name) for name in ("gw0", "gw1")]
    assert [worker.wait() for worker in workers] == [0, 0]
    writer.finish(footer(()))
    run = read_run(writer.directory)
    assert run.footer is not None
    for name in ("gw0", "gw1"):
        mine = [r.case for r in run.records if r.worker == name]
        assert mine == [f"fp32-accuracy-{name}-{n}" for n in range(60)]


@pytest.mark.parametrize("kept", [1, 40, -1], ids=["one byte", "half", "all but its newline"])
def test_a_torn_last_line_is_left_out_and_a_lost_footer_is_told(tmp_path: Path, kept: int) -> None:
    file = write_example(tmp_path) / RUN_FILE
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]) + lines[-1][:kept])
    run = read_run(file)
    assert run.footer is None
    assert run.records == full_run().records


def test_a_worker_cuts_the_line_that_a_killed_worker_left_torn(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, header())
    writer.append(record("fp32-accuracy-a"))
    with (writer.directory / RUN_FILE).open("ab") as file:
        file.write(b'{"line":"record","case":"fp32-accur')
    writer.append(record("fp32-accuracy-b"))
    assert [r.case for r in read_run(writer.directory).records] == ["fp32-accuracy-a", "fp32-accuracy-b"]


def test_a_torn_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    file = write_example(tmp_path) / RUN_FILE
    lines = file.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3][:50] + b"\n"
    file.write_bytes(b"".join(lines))
    with pytest.raises(UsageError, match=r"Line 4 of '.*run\.jsonl' is damaged: Input data was truncated\. Hint: Take"):
        read_run(file)


@pytest.mark.parametrize("kind", ["header", "footer"])
def test_a_header_or_footer_among_the_records_is_an_error(tmp_path: Path, kind: str) -> None:
    writer = RunWriter.create(tmp_path, header())
    writer.append(header() if kind == "header" else footer(()))
    writer.append(record("fp32-accuracy-a"))
    with pytest.raises(UsageError, match=rf"Line 2 of .* is damaged: a {kind} stands among the records\."):
        read_run(writer.directory)


def test_a_line_with_an_unknown_field_is_an_error(tmp_path: Path) -> None:
    file = write_example(tmp_path) / RUN_FILE
    file.write_bytes(file.read_bytes().replace(b'"case":', b'"kase":', 1))
    with pytest.raises(UsageError, match=r"Line 2 of .* is damaged: Object contains unknown field `kase`\."):
        read_run(file)


def test_another_schema_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / RUN_FILE
    file.write_text('{"line": "header", "schema": 7, "new": true}\n')
    with pytest.raises(UsageError, match=r"has schema 7, this version reads 1 and 2\. Hint: Read it with the version"):
        read_run(file)


@pytest.mark.parametrize(
    "content",
    [b"", b"# readme\n", b"\xff\xfe\n", b"[]\n", b'{"line": "record", "schema": 1}\n', b'{"line":"hea'],
)
def test_a_file_that_is_no_run_is_an_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"'.*notes\.txt' is no run file: its first line is no header\. Hint: Give"):
        read_run(file)


def test_a_run_without_records_is_an_error(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, header())
    writer.finish(footer(()))
    with pytest.raises(UsageError, match=r"holds no record: the run judged nothing\. Hint: Look into its logs"):
        read_run(writer.directory)


def test_a_missing_run_is_an_error_that_names_runs_nearby(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no run file '.*/run\.jsonl'\. Hint: Give the directory of a run"):
        read_run(tmp_path)
    write_example(tmp_path)
    with pytest.raises(UsageError, match=r"Hint: Give one of the runs in it: run-20261121-120301-4f2a\."):
        read_run(tmp_path)


def test_an_output_directory_that_cannot_be_made_is_a_harness_fault(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(HarnessFault, match=r"Cannot make the run directory '.*': Not a directory\. Hint: Free space"):
        RunWriter.create(tmp_path / "taken", header())


def test_joining_a_run_that_is_gone_is_a_harness_fault(tmp_path: Path) -> None:
    with pytest.raises(HarnessFault, match=r"Cannot open the run file in '.*gone': No such file or directory\."):
        RunWriter.join(tmp_path / "gone")


def test_a_disk_that_takes_half_a_line_is_a_harness_fault_and_keeps_the_lines_before(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
from pathlib import Path
from conformance.errors import HarnessFault
from conformance.records.run_file import RunWriter
from report_examples import header, record
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = RunWriter.create(Path(sys.argv[1]), header())
writer.append(record("fp32-accuracy-a"))
size = (writer.directory / "run.jsonl").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
try:
    writer.append(record("fp32-accuracy-b"))
except HarnessFault as fault:
    print(fault)
"""
    process = child(script, tmp_path)
    said = process.communicate()[0].decode()
    assert re.match(r"Cannot write to the run file in '.*4f2a': only 100 of \d+ bytes were taken\. Hint: Free", said)
    file = tmp_path / header().run / RUN_FILE
    assert file.read_bytes().endswith(b"\n")
    assert [r.case for r in read_run(file).records] == ["fp32-accuracy-a"]


def test_metrics_that_are_not_finite_are_split_off() -> None:
    kept, dropped = finite({"top1": 0.75, "top5": math.nan, "spread": math.inf, "images": 100.0})
    assert kept == {"top1": 0.75, "images": 100.0}
    assert dropped == ("top5", "spread")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["metrics", "series"])
def test_a_number_that_is_not_finite_is_never_written(tmp_path: Path, value: float, where: str) -> None:
    bad = record("fp32-accuracy-a", metrics={"top1": value})
    if where == "series":
        bad = record("fp32-accuracy-a", series=(Series(warmup_steps=1, step_s=(value,), steady=True),))
    writer = RunWriter.create(tmp_path, header())
    with pytest.raises(ValueError, match=r"Record could not be read back: Expected `float`, got `null`"):
        writer.append(bad)
    assert (writer.directory / RUN_FILE).read_bytes().count(b"\n") == 1


def test_every_line_is_plain_json_that_names_its_kind(tmp_path: Path) -> None:
    lines = (write_example(tmp_path) / RUN_FILE).read_text().splitlines()
    kinds = [json.loads(line)["line"] for line in lines]
    assert kinds == ["header", *["record"] * len(full_run().records), "footer"]


def test_names_with_newlines_stay_on_their_line(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path, header())
    written = msgspec.structs.replace(record("fp32-accuracy-a"), reason="two\nlines\u2028and more")
    writer.append(written)
    assert read_run(writer.directory).records == (written,)
