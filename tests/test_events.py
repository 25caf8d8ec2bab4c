"""What a subject says: lines of events, a heartbeat, and how each kind of end is told."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import conformance
from conformance import wire
from conformance.subject import __main__ as door
from conformance.subject import events as events_module
from conformance.subject.events import Events


def said(path: Path) -> list[dict[str, Any]]:
    return wire.parse_events(path.read_bytes())


def kinds(path: Path) -> list[str]:
    return [event["event"] for event in said(path)]


def pauses(path: Path) -> list[float]:
    """Return the seconds between one event and the next."""
    times = [event["monotonic_s"] for event in said(path)]
    return [later - earlier for earlier, later in zip(times, times[1:], strict=False)]


def test_each_event_is_one_line_with_its_process_and_its_time(tmp_path: Path) -> None:
    path = tmp_path / "events"
    events = Events(str(path))
    events.phase("warm\nup")
    events.send(wire.RESULT, result={"top1": 0.5})
    assert path.read_bytes().count(b"\n") == 2
    phase, result = said(path)
    assert (phase["event"], phase["name"], phase["pid"]) == ("phase", "warm\nup", os.getpid())
    assert result["result"] == {"top1": 0.5}
    assert phase["monotonic_s"] <= result["monotonic_s"] <= time.monotonic()


def test_two_writers_of_one_file_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events"

    def write() -> None:
        events = Events(str(path))
        for _ in range(300):
            events.phase("x" * 500)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kinds(path) == ["phase"] * 1200


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_not_written(tmp_path: Path, value: float) -> None:
    path = tmp_path / "events"
    with pytest.raises(ValueError, match="not JSON compliant"):
        Events(str(path)).send(wire.RESULT, result=value)
    assert path.read_bytes() == b""


def test_progress_is_told_at_most_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "PROGRESS_S", 0.2)
    path = tmp_path / "events"
    events = Events(str(path))
    begun = time.monotonic()
    while time.monotonic() - begun < 0.5:
        events.progress(3, 0, "images")
        events.progress(4, 9, "steps")
    assert len(said(path)) >= 2 and min(pauses(path)) > 0.19


def test_the_end_of_a_phase_is_told_once_though_it_comes_early(tmp_path: Path) -> None:
    path = tmp_path / "events"
    events = Events(str(path))
    for done in (1, 2, 3, 3, 3):
        events.progress(done, 3, "warm-up steps", "fp32")
    for done in (1, 2):
        events.progress(done, 2, "steps")
    events.progress(3, 3, "steps")  # it went on
    told = [(event["done"], event["total"], event["unit"], event["note"]) for event in said(path)]
    assert told == [(1, 3, "warm-up steps", "fp32"), (3, 3, "warm-up steps", "fp32"), (2, 2, "steps", "")]


def test_a_heartbeat_is_sent_while_the_work_runs_and_not_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "HEARTBEAT_S", 0.02)
    path = tmp_path / "events"
    events = Events(str(path))
    with events.alive():
        time.sleep(0.3)
    beats = len(said(path))
    time.sleep(0.1)
    assert beats >= 2 and min(pauses(path)) > 0.019 and kinds(path) == ["alive"] * beats


def test_a_heartbeat_ends_with_work_that_fails(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), Events(str(tmp_path / "events")).alive():
        raise ZeroDivisionError
    assert threading.active_count() == before


def job_file(tmp_path: Path, **changes: Any) -> str:
    job = wire.Job("write_digits", str(tmp_path / "events"), 1, 1, {})._replace(**changes)
    path = tmp_path / "job.json"
    wire.write_job(job, str(path))
    return str(path)


def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str) -> None:
    """Put a module of the given body where the subject looks for the job's."""
    (tmp_path / "stand_in.py").write_text(
        f"from conformance.wire import Refused, WrongAnswer\ndef run(job, events):\n    {body}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stand_in", raising=False)
    monkeypatch.setitem(sys.modules, "conformance.subject.stand_in", __import__("stand_in"))
    monkeypatch.setitem(door.MODULES, "write_digits", "stand_in")


def test_a_job_that_succeeds_ends_with_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, tmp_path, "return {'top1': 1.0}")
    assert door.main(job_file(tmp_path)) == 0
    assert kinds(tmp_path / "events") == ["phase", "result"]
    assert said(tmp_path / "events")[-1]["result"] == {"top1": 1.0}


@pytest.mark.parametrize(
    ("body", "message", "hint", "refused", "traced"),
    [
        ("raise Refused('No graph.', 'Give one.')", "No graph.", "Give one.", True, False),
        ("raise WrongAnswer('NaN.', 'Look.')", "NaN.", "Look.", False, False),
        ("raise KeyError('graph')", "KeyError: 'graph'", "", False, True),
        ("raise RuntimeError('first\\nsecond')", "RuntimeError: first", "", False, True),
        ("raise MemoryError", "MemoryError: ", "", False, True),
        ("return float('nan')", "ValueError: Out of range float values are not JSON compliant", "", False, True),
    ],
    ids=["refused", "wrong answer", "bug", "several lines", "no words", "not a number"],
)
def test_a_job_that_fails_ends_with_the_reason(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    body: str,
    message: str,
    hint: str,
    refused: bool,
    traced: bool,
) -> None:
    stand_in(monkeypatch, tmp_path, body)
    assert door.main(job_file(tmp_path)) == 1
    last = said(tmp_path / "events")[-1]
    assert last["event"] == "failed" and last["message"].startswith(message)
    assert (last["hint"], last["refused"]) == (hint, refused)
    assert ("Traceback" in capsys.readouterr().err) == traced


def subject(job: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "conformance.subject", job],
        env={**os.environ, "PYTHONPATH": str(Path(conformance.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_real_process_tells_of_a_kind_of_job_that_it_does_not_know(tmp_path: Path) -> None:
    done = subject(job_file(tmp_path, kind="bake_bread"))
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert kinds(tmp_path / "events") == ["phase", "failed"]
    assert said(tmp_path / "events")[-1]["message"] == "KeyError: 'bake_bread'"


def test_a_job_of_another_version_of_the_harness_is_not_run(tmp_path: Path) -> None:
    done = subject(job_file(tmp_path, schema=99))
    assert done.returncode == 1 and "job schema 99, this subject reads 1" in done.stderr
    assert not (tmp_path / "events").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": "measure"}'])
def test_a_job_file_of_unknown_content_ends_the_process_with_a_traceback(tmp_path: Path, content: str) -> None:
    path = tmp_path / "job.json"
    path.write_text(content)
    done = subject(str(path))
    assert done.returncode == 1 and "Traceback" in done.stderr and done.stdout == ""
